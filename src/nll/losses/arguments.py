"""Every check of a loss's arguments, with its message: "expected ..., got ...".

Where PyTorch checks the same thing, the type of the error is PyTorch's own.
"""

from __future__ import annotations

import math
import warnings
from numbers import Integral, Real

import torch
from torch import Tensor

from nll import _torch

_REDUCTIONS = ("none", "mean", "sum")
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


# ---- Options -------------------------------------------------------------------------------------


def reduction(name: str, size_average: bool | None, reduce: bool | None) -> str:
    """Return the reduction requested by its name or by PyTorch's two deprecated flags."""
    if size_average is not None or reduce is not None:
        averaged = size_average is None or bool(size_average)
        reduced = reduce is None or bool(reduce)
        name = _REDUCTIONS[0 if not reduced else 1 if averaged else 2]
        warn_deprecated(
            f"size_average and reduce args will be deprecated, please use reduction={name!r} "
            f"instead.",
            4,
        )
    if name == "elementwise_mean":
        name = "mean"
        warn_deprecated(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.", 4
        )
    if name not in _REDUCTIONS:
        raise ValueError(f"expected reduction to be one of 'none', 'mean', 'sum', got {name!r}")
    return name


def warn_deprecated(message: str, stacklevel: int) -> None:
    """Warn, except in compiled code, which cannot."""
    if not torch.compiler.is_compiling():
        warnings.warn(message, stacklevel=stacklevel)


def cross_entropy_options(
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> None:
    _real("label_smoothing", label_smoothing)
    _real("temperature", temperature)
    _real("z_loss", z_loss)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"expected label_smoothing in [0, 1], got {label_smoothing}")
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"expected a finite temperature above 0, got {temperature}")
    if not 0.0 <= z_loss < math.inf:
        raise ValueError(f"expected a finite z_loss of at least 0, got {z_loss}")
    if softcap is not None:
        _real("softcap", softcap, " or None")
        if not 0.0 < softcap < math.inf:
            raise ValueError(f"expected a finite softcap above 0, or None, got {softcap}")


def topk(count: int, classes: int) -> None:
    _integer("topk", count, 0, classes)


def clusters(name: str) -> None:
    if name not in ("token", "sequence"):
        raise ValueError(f"expected clusters to be 'token' or 'sequence', got {name!r}")


# ---- Logits and their targets --------------------------------------------------------------------


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None) -> None:
    _tensor("input", input)
    if not isinstance(dim, Integral):
        raise TypeError(f"expected dim to be an int, got {type(dim).__name__}")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"expected dtype to be a torch.dtype, got {type(dtype).__name__}")
    rank = max(input.dim(), 1)
    if not -rank <= dim < rank:
        raise IndexError(f"expected dim to be in [{-rank}, {rank - 1}], got {dim}")
    _floating("input", input.dtype if dtype is None else dtype)


def nll_loss(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """Check the arguments of nll_loss; return the target in the shape of the rows."""
    _tensor("input", input)
    _tensor("target", target)
    _has_classes(input)
    _integer("ignore_index", ignore_index)
    _floating("input", input.dtype)
    _class_weight(weight, input)
    return _labels(input, target)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    temperature: float,
    softcap: float | None,
    z_loss: float,
) -> Tensor:
    """Check the arguments of cross_entropy; return the target in the shape of the rows, or of the
    input.
    """
    cross_entropy_options(label_smoothing, temperature, softcap, z_loss)
    _tensor("input", input)
    _tensor("target", target)
    if label_smoothing or target.shape == input.shape:
        _classes_together(input)
    if target.shape != input.shape:
        return nll_loss(input, target, weight, ignore_index)
    _integer("ignore_index", ignore_index)
    _floating("input", input.dtype)
    if not target.is_floating_point():
        raise RuntimeError(
            "expected class probabilities of floating point type for a target of the input's shape "
            f"{_shape(input)}, got {_name(target.dtype)}"
        )
    _has_classes(input)
    if ignore_index >= 0:
        raise RuntimeError(
            f"expected no ignore_index for a target of class probabilities, got "
            f"ignore_index={ignore_index}"
        )
    _class_weight(weight, input, of_labels=False)
    return target


