"""What the Triton kernels promise beyond the case table; on a processor they run under Triton's
interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import DEVICES
from pairwise import by_turns

import nll
from nll.kernels.types import Options
from nll.losses import dispatch
from nll.losses.layer import linear

pytestmark = pytest.mark.skipif(
    dispatch.TRITON_MISSING is not None, reason=f"{dispatch.TRITON_MISSING}"
)
ROOT = Path(__file__).parent.parent.parent
DEVICE = DEVICES["triton"].type


@pytest.fixture(autouse=True)
def triton():
    with nll.use_backend("triton"):
        yield


@pytest.fixture
def kernels():
    from nll.losses import autograd

    return autograd.TRITON.kernels


@pytest.fixture
def late(kernels, monkeypatch):
    """As on an accelerator, which is not waited for: wrong labels are told of later."""
    monkeypatch.setattr(kernels, "poll_interpreter", lambda input: None)


def problem(rows: int = 5, classes: int = 7, dtype: torch.dtype = torch.float32):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, classes, generator=draw).to(dtype).to(DEVICE).requires_grad_()
    return x, torch.randint(0, classes, (rows,), generator=draw).to(DEVICE)


def wait() -> None:
    """For the device, which tells of a wrong label when it comes to it."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


@pytest.mark.parametrize("wrong", [7, -1, 2**40, -(2**40)])
def test_a_wrong_label_is_nan_and_is_told_of_later(wrong, late):
    x, y = problem()
    truth = F.cross_entropy(x, y, reduction="none").detach()
    y[3] = wrong
    rows = nll.cross_entropy(x, y, reduction="none")
    assert rows[3].isnan()
    torch.testing.assert_close(rows[:3].detach(), truth[:3])
    wait()
    with pytest.raises(
        IndexError,
        match=rf"labels in \[0, 6\] or ignore_index=-100, got {wrong} "
        rf"at row 3",
    ):
        nll.cross_entropy(*problem())
    nll.cross_entropy(*problem())  # once is enough


def test_a_wrong_label_has_no_gradient_and_is_told_of_at_backward(late, kernels):
    x, y = problem()
    y[3] = 7
    loss = nll.cross_entropy(x, y)
    wait()
    with pytest.raises(IndexError, match="got 7 at row 3"):
        torch.autograd.grad(loss, x)
    *_, gradient = kernels.cross_entropy(
        x.detach(), y, None, None, None, Options(reduction="sum"), True
    )
    assert gradient[3].count_nonzero() == 0
    assert gradient[:3].isfinite().all()
    with pytest.raises(IndexError):
        nll.check_labels()


def test_labels_that_no_kernel_of_a_loss_reads_are_looked_at():
    from nll.kernels.triton import labels

    y = torch.tensor([[3, 0], [9, -100], [8, 1]], device=DEVICE)
    labels.look(y, 4, -100)
    with pytest.raises(
        IndexError,
        match=r"labels in \[0, 3\] or ignore_index=-100, got 9 at row "
        r"2",
    ):
        nll.check_labels()
    labels.look(y, 10, -100)
    nll.check_labels()


def test_check_labels_asks_now(late):
    x, y = problem()
    nll.check_labels()
    y[[1, 4]] = torch.tensor([9, 8], device=DEVICE)
    assert nll.cross_entropy(x, y).isnan()
    with pytest.raises(IndexError, match="got 9 at row 1"):
        nll.check_labels()
    nll.check_labels()


def test_the_linear_layer_s_labels_are_checked_too(late, kernels):
    x, y = problem()
    y[2] = 7
    options = Options(reduction="sum")
    kernels.cross_entropy_block(x.detach().clone(), y, None, None, None, options, True)
    with pytest.raises(IndexError, match="got 7 at row 2"):
        nll.check_labels()


