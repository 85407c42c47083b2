"""Functions of many rows, computed one block of rows at a time, and all their derivatives.

A `Rowwise` function takes tensors whose first dimension is the rows, and others that all rows
share. Its vector-Jacobian product is again such a function (the gradient with respect to what is
shared being a sum over the blocks), and so is its directional derivative. Hence one autograd
function serves all orders: no derivative needs more than a block at once.
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
Outputs = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Rowwise:
    """(rows, shared) -> (per-row outputs, sums over the rows)."""

    call: Callable[[Tensors, Tensors], Outputs]
    row_outputs: int
    # the differentiable function, if it is a smaller one: its outputs are the first of this one's
    smooth: Rowwise | None = None
    order: int = 0  # of the derivative that this function is

    @property
    def differentiated(self) -> Rowwise:
        return self.smooth or self


def over_blocks(function: Rowwise, rows: Tensors, shared: Tensors, step: int) -> Outputs:
    """Call a function on `step` rows at a time; join its per-row outputs and add up its sums.

    Sums of float16 and bfloat16 are added in float32. Second derivatives hold some three times as
    many tensors, so their blocks are a third of the size.
    """
    # a trace must be valid for any number of rows
    if not torch.compiler.is_compiling() and _torch.tracing():
        return function.call(rows, shared)
    step = max(1, step // 3) if function.order > 1 else step
    # Plain forward mode cannot be re-entered, as the derivative of a block would; nor does it need
    # a custom function: a loop of differentiable operators saves nothing. The compiler has to see
    # operators too.
    plain = forward_ad._current_level >= 0 and _functorch.peek_interpreter_stack() is None
    if plain or torch.compiler.is_compiling():
        outputs = _loop(function, rows, shared, step)
    else:
        outputs = _Blocks.apply(function, step, len(rows), *rows, *shared)
    return outputs[: function.row_outputs], outputs[function.row_outputs :]  # type: ignore[index,return-value]


def blocks(count: int, step: int) -> Iterator[slice]:
    """Yield the rows as slices of `step`; at least one slice, which may be empty."""
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
        ctx.function, ctx.n_constant = function.differentiated, 0
        if function.smooth is not None:
            constant = output[function.smooth.row_outputs :]
            ctx.n_constant = len(constant)
            ctx.mark_non_differentiable(*constant)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor):  # type: ignore[override]
        tensors, n, k = ctx.saved_tensors, ctx.n_rows, ctx.function.row_outputs
        wanted, cotangents = (
            ctx.needs_input_grad[3:],
            cotangents[: len(cotangents) - ctx.n_constant],
        )
        if any(map(_torch.batched, cotangents)):
            return None, None, None, *_batched(ctx, tensors, wanted, cotangents)
        rows, shared = over_blocks(
            _pullback(ctx.function, wanted, n),
            (*tensors[:n], *cotangents[:k]),
            (*tensors[n:], *cotangents[k:]),
            ctx.step,
        )
        gradients = iter((*rows, *shared))
        return None, None, None, *(next(gradients) if want else None for want in wanted)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any):
        tensors, n = ctx.saved_tensors, ctx.n_rows
        varying = [tangent is not None for tangent in tangents[3:]]
        of_rows = (tangent for tangent in tangents[3 : 3 + n] if tangent is not None)
        of_shared = (tangent for tangent in tangents[3 + n :] if tangent is not None)
        rows, shared = over_blocks(
            _pushforward(ctx.function, varying, n),
            (*tensors[:n], *of_rows),
            (*tensors[n:], *of_shared),
            ctx.step,
        )
        return (*rows, *shared, *[None] * ctx.n_constant)


def _batched(ctx: Any, tensors: Tensors, wanted: Any, cotangents: Any) -> tuple[Tensor | None, ...]:
    """The gradients for a batch of cotangents, which torch.func cannot see."""
    n, step = ctx.n_rows, ctx.step

    def outputs(*points: Any) -> tuple[Tensor, ...]:
        return _loop(ctx.function, points[:n], points[n:], step)

    return _torch.separate_gradients(outputs, tensors, wanted, cotangents)


@_torch.without_autocast
def _loop(function: Rowwise, rows: Tensors, shared: Tensors, step: int) -> tuple[Tensor, ...]:
    count = next(tensor for tensor in rows if tensor is not None).shape[0]
    joined: list[list[Tensor]] = [[] for _ in range(function.row_outputs)]
    sums: list[Tensor] = []
    dtypes: list[torch.dtype] = []
    # In place only where nothing records or transforms the operators.
    plain = not torch.is_grad_enabled() and _functorch.peek_interpreter_stack() is None
    add = Tensor.add_ if plain else Tensor.add
    for block in blocks(count, step):
        of_block = tuple(None if t is None else t[block] for t in rows)
        outputs, terms = function.call(of_block, shared)
        for collected, output in zip(joined, outputs, strict=True):
            if not plain or step >= count:
                collected.append(output)
                continue
            # One small tensor retained per block, between the large ones that come and go, would
            # keep the heap from reusing their space.
            if not collected:
                collected.append(output.new_empty(count, *output.shape[1:]))
            collected[0][block] = output
        if not sums:
            dtypes = [term.dtype for term in terms]
            sums = [
                torch.zeros_like(term, dtype=torch.promote_types(term.dtype, torch.float32))
                for term in terms
            ]
        sums = [add(total, term) for total, term in zip(sums, terms, strict=True)]
    whole = [outputs[0] if len(outputs) == 1 else torch.cat(outputs) for outputs in joined]
    return (*whole, *(total.to(dtype) for total, dtype in zip(sums, dtypes, strict=True)))


def _pullback(function: Rowwise, wanted: tuple[bool, ...], n_rows: int) -> Rowwise:
    """(rows and the row outputs' cotangents, shared and the sums' cotangents) -> the wanted
    gradients.
    """
    n_shared, n_wanted = len(wanted) - n_rows, sum(wanted[:n_rows])

    def call(rows: Tensors, shared: Tensors) -> Outputs:
        of, points = _of_some(function, (*rows[:n_rows], *shared[:n_shared]), wanted, n_rows)
        pull: Any = torch.func.vjp(of, *points)[1]
        gradients = pull((*rows[n_rows:], *shared[n_shared:]))
        return gradients[:n_wanted], gradients[n_wanted:]

    return Rowwise(call, n_wanted, order=function.order + 1)


def _pushforward(function: Rowwise, varying: list[bool], n_rows: int) -> Rowwise:
    """(rows and their tangents, shared and theirs) -> the tangents of the outputs."""
    n_shared = len(varying) - n_rows

    def call(rows: Tensors, shared: Tensors) -> Outputs:
        of, points = _of_some(function, (*rows[:n_rows], *shared[:n_shared]), varying, n_rows)
        # jvp refuses tensors that overlap themselves in memory
        points = tuple(point.contiguous() for point in points)
        tangents: Any = torch.func.jvp(of, points, (*rows[n_rows:], *shared[n_shared:]))[1]
        return tangents[: function.row_outputs], tangents[function.row_outputs :]

    return Rowwise(call, function.row_outputs, order=function.order + 1)


def _of_some(
    function: Rowwise, tensors: Tensors, selected: Any, n_rows: int
) -> tuple[Callable, tuple]:
    """A function of the selected tensors alone, and its point."""

    def of(*some: Tensor) -> tuple[Tensor, ...]:
        values = iter(some)
        full = tuple(
            next(values) if pick else tensor for tensor, pick in zip(tensors, selected, strict=True)
        )
        rows, sums = function.call(full[:n_rows], full[n_rows:])
        return (*rows, *sums)

    return of, tuple(tensor for tensor, pick in zip(tensors, selected, strict=True) if pick)
