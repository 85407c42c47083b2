"""Where results lie: with the tensors, whatever the default device, in memory like PyTorch's
own.
"""

from __future__ import annotations

import gc
import io
import subprocess
import sys

import derivatives
import pytest
import torch
from cases import BACKENDS
from derivatives import LABELS, LOSSES, points
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import nll
from nll.kernels import memory

ESTIMATION = """
import torch, nll
from torch.distributions import Gamma, Normal, Weibull
x = [3.0, 0.1, 2.0, 4.0, 1.0, 2.0]
found = []
for device in ("cpu", "meta"):
    torch.set_default_device(device)
    fit = nll.fit(Gamma, x)
    low, high = fit.interval(method="profile")["rate"]
    found.append([
        float(fit.params["rate"]), float(low), float(high), fit.test({"rate": 1.0}, "lr").p_value,
        float(fit.bootstrap(10).standard_errors["rate"]), float(fit.nll),
        float(nll.fit(nll.mixture(Normal, 2), [*x, 9.0, 9.5, 8.8]).nll),
        float(nll.SoftmaxRegression()
              .fit([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]).predict_proba([[1.5]])[0, 0]),
        str(nll.compare([Gamma, Weibull], x)),
    ])
assert found[0] == found[1], found
"""


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


def run(loss, at, dtype):
    tensors = [at[name].detach().clone().requires_grad_() for name in loss.arguments]
    value = loss.ours(*tensors)
    slope = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype, device="cpu").view(
        value.shape
    )
    return value.detach(), *torch.autograd.grad(value, tensors, slope)


@pytest.mark.parametrize("name", LOSSES)
def test_results_lie_with_the_tensors_whatever_the_default_device(name, backend):
    at = points(torch.float32)
    torch.manual_seed(0)
    expected = run(LOSSES[name], at, torch.float32)
    torch.manual_seed(0)
    with torch.device("meta"):
        found = run(LOSSES[name], at, torch.float32)
    for ours, truth in zip(found, expected, strict=True):
        assert ours.device.type == "cpu"
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif("triton" not in BACKENDS, reason="triton is not installed")
def test_the_memory_in_which_an_accelerator_reports_labels_is_the_host_s():
    from nll.kernels.triton import labels

    labels._offenders.clear()
    x, y = torch.randn(4, 5), torch.arange(4)
    with nll.use_backend("triton"), torch.device("meta"):
        torch.testing.assert_close(nll.cross_entropy(x, y), torch.nn.functional.cross_entropy(x, y))


@pytest.mark.parametrize("rows", [4, 3000])
def test_large_results_too(rows):
    x, y = torch.randn(rows, 700), torch.zeros(rows, dtype=torch.int64)
    with torch.device("meta"):
        assert nll.log_softmax(x, 1).device.type == "cpu"
        assert nll.cross_entropy(x.requires_grad_(), y).device.type == "cpu"
        assert nll.perplexity(nll.token_statistics(x, y)).value > 0.0


def test_estimation_on_a_processor_whatever_the_default_device():
    subprocess.run([sys.executable, "-c", ESTIMATION], check=True)


# ---- Tensors without memory ----------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_fake_tensors_give_fake_results(name, backend):
    with FakeTensorMode():
        at = {key: torch.empty(t.shape) for key, t in points(torch.float32).items()}
        labels = torch.empty(LABELS.shape, dtype=torch.int64)
    if "mean" in name and "linear" not in name and "nll" not in name:
        run_fake_scores(at, labels)
    real = LOSSES[name].ours(*[points(torch.float32)[key] for key in LOSSES[name].arguments])
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensors = [torch.empty(at[key].shape).requires_grad_() for key in LOSSES[name].arguments]
        value = LOSSES[name].ours(*tensors)
        assert isinstance(value, FakeTensor)
        assert (value.shape, value.dtype, value.device) == (real.shape, real.dtype, real.device)
        value.sum().backward()
        for tensor in tensors:
            assert (tensor.grad.shape, tensor.grad.dtype) == (tensor.shape, tensor.dtype)


def run_fake_scores(at, labels):
    """Without the mode at work: the tensors bring it along."""
    scores = at["scores"].requires_grad_()
    nll.cross_entropy(scores, labels, label_smoothing=0.1).backward()
    nll.nll_loss(scores, labels).backward()


@pytest.mark.parametrize("name", LOSSES)
def test_tensors_on_meta(name, backend, monkeypatch):
    made = points(torch.float32)
    tensors = [made[key].to("meta").requires_grad_() for key in LOSSES[name].arguments]
    monkeypatch.setattr(derivatives, "LABELS", LABELS.to("meta"))
    value = LOSSES[name].ours(*tensors)
    assert value.device.type == "meta"
    value.sum().backward()
    assert all(tensor.grad.device.type == "meta" for tensor in tensors)


