"""A tour of bad input: for every loss and module, the error's type and its exact words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from bad_arguments import SHAPES, SHARED, X3, X4, Bad, Q, W, X, Y, labels, zeros
from torch import nn

import nll
from nll.losses.dispatch import BACKENDS

PYTORCH = SimpleNamespace(
    log_softmax=F.log_softmax,
    nll_loss=F.nll_loss,
    cross_entropy=F.cross_entropy,
    LogSoftmax=nn.LogSoftmax,
    NLLLoss=nn.NLLLoss,
    CrossEntropyLoss=nn.CrossEntropyLoss,
)

# Bad input that PyTorch has no argument for, or takes without a word.
OURS = {
    "log_softmax of a list": Bad(
        lambda ns: ns.log_softmax([1.0, 2.0], 0),
        TypeError,
        "expected input to be a Tensor, got list",
    ),
    "log_softmax along None": Bad(
        lambda ns: ns.log_softmax(X, None), TypeError, "expected dim to be an int, got NoneType"
    ),
    "probabilities for a scalar": Bad(
        lambda ns: ns.cross_entropy(X[0, 0], Q[0, 0]),
        ValueError,
        f"expected input of shape {SHAPES}, got a scalar",
    ),
    "smoothing by less than nothing": Bad(
        lambda ns: ns.cross_entropy(X, Y, label_smoothing=-0.1),
        RuntimeError,
        "expected label_smoothing in [0, 1], got -0.1",
    ),
    "smoothing by nan": Bad(
        lambda ns: ns.cross_entropy(X, Y, label_smoothing=torch.nan),
        RuntimeError,
        "expected label_smoothing in [0, 1], got nan",
    ),
    "a temperature of 0": Bad(
        lambda ns: ns.cross_entropy(X, Y, temperature=0),
        ValueError,
        "expected a finite temperature above 0, got 0",
    ),
    "a temperature below 0": Bad(
        lambda ns: ns.cross_entropy(X, Y, temperature=-1.0),
        ValueError,
        "expected a finite temperature above 0, got -1.0",
    ),
    "an infinite temperature": Bad(
        lambda ns: ns.cross_entropy(X, Y, temperature=torch.inf),
        ValueError,
        "expected a finite temperature above 0, got inf",
    ),
    "a temperature of nan": Bad(
        lambda ns: ns.cross_entropy(X, Y, temperature=torch.nan),
        ValueError,
        "expected a finite temperature above 0, got nan",
    ),
    "a temperature of None": Bad(
        lambda ns: ns.cross_entropy(X, Y, temperature=None),
        TypeError,
        "expected temperature to be a real number, got NoneType",
    ),
    "a temperature for each row": Bad(
        lambda ns: ns.cross_entropy(X, Y, temperature=torch.ones(3)),
        TypeError,
        "expected temperature to be a real number, got Tensor",
    ),
    "a softcap of 0": Bad(
        lambda ns: ns.cross_entropy(X, Y, softcap=0.0),
        ValueError,
        "expected a finite softcap above 0, or None, got 0.0",
    ),
    "an infinite softcap": Bad(
        lambda ns: ns.cross_entropy(X, Y, softcap=torch.inf),
        ValueError,
        "expected a finite softcap above 0, or None, got inf",
    ),
    "a softcap of nan": Bad(
        lambda ns: ns.cross_entropy(X, Y, softcap=torch.nan),
        ValueError,
        "expected a finite softcap above 0, or None, got nan",
    ),
    "a softcap of text": Bad(
        lambda ns: ns.cross_entropy(X, Y, softcap="30"),
        TypeError,
        "expected softcap to be a real number or None, got str",
    ),
    "a z_loss below 0": Bad(
        lambda ns: ns.cross_entropy(X, Y, z_loss=-1e-4),
        ValueError,
        "expected a finite z_loss of at least 0, got -0.0001",
    ),
    "an infinite z_loss": Bad(
        lambda ns: ns.cross_entropy(X, Y, z_loss=torch.inf),
        ValueError,
        "expected a finite z_loss of at least 0, got inf",
    ),
    "a z_loss of nan": Bad(
        lambda ns: ns.cross_entropy(X, Y, z_loss=torch.nan),
        ValueError,
        "expected a finite z_loss of at least 0, got nan",
    ),
    "a z_loss of None": Bad(
        lambda ns: ns.cross_entropy(X, Y, z_loss=None),
        TypeError,
        "expected z_loss to be a real number, got NoneType",
    ),
    "row weights in a list": Bad(
        lambda ns: ns.cross_entropy(X, Y, row_weights=[1.0, 1.0, 1.0]),
        TypeError,
        "expected row_weights to be a Tensor, got list",
    ),
    "row weights for too few rows": Bad(
        lambda ns: ns.cross_entropy(X, Y, row_weights=torch.ones(2)),
        ValueError,
        "expected row_weights of the rows' shape (3,), got (2,)",
    ),
    "row weights that would broadcast": Bad(
        lambda ns: ns.cross_entropy(X, Y, row_weights=torch.ones(3, 1)),
        ValueError,
        "expected row_weights of the rows' shape (3,), got (3, 1)",
    ),
    "row weights of the input's shape": Bad(
        lambda ns: ns.cross_entropy(X, Q, row_weights=torch.ones(3, 5)),
        ValueError,
        "expected row_weights of the rows' shape (3,), got (3, 5)",
    ),
    "one row weight for a row without a batch": Bad(
        lambda ns: ns.cross_entropy(X[0], Y[0], row_weights=torch.ones(1)),
        ValueError,
        "expected row_weights of the rows' shape (), got (1,)",
    ),
    "complex row weights": Bad(
        lambda ns: ns.cross_entropy(X, Y, row_weights=torch.ones(3).cfloat()),
        ValueError,
        "expected real row_weights, got complex64",
    ),
    "allowed classes in a list": Bad(
        lambda ns: ns.cross_entropy(X, Y, allowed_classes=[0, 1]),
        TypeError,
        "expected allowed_classes to be a Tensor, got list",
    ),
    "allowed classes by index": Bad(
        lambda ns: ns.cross_entropy(X, Y, allowed_classes=labels(0, 1)),
        ValueError,
        "expected allowed_classes to be a mask of bool, got int64",
    ),
    "allowed classes of too few": Bad(
        lambda ns: ns.cross_entropy(X, Y, allowed_classes=W[:4] > 0),
        ValueError,
        "expected allowed_classes of shape (5,) or (3, 5), got (4,)",
    ),
    "allowed classes that would broadcast": Bad(
        lambda ns: ns.cross_entropy(X3, zeros(2, 3), allowed_classes=torch.ones(1, 5, 1) > 0),
        ValueError,
        "expected allowed_classes of shape (5,) or (2, 5, 3), got (1, 5, 1)",
    ),
    "a label of one byte at a place, too high": Bad(
        lambda ns: ns.cross_entropy(X4, torch.full((2, 3, 4), 7, dtype=torch.uint8)),
        IndexError,
        "expected labels in [0, 4] or ignore_index=-100, got 7 at row (0, 0, 0)",
    ),
    "CrossEntropyLoss with a temperature of 0": Bad(
        lambda ns: ns.CrossEntropyLoss(temperature=0.0)(X, Y),
        ValueError,
        "expected a finite temperature above 0, got 0.0",
    ),
    "CrossEntropyLoss with row weights for too few rows": Bad(
        lambda ns: ns.CrossEntropyLoss()(X, Y, row_weights=torch.ones(2)),
        ValueError,
        "expected row_weights of the rows' shape (3,), got (2,)",
    ),
    "CrossEntropyLoss with allowed classes of too few": Bad(
        lambda ns: ns.CrossEntropyLoss(allowed_classes=W[:4] > 0)(X, Y),
        ValueError,
        "expected allowed_classes of shape (5,) or (3, 5), got (4,)",
    ),
    "an unknown backend": Bad(
        lambda ns: ns.use_backend("abacus").__enter__(),
        ValueError,
        f"expected a backend among {', '.join(map(repr, BACKENDS))}, got 'abacus'",
    ),
}


@pytest.mark.parametrize("name", [*SHARED, *OURS])
def test_bad_input_raises_with_these_words(name):
    bad = SHARED.get(name) or OURS[name]
    with pytest.raises(bad.error) as caught:
        bad.call(nll)
    assert (caught.type, str(caught.value)) == (bad.error, bad.message)


@pytest.mark.parametrize("name", SHARED)
def test_pytorch_raises_the_same_type_or_its_parent(name):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the type is what is being compared
        SHARED[name].call(PYTORCH)
    assert issubclass(caught.type, SHARED[name].error) or issubclass(
        SHARED[name].error, caught.type
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda ns, away: ns.cross_entropy(X.to(away), Y),
        lambda ns, away: ns.cross_entropy(X, Y.to(away)),
        lambda ns, away: ns.cross_entropy(X, Q.to(away)),
        lambda ns, away: ns.cross_entropy(X, Y, W.to(away)),
        lambda ns, away: ns.nll_loss(X, Y.to(away)),
        lambda ns, away: ns.nll_loss(X, Y, W.to(away)),
    ],
    ids=["input", "labels", "probabilities", "weight", "nll_loss labels", "nll_loss weight"],
)
def test_tensors_on_two_devices_raise_as_in_pytorch(call):
    for namespace in (nll, PYTORCH):
        with pytest.raises(RuntimeError, match="device"):
            call(namespace, "meta")


def test_nothing_changes_when_an_error_is_raised():
    x, y = X.clone(), labels(1, 0, 9)
    with pytest.raises(IndexError):
        nll.cross_entropy(x, y)
    assert torch.equal(x, X)
    assert y.tolist() == [1, 0, 9]
