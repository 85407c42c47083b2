"""The losses as modules: they hold options and make one call.

Each is a subclass of PyTorch's own module, so that code which asks for that type, its state dict and its
constructor's arguments goes on working.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nll import _checks, functional


class LogSoftmax(nn.LogSoftmax):
    """`nll.log_softmax` along `dim`. Without `dim`, PyTorch's deprecated choice of one, with its warning."""

    def forward(self, input: Tensor) -> Tensor:
        """Return log-probabilities of the input's shape."""
        return functional.log_softmax(input, _implicit_dim(input) if self.dim is None else self.dim)


class NLLLoss(nn.NLLLoss):
    """`nll.nll_loss` with its options held: NLLLoss(weight, size_average, ignore_index, reduce, reduction)."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of labels given log-probabilities; see `nll.nll_loss` for shapes."""
        return functional.nll_loss(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """`nll.cross_entropy` with its options held; the row weights come with each call."""

    allowed_classes: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        temperature: float = 1.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
        allowed_classes: Tensor | None = None,
        inplace_backward: bool = False,
    ) -> None:
        """Take the arguments of `nll.cross_entropy` of the same names."""
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.temperature = temperature
        self.softcap = softcap
        self.z_loss = z_loss
        self.inplace_backward = inplace_backward
        self.register_buffer("allowed_classes", allowed_classes)

    def extra_repr(self) -> str:
        """Return the options that PyTorch's module has not, where they are not the defaults."""
        usual = {"temperature": 1.0, "softcap": None, "z_loss": 0.0, "inplace_backward": False}
        said = [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join(said + ["allowed_classes=..."] * (self.allowed_classes is not None))

    def forward(self, input: Tensor, target: Tensor, row_weights: Tensor | None = None) -> Tensor:
        """Return the loss of labels or class probabilities; see `nll.cross_entropy` for shapes."""
        return functional.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            temperature=self.temperature,
            softcap=self.softcap,
            z_loss=self.z_loss,
            row_weights=row_weights,
            allowed_classes=self.allowed_classes,
            inplace_backward=self.inplace_backward,
        )


class LinearCrossEntropyLoss(nn.Module):
    """`nll.linear_cross_entropy` with its linear layer, `linear`, and its options held."""

    weight: Tensor | None
    allowed_classes: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        weight: Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        temperature: float = 1.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
        allowed_classes: Tensor | None = None,
        max_memory: int | None = None,
    ) -> None:
        """Make a linear layer from `in_features` to `num_classes`; take the options of `nll.linear_cross_entropy`."""
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes, bias=bias, device=device, dtype=dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("allowed_classes", allowed_classes)
        self.options = {
            "reduction": reduction,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "temperature": temperature,
            "softcap": softcap,
            "z_loss": z_loss,
            "max_memory": max_memory,
        }

    def extra_repr(self) -> str:
        """Return the options."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items() if value is not None)

    def forward(self, input: Tensor, target: Tensor, row_weights: Tensor | None = None) -> Tensor:
        """Return the loss of (..., in_features) rows; see `nll.linear_cross_entropy` for the target's shape."""
        return functional.linear_cross_entropy(
            input,
            self.linear.weight,
            target,
            linear_bias=self.linear.bias,
            weight=self.weight,
            row_weights=row_weights,
            allowed_classes=self.allowed_classes,
            **self.options,
        )


def _implicit_dim(input: Tensor) -> int:
    """Return the dimension that PyTorch chose before `dim` was required."""
    message = (
        "Implicit dimension choice for log_softmax has been deprecated. "
        "Change the call to include dim=X as an argument."
    )
    _checks.warn_deprecated(message, 6)
    return 0 if input.dim() in (0, 1, 3) else 1