def test_a_layer_on_meta():
    x, head = (torch.empty(n, 4, device="meta", requires_grad=True) for n in (6, 9))
    y = torch.empty(6, dtype=torch.int64, device="meta")
    losses = {
        "linear_cross_entropy": nll.linear_cross_entropy(x, head, y),
        "token_statistics": nll.token_statistics(x, y, linear_weight=head, topk=2).log_prob.sum(),
        "linear_kl_divergence": nll.linear_kl_divergence(x, head, x, head),
        "sampled_cross_entropy": nll.sampled_cross_entropy(x, head, y, 5),
        "cross_entropy": nll.cross_entropy(x, y),
        "nll_loss": nll.nll_loss(x, y),
    }
    for loss in losses.values():
        assert loss.shape == ()
        loss.backward()


def test_real_tensors_under_a_fake_mode_do_not_end_the_process():
    x, y = torch.randn(300, 1000), torch.zeros(300, dtype=torch.int64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert nll.cross_entropy(x, y).shape == ()


# ---- Numbers that are to be negated, or conjugated, when they are read ---------------------------


@pytest.mark.parametrize("size", [(6, 9), (300, 1000)], ids=str)
def test_lazily_negated_tensors(size, backend):
    """Scores, probabilities, weights and what comes from above, each as a view that says: read me
    negated.
    """
    if backend == "triton" and size[0] > 6:
        pytest.skip("minutes in the interpreter")
    draw = torch.Generator().manual_seed(0)
    x, slope = (torch.randn(size, generator=draw) for _ in range(2))
    q, y = torch.rand(size, generator=draw), torch.randint(0, size[1], size[:1], generator=draw)
    weight, row_weights = torch.rand(size[1], generator=draw), torch.rand(size[0], generator=draw)

    def lazily(tensor):
        view = torch._neg_view(-tensor)
        assert view.is_neg()
        return view

    def strided(tensor):
        return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag

    for lazy in (lazily, strided):
        results = []
        for f in (lambda t: t, lazy):
            z = x.clone().requires_grad_()
            s = f(z)
            given = {"weight": f(weight), "row_weights": f(row_weights)}
            rows = [
                nll.cross_entropy(s, y, reduction="none"),
                nll.cross_entropy(s, y, label_smoothing=0.1, **given),
                nll.cross_entropy(s, f(q), weight=f(weight)),
                nll.nll_loss(s, y, reduction="none"),
                nll.token_statistics(s, y, entropy=True).log_prob,
                nll.linear_cross_entropy(
                    s, f(x[:50]), y % min(50, size[0]), row_weights=f(row_weights)
                ),
            ]
            grads = [
                torch.autograd.grad(
                    r, z, f(slope[:, 0]) if r.dim() else f(torch.tensor(2.0)), retain_graph=True
                )[0]
                for r in rows
            ]
            log_p = nll.log_softmax(s, 1)
            grads.append(torch.autograd.grad(log_p, z, f(slope))[0])
            if not f(x).is_neg():
                grads.append(
                    torch.autograd.grad(nll.cross_entropy(z * 1.0, y, inplace_backward=True), z)[0]
                )
            else:
                grads.append(
                    torch.autograd.grad(nll.cross_entropy(f(z * 1.0), y, inplace_backward=True), z)[
                        0
                    ]
                )
            results.append([*rows, log_p, *grads])
        for ours, truth in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6)


# ---- Memory like PyTorch's own -------------------------------------------------------------------


def large_gradient() -> torch.Tensor:
    x = torch.randn(1024, 1024, requires_grad=True)
    nll.cross_entropy(x, torch.zeros(1024, dtype=torch.int64)).backward()
    return x.grad


def test_storages_can_be_freed_resized_and_saved():
    gradient = large_gradient()
    assert gradient.untyped_storage().nbytes() == gradient.numel() * 4
    file = io.BytesIO()
    torch.save(gradient, file)
    assert file.getbuffer().nbytes < gradient.numel() * 4 + 10_000
    gradient.untyped_storage().resize_(0)
    head = torch.randn(20000, 64, requires_grad=True)
    nll.linear_cross_entropy(torch.randn(8, 64), head, torch.zeros(8, dtype=torch.int64)).backward()
    head.grad.untyped_storage().resize_(0)
    assert nll.log_softmax(torch.randn(1024, 1024), 1).resize_(2048, 1024).shape == (2048, 1024)


@pytest.mark.parametrize("how", ["freed", "shared", "kept in a view"])
def test_memory_that_somebody_else_has_is_not_used_again(how):
    memory.release()
    gradient = large_gradient()
    address = gradient.data_ptr()
    if how == "freed":
        gradient.untyped_storage().resize_(0)
        del gradient
    elif how == "shared":
        gradient.share_memory_()
        before = gradient.clone()
    else:
        view = gradient[5:7].numpy()
        before = view.copy()
        del gradient
    gc.collect()
    another = large_gradient()
    if how == "kept in a view":
        assert another.data_ptr() != address
        assert (view == before).all()
    elif how == "shared":
        assert torch.equal(gradient, before)
    assert another.isfinite().all()


def test_the_memory_of_a_gradient_that_is_gone_is_used_again():
    memory.release()
    gradient = large_gradient()
    address = gradient.data_ptr()
    del gradient
    gc.collect()
    assert memory.retained_bytes() == 1024 * 1024 * 4
    assert large_gradient().data_ptr() == address
    memory.release()
    assert memory.retained_bytes() == 0
