"""The losses as modules: they hold options and make one call.

Each is a subclass of PyTorch's own module, so that code which asks for that type, its state dict
and its constructor's arguments goes on working.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nll import _torch
from nll.losses import arguments, functional


class _NotScripted:
    """What torch.jit.script would fail at with a page of Python; it asks modules to prepare
    themselves first.
    """

    def __prepare_scriptable__(self) -> Any:
        raise RuntimeError(
            f"torch.jit.script does not compile nll.{type(self).__name__}: use torch.compile or "
            f"torch.export"
        )


class LogSoftmax(_NotScripted, nn.LogSoftmax):
    """`nll.log_softmax` along `dim`. Without `dim`, PyTorch's deprecated choice of one, with its
    warning.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return log-probabilities of the input's shape."""
        return functional.log_softmax(input, _implicit_dim(input) if self.dim is None else self.dim)


class NLLLoss(_NotScripted, nn.NLLLoss):
    """`nll.nll_loss` with its options held: NLLLoss(weight, size_average, ignore_index, reduce,
    reduction).
    """

    def extra_repr(self) -> str:
        """Return the options that are not the defaults."""
        return _said(
            {name: getattr(self, name) for name in ("weight", "ignore_index", "reduction")}
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of labels given log-probabilities; see `nll.nll_loss` for shapes."""
        return functional.nll_loss(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class CrossEntropyLoss(_NotScripted, nn.CrossEntropyLoss):
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
        """Return the options that are not the defaults."""
        return _said({name: getattr(self, name) for name in _DEFAULTS if hasattr(self, name)})

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


class LinearCrossEntropyLoss(_NotScripted, nn.Module):
    """`nll.linear_cross_entropy` with its linear layer, `linear`, and its options held.

    The loss is that of the scores `linear(input)`. Where `linear` is more than a weight and a bias
    (wrapped by an adapter, hooked, of a class of its own) it is called, and all scores are held at
    once.
    """

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
        """Make a linear layer from `in_features` to `num_classes`; take the options of
        `nll.linear_cross_entropy`.
        """
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
        """Return the options that are not the defaults."""
        return _said(
            {"weight": self.weight, **self.options, "allowed_classes": self.allowed_classes}
        )

    def forward(self, input: Tensor, target: Tensor, row_weights: Tensor | None = None) -> Tensor:
        """Return the loss of (..., in_features) rows; see `nll.linear_cross_entropy` for the
        target's shape.
        """
        options = {**self.options, "weight": self.weight, "row_weights": row_weights}
        options["allowed_classes"] = self.allowed_classes
        if _is_plain_linear(self.linear):
            weight, bias = self.linear.weight, self.linear.bias
            return functional.linear_cross_entropy(
                input, weight, target, linear_bias=bias, **options
            )
        return _of_scores(self.linear(input), target, options)


def _is_plain_linear(layer: nn.Module) -> bool:
    """Whether calling a layer does nothing but multiply by its weight and add its bias."""
    if (
        not isinstance(layer, nn.Linear)
        or type(layer).forward is not nn.Linear.forward
        or "forward" in vars(layer)
    ):
        return False
    if type(layer).__call__ is not nn.Module.__call__:
        return False
    every = nn.modules.module
    kinds = "forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks"
    return not any(
        getattr(layer, f"_{kind}") or getattr(every, f"_global_{kind}") for kind in kinds
    )


def _of_scores(scores: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor:
    """The loss of scores (..., C) that are there."""
    options = {name: value for name, value in options.items() if name != "max_memory"}
    rows, classes = scores.shape[:-1], scores.shape[-1]
    flat = arguments.linear_target(target, rows, classes)
    row_weights = arguments.row_weights(options.pop("row_weights"), rows)
    allowed = arguments.allowed_rows(options.pop("allowed_classes"), rows, classes)
    loss = functional.cross_entropy(
        _torch.matrix(scores),
        flat,
        row_weights=None if row_weights is None else row_weights.reshape(-1),
        allowed_classes=allowed,
        **options,
    )
    return loss.reshape(rows) if options["reduction"] == "none" else loss


_DEFAULTS: dict[str, Any] = {
    "weight": None,
    "ignore_index": -100,
    "reduction": "mean",
    "label_smoothing": 0.0,
    "temperature": 1.0,
    "softcap": None,
    "z_loss": 0.0,
    "allowed_classes": None,
    "max_memory": None,
    "inplace_backward": False,
}


def _said(options: dict[str, Any]) -> str:
    """name=value for each that is not the default; of a tensor its shape."""
    values = (
        (name, v) for name, v in options.items() if isinstance(v, Tensor) or v != _DEFAULTS[name]
    )
    return ", ".join(
        f"{n}=(tensor of {tuple(v.shape)})" if isinstance(v, Tensor) else f"{n}={v!r}"
        for n, v in values
    )


def _implicit_dim(input: Tensor) -> int:
    """Return the dimension that PyTorch chose before `dim` was required."""
    message = (
        "Implicit dimension choice for log_softmax has been deprecated. "
        "Change the call to include dim=X as an argument."
    )
    arguments.warn_deprecated(message, 6)
    return 0 if input.dim() in (0, 1, 3) else 1
