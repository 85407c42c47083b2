"""0 log 0 = 0: a term whose factor is 0 counts for nothing, in value and every derivative; any
other stays infinite.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS
from torch import Tensor

import nll

INF = math.inf
CLASSES = 5
OUT = 4  # the class of score -inf


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


def dtype_of(backend: str) -> torch.dtype:
    return torch.float32 if backend == "triton" else torch.float64


def scores(dtype: torch.dtype, rows: int = 3) -> Tensor:
    z = torch.randn(
        rows, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(dtype)
    z[:, OUT] = -INF
    return z


def without(tensor: Tensor) -> Tensor:
    return tensor[..., :OUT]


def assert_as_without_the_class(ours: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> None:
    """The first is the value; gradients are 0 at the class, which the truth has not."""
    torch.testing.assert_close(ours[0], truth[0])
    for mine, other in zip(ours[1:], truth[1:], strict=True):
        if mine.shape[-1] == CLASSES:
            assert (mine[..., OUT] == 0.0).all()
            mine = without(mine)
        torch.testing.assert_close(mine, other)


def value_and_gradients(loss, *tensors: Tensor) -> tuple[Tensor, ...]:
    points = [tensor.clone().requires_grad_() for tensor in tensors]
    value = loss(*points)
    return value.detach(), *torch.autograd.grad(value, points)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_probability_of_0_at_a_score_of_minus_infinity(
    reduction, weighted, create_graph, backend
):
    dtype = dtype_of(backend)
    z = scores(dtype)
    q = without(
        torch.rand(3, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ).softmax(1)
    q, w = F.pad(q, (0, 1)).to(dtype), torch.linspace(0.5, 1.5, CLASSES, dtype=dtype)
    options = {"reduction": reduction}
    for by in ((z,), (z, q), (z, q, w)):
        others = (z, q, w)[len(by) :]

        def ours(*t, others=others):
            z, q, w = (*t, *others)
            return nll.cross_entropy(z, q, weight=w if weighted else None, **options)

        def truth(*t, others=others):
            z, q, w = (*t, *map(without, others))
            return F.cross_entropy(z, q, weight=w if weighted else None, **options)

        if len(by) == 3 and not weighted:
            continue
        assert_as_without_the_class(
            value_and_gradients(ours, *by), value_and_gradients(truth, *map(without, by))
        )
        if create_graph:
            s = z.clone().requires_grad_()
            (g,) = torch.autograd.grad(ours(s, *(q, w)[: len(by) - 1]), s, create_graph=True)
            assert torch.autograd.grad(g.square().sum(), s)[0].isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_class_weight_of_0(reduction, backend):
    """Of a label, under smoothing, and of a probability above 0."""
    dtype = dtype_of(backend)
    z, w = scores(dtype), torch.tensor([1.0, 2.0, 0.5, 1.5, 0.0], dtype=dtype)
    y = torch.tensor([0, OUT, 3])
    q = F.one_hot(y, CLASSES).to(dtype)
    for target, options in (
        (y, {}),
        (y, {"label_smoothing": 0.1}),
        (q, {}),
        (q, {"label_smoothing": 0.1}),
    ):
        rows = nll.cross_entropy(z, target, w, reduction="none", **options)
        log_p = z.double().log_softmax(1)
        smoothing = options.get("label_smoothing", 0.0)
        u = (F.one_hot(y, CLASSES) * (1.0 - smoothing) + smoothing / CLASSES) * w.double()
        truth = -(u * torch.where(u == 0.0, 0.0, log_p)).sum(1)
        torch.testing.assert_close(rows.double(), truth, rtol=1e-5, atol=1e-6)
        s = z.clone().requires_grad_()
        loss = nll.cross_entropy(s, target, w, reduction=reduction, **options).sum()
        assert loss.isfinite()
        assert torch.autograd.grad(loss, s)[0].isfinite().all()
    by_weight = torch.tensor([1.0, 2.0, 0.5, 1.5, 0.0], dtype=dtype, requires_grad=True)
    log_p = z.log_softmax(1)
    picked = nll.nll_loss(log_p, y, by_weight, reduction=reduction).sum()
    assert picked.isfinite()
    assert torch.autograd.grad(picked, by_weight)[0].isfinite().all()


def test_a_row_weight_of_0_at_an_infinite_loss(backend):
    dtype = dtype_of(backend)
    z, y = scores(dtype), torch.tensor([0, OUT, 3])
    kept = torch.tensor([0, 2])
    r = torch.tensor([0.5, 0.0, 2.0], dtype=dtype)
    head = torch.eye(CLASSES, dtype=dtype)
    for options in ({}, {"z_loss": 0.1}, {"reduction": "sum"}):
        for loss in (
            lambda s, y, r, o=options: nll.cross_entropy(s, y, row_weights=r, **o),
            lambda s, y, r, o=options: nll.linear_cross_entropy(
                without(s),
                without(head),
                y,
                linear_bias=torch.tensor([0.0] * 4 + [-INF], dtype=dtype),
                row_weights=r,
                **o,
            ),
        ):
            s = z.clone().requires_grad_()
            value = loss(s, y, r)
            gradient = torch.autograd.grad(value, s)[0]
            t = z[kept].clone().requires_grad_()
            truth = loss(t, y[kept], r[kept])
            torch.testing.assert_close(value, truth)
            torch.testing.assert_close(gradient[kept], torch.autograd.grad(truth, t)[0])
            assert (gradient[1] == 0.0).all()


def test_smoothing_of_1_leaves_the_label_no_share(backend):
    dtype = dtype_of(backend)
    z, y = scores(dtype), torch.tensor([0, OUT, 3])
    w = torch.tensor([1.0, 2.0, 0.5, 1.5, 0.0], dtype=dtype)
    rows = nll.cross_entropy(z, y, w, reduction="none", label_smoothing=1.0)
    truth = -(w[:OUT].double() * without(z.double().log_softmax(1))).sum(1) / CLASSES
    torch.testing.assert_close(rows.double(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("layer", [False, True])
def test_gradients_by_the_weights_of_classes_that_are_not_allowed(layer, smoothing, backend):
    dtype = dtype_of(backend)
    z, allowed = torch.randn(3, CLASSES, dtype=dtype), torch.arange(CLASSES) != OUT
    y = torch.tensor([0, 1, 3])
    q = F.pad(torch.rand(3, OUT, dtype=dtype), (0, 1))

    def ours(w, target):
        options = {"weight": w, "allowed_classes": allowed, "label_smoothing": smoothing}
        if layer:
            return nll.linear_cross_entropy(z, torch.eye(CLASSES, dtype=dtype), target, **options)
        return nll.cross_entropy(z, target, **options)

    for target in (y, q):
        w = torch.rand(CLASSES, dtype=dtype) + 0.1
        truth = value_and_gradients(
            lambda w, t=target: nll.cross_entropy(
                without(z), without(t) if t is q else t, weight=w, label_smoothing=smoothing
            ),
            without(w),
        )
        assert_as_without_the_class(value_and_gradients(lambda w, t=target: ours(w, t), w), truth)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("target", ["head", "probabilities"])
def test_divergence_where_both_have_no_probability(target, reverse, backend):
    """A class that a bias of -inf rules out on both sides; gradients by everything on both
    sides.
    """
    dtype = dtype_of(backend)
    draw = torch.Generator().manual_seed(0)
    x, head = (
        torch.randn(n, 3, generator=draw, dtype=torch.float64).to(dtype) for n in (2, CLASSES)
    )
    y, other = (
        torch.randn(n, 2, generator=draw, dtype=torch.float64).to(dtype) for n in (2, CLASSES)
    )
    bias = torch.tensor([0.1, 0.2, 0.3, 0.4, -INF], dtype=dtype)
    if target == "probabilities":
        q = (y @ other.T + bias).softmax(1)
        points = x, head, q

        def loss(x, h, q, b=bias):
            return nll.linear_kl_divergence(x, h, q, linear_bias=b[: len(h)], reverse=reverse)

        cut = x, head[:OUT], without(q)
    else:
        points = x, head, y, other

        def loss(x, h, y, k, b=bias):
            biases = {"linear_bias": b[: len(h)], "target_bias": b[: len(h)]}
            return nll.linear_kl_divergence(x, h, y, k, temperature=2.0, reverse=reverse, **biases)

        cut = x, head[:OUT], y, other[:OUT]
    ours, truth = value_and_gradients(loss, *points), value_and_gradients(loss, *cut)
    for mine, other_one in zip(ours, truth, strict=True):
        if mine.shape != other_one.shape:
            rest = mine[:, OUT:] if mine.shape[0] == other_one.shape[0] else mine[OUT:]
            assert (rest == 0.0).all()
            mine = mine[:, :OUT] if mine.shape[0] == other_one.shape[0] else mine[:OUT]
        torch.testing.assert_close(mine, other_one)
    if dtype is torch.float64:
        h = head.clone().requires_grad_()
        (g,) = torch.autograd.grad(loss(x, h, *points[2:]), h, create_graph=True)
        assert torch.autograd.grad(g.square().sum(), h)[0].isfinite().all()


def test_what_has_a_factor_above_0_stays_infinite(backend):
    dtype = dtype_of(backend)
    z, y = scores(dtype), torch.tensor([0, OUT, 3])
    assert nll.cross_entropy(z, y, reduction="none").tolist()[1] == INF
    assert nll.cross_entropy(z, y) == INF
    assert nll.cross_entropy(z, torch.tensor([0, 1, 3]), label_smoothing=0.1) == INF
    q = torch.full_like(z, 0.2)
    assert nll.cross_entropy(z, q) == INF
    assert nll.linear_kl_divergence(without(z), torch.eye(OUT, dtype=dtype), without(q)).isfinite()
    bias = torch.tensor([0.0] * OUT + [-INF], dtype=dtype)
    head = torch.eye(CLASSES, dtype=dtype)[:, :OUT]
    assert nll.linear_kl_divergence(without(z), head, q, linear_bias=bias) == INF
    certain = F.one_hot(y.clamp(max=3), CLASSES).to(dtype)
    assert (
        nll.linear_kl_divergence(without(z), head, certain, linear_bias=bias, reverse=True) == INF
    )


def test_entropy_of_classes_without_probability(backend):
    dtype = dtype_of(backend)
    z = scores(dtype).requires_grad_()
    found = nll.token_statistics(z, torch.tensor([0, 1, 3]), entropy=True)
    log_p = without(z).log_softmax(1)
    torch.testing.assert_close(found.entropy, -(log_p.exp() * log_p).sum(1))
    (g,) = torch.autograd.grad(found.entropy.sum(), z, create_graph=True)
    assert (g[:, OUT] == 0.0).all()
    assert torch.autograd.grad(g.square().sum(), z)[0].isfinite().all()


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_row_weight_of_0_at_an_infinite_loss_leaves_no_other_gradient(
    reduction, create_graph, backend
):
    """By class weights, probabilities, and both heads of a divergence: what the other rows give."""
    dtype = dtype_of(backend)
    z, r, w = (
        scores(dtype),
        torch.tensor([0.5, 0.0, 2.0], dtype=dtype),
        torch.linspace(0.5, 1.5, CLASSES, dtype=dtype),
    )
    kept = torch.tensor([0, 2])
    q = without(
        torch.rand(3, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ).softmax(1)
    q = F.pad(q, (0, 1)).to(dtype)
    q[1, OUT] = 0.5  # against a probability of 0
    y = torch.tensor([0, OUT, 3])
    x, head = without(z), torch.eye(CLASSES, dtype=dtype)[:, :OUT]
    out = torch.tensor([0.0] * OUT + [-INF], dtype=dtype)
    t = torch.zeros(3, OUT, dtype=dtype)
    options = {"reduction": reduction}
    losses = {
        "class weights": (
            lambda w, rows: nll.cross_entropy(z[rows], y[rows], w, row_weights=r[rows], **options),
            w,
        ),
        "probabilities": (
            lambda q, rows: nll.cross_entropy(z[rows], q[rows], row_weights=r[rows], **options),
            q,
        ),
        "class weights of a layer": (
            lambda w, rows: nll.linear_cross_entropy(
                x[rows], head, y[rows], linear_bias=out, weight=w, row_weights=r[rows], **options
            ),
            w,
        ),
    }
    for reverse in (False, True):
        more = {"reverse": reverse, **options}
        losses[f"head, {reverse}"] = (
            lambda h, rows, more=more: nll.linear_kl_divergence(
                x[rows], h, q[rows], linear_bias=out, row_weights=r[rows], **more
            ),
            head,
        )
        losses[f"probabilities of a divergence, {reverse}"] = (
            lambda q, rows, more=more: nll.linear_kl_divergence(
                x[rows], head, q[rows], linear_bias=out, row_weights=r[rows], **more
            ),
            q,
        )
    only = torch.tensor([0.0, 0.0, 0.0], dtype=dtype)
    losses["a teacher whose student rules a class out"] = (
        lambda k, rows: nll.linear_kl_divergence(
            x[rows], head, t[rows], k, linear_bias=out, row_weights=only[rows], reduction="sum"
        ),
        head,
    )
    for name, (loss, at) in losses.items():
        found = []
        for rows in (torch.arange(3), kept):
            point = at.clone().requires_grad_()
            (g,) = torch.autograd.grad(loss(point, rows), point, create_graph=create_graph)
            found.append(g.detach())
        ours, truth = (g[kept] if at is q else g for g in found)
        torch.testing.assert_close(ours, truth, msg=lambda text, name=name: f"{name}: {text}")
        assert at is not q or (found[0][1] == 0.0).all()


def test_a_probability_of_0_against_one_above_0_in_reverse(backend):
    """d/dq of p log(p / q) is -p / q: no factor is 0, and the loss is infinite."""
    dtype = dtype_of(backend)
    x, head = torch.randn(2, 3, dtype=dtype), torch.randn(3, 3, dtype=dtype)
    q = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], dtype=dtype)
    for create_graph in (False, True):
        point = q.clone().requires_grad_()
        loss = nll.linear_kl_divergence(x, head, point, reverse=True, reduction="sum")
        (g,) = torch.autograd.grad(loss, point, create_graph=create_graph)
        assert loss == INF
        assert g[0, 2] == -INF
        torch.testing.assert_close(g[1].detach(), -((x @ head.T).softmax(1) / q)[1])
