"""Say how a call would be run, without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nll import _autograd, _backends, _checks, _linear, functional
from nll.kernels import reference


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
        loss: `nll.log_softmax`, `nll.nll_loss`, `nll.cross_entropy` or `nll.linear_cross_entropy`.
        arguments, options: what it would be given.

    Raises: TypeError for another function, and what the loss's own checks of a linear layer raise.
    """
    known = (functional.log_softmax, functional.nll_loss, functional.cross_entropy, functional.linear_cross_entropy)
    if loss not in known:
        names = ", ".join(f"nll.{function.__name__}" for function in known)
        raise TypeError(f"expected one of {names}, got {loss!r}")
    return (
        _of_layer(*arguments, **options)
        if loss is functional.linear_cross_entropy
        else _of_scores(loss, *arguments, **options)
    )


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
    why = "the compiled loops"
    if backend is reference:
        why = "PyTorch's operators, because of " + (_backends.obstacle(*tensors) or "use_backend")
    return Explanation(name, why)


def _of_layer(input: Tensor, linear_weight: Tensor, target: Tensor, **options: Any) -> Explanation:
    budget, bias = options.get("max_memory"), options.get("linear_bias")
    input, linear_weight, bias = _linear.autocast(input, linear_weight, bias)
    rows = _checks.linear(input, linear_weight, bias, budget)
    flat = _checks.linear_target(target, rows, linear_weight.shape[0])
    weights = options.get("weight"), options.get("row_weights")
    problem = _linear.Problem(input.reshape(-1, input.shape[-1]), linear_weight, bias, flat, *weights, None)
    count = max(1, problem.input.shape[0])
    if _autograd.transforming() or _linear.beyond_first_derivatives(problem):
        step, size = _linear.rows_by_definition(problem.input, linear_weight.shape[0], budget)
        why = "differentiated by definition: forward mode, torch.func, or a gradient by the target or by weights"
        return Explanation("reference", why, min(step, count), -(-count // step), size)
    how = _linear.plan(problem, budget)
    found = _chosen(_linear.like(problem), flat, *weights, None)
    return Explanation(found.backend, found.reason, how.rows, -(-count // how.rows), how.bytes)