@pytest.mark.parametrize("factor", [1.0, 0.25, 3.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_upstream_gradient(factor, dtype):
    x, y = problem(dtype=dtype)
    loss = nll.cross_entropy(x, y)
    first, second = (torch.autograd.grad(factor * loss, x, retain_graph=True)[0] for _ in range(2))
    truth = torch.autograd.grad(factor * F.cross_entropy(x.double(), y), x)[0]
    # The one that came with the loss is rounded once more than one that is computed for this
    # factor.
    for gradient, roundings in ((first, 2), (second, 1)):
        torch.testing.assert_close(
            gradient, truth.to(dtype), rtol=roundings * torch.finfo(dtype).eps, atol=1e-7
        )


@pytest.mark.parametrize(
    ("dtype", "gap", "offset"),
    by_turns([torch.float32, torch.bfloat16], [0, 3, 8, 500], [0, 1]),
)
def test_rows_that_lie_apart_or_begin_anywhere(dtype, offset, gap):
    """The gradient has a factor, and nothing between the rows is written."""
    rows, classes = 6, 301
    memory = torch.randn(
        offset + rows * (classes + gap), generator=torch.Generator().manual_seed(0)
    )
    memory = memory.to(dtype).to(DEVICE)
    x = memory[offset:].view(rows, classes + gap)[:, :classes].requires_grad_()
    y = torch.arange(rows, device=DEVICE) * 50
    (gradient,) = torch.autograd.grad(3 * nll.cross_entropy(x, y), x)
    truth = torch.autograd.grad(3 * F.cross_entropy(x.double(), y), x)[0]
    torch.testing.assert_close(
        gradient, truth.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-7
    )
    computed = memory[offset:].view(rows, classes + gap).clone()
    between = computed[:, classes:].clone()
    seen = computed[:, :classes].requires_grad_()
    loss = nll.cross_entropy(Shared.apply(seen), y, inplace_backward=True)
    torch.autograd.grad(3 * loss, seen)
    torch.testing.assert_close(
        seen.detach(), truth.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-7
    )
    assert torch.equal(computed[:, classes:], between)


class Shared(torch.autograd.Function):
    """What a model computes: logits in the memory of the argument."""

    @staticmethod
    def forward(ctx, x):
        return x.detach()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("classes", [5, 300, 9000])
def test_a_row_has_the_same_bits_in_any_company(classes):
    x, y = problem(40, classes)
    rows = nll.cross_entropy(x, y, reduction="none")
    (gradient,) = torch.autograd.grad(rows.sum(), x)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:11].to(DEVICE)
    some = x.detach()[order].requires_grad_()
    again = nll.cross_entropy(some, y[order], reduction="none")
    assert torch.equal(again, rows[order])
    assert torch.equal(torch.autograd.grad(again.sum(), some)[0], gradient[order])


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 3.0}])
@pytest.mark.parametrize(
    "shape", [(3, 8192), (2, 8193), (2, 20000), (2, 100, 33), (70, 9), (1, 1, 40)], ids=str
)
def test_tiles_of_every_kind(shape, options):
    draw = torch.Generator().manual_seed(0)
    x = (5.0 * torch.randn(shape, generator=draw)).to(DEVICE).requires_grad_()
    y = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=draw).to(DEVICE)
    results = []
    for name, input in (("triton", x), ("reference", x.detach().double().requires_grad_())):
        with nll.use_backend(name):
            loss = nll.cross_entropy(input, y, **options)
            in_place = nll.cross_entropy(1.0 * input, y, inplace_backward=True, **options)
            log_p = nll.log_softmax(input, 1)
            slope = torch.linspace(-1.0, 1.0, log_p.numel(), dtype=log_p.dtype, device=DEVICE).view(
                log_p.shape
            )
            gradients = [
                torch.autograd.grad(t, input)[0] for t in (loss, in_place, (slope * log_p).sum())
            ]
            results.append([t.detach().double() for t in (loss, in_place, log_p, *gradients)])
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=2e-6, atol=2e-6 * float(truth.abs().max()))


EVERYTHING = {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 3.0, "temperature": 0.7}
ONES = [
    (1, 1),
    (1, 5),
    (6, 1),
    (1, 1, 1),
    (1, 1, 4),
    (1, 5, 1),
    (1, 5, 4),
    (3, 1, 1),
    (3, 1, 4),
    (3, 5, 1),
    (1, 1, 1, 1),
    (2, 1, 1, 3),
    (1, 5, 2, 1),
]


