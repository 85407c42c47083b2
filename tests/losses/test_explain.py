"""`explain` tells the backend, its reason and the plan of the blocks, as they are."""

from __future__ import annotations

import pytest
import torch
from cases import BACKENDS
from layers import layer_of

import nll
from nll.kernels import reference
from nll.losses import autograd, functional
from nll.losses.layer import block_sizes


def test_explain_tells_the_plan():
    x, head, y = layer_of(1000, 300, torch.float32)
    told = nll.explain(nll.linear_cross_entropy, x, head, y, max_memory=200_000)
    how = block_sizes.plan(x, head, 200_000)
    assert (told.rows, told.blocks, told.bytes) == (how.rows, -(-1000 // how.rows), how.bytes)
    assert told.bytes <= 200_000
    assert str(told).startswith(told.backend)
    of_statistics = nll.explain(nll.token_statistics, x, y, linear_weight=head, max_memory=200_000)
    assert (of_statistics.rows, of_statistics.bytes) == (how.rows, how.bytes)
    of_scores = nll.explain(nll.token_statistics, torch.ones(1000, 300), y, max_memory=120_000)
    assert (of_scores.rows, of_scores.blocks, of_scores.bytes) == (100, 10, 120_000)
    soft = torch.rand(1000, 300, requires_grad=True)
    assert nll.explain(nll.linear_cross_entropy, x, head, soft).backend == "reference"
    assert nll.explain(nll.linear_cross_entropy, x, head, y).blocks == 1


def test_explain_tells_the_backend():
    x, y = torch.ones(3, 5), torch.zeros(3, dtype=torch.int64)
    assert nll.explain(nll.cross_entropy, x, y).backend == "pytorch"
    target = torch.rand(3, 5, requires_grad=True)
    told = nll.explain(nll.cross_entropy, x, target)
    assert told.backend == "reference"
    with nll.use_backend("reference"):
        assert nll.explain(nll.cross_entropy, x, y).backend == "reference"
    if "cpu" in BACKENDS:
        assert "a gradient with respect to the target" in told.reason
        assert (
            nll.explain(
                nll.cross_entropy, torch.ones(3000, 500), torch.zeros(3000, dtype=torch.int64)
            ).backend
            == "cpu"
        )
        assert nll.explain(nll.log_softmax, torch.ones(3000, 500), 1).backend == "cpu"
    with pytest.raises(TypeError, match=r"expected one of nll\.log_softmax.*got <built-in"):
        nll.explain(print, x)


@pytest.mark.parametrize("shape", [(3, 5), (300, 1000)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "sum"},
        {"ignore_index": 0},
        {"label_smoothing": 0.0},
        {"label_smoothing": 0.1},
        {"weight": "classes"},
        {"row_weights": "rows"},
        {"allowed_classes": "mask"},
        {"size_average": False},
        {"inplace_backward": True},
        {"temperature": 2},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
def test_explain_names_what_is_called(shape, options, monkeypatch):
    made = {
        "classes": torch.ones(shape[1]),
        "rows": torch.ones(shape[0]),
        "mask": torch.ones(shape[1]) > 0,
    }
    options = {name: made.get(str(value), value) for name, value in options.items()}
    x, y = torch.randn(shape), torch.zeros(shape[0], dtype=torch.int64)
    calls = []

    def spy(name, function):
        return lambda *args, **kwargs: (calls.append(name), function(*args, **kwargs))[1]

    monkeypatch.setattr(
        functional, "pytorch_cross_entropy", spy("pytorch", functional.pytorch_cross_entropy)
    )
    monkeypatch.setattr(reference, "cross_entropy", spy("reference", reference.cross_entropy))
    if "cpu" in BACKENDS:
        kernels = autograd.CPU.kernels
        monkeypatch.setattr(kernels, "cross_entropy", spy("cpu", kernels.cross_entropy))
    told = nll.explain(nll.cross_entropy, x, y, **options)
    nll.cross_entropy(x, y, **options)
    assert calls == [told.backend]
    assert "None" not in str(told)


def test_explain_of_a_layer_names_what_its_blocks_call():
    x, head, y = layer_of(300, 400, torch.float32)
    mask = torch.arange(400) < 300
    for options in (
        {},
        {"allowed_classes": mask},
        {"allowed_classes": mask, "label_smoothing": 0.1},
    ):
        told = nll.explain(nll.linear_cross_entropy, x, head, y % 300, **options)
        assert told.backend == ("cpu" if "cpu" in BACKENDS else "reference")
    assert "1 block of 300 rows" in str(nll.explain(nll.linear_cross_entropy, x, head, y))
