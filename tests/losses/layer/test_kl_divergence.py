"""KL divergence of linear layers in blocks, judged by its formula on whole matrices of scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import nll


def normal(*shape: int, seed: int, dtype=torch.float64) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def problem(dtype=torch.float64) -> tuple[Tensor, ...]:
    """Features and head of a model with a bias, and of a target of other features."""
    shapes = [(2, 6, 4), (9, 4), (9,), (2, 6, 3), (9, 3), (9,)]
    return tuple(
        normal(*shape, seed=i, dtype=dtype).requires_grad_() for i, shape in enumerate(shapes)
    )


def formula(x, head, bias, y, other, other_bias, reverse: bool) -> Tensor:
    log_p = ((x @ head.T + bias) / 2.0).log_softmax(-1)
    log_q = ((y @ other.T + other_bias) / 0.5).log_softmax(-1)
    if reverse:
        log_p, log_q = log_q, log_p
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def ours(x, head, bias, y, other, other_bias, **options) -> Tensor:
    return nll.linear_kl_divergence(
        x,
        head,
        y,
        other,
        linear_bias=bias,
        target_bias=other_bias,
        temperature=2.0,
        target_temperature=0.5,
        max_memory=5000,
        **options,
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_two_heads(dtype, reverse):
    at = problem(dtype)
    found = ours(*at, reduction="none", reverse=reverse)
    truth = formula(*(t.double() for t in at), reverse)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(found.double(), truth, rtol=tolerance, atol=tolerance)
    weights = torch.linspace(0.0, 1.0, 12, dtype=torch.float64).view(2, 6)
    mean = ours(*at, reverse=reverse, row_weights=weights)
    torch.testing.assert_close(
        mean.double(), (truth * weights).sum() / weights.sum(), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("fast_mode", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_derivatives_by_both_heads(check, fast_mode):
    assert check(lambda *at: ours(*at, reduction="sum"), problem(), fast_mode=fast_mode)


def test_probabilities():
    x, head, *_ = problem()
    q = normal(2, 6, 9, seed=8).softmax(-1)
    q[0, 0] = torch.eye(9)[2]  # zeros count for nothing
    found = nll.linear_kl_divergence(x, head, q, reduction="none")
    expected = torch.nn.functional.kl_div((x @ head.T).log_softmax(-1), q, reduction="none").sum(-1)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(found.sum(), x)[0].isfinite().all()


def test_a_distribution_is_no_distance_from_itself():
    x, head, *_ = problem()
    found = nll.linear_kl_divergence(x, head, x.detach(), head.detach(), reduction="none")
    assert found.abs().max() < 1e-15
    assert torch.autograd.grad(found.sum(), x)[0].abs().max() < 1e-15


BAD = [
    ({"target": torch.ones(2, 5)}, r"type and shape \(2, 4\), got float32 of \(2, 5\)"),
    ({"target_bias": torch.ones(4)}, "target_bias with a target_weight only"),
    (
        {"target": torch.ones(3, 7), "target_weight": torch.ones(4, 7)},
        r"rows \(2,\) as the input "
        r"has, got \(3,\)",
    ),
    (
        {"target": torch.ones(2, 7), "target_weight": torch.ones(5, 7)},
        "target_weight of 4 classes, got 5",
    ),
    ({"temperature": -1.0}, "temperature above 0"),
    ({"row_weights": torch.ones(5)}, r"rows' shape \(2,\), got \(5,\)"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input(wrong, message):
    arguments = {
        "input": torch.ones(2, 3),
        "linear_weight": torch.ones(4, 3),
        "target": torch.ones(2, 4) / 4,
        **wrong,
    }
    with pytest.raises(ValueError, match=message):
        nll.linear_kl_divergence(**arguments)


def by_probabilities(x, head, q, **options) -> Tensor:
    return nll.linear_kl_divergence(x, head, q, **options)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_first_derivatives_by_everything(backend, reduction, reverse):
    """Those that are stored, and those of a graph, are the formula's."""
    at = problem()
    weights = torch.linspace(0.0, 1.0, 12, dtype=torch.float64).view(2, 6)
    with nll.use_backend(backend):
        found = ours(*at, reduction=reduction, reverse=reverse, row_weights=weights)
    rows = formula(*at, reverse) * weights
    truth = {"mean": rows.sum() / weights.sum(), "sum": rows.sum(), "none": rows}[reduction]
    torch.testing.assert_close(found, truth)
    upstream = torch.full_like(found, 3.0)
    expected = torch.autograd.grad(truth, at, upstream, retain_graph=True)
    for gradients in (
        torch.autograd.grad(found, at, upstream, create_graph=True),
        torch.autograd.grad(found, at, upstream),
    ):
        for ours_, true in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours_, true)


