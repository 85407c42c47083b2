"""Explain how a call would be run, without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor

from nll.losses import dispatch, functional, token_statistics
from nll.losses.layer import block_sizes, linear


@dataclass(frozen=True)
class Explanation:
    """The backend of a call and the reason; for the losses of a linear layer also the blocks and
    their memory.
    """

    backend: str
    reason: str
    rows: int | None = None  # per block
    blocks: int | None = None
    # predicted peak, excluding the arguments, the gradients and their float32 sums
    bytes: int | None = None

    def __str__(self) -> str:
        route = f"{self.backend}: {self.reason}"
        if self.blocks is None:
            return route
        blocks, rows = _counted(self.blocks, "block"), _counted(self.rows or 0, "row")
        return f"{route}; {blocks} of {rows}, {(self.bytes or 0) / 1e6:.1f} MB at the peak"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def explain(loss: Callable[..., Any], *args: Any, **options: Any) -> Explanation:
    """Return how `loss(*args, **options)` would be run.

    Args:
        loss: `nll.log_softmax`, `nll.nll_loss`, `nll.cross_entropy`, `nll.linear_cross_entropy` or
            `nll.token_statistics`.
        args, options: its arguments.

    Raises: TypeError for another function, and what the loss itself raises for a linear layer.

    Example:
        >>> print(nll.explain(nll.cross_entropy, torch.zeros(2, 4), torch.tensor([0, 3])))
        pytorch: its own cross_entropy, which is faster for a small problem without options
    """
    if loss not in _EXPLAINED:
        names = ", ".join(f"nll.{function.__name__}" for function in _EXPLAINED)
        raise TypeError(f"expected one of {names}, got {loss!r}")
    call = signature(loss).bind(*args, **options)
    call.apply_defaults()
    return _EXPLAINED[loss](**call.arguments)


def _log_softmax(input: Tensor, dtype: Any, **_: Any) -> Explanation:
    like = input if dtype is None else input.new_empty((), dtype=dtype).expand(input.shape)
    return _explained(dispatch.route_of_logits(like))


def _nll_loss(input: Tensor, **_: Any) -> Explanation:
    return _explained(dispatch.route_of_logits(input))


def _cross_entropy(**arguments: Any) -> Explanation:
    return _explained(functional.route_of_cross_entropy(**arguments))


def _linear_cross_entropy(max_memory: int | None, **arguments: Any) -> Explanation:
    tensors = {name: arguments[name] for name in _TENSORS}
    problem = functional.problem_of(**tensors, max_memory=max_memory)
    if linear.LOSS.needs_definition(problem):
        return _by_definition(problem.input, len(problem.head), max_memory)
    route = linear.route_of_blocks(problem)
    return _in_blocks(route, problem.input, problem.head, max_memory)


_TENSORS = (
    "input",
    "linear_weight",
    "target",
    "linear_bias",
    "weight",
    "row_weights",
    "allowed_classes",
)


def _token_statistics(
    input: Tensor,
    target: Tensor,
    linear_weight: Tensor | None,
    linear_bias: Tensor | None,
    max_memory: int | None,
    **_: Any,
) -> Explanation:
    layer, _rows = token_statistics.layer_of(input, linear_weight, linear_bias, max_memory)
    flat, head, _bias = layer
    classes = token_statistics.classes_of(layer)
    if token_statistics.LOSS.needs_definition(layer):
        return _by_definition(flat, classes, max_memory)
    logits = flat.new_zeros((), dtype=None if head is None else block_sizes.logits_dtype(flat))
    route = dispatch.route(logits.expand(len(flat), classes), target.reshape(-1))
    return _in_blocks(route, flat, head, max_memory)


def _explained(route: dispatch.Route, *blocks: int) -> Explanation:
    return Explanation(route.name, route.reason, *blocks)


def _by_definition(input: Tensor, classes: int, budget: int | None) -> Explanation:
    step, size = block_sizes.rows_by_definition(input, classes, budget)
    n = max(1, len(input))
    return _explained(dispatch.DEFINITION, min(step, n), -(-n // step), size)


def _in_blocks(
    route: dispatch.Route, input: Tensor, head: Tensor | None, budget: int | None
) -> Explanation:
    plan = block_sizes.plan(input, head, budget)
    return _explained(route, plan.rows, -(-max(1, len(input)) // plan.rows), plan.bytes)


_EXPLAINED: dict[Callable[..., Any], Callable[..., Explanation]] = {
    functional.log_softmax: _log_softmax,
    functional.nll_loss: _nll_loss,
    functional.cross_entropy: _cross_entropy,
    functional.linear_cross_entropy: _linear_cross_entropy,
    token_statistics.token_statistics: _token_statistics,
}