def row_weights(weights: Tensor | None, rows: torch.Size) -> Tensor | None:
    if weights is None:
        return None
    _of_rows("row_weights", weights, rows)
    if weights.is_complex():
        raise ValueError(f"expected real row_weights, got {_name(weights.dtype)}")
    return weights


def allowed_classes(allowed: Tensor | None, input: Tensor) -> Tensor | None:
    """Check the mask of allowed classes; return it in a shape that broadcasts against the input."""
    if allowed is None:
        return None
    full = _mask(allowed, _classes(input), input.shape)
    return allowed if full or input.dim() <= 2 else allowed.view(-1, *[1] * (input.dim() - 2))


def inplace_backward(input: Tensor) -> None:
    expected = "expected logits that were computed, to overwrite with their gradient"
    view = input._base is not None and input._base.is_leaf
    if input.is_leaf or view:
        what = "a leaf" if input.is_leaf else "a view of a leaf"
        raise RuntimeError(f"{expected}, got {what}: inplace_backward would destroy a parameter")
    span = 0
    for step, size in sorted(zip(input.stride(), input.shape, strict=True)):
        if size > 1 and step <= span:
            raise RuntimeError(
                f"{expected}, got logits that share memory with each other (strides "
                f"{input.stride()})"
            )
        span += step * (size - 1)


# ---- Linear layers -------------------------------------------------------------------------------


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, max_memory: int | None
) -> torch.Size:
    """Check a linear layer and its input; return the rows' shape."""
    _plain("input", input)
    _plain("linear_weight", weight)
    _floating("input", input.dtype)
    if input.dim() == 0:
        raise ValueError("expected input of shape (..., F), got a scalar")
    if weight.dim() != 2 or weight.shape[1] != input.shape[-1]:
        raise ValueError(
            f"expected linear_weight of shape (C, {input.shape[-1]}) for an input of "
            f"{_shape(input)}, got {_shape(weight)}"
        )
    if bias is not None:
        _plain("linear_bias", bias)
        if not _torch.same_shape(bias.shape, weight.shape[:1]):
            raise ValueError(
                f"expected linear_bias of shape ({weight.shape[0]},), got {_shape(bias)}"
            )
    for name, tensor in (("linear_weight", weight), ("linear_bias", bias)):
        if tensor is not None and tensor.dtype is not input.dtype:
            raise RuntimeError(
                f"expected {name} of the input's type {_name(input.dtype)}, got "
                f"{_name(tensor.dtype)}"
            )
    _memory(max_memory)
    return input.shape[:-1]


def logits(input: Tensor, linear_bias: Tensor | None, max_memory: int | None) -> int:
    """Check logits (..., C) without a linear layer; return the number of classes."""
    _plain("input", input)
    _floating("input", input.dtype)
    if input.dim() == 0 or (input.shape[-1] == 0 and input.shape[:-1].numel() != 0):
        raise ValueError(f"expected logits of shape (..., C), got {_shape(input)}")
    if linear_bias is not None:
        raise ValueError("expected linear_bias with a linear_weight only")
    _memory(max_memory)
    return input.shape[-1]


def linear_target(target: Tensor, rows: torch.Size, classes: int) -> Tensor:
    """Check the shape of labels (...) or probabilities (..., C); return (N) or (N, C)."""
    _tensor("target", target)
    if _torch.same_shape(target.shape, rows):
        return target if target.dim() == 1 else target.reshape(-1)
    if not _torch.same_shape(target.shape, (*rows, classes)):
        raise ValueError(
            f"expected labels of the rows' shape {tuple(rows)} or probabilities of shape "
            f"{(*rows, classes)}, got a target of {_shape(target)}"
        )
    return _torch.matrix(target)


def row_labels(target: Tensor, rows: torch.Size, ignore_index: int) -> Tensor:
    """Check labels of the rows' shape; return them as int64."""
    _tensor("target", target)
    _integer("ignore_index", ignore_index)
    _of_rows("labels", target, rows)
    return _integral(target)


