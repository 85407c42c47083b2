"""Say how a call would be run, without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from nll import _torch
from nll.kernels.reference import Options
from nll.losses import arguments, dispatch, functional, linear, matmul, token_statistics


@dataclass(frozen=True)
class Explanation:
    """Which backend runs a call and why; for the losses of a linear layer the blocks, and the
    memory they take.
    """

    backend: str
    reason: str
    rows: int | None = None  # in a block
    blocks: int | None = None
    # predicted peak, besides the arguments, the gradients and float32 sums of them
    bytes: int | None = None

    def __str__(self) -> str:
        """One sentence."""
        said = f"{self.backend}: {self.reason}"
        if self.blocks is None:
            return said
        blocks, rows = _counted(self.blocks, "block"), _counted(self.rows or 0, "row")
        return f"{said}; {blocks} of {rows}, {(self.bytes or 0) / 1e6:.1f} MB at the peak"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def explain(loss: Callable[..., Any], *args: Any, **options: Any) -> Explanation:
    """Return how `loss(*args, **options)` would be run.

    Args:
        loss: `nll.log_softmax`, `nll.nll_loss`, `nll.cross_entropy`, `nll.linear_cross_entropy` or
            `nll.token_statistics`.
        args, options: its arguments.

    Raises: TypeError for another function, and what the loss's own checks of a linear layer raise.
    """
    of: dict[Any, Callable[..., Explanation]] = {
        functional.log_softmax: _of_log_softmax,
        functional.nll_loss: _of_nll_loss,
        functional.cross_entropy: _of_cross_entropy,
        functional.linear_cross_entropy: _of_layer,
        functional.token_statistics: _of_statistics,
    }
    if loss not in of:
        names = ", ".join(f"nll.{function.__name__}" for function in of)
        raise TypeError(f"expected one of {names}, got {loss!r}")
    call = signature(loss).bind(*args, **options)
    call.apply_defaults()
    return of[loss](**call.arguments)


def _of_log_softmax(input: Tensor, dtype: Any, **_: Any) -> Explanation:
    return _chosen(input if dtype is None else input.new_empty((), dtype=dtype).expand(input.shape))


def _of_nll_loss(input: Tensor, **_: Any) -> Explanation:
    return _chosen(input)


def _of_cross_entropy(input: Tensor, target: Tensor, weight: Any, **more: Any) -> Explanation:
    absent = (
        weight,
        *(
            more[name]
            for name in ("row_weights", "allowed_classes", "softcap", "size_average", "reduce")
        ),
    )
    numbers = tuple(more[name] for name in ("label_smoothing", "temperature", "z_loss"))
    if functional.goes_to_pytorch(input, target, absent, numbers, more["inplace_backward"]):
        return Explanation(
            "pytorch", "its own cross_entropy, the shorter way for a small problem without options"
        )
    return _chosen(input, target, weight, more["row_weights"], more["allowed_classes"])


def _chosen(*tensors: Any) -> Explanation:
    backend = dispatch.choose(*tensors)
    name = next(name for name, module in dispatch.BACKENDS.items() if module is backend)
    whose = {"cpu": "the compiled loops", "triton": "Triton's kernels"}
    return Explanation(
        name, whose.get(name, f"PyTorch's operators, because {dispatch.obstacle(*tensors)}")
    )


def _of_layer(
    input: Tensor, linear_weight: Tensor, target: Tensor, linear_bias: Any, **more: Any
) -> Explanation:
    budget = more["max_memory"]
    input, linear_weight, bias = matmul.autocast(input, linear_weight, linear_bias)
    rows, classes = arguments.linear(input, linear_weight, bias, budget), linear_weight.shape[0]
    problem = linear.Problem(
        _torch.matrix(input),
        linear_weight,
        bias,
        arguments.linear_target(target, rows, classes),
        more["weight"],
        None if more["row_weights"] is None else more["row_weights"].reshape(-1),
        arguments.allowed_rows(more["allowed_classes"], rows, classes),
    )
    if linear.needs_definition(problem):
        return _by_definition(problem.input, classes, budget)
    options = Options(label_smoothing=more["label_smoothing"], softcap=more["softcap"])
    with torch.no_grad():  # as in the blocks
        found = _chosen(*linear.tensors_of_block(problem, options))
    return _in_blocks(found, problem.input, linear_weight, budget)


def _of_statistics(
    input: Tensor,
    target: Tensor,
    linear_weight: Tensor | None,
    linear_bias: Tensor | None,
    max_memory: Any,
    **_: Any,
) -> Explanation:
    head = linear_weight
    if head is not None:
        input, head, linear_bias = matmul.autocast(input, head, linear_bias)
    classes = arguments.scores(input, linear_bias, max_memory) if head is None else head.shape[0]
    flat = _torch.matrix(input)
    if token_statistics.needs_definition((flat, head, linear_bias)):
        return _by_definition(flat, classes, max_memory)
    scores = flat.new_zeros((), dtype=matmul.scores_in(flat) if head is not None else None)
    found = _chosen(scores.expand(len(flat), classes), target.reshape(-1))
    return _in_blocks(found, flat, head, max_memory)


def _by_definition(input: Tensor, classes: int, budget: int | None) -> Explanation:
    step, size = matmul.rows_by_definition(input, classes, budget)
    why = (
        "PyTorch's operators, because forward mode, torch.func or a tracer is at work, "
        "or a gradient by the target or by weights is wanted"
    )
    return Explanation(
        "reference", why, min(step, max(1, len(input))), -(-max(1, len(input)) // step), size
    )


def _in_blocks(
    found: Explanation, input: Tensor, head: Tensor | None, budget: int | None
) -> Explanation:
    how = matmul.plan(input, head, budget)
    return Explanation(
        found.backend, found.reason, how.rows, -(-max(1, len(input)) // how.rows), how.bytes
    )