def values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What our losses and statistics make of scores of this shape, whichever backend it is."""
    draw = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=draw).to(DEVICE, dtype)

    x = (6.0 * drawn(*shape) - 3.0).requires_grad_()
    rows = shape[0], *shape[2:]
    y = torch.randint(0, shape[1], rows, generator=draw).to(DEVICE)
    q = drawn(*shape)
    weights = {"weight": drawn(shape[1]) + 0.5, "row_weights": drawn(*rows) + 0.5}
    log_p = torch.log_softmax(x.detach(), 1).requires_grad_()
    found = {}

    def add(name: str, values: torch.Tensor, by: torch.Tensor) -> None:
        slopes = torch.linspace(0.5, 1.5, values.numel()).view(values.shape).to(values)
        (gradient,) = torch.autograd.grad(values, by, slopes, retain_graph=True)
        found.update({name: values.detach().double(), f"gradient of {name}": gradient.double()})

    for reduction in ("none", "mean"):
        for target, of in ((y, "labels"), (q, "probabilities")):
            for options in ({}, {**EVERYTHING, **weights}):
                loss = nll.cross_entropy(x, target, reduction=reduction, **options)
                add(f"cross_entropy of {of}, {len(options)} options, {reduction}", loss, x)
        for ignore_index in (1, 16, 2**40):
            loss = nll.cross_entropy(x, y, ignore_index=ignore_index, reduction=reduction)
            add(f"cross_entropy that ignores {ignore_index}, {reduction}", loss, x)
            loss = nll.nll_loss(log_p, y, ignore_index=ignore_index, reduction=reduction)
            add(f"nll_loss that ignores {ignore_index}, {reduction}", loss, log_p)
        add(f"nll_loss, {reduction}", nll.nll_loss(log_p, y, reduction=reduction), log_p)
    for dim in range(len(shape)):
        add(f"log_softmax along {dim}", nll.log_softmax(x, dim), x)
    scores = x.movedim(1, -1)
    for options in ({}, {"temperature": 0.7, "softcap": 3.0}):
        asked = nll.token_statistics(scores, y, entropy=True, **options)
        for name in ("log_prob", "lse", "entropy"):
            add(f"{name}, {len(options)} options", getattr(asked, name), x)
        for name in ("correct", "rank"):
            found[f"{name}, {len(options)} options"] = getattr(asked, name)
    return found


@pytest.mark.parametrize("shape", ONES, ids=str)
def test_ones_in_every_place(shape):
    # A launch makes constants of sizes and strides that are 1: on a device these are other kernels.
    ours = values_and_gradients(shape, torch.float32)
    with nll.use_backend("reference"):
        truth = values_and_gradients(shape, torch.float64)
    for name, value in ours.items():
        torch.testing.assert_close(
            value,
            truth[name],
            rtol=5e-6,
            atol=5e-6,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_a_wrong_label_where_there_is_one_class(late):
    x, y = problem(classes=1)
    y[2] = 1
    rows = nll.cross_entropy(x, y, reduction="none")
    assert torch.equal(rows.isnan(), y == 1)
    with pytest.raises(IndexError, match=r"labels in \[0, 0\] .*, got 1 at row 2"):
        nll.check_labels()


def test_statistics(kernels):
    draw = torch.Generator().manual_seed(0)
    for classes in (5, 600, 5000):
        z = torch.randn(9, classes, generator=draw).to(DEVICE)
        z[0, 1:] = -torch.inf
        y = torch.randint(0, classes, (9,), generator=draw).to(DEVICE)
        y[0] = 0
        z[1, y[1]] = z[1].max()  # equal scores: the first counts
        found = kernels.statistics_block(z, y, None, 0.7, 3.0 if classes == 600 else None, True)
        with nll.use_backend("reference"):
            truth = dispatch.route(z).kernels.statistics_block(
                z.double(), y, None, 0.7, 3.0 if classes == 600 else None, True
            )
        for ours, true in zip(found[:3], truth[:3], strict=True):
            torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=1e-5)
        assert torch.equal(found.rank, truth.rank)


def test_rows_that_are_kept_come_first_without_asking_the_device():
    draw = torch.Generator().manual_seed(0)
    x, head = (torch.randn(n, 4, generator=draw).to(DEVICE).requires_grad_() for n in (20, 9))
    y = torch.randint(0, 9, (20,), generator=draw).to(DEVICE)
    y[::3] = -100
    kept = int((y != -100).sum())
    given = linear.Problem(x, head, None, y, None, torch.rand(20, generator=draw).to(DEVICE), None)
    for reduction in ("mean", "sum", "none"):
        options = Options(reduction=reduction, label_smoothing=0.1)
        whole = linear.cross_entropy(given, options, None)
        for count in (kept, kept + 3):
            first = linear.cross_entropy_of_first(given, options, None, count)
            torch.testing.assert_close(first, whole)
            gradients = [
                torch.autograd.grad(t.sum(), (x, head), retain_graph=True) for t in (first, whole)
            ]
            torch.testing.assert_close(*gradients)
        assert linear.cross_entropy_of_first(given, options, None, kept - 1).isnan().all()
    with pytest.raises(
        ValueError, match=f"at most valid_rows=5 labels that are not ignored, got {kept}"
    ):
        nll.linear_cross_entropy(x, head, y, valid_rows=5)
    torch.testing.assert_close(
        nll.linear_cross_entropy(x, head, y, valid_rows=kept), nll.linear_cross_entropy(x, head, y)
    )


def test_what_a_kernel_cannot_do_goes_to_the_reference():
    x, y = problem()
    assert nll.explain(nll.cross_entropy, x, y).backend == "triton"
    assert "float64" in nll.explain(nll.cross_entropy, x.double(), y).reason
    assert nll.explain(nll.cross_entropy, x.to("meta"), y.to("meta")).backend == "reference"


def test_without_an_accelerator_triton_is_not_imported():
    code = (
        "import sys, torch, nll; x = torch.randn(500, 600, requires_grad=True); y = "
        "torch.zeros(500).long();"
        "nll.cross_entropy(x, y).backward(); nll.explain(nll.cross_entropy, x, y); "
        "nll.check_labels();"
        "assert not any(name.split('.')[0] == 'triton' for name in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.slow
def test_the_benchmark_of_accelerators_runs(tmp_path):
    found = tmp_path / "found.json"
    command = [
        sys.executable,
        ROOT / "benchmarks" / "gpu.py",
        "--device",
        DEVICE,
        "--rounds",
        "1",
        "--json",
        found,
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "| nll, in place |" in run.stdout
    losses = {
        case: result["nll"]["errors"][0]
        for case, result in json.loads(found.read_text()).items()
        if "(" in case
    }
    assert max(losses.values()) < 1e-3, losses