def valid_rows(count: int | None, labels: Tensor, ignore_index: int) -> None:
    """Check the upper bound of labels that are not ignored, where they can be counted now."""
    if count is None:
        return
    _integer("valid_rows", count, 0)
    if labels.dim() != 1:
        raise ValueError("expected valid_rows with labels only, got class probabilities")
    kept = int((labels != ignore_index).sum()) if _torch.readable(labels) else 0
    if kept > count:
        raise ValueError(
            f"expected at most valid_rows={count} labels that are not ignored, got {kept}"
        )


def allowed_rows(allowed: Tensor | None, rows: torch.Size, classes: int) -> Tensor | None:
    """Check the mask of allowed classes of a linear layer's rows; return it as (C) or (N, C)."""
    if allowed is None:
        return None
    _mask(allowed, classes, (*rows, classes))
    return allowed if allowed.dim() == 1 else _torch.matrix(allowed)


def probabilities(
    target: Tensor, target_bias: Tensor | None, rows: torch.Size, classes: int
) -> Tensor:
    """Check a target of probabilities (..., C); return it as (N, C)."""
    _tensor("target", target)
    if target_bias is not None:
        raise ValueError("expected target_bias with a target_weight only")
    _floats_of_shape("a target of probabilities", target, (*rows, classes))
    return _torch.matrix(target)


def same_rows(
    target_rows: torch.Size, rows: torch.Size, target_weight: Tensor, classes: int
) -> None:
    if target_rows != rows:
        raise ValueError(
            f"expected a target of rows {tuple(rows)} as the input has, got {tuple(target_rows)}"
        )
    if target_weight.shape[0] != classes:
        raise ValueError(
            f"expected target_weight of {classes} classes, got {target_weight.shape[0]}"
        )


def sample(count: int, probabilities: Tensor | None, classes: int) -> None:
    _integer("num_samples", count, 1, classes if probabilities is None else None)
    if probabilities is None:
        return
    _tensor("sampling_probabilities", probabilities)
    _floats_of_shape("sampling_probabilities", probabilities, (classes,))
    if _torch.readable(probabilities) and not bool(
        (probabilities >= 0).all() and probabilities.sum() > 0
    ):
        raise ValueError("expected sampling_probabilities that are not negative and not all 0")


# ---- Labels --------------------------------------------------------------------------------------


def label_error(target: Tensor, classes: int, ignore_index: int) -> IndexError | None:
    """Return the error for the first label that is neither a class nor ignored, or None.

    Kernels check labels as they read them; looking again afterwards costs a correct call nothing. A
    compiled call has no Python left to do this: its error is that of the compiled code.
    """
    wrong = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if not bool(wrong.any()):
        return None
    row = tuple(wrong.nonzero()[0].tolist())
    where = f" at row {row[0] if len(row) == 1 else row}" if row else ""
    return IndexError(
        f"expected labels in [0, {classes - 1}] or ignore_index={ignore_index}, got "
        f"{int(target[row])}{where}"
    )


def _labels(input: Tensor, target: Tensor) -> Tensor:
    if input.dim() == 1:
        if target.numel() != 1 or target.dim() > 1:
            message = (
                f"expected one label for an input of shape {_shape(input)}, got a target of "
                f"{_shape(target)}"
            )
            raise RuntimeError(message) if target.dim() > 1 else ValueError(message)
        return _integral(target.reshape(()))
    rows = (input.shape[0], *input.shape[2:])
    if not _torch.same_shape(target.shape, rows):
        message = (
            f"expected a target of shape {rows} for an input of {_shape(input)}, got "
            f"{_shape(target)}"
        )
        batch = target.shape[0] if target.dim() else 0
        raise RuntimeError(message) if batch == rows[0] else ValueError(message)
    return _integral(target)


def _integral(target: Tensor) -> Tensor:
    if target.dtype is not torch.int64 and target.dtype is not torch.uint8:
        raise RuntimeError(f"expected labels of type int64 or uint8, got {_name(target.dtype)}")
    return target.long()  # a byte would wrap the ignore_index that it is compared with


# ---- Single checks -------------------------------------------------------------------------------


