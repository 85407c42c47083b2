"""Masks of allowed classes in the compiled loops: every layout and reach of a mask, against the
definition in float64.
"""

from __future__ import annotations

import pytest
import torch

import nll
from nll.kernels import cpu, reference
from nll.kernels.types import Options

pytestmark = pytest.mark.skipif(cpu.MISSING is not None, reason="no compiled library")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# one vector, side by side, long, a block, blocks of which some have no class, several blocks
SHAPES = [(3, 5), (40, 160), (2, 7, 33), (3, 170), (2, 4096), (1, 9000), (3, 9000), (4100,)]
OPTIONS = {
    "plain": Options(reduction="sum"),
    "mean with smoothing": Options(label_smoothing=0.1),
    "softcap and z-loss": Options(reduction="sum", softcap=12.0, temperature=0.8, z_loss=0.01),
    "all smoothing": Options(label_smoothing=1.0),
}


def masks(shape, draw):
    """Of the classes and of each row: some, the first few, all but a hole, none in many blocks."""
    classes = shape[0] if len(shape) == 1 else shape[1]
    ones = [1] * max(len(shape) - 2, 0)
    at = torch.arange(classes)
    few = at < max(classes // 3, 1)
    yield "some", torch.rand(classes, generator=draw) < 0.5
    yield "first", few
    yield "a hole", (at < classes // 4) | (at >= classes - classes // 8 - 1)
    yield "all", at >= 0
    yield "by row", torch.rand(shape, generator=draw) < 0.7
    yield "first by row", few.view(-1, *ones).expand(shape).clone()


def labels(allowed, shape, draw):
    """An allowed class of each row; the first, if there is none."""
    dim = 0 if len(shape) == 1 else 1
    full = allowed.view(-1, *[1] * max(len(shape) - 2, 0)) if allowed.dim() == 1 else allowed
    weights = full.expand(shape).double().movedim(dim, -1).reshape(-1, shape[dim]) + 1e-30
    drawn = torch.multinomial(weights, 1, generator=draw)
    return full, drawn.view([n for i, n in enumerate(shape) if i != dim])


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masked_losses_and_gradients(shape, options, isa):
    draw = torch.Generator().manual_seed(sum(shape))
    before = cpu.instruction_set()
    cpu.use_instructions(isa)
    try:
        for name, allowed in masks(shape, draw):
            full, y = labels(allowed, shape, draw)
            for dtype in DTYPES:
                x = (4 * torch.randn(shape, generator=draw)).to(dtype)
                dirty = x.masked_fill(~full, torch.nan)  # what is not allowed is not read
                weight = torch.rand(x.shape[0 if x.dim() == 1 else 1], generator=draw)
                for w in (None, weight):
                    check(f"{name} {dtype} {w is None}", dirty, x, y, w, full, options)
    finally:
        cpu.use_instructions(before)


def check(name, dirty, x, y, weight, allowed, options):
    point = x.double().requires_grad_()
    true = reference.cross_entropy(
        point, y, None if weight is None else weight.double(), None, allowed, options
    )
    (slope,) = torch.autograd.grad(true, point)
    if weight is not None and x.dtype is torch.float64:
        weight = weight.double()
    loss, sums, gradient = cpu.cross_entropy(dirty, y, weight, None, allowed, options, True)
    again = cpu.cross_entropy_backward(dirty, y, weight, None, allowed, options, sums, None, False)
    exact = x.dtype is torch.float64
    tolerance = 1e-12 if exact else 3e-6
    half = {torch.bfloat16: 8e-3, torch.float16: 1e-3}.get(x.dtype, tolerance)
    torch.testing.assert_close(loss.double(), true.detach(), rtol=tolerance, atol=tolerance)
    room = half * float(slope.abs().max()) + (1e-15 if exact else 3e-7)  # of p - 1, p near 1
    for g in (gradient, again):
        torch.testing.assert_close(g.double(), slope, rtol=half, atol=room, msg=name)
        assert not g[~allowed.expand_as(g)].any()


@pytest.mark.parametrize("classes", [6, 500, 9000])
def test_rows_without_a_class_and_labels_that_are_not_allowed(classes):
    x = torch.randn(4, classes)
    allowed = torch.ones(4, classes, dtype=torch.bool)
    allowed[0] = False
    y = torch.tensor([1, 2, 3, classes - 1])
    allowed[1, 2] = allowed[3, classes - 1] = False
    x.requires_grad_()
    rows = nll.cross_entropy(x, y, allowed_classes=allowed, reduction="none")
    assert rows[0].isnan()
    assert rows[1] == rows[3] == torch.inf
    with nll.use_backend("cpu"):
        ours = nll.cross_entropy(x, y, allowed_classes=allowed, reduction="none")
        (gradient,) = torch.autograd.grad(ours[1:].sum(), x)
    torch.testing.assert_close(ours, rows, equal_nan=True)
    assert not gradient[~allowed].any()
    # the others are pushed down as by any label that cannot be reached
    torch.testing.assert_close(gradient[1].sum(), torch.tensor(1.0))


@pytest.mark.parametrize("classes", [7, 4096, 5000])
def test_probabilities_of_classes_that_are_not_allowed_cost_infinitely(classes):
    x, allowed = torch.randn(3, classes), torch.arange(classes) < classes - 3
    q = torch.rand(3, classes)
    q[:2, -3:] = 0.0
    q /= q.sum(1, keepdim=True)
    with nll.use_backend("cpu"):
        rows = nll.cross_entropy(x, q, allowed_classes=allowed, reduction="none")
    usual = nll.cross_entropy(x[:2, :-3], q[:2, :-3], reduction="none")
    torch.testing.assert_close(rows[:2], usual)
    assert rows[2] == torch.inf


def test_a_rows_result_does_not_depend_on_its_company_nor_on_threads():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(9, 9000, generator=draw)
    allowed = torch.rand(9, 9000, generator=draw) < 0.5
    y = labels(allowed, (9, 9000), draw)[1]
    with nll.use_backend("cpu"):
        rows = nll.cross_entropy(x, y, allowed_classes=allowed, reduction="none")
        alone = [
            nll.cross_entropy(x[i : i + 1], y[i : i + 1], allowed_classes=allowed[i : i + 1])
            for i in range(9)
        ]
    assert torch.equal(rows, torch.stack(alone))
