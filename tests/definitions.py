"""The two judges of a result.

`definition` is the loss in float64, written as plain sums over a matrix of rows from its formula
and nothing else; `pytorch` asks PyTorch's own function, for cases whose arguments it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


class Problem(NamedTuple):
    """Arguments for one call: loss(input, target, **kwargs)."""

    input: Tensor
    target: Tensor
    kwargs: dict[str, Any]


class Truth(NamedTuple):
    """The loss in float64, and the size of the terms whose rounding it inherits, reduced in the
    same way.
    """

    loss: Tensor
    scale: Tensor


def definition(
    input: Tensor,  # (C), (N, C) or (N, C, d1, ...), any dtype
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    row_weights: Tensor | None = None,
    allowed_classes: Tensor | None = None,
    *,
    normalise: bool = True,  # False: the input is log-probabilities already
) -> Truth:
    """l_i = -sum_c q_ic w_c log p_ic + z_loss lse_i^2, in float64 with autograd."""
    x = matrix(input.double())  # (R, C)
    may = torch.ones_like(x, dtype=torch.bool)
    if allowed_classes is not None:
        may = matrix(broadcast(allowed_classes, input.shape).expand(input.shape))
    z = x if softcap is None else softcap * (x / softcap).tanh()
    z = torch.where(may, z / temperature, -torch.inf)
    top = z.detach().max(dim=1, keepdim=True).values
    lse = top + (z - top).exp().sum(dim=1, keepdim=True).log()
    log_p = z - lse if normalise else x

    q, mass, labelled = smoothed_target(input, target, may, label_smoothing, ignore_index, weight)
    w = x.new_ones(x.shape[1]) if weight is None else weight.double()
    counted = ~((q * w == 0.0) & log_p.isinf())  # 0 log 0 = 0, and so are its derivatives
    kept = x.new_ones(len(x), dtype=torch.bool)
    if labelled:
        kept = target.reshape(-1).long() != ignore_index
    loss = -(q * w * torch.where(counted, log_p, 0.0)).sum(dim=1)
    loss = torch.where(kept, loss, 0.0)
    squares = torch.where(kept, lse[:, 0] ** 2, 0.0)

    # |z| + |lse| bounds what log p is computed from; the infinite terms are exact.
    reach = (
        torch.where(z.isfinite(), z.detach().abs(), 0.0).amax(1, keepdim=True)
        if x.numel()
        else lse.detach()
    )
    reach = 2.0 * reach + 1.0
    sizes = (torch.where(counted, q * w, 0.0).abs() * reach).sum(1).detach() + z_loss * reach[
        :, 0
    ] ** 2
    sizes = torch.where(kept, sizes, 0.0)

    share = torch.ones_like(mass) if row_weights is None else row_weights.double().reshape(-1)
    rows = target.shape if labelled else row_shape(input.shape)

    def reduce(of_rows: Tensor, of_squares: Tensor | float) -> Tensor:
        if reduction == "mean":
            total = (share * of_rows).sum() / (share * mass).sum()
            return (
                total + z_loss * (share * of_squares).sum() / (share * kept).sum()
                if z_loss
                else total
            )
        total = share * (of_rows + z_loss * of_squares if z_loss else of_rows)
        return total.sum() if reduction == "sum" else total.reshape(rows)

    return Truth(reduce(loss, squares), reduce(sizes, 0.0 * squares.detach()))


def smoothed_target(input, target, may, label_smoothing, ignore_index, weight):
    """The smoothed target q (R, C), the rows' shares of the mean's denominator, and whether it is
    labels.
    """
    labelled = not target.is_floating_point()
    if labelled:
        label = target.reshape(-1).long()
        kept = label != ignore_index
        label = torch.where(kept, label, 0)
        q = F.one_hot(label, may.shape[1]).double()
        mass = kept.double() if weight is None else torch.where(kept, weight.double()[label], 0.0)
    else:
        q = matrix(target.double())
        mass = q.new_ones(q.shape[0])
    if label_smoothing:
        q = (1.0 - label_smoothing) * q + label_smoothing * may.double() / may.sum(
            dim=1, keepdim=True
        )
    return q, mass, labelled


def definition_nll(input: Tensor, target: Tensor, **kwargs: Any) -> Truth:
    """l_i = -w_y log p_iy, the log-probabilities being given."""
    return definition(input, target, **kwargs, normalise=False)


def definition_log_softmax(input: Tensor, dim: int) -> Tensor:
    """x - log sum exp x in float64."""
    x = input.double()
    top = x.detach().amax(dim, keepdim=True)
    return x - (top + (x - top).exp().sum(dim, keepdim=True).log())


def pytorch(loss: Callable[..., Tensor], problem: Problem) -> tuple[Tensor, Tensor]:
    """Return the loss and gradient of PyTorch's function of the same name, computed in the dtype of
    ours.

    For half types our cross_entropy answers in float32: PyTorch is then asked in float32, its best.
    """
    if loss.__name__ == "cross_entropy" and problem.input.dtype in HALF:
        problem = in_float32(problem)
    # Its nll_loss has no gradient for four dimensions that are not contiguous.
    problem = problem._replace(input=problem.input.contiguous())
    return differentiate(getattr(F, loss.__name__), problem)


def differentiate(loss: Callable[..., Tensor], problem: Problem) -> tuple[Tensor, Tensor]:
    """Return loss(...) and the gradient by its input of the sum of what it returns."""
    input = problem.input.detach().requires_grad_()
    value = loss(input, problem.target, **problem.kwargs)
    (gradient,) = torch.autograd.grad(value.sum(), input)
    return value.detach(), gradient


def in_float32(problem: Problem) -> Problem:
    def cast(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    return Problem(
        cast(problem.input),
        cast(problem.target),
        {key: cast(value) for key, value in problem.kwargs.items()},
    )


def class_dim(shape: tuple[int, ...]) -> int:
    return 0 if len(shape) == 1 else 1


def row_shape(shape: torch.Size) -> tuple[int, ...]:
    return tuple(n for d, n in enumerate(shape) if d != class_dim(shape))


def matrix(tensor: Tensor) -> Tensor:
    """View scores as (rows, classes)."""
    classes = tensor.shape[class_dim(tensor.shape)]
    return tensor.movedim(class_dim(tensor.shape), -1).reshape(-1, classes)


def broadcast(per_class: Tensor, shape: tuple[int, ...]) -> Tensor:
    """View a vector over the classes so that it broadcasts against the input; leave the input's
    shape alone.
    """
    return (
        per_class if per_class.dim() == len(shape) else per_class.view(-1, *[1] * (len(shape) - 2))
    )


def lay(tensor: Tensor, layout: str) -> Tensor:
    """Return the same numbers laid out differently in memory."""
    if tensor.dim() == 0 or tensor.numel() == 0:
        return tensor
    if layout == "transposed":  # the first dimension moves fastest
        return (
            tensor.permute(*reversed(range(tensor.dim())))
            .contiguous()
            .permute(*reversed(range(tensor.dim())))
        )
    if layout == "classes last":  # the second dimension moves fastest
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.dim() > 2 else tensor
    # every other element along every dimension, NaN or a wrong label between
    if layout == "strided":
        junk = torch.nan if tensor.is_floating_point() else 99
        room = tensor.new_full([2 * n for n in tensor.shape], junk)
        view = room[(slice(None, None, 2),) * tensor.dim()]
        return view.copy_(tensor)
    if layout == "expanded":  # all rows are the first one, which is in memory once
        return tensor[:1].expand(tensor.shape)
    return tensor


def new(shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Index that gives a tensor of the rows a class dimension of one."""
    return (None,) if len(shape) == 1 else (slice(None), None)
