"""Functions of many rows, computed a block of rows at a time, and every derivative of them.

A `Rowwise` function takes tensors whose first dimension is the rows, and others that all rows
share. Its vector-Jacobian product is again such a function (the gradient by what is shared being a
sum over the blocks), and so is
its directional derivative. Hence one autograd function serves all orders: no derivative sees more
    than a block at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.autograd import forward_ad

from nll import _torch

Tensors = tuple[Tensor | None, ...]
Parts = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Rowwise:
    """(rows, shared) -> (what there is for each row, sums over the rows)."""

    call: Callable[[Tensors, Tensors], Parts]
    row_outputs: int
    # what is differentiated, if less: its outputs are the first of these
    smooth: Rowwise | None = None
    order: int = 0  # of the derivative that it is

    @property
    def differentiated(self) -> Rowwise:
        return self.smooth or self


def over_blocks(function: Rowwise, rows: Tensors, shared: Tensors, step: int) -> Parts:
    """Call a function on `step` rows at a time; join what it gives for rows, add up the rest.

    Sums of float16 and bfloat16 are added in float32. Derivatives of derivatives hold some three
    times as many tensors, and take blocks as much smaller.
    """
    # what it records is to hold for any number of rows
    if not torch.compiler.is_compiling() and _torch.tracing():
        return function.call(rows, shared)
    step = max(1, step // 3) if function.order > 1 else step
    # Forward mode by itself cannot be entered again, as the derivative of a block would; and needs
    # no function of ours: a loop of differentiable operators keeps nothing. The compiler is to see
    # operators too.
    plain = forward_ad._current_level >= 0 and _functorch.peek_interpreter_stack() is None
    if plain or torch.compiler.is_compiling():
        outputs = _loop(function, rows, shared, step)
    else:
        outputs = _Blocks.apply(function, step, len(rows), *rows, *shared)
    return outputs[: function.row_outputs], outputs[function.row_outputs :]  # type: ignore[index,return-value]


def blocks(count: int, step: int) -> Iterator[slice]:
    """The rows as slices of `step`; at least one slice, if of no rows."""
    for begin in range(0, max(count, 1), max(step, 1)):
        yield slice(begin, min(begin + step, count))


class _Blocks(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(function: Rowwise, step: int, n_rows: int, *tensors: Tensor | None):  # type: ignore[override]
        with _torch.without_saved_tensor_hooks():
            return _loop(function, tensors[:n_rows], tensors[n_rows:], step)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        function, ctx.step, ctx.n_rows, *tensors = inputs
        ctx.function, ctx.fixed = function.differentiated, 0
        if function.smooth is not None:
            fixed = output[function.smooth.row_outputs :]
            ctx.fixed = len(fixed)
            ctx.mark_non_differentiable(*fixed)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor):  # type: ignore[override]
        tensors, n, k = ctx.saved_tensors, ctx.n_rows, ctx.function.row_outputs
        wanted, cotangents = ctx.needs_input_grad[3:], cotangents[: len(cotangents) - ctx.fixed]
        if any(map(_torch.batched, cotangents)):
            return None, None, None, *_many_at_once(ctx, tensors, wanted, cotangents)
        rows, shared = over_blocks(
            _pullback(ctx.function, wanted, n),
            (*tensors[:n], *cotangents[:k]),
            (*tensors[n:], *cotangents[k:]),
            ctx.step,
        )
        found = iter((*rows, *shared))
        return None, None, None, *(next(found) if want else None for want in wanted)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any):
        tensors, n = ctx.saved_tensors, ctx.n_rows
        moving = [tangent is not None for tangent in tangents[3:]]
        of_rows = (tangent for tangent in tangents[3 : 3 + n] if tangent is not None)
        of_shared = (tangent for tangent in tangents[3 + n :] if tangent is not None)
        rows, shared = over_blocks(
            _pushforward(ctx.function, moving, n),
            (*tensors[:n], *of_rows),
            (*tensors[n:], *of_shared),
            ctx.step,
        )
        return (*rows, *shared, *[None] * ctx.fixed)


def _many_at_once(
    ctx: Any, tensors: Tensors, wanted: Any, cotangents: Any
) -> tuple[Tensor | None, ...]:
    """The gradients for a batch of cotangents, which torch.func cannot see."""
    n, step = ctx.n_rows, ctx.step

    def outputs(*points: Any) -> tuple[Tensor, ...]:
        return _loop(ctx.function, points[:n], points[n:], step)

    return _torch.separate_gradients(outputs, tensors, wanted, cotangents)


@_torch.without_autocast
def _loop(function: Rowwise, rows: Tensors, shared: Tensors, step: int) -> tuple[Tensor, ...]:
    """The joined outputs for rows, and the sums."""
    count = next(tensor for tensor in rows if tensor is not None).shape[0]
    joined: list[list[Tensor]] = [[] for _ in range(function.row_outputs)]
    sums: list[Tensor] = []
    dtypes: list[torch.dtype] = []
    # In place only where nothing records or transforms what is done.
    plain = not torch.is_grad_enabled() and _functorch.peek_interpreter_stack() is None
    add = Tensor.add_ if plain else Tensor.add
    for block in blocks(count, step):
        outputs, parts = function.call(tuple(None if t is None else t[block] for t in rows), shared)
        for found, part in zip(joined, outputs, strict=True):
            if not plain or step >= count:
                found.append(part)
                continue
            # Small tensors that stay, one a block, would lie between the large ones that come and
            # go, and keep the heap from using the space of those again.
            if not found:
                found.append(part.new_empty(count, *part.shape[1:]))
            found[0][block] = part
        if not sums:
            dtypes = [part.dtype for part in parts]
            sums = [
                torch.zeros_like(part, dtype=torch.promote_types(part.dtype, torch.float32))
                for part in parts
            ]
        sums = [add(total, part) for total, part in zip(sums, parts, strict=True)]
    whole = [found[0] if len(found) == 1 else torch.cat(found) for found in joined]
    return (*whole, *(total.to(dtype) for total, dtype in zip(sums, dtypes, strict=True)))


def _pullback(function: Rowwise, wanted: tuple[bool, ...], n_rows: int) -> Rowwise:
    """(rows and the row outputs' cotangents, shared and the sums' cotangents) -> the wanted
    gradients.
    """
    n_shared, n_wanted = len(wanted) - n_rows, sum(wanted[:n_rows])

    def call(rows: Tensors, shared: Tensors) -> Parts:
        of, points = _of_some(function, (*rows[:n_rows], *shared[:n_shared]), wanted, n_rows)
        pull: Any = torch.func.vjp(of, *points)[1]
        gradients = pull((*rows[n_rows:], *shared[n_shared:]))
        return gradients[:n_wanted], gradients[n_wanted:]

    return Rowwise(call, n_wanted, order=function.order + 1)


def _pushforward(function: Rowwise, moving: list[bool], n_rows: int) -> Rowwise:
    """(rows and their tangents, shared and theirs) -> the tangents of the outputs."""
    n_shared = len(moving) - n_rows

    def call(rows: Tensors, shared: Tensors) -> Parts:
        of, points = _of_some(function, (*rows[:n_rows], *shared[:n_shared]), moving, n_rows)
        # what repeats itself in memory is refused
        points = tuple(point.contiguous() for point in points)
        tangents: Any = torch.func.jvp(of, points, (*rows[n_rows:], *shared[n_shared:]))[1]
        return tangents[: function.row_outputs], tangents[function.row_outputs :]

    return Rowwise(call, function.row_outputs, order=function.order + 1)


def _of_some(
    function: Rowwise, tensors: Tensors, chosen: Any, n_rows: int
) -> tuple[Callable, tuple]:
    """A function of the chosen tensors alone, and its point."""

    def of(*some: Tensor) -> tuple[Tensor, ...]:
        given = iter(some)
        full = tuple(
            next(given) if pick else tensor for tensor, pick in zip(tensors, chosen, strict=True)
        )
        rows, sums = function.call(full[:n_rows], full[n_rows:])
        return (*rows, *sums)

    return of, tuple(tensor for tensor, pick in zip(tensors, chosen, strict=True) if pick)
