"""Bad input to the losses that PyTorch rejects too, with an error of the same type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

X = torch.linspace(-1.0, 1.0, 15).view(3, 5)
X3, X4 = torch.zeros(2, 5, 3), torch.zeros(2, 5, 3, 4)
Y = torch.tensor([1, 0, 3])
Q = X.softmax(1)
W = torch.ones(5)


class Bad(NamedTuple):
    """A call with bad input; the namespace is `nll` or PyTorch."""

    call: Callable[[Any], object]
    error: type[Exception]
    message: str


def labels(*values: int, dtype=torch.int64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def zeros(*shape: int, dtype=torch.int64) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


FLOATS = "float32, float64, bfloat16 or float16"
SHAPES = "(C), (N, C) or (N, C, d1, ...)"

# Bad input that PyTorch rejects too, with an error of the same type.
SHARED = {
    # log_softmax
    "log_softmax of integers": Bad(
        lambda ns: ns.log_softmax(Y, 0),
        NotImplementedError,
        f"expected input of type {FLOATS}, got int64",
    ),
    "log_softmax of complex numbers": Bad(
        lambda ns: ns.log_softmax(X.cfloat(), 0),
        NotImplementedError,
        f"expected input of type {FLOATS}, got complex64",
    ),
    "log_softmax into integers": Bad(
        lambda ns: ns.log_softmax(X, 0, dtype=torch.int64),
        NotImplementedError,
        f"expected input of type {FLOATS}, got int64",
    ),
    "log_softmax along a dimension too high": Bad(
        lambda ns: ns.log_softmax(X, 2), IndexError, "expected dim to be in [-2, 1], got 2"
    ),
    "log_softmax along a dimension too low": Bad(
        lambda ns: ns.log_softmax(X, -3), IndexError, "expected dim to be in [-2, 1], got -3"
    ),
    "log_softmax of a scalar along dimension 1": Bad(
        lambda ns: ns.log_softmax(torch.tensor(1.0), 1),
        IndexError,
        "expected dim to be in [-1, 0], got 1",
    ),
    "log_softmax along a name": Bad(
        lambda ns: ns.log_softmax(X, "classes"), TypeError, "expected dim to be an int, got str"
    ),
    "log_softmax along a float": Bad(
        lambda ns: ns.log_softmax(X, 1.0), TypeError, "expected dim to be an int, got float"
    ),
    "log_softmax into a type by name": Bad(
        lambda ns: ns.log_softmax(X, 1, dtype="float32"),
        TypeError,
        "expected dtype to be a torch.dtype, got str",
    ),
    # what is not a tensor
    "nll_loss of a list": Bad(
        lambda ns: ns.nll_loss([[0.1]], Y), TypeError, "expected input to be a Tensor, got list"
    ),
    "nll_loss against a list": Bad(
        lambda ns: ns.nll_loss(X, [1, 0, 3]), TypeError, "expected target to be a Tensor, got list"
    ),
    "nll_loss weighted by a list": Bad(
        lambda ns: ns.nll_loss(X, Y, [1.0] * 5),
        TypeError,
        "expected weight to be a Tensor, got list",
    ),
    "cross_entropy of None": Bad(
        lambda ns: ns.cross_entropy(None, Y),
        TypeError,
        "expected input to be a Tensor, got NoneType",
    ),
    "cross_entropy against an int": Bad(
        lambda ns: ns.cross_entropy(X, 1), TypeError, "expected target to be a Tensor, got int"
    ),
    "cross_entropy weighted by a list": Bad(
        lambda ns: ns.cross_entropy(X, Q, [1.0] * 5),
        TypeError,
        "expected weight to be a Tensor, got list",
    ),
    # types of tensors
    "nll_loss of integers": Bad(
        lambda ns: ns.nll_loss(zeros(3, 5), Y),
        NotImplementedError,
        f"expected input of type {FLOATS}, got int64",
    ),
    "cross_entropy of bools": Bad(
        lambda ns: ns.cross_entropy(X > 0, Y),
        NotImplementedError,
        f"expected input of type {FLOATS}, got bool",
    ),
    "cross_entropy of complex numbers": Bad(
        lambda ns: ns.cross_entropy(X.cfloat(), Y),
        NotImplementedError,
        f"expected input of type {FLOATS}, got complex64",
    ),
    "labels of int32": Bad(
        lambda ns: ns.nll_loss(X, Y.int()),
        RuntimeError,
        "expected labels of type int64 or uint8, got int32",
    ),
    "labels of bool": Bad(
        lambda ns: ns.cross_entropy(X, Y > 0),
        RuntimeError,
        "expected labels of type int64 or uint8, got bool",
    ),
    "labels of float": Bad(
        lambda ns: ns.cross_entropy(X, Y.float()),
        RuntimeError,
        "expected labels of type int64 or uint8, got float32",
    ),
    "probabilities of int64": Bad(
        lambda ns: ns.cross_entropy(X, zeros(3, 5)),
        RuntimeError,
        "expected class probabilities of floating point type for a target of the input's shape (3, "
        "5), got int64",
    ),
    "probabilities of complex64": Bad(
        lambda ns: ns.cross_entropy(X, Q.cfloat()),
        RuntimeError,
        "expected class probabilities of floating point type for a target of the input's shape (3, "
        "5), got complex64",
    ),
    "one label for one class, which has the shape of probabilities": Bad(
        lambda ns: ns.cross_entropy(torch.zeros(1), zeros(1)),
        RuntimeError,
        "expected class probabilities of floating point type for a target of the input's shape "
        "(1,), got int64",
    ),
    "weights of float64 for float32": Bad(
        lambda ns: ns.cross_entropy(X, Y, W.double()),
        RuntimeError,
        "expected weight of type float32, got float64",
    ),
    "weights of float32 for float64": Bad(
        lambda ns: ns.nll_loss(X.double(), Y, W),
        RuntimeError,
        "expected weight of type float64, got float32",
    ),
    "weights of float16 for bfloat16": Bad(
        lambda ns: ns.nll_loss(X.bfloat16(), Y, W.half()),
        RuntimeError,
        "expected weight of type bfloat16 or float32, got float16",
    ),
    # shapes
    "nll_loss of a scalar": Bad(
        lambda ns: ns.nll_loss(X[0, 0], Y[0]),
        ValueError,
        f"expected input of shape {SHAPES}, got a scalar",
    ),
    "cross_entropy of a scalar against a label": Bad(
        lambda ns: ns.cross_entropy(X[0, 0], Y[0]),
        RuntimeError,
        "expected class probabilities of floating point type for a target of the input's shape (), "
        "got int64",
    ),
    "three labels for one row": Bad(
        lambda ns: ns.nll_loss(X[0], Y),
        ValueError,
        "expected one label for an input of shape (5,), got a target of (3,)",
    ),
    "one label of two dimensions for one row": Bad(
        lambda ns: ns.nll_loss(X[0], zeros(1, 1)),
        RuntimeError,
        "expected one label for an input of shape (5,), got a target of (1, 1)",
    ),
    "two labels for three rows": Bad(
        lambda ns: ns.cross_entropy(X, Y[:2]),
        ValueError,
        "expected a target of shape (3,) for an input of (3, 5), got (2,)",
    ),
    "one scalar label for three rows": Bad(
        lambda ns: ns.nll_loss(X, Y[0]),
        ValueError,
        "expected a target of shape (3,) for an input of (3, 5), got ()",
    ),
    "a column of labels": Bad(
        lambda ns: ns.cross_entropy(X, Y[:, None]),
        RuntimeError,
        "expected a target of shape (3,) for an input of (3, 5), got (3, 1)",
    ),
    "a batch of another size": Bad(
        lambda ns: ns.cross_entropy(X3, zeros(3, 3)),
        ValueError,
        "expected a target of shape (2, 3) for an input of (2, 5, 3), got (3, 3)",
    ),
    "too many positions": Bad(
        lambda ns: ns.nll_loss(X3, zeros(2, 4)),
        RuntimeError,
        "expected a target of shape (2, 3) for an input of (2, 5, 3), got (2, 4)",
    ),
    "no positions": Bad(
        lambda ns: ns.cross_entropy(X3, zeros(2)),
        RuntimeError,
        "expected a target of shape (2, 3) for an input of (2, 5, 3), got (2,)",
    ),
    "positions the wrong way round": Bad(
        lambda ns: ns.cross_entropy(X4, zeros(2, 4, 3), label_smoothing=0.1),
        RuntimeError,
        "expected a target of shape (2, 3, 4) for an input of (2, 5, 3, 4), got (2, 4, 3)",
    ),
    "four weights for five classes": Bad(
        lambda ns: ns.nll_loss(X, Y, W[:4]),
        RuntimeError,
        "expected weight of shape (5,), one for each class, got (4,)",
    ),
    "weights of two dimensions": Bad(
        lambda ns: ns.cross_entropy(X, Y, W[None]),
        RuntimeError,
        "expected weight of shape (5,), one for each class, got (1, 5)",
    ),
    "four weights for five classes of probabilities": Bad(
        lambda ns: ns.cross_entropy(X, Q, W[:4]),
        RuntimeError,
        "expected weight of shape (5,), one for each class, got (4,)",
    ),
    "four weights for five classes of one row": Bad(
        lambda ns: ns.cross_entropy(X[0], Y[0], W[:4]),
        RuntimeError,
        "expected weight of shape (5,), one for each class, got (4,)",
    ),
    "three weights for five classes at positions": Bad(
        lambda ns: ns.cross_entropy(X4, zeros(2, 3, 4), W[:3]),
        RuntimeError,
        "expected weight of shape (5,), one for each class, got (3,)",
    ),
    # labels out of range
    "a label too high": Bad(
        lambda ns: ns.nll_loss(X, labels(1, 0, 5)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got 5 at row 2",
    ),
    "a label too low": Bad(
        lambda ns: ns.cross_entropy(X, labels(1, -1, 7)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got -1 at row 1",
    ),
    "the usual ignore_index, when another is asked for": Bad(
        lambda ns: ns.cross_entropy(X, labels(-100, 0, 1), ignore_index=0),
        IndexError,
        "expected labels in [0, 4] or ignore_index=0, got -100 at row 0",
    ),
    "a label far too high": Bad(
        lambda ns: ns.cross_entropy(X, labels(0, 1, 2**40)),
        IndexError,
        f"expected labels in [0, 4] or ignore_index=-100, got {2**40} at row 2",
    ),
    "a label too high for one row": Bad(
        lambda ns: ns.cross_entropy(X[0], torch.tensor(5)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got 5",
    ),
    "a label too high with weights and smoothing": Bad(
        lambda ns: ns.cross_entropy(X, labels(5, 0, 1), W, label_smoothing=0.1),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got 5 at row 0",
    ),
    "a label too high at a position": Bad(
        lambda ns: ns.cross_entropy(X3, labels(0, 0, 0, 0, 9, 0).view(2, 3)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got 9 at row (1, 1)",
    ),
    "a label too high at a place": Bad(
        lambda ns: ns.nll_loss(X4, torch.full((2, 3, 4), 5)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got 5 at row (0, 0, 0)",
    ),
    "a label of one byte, too high": Bad(
        lambda ns: ns.cross_entropy(X, labels(1, 0, 5, dtype=torch.uint8)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got 5 at row 2",
    ),
    "a label of one byte, too high for ASCII": Bad(
        lambda ns: ns.cross_entropy(X, labels(1, 200, 2, dtype=torch.uint8)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got 200 at row 1",
    ),
    "a label of one byte, which is ignore_index when that is wrapped": Bad(
        lambda ns: ns.cross_entropy(X, labels(1, 156, 2, dtype=torch.uint8)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got 156 at row 1",
    ),
    # options
    "an unknown reduction": Bad(
        lambda ns: ns.nll_loss(X, Y, reduction="avg"),
        ValueError,
        "expected reduction to be one of 'none', 'mean', 'sum', got 'avg'",
    ),
    "no reduction": Bad(
        lambda ns: ns.cross_entropy(X, Y, reduction=None),
        ValueError,
        "expected reduction to be one of 'none', 'mean', 'sum', got None",
    ),
    "an ignore_index of 1.0": Bad(
        lambda ns: ns.nll_loss(X, Y, ignore_index=1.0),
        TypeError,
        "expected ignore_index to be an int, got float",
    ),
    "an ignore_index of None": Bad(
        lambda ns: ns.cross_entropy(X, Y, ignore_index=None),
        TypeError,
        "expected ignore_index to be an int, got NoneType",
    ),
    "an ignore_index of True": Bad(
        lambda ns: ns.cross_entropy(X, Y, ignore_index=True),
        TypeError,
        "expected ignore_index to be an int, got bool",
    ),
    "an ignore_index for probabilities": Bad(
        lambda ns: ns.cross_entropy(X, Q, ignore_index=0),
        RuntimeError,
        "expected no ignore_index for a target of class probabilities, got ignore_index=0",
    ),
    "smoothing by more than all": Bad(
        lambda ns: ns.cross_entropy(X, Y, label_smoothing=1.5),
        RuntimeError,
        "expected label_smoothing in [0, 1], got 1.5",
    ),
    "smoothing of probabilities by more than all": Bad(
        lambda ns: ns.cross_entropy(X, Q, label_smoothing=2),
        RuntimeError,
        "expected label_smoothing in [0, 1], got 2",
    ),
    "smoothing by text": Bad(
        lambda ns: ns.cross_entropy(X, Y, label_smoothing="0.1"),
        TypeError,
        "expected label_smoothing to be a real number, got str",
    ),
    # modules
    "LogSoftmax along a dimension too high": Bad(
        lambda ns: ns.LogSoftmax(dim=2)(X), IndexError, "expected dim to be in [-2, 1], got 2"
    ),
    "LogSoftmax of integers": Bad(
        lambda ns: ns.LogSoftmax(dim=0)(Y),
        NotImplementedError,
        f"expected input of type {FLOATS}, got int64",
    ),
    "NLLLoss with an unknown reduction": Bad(
        lambda ns: ns.NLLLoss(reduction="avg")(X, Y),
        ValueError,
        "expected reduction to be one of 'none', 'mean', 'sum', got 'avg'",
    ),
    "NLLLoss with four weights for five classes": Bad(
        lambda ns: ns.NLLLoss(W[:4])(X, Y),
        RuntimeError,
        "expected weight of shape (5,), one for each class, got (4,)",
    ),
    "NLLLoss of a label too high": Bad(
        lambda ns: ns.NLLLoss(ignore_index=4)(X, labels(1, 0, 5)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=4, got 5 at row 2",
    ),
    "CrossEntropyLoss of two labels for three rows": Bad(
        lambda ns: ns.CrossEntropyLoss()(X, Y[:2]),
        ValueError,
        "expected a target of shape (3,) for an input of (3, 5), got (2,)",
    ),
    "CrossEntropyLoss smoothing by more than all": Bad(
        lambda ns: ns.CrossEntropyLoss(label_smoothing=1.1)(X, Y),
        RuntimeError,
        "expected label_smoothing in [0, 1], got 1.1",
    ),
}
