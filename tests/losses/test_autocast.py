"""Every loss inside autocast: PyTorch's types, the numbers of a layer in the half type."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS
from definitions import HALF
from torch import Tensor

import nll

ROWS, FEATURES, CLASSES = 8, 768, 2000  # a head of more than one slab
LABELS = torch.arange(ROWS) * 7
BUDGETS = [None, 100_000]


def statistics(x: Tensor, head: Tensor, budget) -> Tensor:
    found = nll.token_statistics(
        x, LABELS, linear_weight=head, entropy=True, topk=3, max_memory=budget
    )
    return (found.entropy - found.log_prob).mean()


def plain_statistics(z: Tensor) -> Tensor:
    log_p = z.log_softmax(1)
    return (-(log_p.exp() * log_p).sum(1) - log_p[torch.arange(ROWS), LABELS]).mean()


LOSSES: dict[str, tuple[Callable, Callable]] = {
    "linear_cross_entropy": (
        lambda x, head, budget: nll.linear_cross_entropy(x, head, LABELS, max_memory=budget),
        lambda z: F.cross_entropy(z, LABELS),
    ),
    "linear_cross_entropy none": (
        lambda x, head, budget: nll.linear_cross_entropy(
            x, head, LABELS, linear_bias=torch.ones(CLASSES), reduction="none", max_memory=budget
        ).mean(),
        lambda z: F.cross_entropy(z, LABELS),
    ),
    "linear_cross_entropy with everything": (
        lambda x, head, budget: nll.linear_cross_entropy(
            x,
            head,
            LABELS,
            label_smoothing=0.1,
            weight=torch.ones(CLASSES),
            row_weights=torch.ones(ROWS),
        ),
        lambda z: F.cross_entropy(z, LABELS, label_smoothing=0.1),
    ),
    "token_statistics": (statistics, plain_statistics),
    "linear_kl_divergence": (
        lambda x, head, budget: nll.linear_kl_divergence(
            x, head, x.flip(0), head, max_memory=budget
        ),
        lambda z: F.kl_div(
            z.log_softmax(1), z.flip(0).log_softmax(1), reduction="batchmean", log_target=True
        ),
    ),
    "sampled_cross_entropy": (
        lambda x, head, budget: nll.sampled_cross_entropy(x, head, LABELS, CLASSES),
        lambda z: F.cross_entropy(z, LABELS),
    ),
}


@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_a_layer(name, dtype, budget, inside):
    ours, plain = LOSSES[name]
    draw = torch.Generator().manual_seed(0)
    points = [0.1 * torch.randn(n, FEATURES, generator=draw) for n in (ROWS, CLASSES)]
    exact = [point.to(dtype).double().requires_grad_() for point in points]
    plain(exact[0] @ exact[1].T).backward()
    x, head = (point.clone().requires_grad_() for point in points)
    with torch.autocast("cpu", dtype=dtype):
        loss = ours(x, head, budget)
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert loss.dtype is torch.float32
    for tensor, truth in zip((x, head), exact, strict=True):
        assert tensor.grad.dtype is torch.float32
        error = (tensor.grad.double() - truth.grad).norm() / truth.grad.norm()
        assert error < 2e-2 * (1.0 if dtype is torch.bfloat16 else 0.125)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_backward_inside_does_not_change_a_forward_outside(name, dtype):
    """What is computed in float32 is differentiated in float32."""
    ours, plain = LOSSES[name]
    draw = torch.Generator().manual_seed(0)
    points = [0.1 * torch.randn(n, FEATURES, generator=draw) for n in (ROWS, CLASSES)]
    exact = [point.double().requires_grad_() for point in points]
    plain(exact[0] @ exact[1].T).backward()
    x, head = (point.clone().requires_grad_() for point in points)
    loss = ours(x, head, 100_000)
    if "sampled" in name:
        pytest.skip("its products are PyTorch's own, which autocast does reach")
    with torch.autocast("cpu", dtype=dtype):
        loss.backward()
    for tensor, truth in zip((x, head), exact, strict=True):
        assert (tensor.grad.double() - truth.grad).norm() / truth.grad.norm() < 1e-5


@pytest.mark.parametrize("name", LOSSES)
def test_compiled(name):
    ours, _ = LOSSES[name]
    if "sampled" in name:
        pytest.skip("its sample is drawn anew")
    torch._dynamo.reset()
    draw = torch.Generator().manual_seed(0)
    x, head = (0.1 * torch.randn(n, FEATURES, generator=draw) for n in (ROWS, CLASSES))

    def run(function):
        points = [t.clone().requires_grad_() for t in (x, head)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(*points, 100_000)
        loss.backward()
        return loss.detach(), *(point.grad for point in points)

    eager, compiled = run(ours), run(torch.compile(ours, backend="aot_eager", fullgraph=True))
    for a, b in zip(eager, compiled, strict=True):
        assert a.dtype is b.dtype
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2 * float(a.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_scores(dtype, backend):
    rows, classes = (30, 40) if backend == "triton" else (300, 400)  # the interpreter is slow
    x = torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = torch.arange(rows)
    truth = F.cross_entropy(x.double(), y)
    for inside in (False, True):
        z = x.clone().requires_grad_()
        with nll.use_backend(backend), torch.autocast("cpu", dtype=dtype):
            losses = [
                nll.cross_entropy(z, y),
                nll.nll_loss(nll.log_softmax(z, 1, dtype=torch.float32), y),
                -nll.token_statistics(z, y).log_prob.mean(),
            ]
            if inside:
                gradients = [torch.autograd.grad(loss, z)[0] for loss in losses]
        if not inside:
            gradients = [torch.autograd.grad(loss, z)[0] for loss in losses]
        for loss, gradient in zip(losses, gradients, strict=True):
            assert loss.dtype is torch.float32
            assert gradient.dtype is dtype
            torch.testing.assert_close(loss.double(), truth, rtol=1e-5, atol=0.0)
            expected = (x.double().softmax(1) - F.one_hot(y, classes)) / rows
            torch.testing.assert_close(gradient.double(), expected, rtol=2e-2, atol=1e-5)
