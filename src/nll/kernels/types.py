"""What the row kernels take and return, and the signature that every set of kernels implements.

Shapes: logits are (C), (N, C) or (N, C, d1, ..., dk); "the rows" are that shape without the class
dimension: (), (N) or (N, d1, ..., dk). A block of logits is (N, C).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Options(NamedTuple):
    """The options of a cross entropy that are not tensors of its rows or classes."""

    ignore_index: int = -100
    reduction: str = "mean"
    label_smoothing: float = 0.0
    temperature: float = 1.0
    softcap: float | None = None
    # a one-element tensor on an accelerator, whose value is not read back
    z_loss: float | Tensor = 0.0


class RowStatistics(NamedTuple):
    """Statistics of each row's label under softmax(z)."""

    log_prob: Tensor
    lse: Tensor
    entropy: Tensor | None  # -sum p log p
    rank: (
        Tensor  # number of classes before the label: larger logits, and equal ones that come first
    )
    shift: Tensor  # the largest logit
    log_sum: Tensor  # log sum exp(z - shift); a constant added to all logits costs no digits here


class Backend(Protocol):
    """Differentiable functions of logits; `kernels/reference.py` defines what they compute."""

    # Return x - log sum exp x along a dimension.
    def log_softmax(self, input: Tensor, dim: int) -> Tensor: ...

    # Return -log p of each row's label, 0 where it is ignored.
    def nll_loss(self, input: Tensor, target: Tensor, ignore_index: int) -> Tensor: ...

    # Return the reduced loss.
    def cross_entropy(
        self,
        input: Tensor,
        target: Tensor,  # the rows' labels, or class probabilities of the input's shape
        weight: Tensor | None,  # (C)
        row_weights: Tensor | None,  # of the rows' shape
        allowed: Tensor | None,  # broadcasts against the input
        options: Options,
    ) -> Tensor: ...


class BlockKernels(Protocol):
    """Functions of a block of logits, outside autograd."""

    # Return the rows' losses times their factors; the gradient of the sum, if requested, overwrites
    # the logits.
    def cross_entropy_block(
        self,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        row_factor: Tensor | None,  # (N)
        allowed: Tensor | None,  # (C) or (N, C)
        options: Options,  # with reduction "sum"
        with_gradient: bool,
    ) -> Tensor: ...

    # Return the statistics of each row.
    def statistics_block(
        self,
        logits: Tensor,
        label: Tensor,
        allowed: Tensor | None,  # (C) or (N, C)
        temperature: float,
        softcap: float | None,
        entropy: bool,  # the compiled kernels always compute it: it costs them nothing
    ) -> RowStatistics: ...

    # Overwrite the logits with the gradient: a onehot + p (b - a - c (log p + H)).
    def statistics_block_backward(
        self,
        logits: Tensor,  # contiguous
        label: Tensor,
        allowed: Tensor | None,
        temperature: float,
        softcap: float | None,
        statistics: RowStatistics,
        grads: tuple[Tensor, ...],  # a, b, c: by log_prob, lse and, if requested, entropy
    ) -> None: ...


class Kernels(BlockKernels, Protocol):
    """Compiled row kernels and their first derivatives, outside autograd."""

    # Return the reduced loss, each row's sums (2, rows), a shift and the total of its exponentials,
    # and, from the same pass over the logits, the gradient. IndexError for a label out of range.
    def cross_entropy(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        row_factor: Tensor | None,  # multiplies the rows and enters the denominator of "mean"
        allowed: Tensor | None,  # broadcasts against the input
        options: Options,
        with_gradient: bool,  # for an upstream gradient of 1; not with reduction "none"
    ) -> tuple[Tensor, Tensor, Tensor | None]: ...

    # Return `upstream` times the gradient; in place, in the memory of the logits.
    def cross_entropy_backward(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        row_factor: Tensor | None,
        allowed: Tensor | None,
        options: Options,
        sums: Tensor,
        upstream: Tensor | None,
        in_place: bool,
    ) -> Tensor: ...

    # Multiply a stored gradient by a factor in float32 or better, in place.
    def rescaled(self, gradient: Tensor, factor: Tensor) -> Tensor: ...


class LogKernels(Kernels, Protocol):
    """Kernels of log-probabilities too; on an accelerator PyTorch's own are as fast."""

    # Return x - log sum exp x along a dimension, contiguous.
    def log_softmax(self, input: Tensor, dim: int) -> Tensor: ...

    # Return g - exp(y) sum g for the contiguous result y.
    def log_softmax_backward(self, gradient: Tensor, result: Tensor, dim: int) -> Tensor: ...

    # Return -log p of each row's label, 0 where it is ignored.
    def pick(self, input: Tensor, target: Tensor, ignore_index: int) -> Tensor: ...

    # Return the gradient by the log-probabilities: -grad at the label, 0 elsewhere.
    def pick_backward(
        self, grad: Tensor, target: Tensor, like: Tensor, ignore_index: int
    ) -> Tensor: ...
