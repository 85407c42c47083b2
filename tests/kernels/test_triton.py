"""What the Triton kernels promise beyond the case table; on a processor they run under Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import nll
from nll import _backends, _linear
from nll.kernels.reference import Options

pytestmark = pytest.mark.skipif(_backends.TRITON_MISSING is not None, reason=f"{_backends.TRITON_MISSING}")
ROOT = Path(__file__).parent.parent.parent
DEVICE = "cpu" if _backends.INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def triton():
    with nll.use_backend("triton"):
        yield


@pytest.fixture
def kernels():
    from nll import _autograd

    return _autograd.TRITON.kernels


@pytest.fixture
def late(kernels, monkeypatch):
    """As on an accelerator, which is not waited for: wrong labels are told of later."""
    monkeypatch.setattr(kernels, "_poll_at_once", lambda input: None)


def problem(rows: int = 5, classes: int = 7, dtype: torch.dtype = torch.float32):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, classes, generator=draw).to(dtype).to(DEVICE).requires_grad_()
    return x, torch.randint(0, classes, (rows,), generator=draw).to(DEVICE)


@pytest.mark.parametrize("wrong", [7, -1, 2**40, -(2**40)])
def test_a_wrong_label_is_nan_and_is_told_of_later(wrong, late):
    x, y = problem()
    truth = F.cross_entropy(x, y, reduction="none").detach()
    y[3] = wrong
    rows = nll.cross_entropy(x, y, reduction="none")
    assert rows[3].isnan()
    torch.testing.assert_close(rows[:3].detach(), truth[:3])
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    with pytest.raises(IndexError, match=rf"labels in \[0, 6\] or ignore_index=-100, got {wrong} at row 3"):
        nll.cross_entropy(*problem())
    nll.cross_entropy(*problem())  # once is enough


def test_a_wrong_label_has_no_gradient_and_is_told_of_at_backward(late, kernels):
    x, y = problem()
    y[3] = 7
    loss = nll.cross_entropy(x, y)
    with pytest.raises(IndexError, match="got 7 at row 3"):
        torch.autograd.grad(loss, x)
    *_, gradient = kernels.cross_entropy(x.detach(), y, None, None, Options(reduction="sum"), True)
    assert gradient[3].count_nonzero() == 0
    assert gradient[:3].isfinite().all()
    with pytest.raises(IndexError):
        nll.check_labels()


def test_labels_that_no_kernel_of_a_loss_reads_are_looked_at():
    from nll.kernels.triton import labels

    y = torch.tensor([[3, 0], [9, -100], [8, 1]], device=DEVICE)
    labels.look(y, 4, -100)
    with pytest.raises(IndexError, match=r"labels in \[0, 3\] or ignore_index=-100, got 9 at row 2"):
        nll.check_labels()
    labels.look(y, 10, -100)
    nll.check_labels()


@pytest.mark.parametrize("loss", [nll.cross_entropy, nll.nll_loss])
def test_check_labels_asks_now(loss, late):
    x, y = problem()
    nll.check_labels()
    y[[1, 4]] = torch.tensor([9, 8], device=DEVICE)
    assert loss(x, y).isnan()
    with pytest.raises(IndexError, match="got 9 at row 1"):
        nll.check_labels()
    nll.check_labels()


def test_the_linear_layer_s_labels_are_checked_too(late, kernels):
    x, y = problem()
    y[2] = 7
    options = Options(reduction="sum")
    kernels.cross_entropy_block(x.detach().clone(), y, None, None, options, True)
    with pytest.raises(IndexError, match="got 7 at row 2"):
        nll.check_labels()


@pytest.mark.parametrize("factor", [1.0, 0.25, 3.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_upstream_gradient(factor, dtype):
    x, y = problem(dtype=dtype)
    loss = nll.cross_entropy(x, y)
    first, second = (torch.autograd.grad(factor * loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)  # the one that came with the loss, and one computed for this factor
    truth = torch.autograd.grad(factor * F.cross_entropy(x.double(), y), x)[0]
    torch.testing.assert_close(first, truth.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-7)


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
@pytest.mark.parametrize("shape", [(3, 8192), (2, 8193), (2, 20000), (2, 100, 33), (70, 9), (1, 1, 40)], ids=str)
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
            slope = torch.linspace(-1.0, 1.0, log_p.numel(), dtype=log_p.dtype, device=DEVICE).view(log_p.shape)
            gradients = [torch.autograd.grad(t, input)[0] for t in (loss, in_place, (slope * log_p).sum())]
            results.append([t.detach().double() for t in (loss, in_place, log_p, *gradients)])
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=2e-6, atol=2e-6 * float(truth.abs().max()))


def test_statistics(kernels):
    draw = torch.Generator().manual_seed(0)
    for classes in (5, 600, 5000):
        z = torch.randn(9, classes, generator=draw).to(DEVICE)
        z[0, 1:] = -torch.inf
        y = torch.randint(0, classes, (9,), generator=draw).to(DEVICE)
        y[0] = 0
        z[1, y[1]] = z[1].max()  # equal scores: the first counts
        found = kernels.statistics_block(z, y, 0.7, 3.0 if classes == 600 else None, True)
        with nll.use_backend("reference"):
            truth = _backends.choose(z).statistics_block(z.double(), y, 0.7, 3.0 if classes == 600 else None, True)
        for ours, true in zip(found[:3], truth[:3], strict=True):
            torch.testing.assert_close(ours.double(), true, rtol=1e-5, atol=1e-5)
        assert torch.equal(found.rank, truth.rank)


def test_rows_that_are_kept_come_first_without_asking_the_device():
    draw = torch.Generator().manual_seed(0)
    x, head = torch.randn(20, 4, generator=draw).requires_grad_(), torch.randn(9, 4, generator=draw).requires_grad_()
    y = torch.randint(0, 9, (20,), generator=draw)
    y[::3] = -100
    kept = int((y != -100).sum())
    given = _linear.Problem(x, head, None, y, None, torch.rand(20, generator=draw), None)
    for reduction in ("mean", "sum", "none"):
        options = Options(reduction=reduction, label_smoothing=0.1)
        whole = _linear.cross_entropy(given, options, None)
        for count in (kept, kept + 3):
            first = _linear.cross_entropy_of_first(given, options, None, count)
            torch.testing.assert_close(first, whole)
            gradients = [torch.autograd.grad(t.sum(), (x, head), retain_graph=True) for t in (first, whole)]
            torch.testing.assert_close(*gradients)
        assert _linear.cross_entropy_of_first(given, options, None, kept - 1).isnan().all()
    with pytest.raises(ValueError, match=f"at most valid_rows=5 labels that are not ignored, got {kept}"):
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
        "import sys, torch, nll; x = torch.randn(500, 600, requires_grad=True); y = torch.zeros(500).long();"
        "nll.cross_entropy(x, y).backward(); nll.explain(nll.cross_entropy, x, y); nll.check_labels();"
        "assert not any(name.split('.')[0] == 'triton' for name in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_every_kernel_compiles_for_absent_accelerators_and_spills_nothing():
    run = subprocess.run([sys.executable, ROOT / "benchmarks" / "offline.py"], capture_output=True, text=True)
    rows = [line for line in run.stdout.splitlines() if "_kernel |" in line]
    assert run.returncode == 0, run.stderr[-2000:] or [row for row in rows if row.count(", 0 |") != 3]
    assert len(rows) > 60


@pytest.mark.slow
def test_the_benchmark_of_accelerators_runs(tmp_path):
    found = tmp_path / "found.json"
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--device", DEVICE, "--rounds", "1", "--json", found]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "| nll, in place |" in run.stdout
    losses = {case: result["nll"]["errors"][0] for case, result in json.loads(found.read_text()).items() if "(" in case}
    assert max(losses.values()) < 1e-3, losses
