"""Losses of a linear layer's scores in blocks, judged by the float64 definition of the scores as a
whole.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, CASES, DTYPES, IN_FLOAT64, SLOW, Case
from definitions import HALF, definition
from layers import FEATURES, layer_of
from pairwise import by_turns
from torch import Tensor

import nll

TAKEN = [
    case
    for case in CASES
    if len(case.shape) <= 2 and case.logits == "normal" and case.layout == "contiguous"
]


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


class Layer:
    """Features, a head and a bias, whose scores take the place of a case's."""

    def __init__(self, case: Case, dtype: torch.dtype, rows: int | None = None) -> None:
        if rows is not None:
            case = replace(case, shape=(rows, *case.shape[1:]))
        scores, self.target, self.kwargs = case.build(dtype)
        draw = torch.Generator().manual_seed(case.seed + 1)

        def normal(*shape: int) -> Tensor:
            return (
                torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
            )

        classes = scores.shape[-1]
        self.tensors = (
            normal(*scores.shape[:-1], FEATURES),
            normal(classes, FEATURES),
            normal(classes),
        )

    def ours(self, **options) -> Tensor:
        x, head, bias = self.tensors
        return nll.linear_cross_entropy(
            x, head, self.target, linear_bias=bias, **self.kwargs, **options
        )

    def by(self, loss, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of the scores as a whole, in another type, and its gradients."""
        tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in self.tensors]
        target = self.target.to(dtype) if self.target.is_floating_point() else self.target
        kwargs = {k: v.to(dtype) if is_float(v) else v for k, v in self.kwargs.items()}
        value = loss(F.linear(*tensors), target, **kwargs)
        return value.detach(), torch.autograd.grad(value.sum(), tensors)

    def truth(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.by(lambda *args, **kwargs: definition(*args, **kwargs).loss, torch.float64)


def is_float(value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def by_name(value) -> str | None:
    return getattr(value, "name", None) or (
        str(value).removeprefix("torch.") if value in DTYPES else None
    )


def error(actual: Tensor, truth: Tensor) -> float:
    """The largest error, in units of the largest number; infinite where one is not finite and the
    other is.
    """
    assert torch.equal(actual.isfinite(), truth.isfinite()), f"{actual}\n{truth}"
    finite = truth.isfinite()
    largest = truth[finite].abs().max() if finite.any() else 0.0
    return float(((actual.double() - truth)[finite].abs().max() / largest) if largest > 0 else 0.0)


@pytest.mark.parametrize("backend", IN_FLOAT64, indirect=True)
@pytest.mark.parametrize("budget", [1, 10**6])
@pytest.mark.parametrize("case", TAKEN, ids=by_name)
def test_float64_is_the_definition_s(case, budget, backend):
    layer = Layer(case, torch.float64)
    value = layer.ours(max_memory=budget)
    gradients = torch.autograd.grad(value.sum(), layer.tensors)
    truth, true_gradients = layer.truth()
    assert value.shape == truth.shape
    assert error(value.detach(), truth) < 1e-13
    for gradient, true in zip(gradients, true_gradients, strict=True):
        assert error(gradient, true) < 1e-12


IN_PYTORCH = [case for case in TAKEN if case.in_pytorch]
# A slow one takes one case in four, and the whole table without a layer.
BY_BACKEND = [
    row
    for backend in BACKENDS
    for row in by_turns(
        [backend], IN_PYTORCH[::4] if backend in SLOW else IN_PYTORCH, [torch.float32, *HALF]
    )
]


@pytest.mark.parametrize(
    ("backend", "case", "dtype"), BY_BACKEND, ids=by_name, indirect=["backend"]
)
def test_error_is_pytorch_s_or_less(case, dtype, backend):
    # Several blocks of some 10 rows; PyTorch's pair of a linear layer and a loss in the same type.
    layer = Layer(case, dtype, rows=50 if len(case.shape) == 2 and case.shape[0] > 1 else None)
    value = layer.ours(max_memory=10 * 4 * (case.shape[-1] + 2 * FEATURES))
    gradients = torch.autograd.grad(value.sum(), layer.tensors)
    truth, true_gradients = layer.truth()
    theirs, their_gradients = layer.by(F.cross_entropy, dtype)
    assert value.dtype == torch.float32
    unit = torch.finfo(dtype).eps
    # The scores are rounded to the dtype as theirs are; two sums of the same numbers differ in the
    # last place.
    assert error(value.detach(), truth) <= error(theirs, truth) + 2 * unit
    for gradient, their, true in zip(gradients, their_gradients, true_gradients, strict=True):
        assert gradient.dtype == dtype
        assert error(gradient, true) <= 1.5 * error(their, true) + 2 * unit


def test_leading_dimensions(backend):
    x, head, y = layer_of(24, 11)
    shaped = nll.linear_cross_entropy(
        x.view(2, 3, 4, FEATURES), head, y.view(2, 3, 4), reduction="none"
    )
    assert shaped.shape == (2, 3, 4)
    torch.testing.assert_close(
        shaped.flatten(), nll.linear_cross_entropy(x, head, y, reduction="none")
    )
    weights = torch.linspace(0.5, 1.5, 24, dtype=torch.float64)
    allowed = torch.arange(24 * 11).view(24, 11) % 5 != 0
    flat = nll.linear_cross_entropy(x, head, y, row_weights=weights, allowed_classes=allowed)
    parts = {"row_weights": weights.view(4, 6), "allowed_classes": allowed.view(4, 6, 11)}
    torch.testing.assert_close(
        nll.linear_cross_entropy(x.view(4, 6, FEATURES), head, y.view(4, 6), **parts),
        flat,
        equal_nan=True,
    )


def test_a_stored_gradient_is_handed_over_and_a_second_is_computed(backend):
    x, head, y = layer_of(30, 11)
    loss = nll.linear_cross_entropy(x, head, y, max_memory=1000)
    first = torch.autograd.grad(3.0 * loss, (x, head), retain_graph=True)
    second = torch.autograd.grad(3.0 * loss, (x, head), retain_graph=True)
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)
    third = torch.autograd.grad(loss, (x, head))
    torch.testing.assert_close(tuple(g / 3.0 for g in first), third, rtol=1e-14, atol=0.0)


def test_all_rows_ignored(backend):
    x, head, y = layer_of(6, 11)
    y[:] = -100
    loss = nll.linear_cross_entropy(x, head, y)
    assert loss.isnan()
    gradients = torch.autograd.grad(loss, (x, head))
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)
    assert nll.linear_cross_entropy(x, head, y, reduction="sum") == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=by_name)
def test_the_budget_changes_nothing_but_rounding(dtype, backend):
    x, head, y = layer_of(20 if backend in SLOW else 200, 300, dtype, features=64)
    whole = torch.autograd.grad(nll.linear_cross_entropy(x, head, y), (x, head))
    parts = torch.autograd.grad(nll.linear_cross_entropy(x, head, y, max_memory=1), (x, head))
    for a, b in zip(whole, parts, strict=True):
        assert error(b.double(), a.double()) < (2 if dtype in HALF else 32) * torch.finfo(dtype).eps


def test_float16_keeps_the_gradient_of_a_mean_over_many_rows():
    # (p - q) / N of most classes is below the least float16.
    x, head, y = layer_of(3000, 4000, torch.float16)
    loss = nll.linear_cross_entropy(x, head, y)
    gradients = torch.autograd.grad(65536.0 * loss, (x, head))
    x64, head64 = (tensor.detach().double().requires_grad_() for tensor in (x, head))
    truth = torch.autograd.grad(65536.0 * F.cross_entropy(x64 @ head64.T, y), (x64, head64))
    for gradient, true in zip(gradients, truth, strict=True):
        assert error(gradient, true) < 2e-3


def test_float16_keeps_small_gradients_of_a_scaled_loss():
    # Small weights: x's gradient is some 1e-4 / N, which is nothing in float16, and plain times the
    # loss's factor.
    x, head, y = layer_of(3000, 40, torch.float16)
    with torch.no_grad():
        head *= 1e-4
    (gradient,) = torch.autograd.grad(2.0**24 * nll.linear_cross_entropy(x, head, y), x)
    x64 = x.detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(
        2.0**24 * F.cross_entropy(x64 @ head.detach().double().T, y), x64
    )
    assert (gradient.double() - truth).abs().max() / truth.abs().max() < 2e-3
    wrong = (gradient.double() - truth).abs() / truth.abs()
    assert wrong.median() < 1e-3


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_autocast(reduction, backend):
    x, head, y = layer_of(12 if backend in SLOW else 40, 50, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nll.linear_cross_entropy(x, head, y, reduction=reduction, max_memory=3000)
        gradients = torch.autograd.grad(loss.sum(), (x, head))
    assert loss.dtype == torch.float32
    expected = nll.linear_cross_entropy(
        x.bfloat16(), head.bfloat16(), y, reduction=reduction, max_memory=3000
    )
    torch.testing.assert_close(loss, expected, rtol=0.0, atol=0.0)
    for gradient, true in zip(
        gradients, torch.autograd.grad(expected.sum(), (x, head)), strict=True
    ):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, true, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_operator_that_the_compiler_sees(reduction):
    x, head, y = layer_of(6, 5)
    arguments = (
        x,
        head,
        None,
        y,
        None,
        None,
        None,
        -100,
        reduction,
        0.1,
        1.0,
        None,
        0.0,
        1000,
        [True, True, False],
    )
    torch.library.opcheck(torch.ops.nll.linear_cross_entropy.default, arguments)


def test_compiled_once_for_every_number_of_rows():
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    loss = torch.compile(nll.linear_cross_entropy, fullgraph=True, dynamic=True, backend=count)
    for rows in (4, 7, 30):
        x, head, y = layer_of(rows, 11)
        torch.testing.assert_close(loss(x, head, y), nll.linear_cross_entropy(x, head, y))
    assert len(graphs) == 1


BAD = [
    ({"input": torch.tensor(1.0)}, ValueError, "got a scalar"),
    ({"input": [1.0]}, TypeError, "expected input to be a Tensor, got list"),
    (
        {"linear_weight": torch.ones(5, 4)},
        ValueError,
        r"linear_weight of shape \(C, 3\).*got \(5, "
        r"4\)",
    ),
    (
        {"linear_weight": torch.ones(5, 3, dtype=torch.float64)},
        RuntimeError,
        "type float32, got float64",
    ),
    ({"linear_bias": torch.ones(4)}, ValueError, r"linear_bias of shape \(5,\), got \(4,\)"),
    (
        {"target": torch.zeros(3, dtype=torch.int64)},
        ValueError,
        r"rows' shape \(2,\) or probabilities of shape",
    ),
    ({"target": torch.tensor([0, 5])}, IndexError, r"labels in \[0, 4\].*got 5 at row 1"),
    ({"target": torch.tensor([-1, 0])}, IndexError, "got -1 at row 0"),
    (
        {"target": torch.tensor([0.0, 1.0])},
        RuntimeError,
        "labels of type int64 or uint8, got float32",
    ),
    (
        {"row_weights": torch.ones(3)},
        ValueError,
        r"row_weights of the rows' shape \(2,\), got "
        r"\(3,\)",
    ),
    (
        {"allowed_classes": torch.ones(4, dtype=torch.bool)},
        ValueError,
        r"\(5,\) or \(2, 5\), got "
        r"\(4,\)",
    ),
    ({"allowed_classes": torch.ones(5)}, ValueError, "mask of bool, got float32"),
    ({"max_memory": 0}, ValueError, "max_memory of at least 1, got 0"),
    ({"max_memory": 1.5}, TypeError, "max_memory to be an int, got float"),
    ({"reduction": "average"}, ValueError, "got 'average'"),
    ({"temperature": 0.0}, ValueError, "temperature above 0, got 0.0"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input(wrong, kind, message):
    arguments = {
        "input": torch.ones(2, 3),
        "linear_weight": torch.ones(5, 3),
        "target": torch.tensor([0, 1]),
        **wrong,
    }
    with pytest.raises(kind, match=message):
        nll.linear_cross_entropy(**arguments)


def test_a_label_out_of_range_is_named_by_its_place():
    y = torch.zeros(2, 3, dtype=torch.int64)
    y[1, 2] = 11
    with pytest.raises(IndexError, match=r"got 11 at row \(1, 2\)"):
        nll.linear_cross_entropy(torch.ones(2, 3, 4), torch.ones(11, 4), y)


def test_module():
    torch.manual_seed(0)
    module = nll.LinearCrossEntropyLoss(
        8, 20, bias=True, label_smoothing=0.1, weight=torch.rand(20), softcap=5.0
    )
    x, y = torch.randn(4, 6, 8), torch.randint(0, 20, (4, 6))
    loss = module(x, y)
    loss.backward()
    linear = module.linear
    options = {"label_smoothing": 0.1, "weight": module.weight, "softcap": 5.0}
    torch.testing.assert_close(
        loss, nll.cross_entropy(linear(x).flatten(0, 1), y.flatten(), **options)
    )
    assert linear.weight.grad is not None
    assert set(module.state_dict()) == {"linear.weight", "linear.bias", "weight"}
    assert "label_smoothing=0.1" in repr(module)
