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
