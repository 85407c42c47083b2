"""Sampled cross entropy: exact with every class, and a bias that falls as one over the number of
samples.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import nll
from nll.losses import sampled as _sampled


def layer(rows: int = 8, classes: int = 200, features: int = 6):
    draw = torch.Generator().manual_seed(0)
    x, head = (
        torch.randn(n, features, generator=draw, dtype=torch.float64) for n in (rows, classes)
    )
    bias = torch.randn(classes, generator=draw, dtype=torch.float64)
    return (
        x.requires_grad_(),
        head.requires_grad_(),
        bias,
        torch.randint(0, classes, (rows,), generator=draw),
    )


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_every_class_is_the_full_softmax(reduction):
    x, head, bias, y = layer()
    y[3] = -100
    options = {"linear_bias": bias, "reduction": reduction, "softcap": 5.0, "temperature": 0.8}
    weights = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)
    sampled = nll.sampled_cross_entropy(x, head, y, 200, row_weights=weights, **options)
    full = nll.linear_cross_entropy(x, head, y, row_weights=weights, **options)
    torch.testing.assert_close(sampled, full)
    for a, b in zip(
        *(torch.autograd.grad(loss.sum(), (x, head)) for loss in (sampled, full)), strict=True
    ):
        torch.testing.assert_close(a, b)


def small_layer():
    x, head, bias, y = layer(rows=2, classes=3)
    return (0.4 * x.detach()).requires_grad_(), head, bias, y


def expected_gradient(count: int, share: list[float], monkeypatch) -> Tensor:
    """The gradient by the features, averaged over every sample of three classes that there is."""
    x, head, bias, _ = small_layer()
    total = torch.zeros_like(x)
    for first in range(count + 1):
        for second in range(count + 1 - first):
            counts = first, second, count - first - second
            log_ways = math.lgamma(count + 1) - sum(math.lgamma(n + 1) for n in counts)
            probability = math.exp(
                log_ways + sum(n * math.log(p) for n, p in zip(counts, share, strict=True))
            )
            chosen = torch.arange(3).repeat_interleave(torch.tensor(counts))
            log_expected = torch.log(count * torch.tensor(share, dtype=torch.float64)[chosen])
            monkeypatch.setattr(_sampled, "draw", lambda *_, sample=(chosen, log_expected): sample)
            loss = nll.sampled_cross_entropy(
                x, head, torch.tensor([0, 2]), 1, linear_bias=bias, reduction="sum"
            )
            total += probability * torch.autograd.grad(loss, x)[0]
    return total


@pytest.mark.parametrize(
    "share", [[1 / 3, 1 / 3, 1 / 3], [0.2, 0.3, 0.5]], ids=["uniform", "by frequency"]
)
def test_the_bias_falls_as_one_over_the_samples(share, monkeypatch):
    x, head, bias, _ = small_layer()
    full = nll.linear_cross_entropy(
        x, head, torch.tensor([0, 2]), linear_bias=bias, reduction="sum"
    )
    (truth,) = torch.autograd.grad(full, x)
    off = [
        (expected_gradient(count, share, monkeypatch) - truth).norm().item()
        for count in (20, 40, 80)
    ]
    assert off[0] > 0.003 * truth.norm().item()  # it is there
    assert off[0] / off[1] == pytest.approx(2.0, rel=0.2)
    assert off[1] / off[2] == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("probabilities", [None, torch.tensor([1.0, 0.0, 3.0, 6.0])])
def test_classes_are_drawn_as_often_as_expected(probabilities):
    draw = torch.Generator().manual_seed(2)
    found = [_sampled.draw(4, 2, probabilities, draw, torch.device("cpu")) for _ in range(4000)]
    times = torch.bincount(torch.cat([chosen for chosen, _ in found]), minlength=4) / 4000
    for chosen, log_expected in found[:20]:
        torch.testing.assert_close(times[chosen].double(), log_expected.exp(), rtol=0.1, atol=0.0)
    if probabilities is None:
        assert all(len(set(chosen.tolist())) == 2 for chosen, _ in found)
    else:
        assert times[1] == 0


def test_without_the_correction_the_answer_would_be_another():
    # A class drawn a hundred times as often as the others must not count a hundred times.
    x, head, bias, y = layer()
    probabilities = torch.ones(200)
    probabilities[:10] = 100.0
    draw = torch.Generator().manual_seed(3)
    options = {"linear_bias": bias, "sampling_probabilities": probabilities, "generator": draw}
    losses = [nll.sampled_cross_entropy(x, head, y, 5000, **options).item() for _ in range(20)]
    full = nll.linear_cross_entropy(x, head, y, linear_bias=bias).item()
    assert sum(losses) / 20 == pytest.approx(full, rel=0.01)


def test_a_sampled_label_counts_once():
    x, head, _, _ = layer(rows=1, classes=2)
    # Class 0 is the label and all that is ever drawn: what is left is the label alone.
    only = torch.tensor([1.0, 0.0])
    loss = nll.sampled_cross_entropy(x, head, torch.tensor([0]), 50, sampling_probabilities=only)
    assert loss.item() == 0.0


def test_sparse_gradient():
    x, head, _, y = layer()
    dense, sparse = (
        torch.autograd.grad(
            nll.sampled_cross_entropy(
                x, head, y, 5, sparse=kind, generator=torch.Generator().manual_seed(1)
            ),
            head,
        )[0]
        for kind in (False, True)
    )
    assert sparse.is_sparse
    torch.testing.assert_close(sparse.to_dense(), dense)
    assert (dense.abs().sum(1) > 0).sum() <= 13


def test_half_types_answer_in_float32():
    x, head, _, y = layer()
    loss = nll.sampled_cross_entropy(x.bfloat16(), head.bfloat16(), y, 200)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(nll.linear_cross_entropy(x, head, y).item(), rel=0.02)
    assert math.isfinite(loss.item())


BAD = [
    ({"num_samples": 0}, ValueError, r"num_samples in \[1, 4\], got 0"),
    ({"num_samples": 5}, ValueError, r"num_samples in \[1, 4\], got 5"),
    ({"num_samples": 2.0}, TypeError, "num_samples to be an int"),
    ({"sampling_probabilities": torch.ones(3)}, ValueError, r"shape \(4,\).*got float32 of \(3,\)"),
    ({"sampling_probabilities": -torch.ones(4)}, ValueError, "not negative and not all 0"),
    ({"target": torch.tensor([0, 4])}, IndexError, "got 4 at row 1"),
    ({"target": torch.ones(2, 4)}, ValueError, "labels of the rows' shape"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input(wrong, kind, message):
    arguments = {
        "input": torch.ones(2, 3),
        "linear_weight": torch.ones(4, 3),
        "target": torch.tensor([0, 1]),
        "num_samples": 2,
        **wrong,
    }
    with pytest.raises(kind, match=message):
        nll.sampled_cross_entropy(**arguments)