def _class_weight(weight: Tensor | None, input: Tensor, of_labels: bool = True) -> None:
    if weight is None:
        return
    _tensor("weight", weight)
    classes = _classes(input)
    if not _torch.same_shape(weight.shape, (classes,)):
        raise RuntimeError(
            f"expected weight of shape ({classes},), one for each class, got {_shape(weight)}"
        )
    if not of_labels:
        return  # multiplied into probabilities, with PyTorch's promotion of types
    half = input.dtype is torch.bfloat16 or input.dtype is torch.float16
    if weight.dtype is not input.dtype and not (half and weight.dtype is torch.float32):
        wanted = _name(input.dtype) + (" or float32" if half else "")
        raise RuntimeError(f"expected weight of type {wanted}, got {_name(weight.dtype)}")


def _tensor(name: str, value: object) -> None:
    if isinstance(value, Tensor):
        return
    if isinstance(value, torch.fx.Proxy):
        raise TypeError(
            "torch.fx.symbolic_trace does not trace nll: use torch.export or torch.compile"
        )
    raise TypeError(f"expected {name} to be a Tensor, got {type(value).__name__}")


def _plain(name: str, value: object) -> None:
    """Refuse a tensor that is distributed over processes: its blocks of rows would be too."""
    _tensor(name, value)
    if hasattr(value, "placements"):
        advice = (
            "rows are independent, so give each process its own (to_local)"
            if name == "input"
            else "give each process the whole of it (full_tensor)"
        )
        raise TypeError(
            f"expected {name} to be a plain Tensor, got {type(value).__name__}: {advice}"
        )


def _classes_together(input: Tensor) -> None:
    """Refuse logits whose classes are sharded: loss_parallel would return a wrong gradient."""
    if any(p.is_shard(0 if input.dim() == 1 else 1) for p in getattr(input, "placements", ())):
        raise RuntimeError(
            "expected logits whose classes are in one place for label smoothing and class "
            f"probabilities, got placements {input.placements}"  # type: ignore[attr-defined]
        )


def _has_classes(input: Tensor) -> None:
    if input.dim() == 0:
        raise ValueError("expected input of shape (C), (N, C) or (N, C, d1, ...), got a scalar")


def _of_rows(name: str, value: Tensor, rows: torch.Size) -> None:
    _tensor(name, value)
    if not _torch.same_shape(value.shape, rows):
        raise ValueError(f"expected {name} of the rows' shape {tuple(rows)}, got {_shape(value)}")


def _floats_of_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if not _torch.same_shape(value.shape, shape) or not value.is_floating_point():
        raise ValueError(
            f"expected {name} of floating point type and shape {shape}, got "
            f"{_name(value.dtype)} of {_shape(value)}"
        )


def _mask(allowed: Tensor, classes: int, full: tuple[int, ...]) -> bool:
    """Check a mask of the classes, (C) or of the full shape; return whether it is the latter."""
    _tensor("allowed_classes", allowed)
    if allowed.dtype != torch.bool:
        raise ValueError(
            f"expected allowed_classes to be a mask of bool, got {_name(allowed.dtype)}"
        )
    if _torch.same_shape(allowed.shape, full):
        return True
    if not _torch.same_shape(allowed.shape, (classes,)):
        raise ValueError(
            f"expected allowed_classes of shape ({classes},) or {tuple(full)}, got "
            f"{_shape(allowed)}"
        )
    return False


def _memory(max_memory: int | None) -> None:
    if max_memory is not None:
        _integer("max_memory", max_memory, 1)


def _integer(name: str, value: int, low: int | None = None, high: int | None = None) -> None:
    """Check an integer and, with bounds, its range."""
    if type(value) is not int and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise TypeError(f"expected {name} to be an int, got {type(value).__name__}")
    if low is not None and (value < low or (high is not None and value > high)):
        bounds = f"of at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"expected {name} {bounds}, got {value}")


def _real(name: str, value: float, alternative: str = "") -> None:
    if type(value) is not float and not isinstance(value, Real):
        raise TypeError(
            f"expected {name} to be a real number{alternative}, got {type(value).__name__}"
        )


def _floating(name: str, dtype: torch.dtype) -> None:
    if dtype not in _FLOATS:
        raise NotImplementedError(
            f"expected {name} of type float32, float64, bfloat16 or float16, got {_name(dtype)}"
        )


def _classes(input: Tensor) -> int:
    return input.shape[0 if input.dim() == 1 else 1]


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
