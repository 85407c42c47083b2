"""The products of a layer's blocks: what is computed, and the type of the sums."""

from __future__ import annotations

import pytest
import torch
from definitions import HALF
from layers import layer_of

import nll
from nll.losses.layer import matmul


def test_what_nobody_asks_for_is_not_computed(monkeypatch):
    products = []
    plain = matmul.Products.add_to_head
    monkeypatch.setattr(
        matmul.Products, "add_to_head", lambda *args: (products.append("head"), plain(*args))
    )
    x, head, y = layer_of(30, 11)
    nll.linear_cross_entropy(x, head.detach(), y).backward()
    assert not products
    nll.linear_cross_entropy(x.detach(), head, y).backward()
    assert products
    products.clear()
    with torch.no_grad():
        nll.linear_cross_entropy(x, head, y)
    assert not products


def test_ignored_rows_are_not_multiplied(monkeypatch):
    multiplied = []
    plain = matmul.Products.logits

    def counted(self, x, rows):
        multiplied.append(len(x))
        return plain(self, x, rows)

    monkeypatch.setattr(matmul.Products, "logits", counted)
    x, head, y = layer_of(100, 11)
    y[::4] = -100
    with torch.no_grad():
        x[::4] = torch.nan  # and not read either
    loss = nll.linear_cross_entropy(x, head, y, max_memory=1000)
    loss.backward()
    assert sum(multiplied) == 75
    assert x.grad[::4].count_nonzero() == 0
    assert loss.isfinite()
    assert head.grad.isfinite().all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_the_head_s_gradient_is_added_in_float32(dtype):
    # Row by row, 4000 small numbers: added in the half type most of them would vanish.
    rows = 4000
    x = torch.ones(rows, 1, dtype=dtype)
    head = torch.zeros(2, 1, dtype=dtype, requires_grad=True)
    y = torch.zeros(rows, dtype=torch.int64)
    loss = nll.linear_cross_entropy(x, head, y, reduction="sum", max_memory=1)
    (gradient,) = torch.autograd.grad(loss, head)
    assert gradient.flatten().tolist() == [-rows / 2, rows / 2]
