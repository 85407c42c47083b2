"""A linear layer's loss by the kernels of an accelerator, on a processor under Triton's
interpreter, against float64: every option, whole and in blocks, with and without a bias.
"""

from __future__ import annotations

import pytest
import torch
from cases import DEVICES
from pairwise import by_turns

import nll
from nll.losses import dispatch

pytestmark = pytest.mark.skipif(
    dispatch.TRITON_MISSING is not None, reason=f"{dispatch.TRITON_MISSING}"
)
DEVICE = DEVICES["triton"].type
ROWS, FEATURES, CLASSES = 37, 16, 300


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


LABELS = torch.randint(280, (ROWS,), generator=draw())
MASK = torch.rand(ROWS, CLASSES, generator=draw()) < 0.9
MASK.scatter_(1, LABELS[:, None], True)
LABELS[3] = -100
OPTIONS = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "each row": {"reduction": "none"},
    "smoothed": {"label_smoothing": 0.1, "z_loss": 1e-2},
    "row weights": {"row_weights": torch.rand(ROWS, generator=draw())},
    "class weights": {"weight": torch.rand(CLASSES, generator=draw())},
    "masked rows": {"allowed_classes": MASK},
    "masked and capped": {
        "allowed_classes": torch.arange(CLASSES) < 280,
        "softcap": 5.0,
    },
}


def results(backend: str, tensors: list[torch.Tensor], options: dict, memory: int | None):
    x, weight, *bias = tensors
    on = {
        name: value.to(x.device) if isinstance(value, torch.Tensor) else value
        for name, value in options.items()
    }
    if x.dtype is torch.float64:
        on = {
            name: value.double() if name in ("weight", "row_weights") else value
            for name, value in on.items()
        }
    with nll.use_backend(backend):
        loss = nll.linear_cross_entropy(
            x,
            weight,
            LABELS.to(x.device),
            linear_bias=bias[0] if bias else None,
            max_memory=memory,
            **on,
        )
        total = loss if loss.dim() == 0 else (loss * torch.arange(ROWS, device=x.device))[:20].sum()
        return loss, torch.autograd.grad(0.7 * total, tensors)


@pytest.mark.parametrize(
    ("options", "bias", "memory", "dtype"),
    by_turns(
        OPTIONS,
        [False, True],
        [None, 10 * CLASSES * 4],
        [torch.float32, torch.bfloat16, torch.float16],
    ),
)
def test_value_and_gradients(options, bias, memory, dtype):
    shapes = [(ROWS, FEATURES), (CLASSES, FEATURES), *[(CLASSES,)] * bias]
    generator = draw()
    tensors = [
        (torch.randn(shape, generator=generator) / 2).to(DEVICE, dtype).requires_grad_()
        for shape in shapes
    ]
    precise = [t.detach().double().requires_grad_() for t in tensors]
    loss, gradients = results("triton", tensors, OPTIONS[options], memory)
    truth, of_truth = results("reference", precise, OPTIONS[options], memory)
    assert loss.dtype is torch.float32
    eps = torch.finfo(dtype).eps
    for ours, right in ((loss, truth), *zip(gradients, of_truth, strict=True)):
        finite = right.isfinite()
        assert torch.equal(ours.isfinite(), finite)
        scale = float(right.detach()[finite].abs().max())
        torch.testing.assert_close(
            ours.detach().double()[finite], right.detach()[finite], rtol=0, atol=8 * eps * scale
        )


def test_a_second_backward_pass_and_other_factors():
    x = torch.randn(ROWS, FEATURES, generator=draw()).to(DEVICE).requires_grad_()
    weight = torch.randn(CLASSES, FEATURES, generator=draw()).to(DEVICE).requires_grad_()
    y = torch.randint(CLASSES, (ROWS,), generator=draw()).to(DEVICE)
    with nll.use_backend("triton"):
        loss = nll.linear_cross_entropy(x, weight, y, max_memory=1 << 14)
        first = torch.autograd.grad(3 * loss, (x, weight), retain_graph=True)
        second = torch.autograd.grad(loss, (x, weight))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, 3 * b, rtol=1e-5, atol=1e-7)


def test_no_row_is_kept():
    x = torch.randn(5, FEATURES, generator=draw()).to(DEVICE).requires_grad_()
    weight = torch.randn(CLASSES, FEATURES, generator=draw()).to(DEVICE).requires_grad_()
    y = torch.full((5,), -100, device=DEVICE)
    with nll.use_backend("triton"):
        loss = nll.linear_cross_entropy(x, weight, y)
        gradients = torch.autograd.grad(loss, (x, weight))
    assert loss.isnan()
    assert all(g.count_nonzero() == 0 for g in gradients)