@pytest.mark.parametrize("reverse", [False, True])
def test_first_derivatives_by_probabilities(reverse):
    x, head, *_ = (t.detach().requires_grad_() for t in problem())
    q = normal(2, 6, 9, seed=8).softmax(-1).requires_grad_()
    log_p = (x @ head.T).log_softmax(-1)
    first, second = (log_p, q.log()) if reverse else (q.log(), log_p)
    truth = (first.exp() * (first - second)).sum(-1).mean()
    found = by_probabilities(x, head, q, reverse=reverse)
    torch.testing.assert_close(found, truth)
    for wanted in ((x, head), (x, head, q), (q,)):
        here = by_probabilities(x, head, q, reverse=reverse)
        gradients = torch.autograd.grad(here, wanted)
        expected = torch.autograd.grad(truth, wanted, retain_graph=True)
        for ours_, true in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours_, true)


def test_the_gradient_is_computed_in_the_forward_pass(monkeypatch):
    from nll.losses.layer import matmul

    products = []
    plain = matmul.Products.logits
    monkeypatch.setattr(
        matmul.Products, "logits", lambda *args: (products.append(1), plain(*args))[1]
    )
    x, head, _, y, other, _ = problem()
    loss = nll.linear_kl_divergence(x, head, y.detach(), other.detach())
    assert len(products) == 2
    loss.backward()
    assert len(products) == 2
    assert y.grad is None


@pytest.mark.parametrize("kind", ["no rows", "weights of 0"])
def test_the_mean_of_nothing(kind):
    x, head, *_ = problem()
    q = normal(2, 6, 9, seed=8).softmax(-1)
    if kind == "no rows":
        found = by_probabilities(x[:, :0], head, q[:, :0])
    else:
        found = by_probabilities(x, head, q, row_weights=torch.zeros(2, 6))
    assert found.isnan()
    gradients = torch.autograd.grad(found, (x, head))
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_errors_next_to_pytorch_s(dtype, reverse):
    """No larger than those of the same formula in PyTorch, of logits in the layer's type."""
    draw = torch.Generator().manual_seed(5)
    x, y = (torch.randn(64, 32, generator=draw).to(dtype).requires_grad_() for _ in range(2))
    head, other = (torch.randn(700, 32, generator=draw).to(dtype) for _ in range(2))
    head.requires_grad_()

    def by_pytorch(x, head, y, other):
        pair = [
            (a @ b.T).to(torch.promote_types(a.dtype, torch.float32))
            for a, b in ((x, head), (y, other))
        ]
        log_p, log_q = (z.log_softmax(1) for z in pair)
        first, second = (log_p, log_q) if reverse else (log_q, log_p)
        return (first.exp() * (first - second)).sum(1).mean()

    tensors = x, head, y
    precise = [t.detach().double().requires_grad_() for t in tensors]
    truth = torch.autograd.grad(by_pytorch(*precise, other.double()), precise)
    theirs = torch.autograd.grad(by_pytorch(*tensors, other), tensors)
    found = torch.autograd.grad(nll.linear_kl_divergence(*tensors, other, reverse=reverse), tensors)
    for ours_, plain, true in zip(found, theirs, truth, strict=True):
        error, allowed = ((g.double() - true).norm() for g in (ours_, plain))
        assert error <= 1.2 * allowed
