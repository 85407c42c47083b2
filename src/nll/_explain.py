"""Say how a call would be run, without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from nll import _autograd, _backends, _checks, _linear, _products, _statistics, functional


@dataclass(frozen=True)
class Explanation:
    """Which backend runs a call and why; for the losses of a linear layer the blocks, and the memory they take."""

    backend: str
    reason: str
    rows: int | None = None  # in a block
    blocks: int | None = None
    bytes: int | None = None  # predicted peak, besides the arguments, the gradients and float32 sums of them

    def __str__(self) -> str:
        """One sentence."""
        said = f"{self.backend}: {self.reason}"
        if self.blocks is None:
            return said
        return f"{said}; {self.blocks} blocks of {self.rows} rows, {(self.bytes or 0) / 1e6:.1f} MB at the peak"


def explain(loss: Callable[..., Any], *arguments: Any, **options: Any) -> Explanation:
    """Return how `loss(*arguments, **options)` would be run.

    Args:
        loss: `nll.log_softmax`, `nll.nll_loss`, `nll.cross_entropy`, `nll.linear_cross_entropy` or
            `nll.token_statistics`.
        arguments, options: what it would be given.

    Raises: TypeError for another function, and what the loss's own checks of a linear layer raise.
    """
    of: dict[Any, Callable[..., Explanation]] = {
        functional.linear_cross_entropy: _of_layer,
        functional.token_statistics: _of_statistics,
        **{
            one: partial(_of_scores, one)
            for one in (functional.log_softmax, functional.nll_loss, functional.cross_entropy)
        },
    }
    if loss not in of:
        names = ", ".join(f"nll.{function.__name__}" for function in of)
        raise TypeError(f"expected one of {names}, got {loss!r}")
    return of[loss](*arguments, **options)


def _of_scores(
    loss: Callable[..., Any], input: Tensor, target: Any = None, weight: Any = None, *_: Any, **options: Any
) -> Explanation:
    target = target if isinstance(target, Tensor) and loss is not functional.log_softmax else None
    plain = loss is functional.cross_entropy and not options and weight is None
    if plain and target is not None and _backends.is_small(input, target):
        return Explanation("pytorch", "a small problem, and PyTorch's operator has the shorter way")
    if loss is functional.nll_loss:
        return _chosen(input)
    return _chosen(input, target, weight, options.get("row_weights"), options.get("allowed_classes"))


def _chosen(*tensors: Any) -> Explanation:
    backend = _backends.choose(*tensors)
    name = next(name for name, module in _backends.BACKENDS.items() if module is backend)
    whose = {"cpu": "the compiled loops", "triton": "Triton's kernels"}
    other = "PyTorch's operators, because of " + (_backends.obstacle(*tensors) or "use_backend")
    return Explanation(name, whose.get(name, other))


def _of_layer(input: Tensor, linear_weight: Tensor, target: Tensor, **options: Any) -> Explanation:
    budget, bias = options.get("max_memory"), options.get("linear_bias")
    input, linear_weight, bias = _products.autocast(input, linear_weight, bias)
    rows, classes = _checks.linear(input, linear_weight, bias, budget), linear_weight.shape[0]
    flat = _checks.linear_target(target, rows, classes)
    weights = options.get("weight"), options.get("row_weights")
    problem = _linear.Problem(input.reshape(-1, input.shape[-1]), linear_weight, bias, flat, *weights, None)
    if _autograd.transforming() or _linear.beyond_first_derivatives(problem):
        return _by_definition(problem.input, classes, budget)
    found = _chosen(_linear.like(problem), flat, *weights, None)
    return _in_blocks(found, problem.input, linear_weight, budget)


def _of_statistics(
    input: Tensor, target: Tensor, *, linear_weight: Tensor | None = None, linear_bias: Tensor | None = None, **options
) -> Explanation:
    budget, head = options.get("max_memory"), linear_weight
    if head is not None:
        input, head, linear_bias = _products.autocast(input, head, linear_bias)
    classes = _checks.scores(input, linear_bias, budget) if head is None else head.shape[0]
    flat = input.reshape(-1, input.shape[-1])
    if _statistics.by_definition():
        return _by_definition(flat, classes, budget)
    found = _chosen(flat.new_zeros(()).expand(len(flat), classes), target.reshape(-1))
    return _in_blocks(found, flat, head, budget)


def _by_definition(input: Tensor, classes: int, budget: int | None) -> Explanation:
    step, size = _products.rows_by_definition(input, classes, budget)
    why = "differentiated by definition: forward mode, torch.func, or a gradient by the target or by weights"
    return Explanation("reference", why, min(step, max(1, len(input))), -(-max(1, len(input)) // step), size)


def _in_blocks(found: Explanation, input: Tensor, head: Tensor | None, budget: int | None) -> Explanation:
    how = _products.plan(input, head, budget)
    return Explanation(found.backend, found.reason, how.rows, -(-max(1, len(input)) // how.rows), how.bytes)
