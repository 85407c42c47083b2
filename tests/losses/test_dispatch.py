"""The choice of a backend: forced in a block, in its own thread and task, and restored."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

import nll
from nll.losses import dispatch


def test_use_backend_forces_a_backend_and_restores_the_choice(monkeypatch):
    monkeypatch.setitem(dispatch.BACKENDS, "other", Other)
    before = dispatch.route(torch.zeros(1)).backend
    with nll.use_backend("other"):
        assert nll.log_softmax(torch.zeros(2), 0) == "other"
        with nll.use_backend("reference"):
            assert nll.log_softmax(torch.zeros(1), 0) == 0.0
        assert dispatch.route(torch.zeros(1)).backend is Other
    assert dispatch.route(torch.zeros(1)).backend is before


def test_use_backend_restores_the_choice_after_an_error(monkeypatch):
    monkeypatch.setitem(dispatch.BACKENDS, "other", Other)
    before = dispatch.route(torch.zeros(1)).backend
    with pytest.raises(KeyError), nll.use_backend("other"):
        raise KeyError
    assert dispatch.route(torch.zeros(1)).backend is before


def test_use_backend_is_of_its_own_thread_and_task(monkeypatch):
    monkeypatch.setitem(dispatch.BACKENDS, "other", Other)
    default = dispatch.route(torch.zeros(1)).backend
    seen = []
    with nll.use_backend("other"):
        thread = threading.Thread(
            target=lambda: seen.append(dispatch.route(torch.zeros(1)).backend)
        )
        thread.start()
        thread.join()
    assert seen == [default]

    async def inside(entered, leave):
        with nll.use_backend("other"):
            entered.set()
            await leave.wait()
            assert dispatch.route(torch.zeros(1)).backend is Other

    async def both():
        entered, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(inside(entered, leave))
        await entered.wait()
        assert dispatch.route(torch.zeros(1)).backend is default
        leave.set()
        await task

    asyncio.run(both())


def test_use_backend_in_blocks_that_overlap_leaves_no_choice_behind():
    before = nll.explain(nll.cross_entropy, torch.zeros(512, 3000), torch.zeros(512).long())
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first():
        with nll.use_backend("reference"):
            first_is_in.set()
            second_is_in.wait()
        first_is_out.set()

    def second():
        first_is_in.wait()
        with nll.use_backend("cpu"):
            second_is_in.set()
            first_is_out.wait()

    threads = [threading.Thread(target=f) for f in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert nll.explain(nll.cross_entropy, torch.zeros(512, 3000), torch.zeros(512).long()) == before


class Other:
    """A backend that answers with its name."""

    @staticmethod
    def log_softmax(input, dim):
        return "other"


# ---- Small problems ------------------------------------------------------------------------------


def backend_of(x, y, **options) -> str:
    return nll.explain(nll.cross_entropy, x, y, **options).backend


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_pytorch_takes_small_problems(dtype):
    x, y = torch.randn(8, 10).to(dtype), torch.randint(0, 10, (8,))
    w = torch.rand(10).to(dtype)
    assert backend_of(x, y) == "pytorch"
    assert backend_of(x, y, weight=w) == "pytorch"
    assert backend_of(x.T.contiguous()[None], y[None]) == "pytorch"
    assert backend_of(x, y, weight=w, reduction="none") != "pytorch"
    assert backend_of(x, y, weight=w.clone().requires_grad_()) != "pytorch"
    assert backend_of(x, y, weight=w.to(torch.float64), softcap=2.0) != "pytorch"
    assert backend_of(x, y.to(torch.uint8)) != "pytorch"
    assert backend_of(x, y, temperature=2.0) != "pytorch"
    assert backend_of(torch.zeros(512, 1000, dtype=dtype), torch.zeros(512).long()) != "pytorch"


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(8, 10), (3, 10, 4)], ids=str)
def test_small_problems_are_the_same_by_pytorch(shape, weighted, dtype, reduction):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw).to(dtype)
    y = torch.randint(0, 10, (shape[0], *shape[2:]), generator=draw)
    y[0] = -100
    options = {"weight": torch.rand(10, generator=draw).to(dtype)} if weighted else {}
    found = []
    for name in (None, "reference"):
        leaf = x.clone().requires_grad_()
        with dispatch.forcing(name):
            loss = nll.cross_entropy(leaf, y, reduction=reduction, **options)
        (gradient,) = torch.autograd.grad((3.0 * loss).sum(), leaf)
        found.append((loss.detach(), gradient))
    (loss, gradient), (expected, slope) = found
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient, slope, rtol=2 * eps, atol=max(1e-7, eps * 1e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_class_of_weight_0_and_probability_0_counts_for_nothing(dtype):
    """PyTorch's loss is NaN."""
    x = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]).to(dtype).requires_grad_()
    y, weight = torch.tensor([1, 0]), torch.tensor([1.0, 0.0]).to(dtype)
    loss = nll.cross_entropy(x, y, weight=weight)
    torch.testing.assert_close(loss, torch.tensor(2.0).log())
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient.float(), torch.tensor([[0.0, 0.0], [-0.5, 0.5]]))


def test_weights_whose_sum_leaves_their_type_are_finite():
    x, y = torch.zeros(2, 131072, dtype=torch.float16), torch.tensor([0, 1])
    weight = torch.ones(131072, dtype=torch.float16)
    assert backend_of(x, y, weight=weight) == "cpu"
    weight[5] = torch.inf
    assert backend_of(x, y, weight=weight) == "reference"
