"""The losses as modules: they hold options and make one call.

Each is a subclass of PyTorch's own module: code that checks for that type keeps working, and so do
its state dict and constructor arguments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nll import _torch
from nll.losses import arguments, functional

# The options that modules show where they are not the defaults; "max_memory" is the layer's alone.
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


class _NotScripted(nn.Module):
    """A module that torch.jit.script refuses at once, instead of failing inside."""

    def __prepare_scriptable__(self) -> Any:
        raise RuntimeError(
            f"torch.jit.script does not compile nll.{type(self).__name__}: use torch.compile or "
            f"torch.export"
        )

    def _options(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        options = self._options(*(name for name in _DEFAULTS if hasattr(self, name)))
        options.update(getattr(self, "options", {}))
        shown = {
            name: f"(tensor of {tuple(value.shape)})" if isinstance(value, Tensor) else repr(value)
            for name, value in options.items()
            if isinstance(value, Tensor) or value != _DEFAULTS[name]
        }
        return ", ".join(f"{name}={value}" for name, value in shown.items())


class LogSoftmax(nn.LogSoftmax, _NotScripted):
    """`nll.log_softmax` along `dim`. Without `dim`, along the dimension that PyTorch's deprecated
    default chooses, with its warning.

    Example:
        >>> nll.LogSoftmax(dim=0)(torch.zeros(2))
        tensor([-0.6931, -0.6931])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.log_softmax(input, _implicit_dim(input) if self.dim is None else self.dim)


class NLLLoss(_NotScripted, nn.NLLLoss):
    """`nll.nll_loss` with its options: NLLLoss(weight, size_average, ignore_index, reduce,
    reduction).

    Example:
        >>> nll.NLLLoss()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([1]))
        tensor(0.6931)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        options = self._options("weight", "ignore_index", "reduction")
        return functional.nll_loss(input, target, **options)


class CrossEntropyLoss(_NotScripted, nn.CrossEntropyLoss):
    """`nll.cross_entropy` with its options; row weights are an argument of each call.

    Example:
        >>> nll.CrossEntropyLoss(label_smoothing=0.1)(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """

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
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.temperature = temperature
        self.softcap = softcap
        self.z_loss = z_loss
        self.inplace_backward = inplace_backward
        self.register_buffer("allowed_classes", allowed_classes)

    def forward(self, input: Tensor, target: Tensor, row_weights: Tensor | None = None) -> Tensor:
        options = self._options(*(name for name in _DEFAULTS if name != "max_memory"))
        return functional.cross_entropy(input, target, row_weights=row_weights, **options)


class LinearCrossEntropyLoss(_NotScripted):
    """`nll.linear_cross_entropy` with its linear layer, `linear`, and its options.

    The loss is that of the logits `linear(input)`. Where `linear` is more than a weight and a bias
    (wrapped by an adapter, hooked, of a class of its own) it is called, and all logits are
    materialised.

    Example:
        >>> layer = nll.LinearCrossEntropyLoss(8, num_classes=5)
        >>> loss = layer(torch.randn(3, 8), torch.tensor([0, 4, 2]))
        >>> loss.shape
        torch.Size([])
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

    def forward(self, input: Tensor, target: Tensor, row_weights: Tensor | None = None) -> Tensor:
        options = {**self.options, **self._options("weight", "allowed_classes")}
        options["row_weights"] = row_weights
        if _is_plain_linear(self.linear):
            weight, bias = self.linear.weight, self.linear.bias
            return functional.linear_cross_entropy(
                input, weight, target, linear_bias=bias, **options
            )
        return _of_logits(self.linear(input), target, **options)


def _is_plain_linear(layer: nn.Module) -> bool:
    """Whether calling a layer does nothing but multiply by its weight and add its bias."""
    if (
        not isinstance(layer, nn.Linear)
        or type(layer).forward is not nn.Linear.forward
        or "forward" in vars(layer)
        or type(layer).__call__ is not nn.Module.__call__
    ):
        return False
    every = nn.modules.module
    kinds = "forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks"
    return not any(
        getattr(layer, f"_{kind}") or getattr(every, f"_global_{kind}") for kind in kinds
    )


def _of_logits(
    logits: Tensor,
    target: Tensor,
    row_weights: Tensor | None,
    allowed_classes: Tensor | None,
    max_memory: int | None,
    **options: Any,
) -> Tensor:
    """The loss of logits (..., C) that are in memory already."""
    rows, classes = logits.shape[:-1], logits.shape[-1]
    weights = arguments.row_weights(row_weights, rows)
    loss = functional.cross_entropy(
        _torch.matrix(logits),
        arguments.linear_target(target, rows, classes),
        row_weights=None if weights is None else weights.reshape(-1),
        allowed_classes=arguments.allowed_rows(allowed_classes, rows, classes),
        **options,
    )
    return loss.reshape(rows) if options["reduction"] == "none" else loss


def _implicit_dim(input: Tensor) -> int:
    arguments.warn_deprecated(
        "Implicit dimension choice for log_softmax has been deprecated. "
        "Change the call to include dim=X as an argument.",
        6,
    )
    return 0 if input.dim() in (0, 1, 3) else 1
