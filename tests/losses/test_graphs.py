"""The losses inside a graph: arguments that hang together, hooks, many gradients at once, tensors
changed meanwhile.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, IN_FLOAT64
from derivatives import LOSSES, points
from pairwise import by_turns
from torch import Tensor
from torch.autograd import gradcheck

import nll


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


def dtype_of(backend: str) -> torch.dtype:
    """Float64, which the kernels of an accelerator do not take."""
    return torch.float32 if backend == "triton" else torch.float64


def close(actual: Tensor, expected: Tensor) -> None:
    loose = (
        {"rtol": 1e-4, "atol": 1e-5}
        if actual.dtype is torch.float32
        else {"rtol": 1e-9, "atol": 1e-10}
    )
    torch.testing.assert_close(actual, expected, **loose)


def leaves(loss, dtype) -> list[Tensor]:
    made = points(dtype)
    return [made[name].clone().requires_grad_() for name in loss.arguments]


def weighted(value: Tensor) -> Tensor:
    """A number that tells every entry from every other."""
    return (
        value * torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)
    ).sum()


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_arguments_made_of_one_tensor(name, create_graph, backend):
    """As a head that is the embedding too: each argument is a function of the one before it and of
    one seed.
    """
    loss = LOSSES[name]
    # log_softmax and nll_loss are PyTorch's own on an accelerator: in float32 they differ by digits
    dtype = torch.float64 if name in ("log_softmax", "nll_loss") else dtype_of(backend)
    seed = torch.linspace(-1.0, 1.0, 7, dtype=dtype)

    def build(seed: Tensor) -> list[Tensor]:
        made, hidden = [], seed.sin().sum()
        for point in (points(dtype)[name] for name in loss.arguments):
            if bool((point > 0).all()):  # weights, probabilities
                made.append(point * (1.0 + 0.1 * hidden.tanh()))
            elif bool((point < 0).all()):
                made.append(point - hidden.square())
            else:
                made.append(point + hidden * seed.mean())
            hidden = hidden + 0.1 * made[-1].mean()
        return made

    results = []
    for function in (loss.ours, loss.plain):
        s = seed.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            weighted(function(*build(s))), s, create_graph=create_graph
        )
        results.append([gradient.detach()])
        if create_graph:
            direction = torch.arange(7, dtype=dtype) - 2.0
            results[-1].append(torch.autograd.grad((gradient * direction).sum(), s)[0])
    for ours, plain in zip(*results, strict=True):
        close(ours, plain)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True")
def test_each_hook_runs_once(name, create_graph, backend):
    loss, dtype = LOSSES[name], dtype_of(backend)
    at = leaves(loss, dtype)
    inner = [tensor * 1.0 for tensor in at]  # not leaves
    calls = []
    for i, tensor in enumerate((*at, *inner)):
        tensor.register_hook(lambda g, i=i: (calls.append(i), 3.0 * g)[1])
    for tensor in inner:
        tensor.retain_grad()
    weighted(loss.ours(*inner)).backward(create_graph=create_graph)
    assert sorted(calls) == list(range(2 * len(at)))
    expected = torch.autograd.grad(weighted(loss.plain(*(plain := leaves(loss, dtype)))), plain)
    for leaf, tensor, truth in zip(at, inner, expected, strict=True):
        close(tensor.grad.detach(), 3.0 * truth)
        close(leaf.grad.detach(), 9.0 * truth)
        leaf.grad = None


@pytest.mark.parametrize("name", LOSSES)
def test_many_upstream_gradients_at_once(name, backend):
    loss, dtype = LOSSES[name], dtype_of(backend)
    at = leaves(loss, dtype)
    value = loss.ours(*at)
    slopes = torch.randn(3, *value.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    one_by_one = [torch.autograd.grad(value, at, slope, retain_graph=True) for slope in slopes]
    for _ in range(2):
        together = torch.autograd.grad(value, at, slopes, is_grads_batched=True, retain_graph=True)
        for i, gradients in enumerate(one_by_one):
            for gradient, many in zip(gradients, together, strict=True):
                close(many[i], gradient)


@pytest.mark.parametrize("backend", IN_FLOAT64, indirect=True)
@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck_with_batches(name, backend):
    loss = LOSSES[name]
    assert gradcheck(loss.ours, leaves(loss, torch.float64), check_batched_grad=True)


@pytest.mark.parametrize("name", LOSSES)
def test_vectorised_jacobian_and_hessian(name, backend):
    loss, dtype = LOSSES[name], dtype_of(backend)
    at = tuple(tensor.detach() for tensor in leaves(loss, dtype))
    functional = torch.autograd.functional
    jacobians = [functional.jacobian(f, at, vectorize=True) for f in (loss.ours, loss.plain)]
    for ours, plain in zip(*jacobians, strict=True):
        close(ours, plain)
    first, *rest = at
    hessians = [
        functional.hessian(lambda x, f=f: weighted(f(x, *rest)), first, vectorize=True)
        for f in (loss.ours, loss.plain)
    ]
    close(*hessians)


def test_many_upstream_gradients_do_not_go_over_the_scores(backend):
    x = torch.randn(6, 9).requires_grad_()
    loss = nll.cross_entropy(x * 1.0, torch.arange(6), inplace_backward=True)
    with pytest.raises(
        RuntimeError, match="expected one upstream gradient with inplace_backward, got a batch"
    ):
        torch.autograd.grad(loss, x, torch.ones(3), is_grads_batched=True)


# ---- Tensors that are changed between the loss and its backward pass -----------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(4, 5), (300, 1000)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1}], ids=["plain", "options"]
)
def test_scores_may_change_before_a_first_backward(shape, reduction, dtype, options):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw).to(dtype).requires_grad_()
    y = torch.randint(0, shape[1], shape[:1], generator=draw)
    expected = torch.autograd.grad(
        0.3 * nll.cross_entropy(x, y, reduction=reduction, **options), x
    )[0]
    s = x * 1.0
    loss = nll.cross_entropy(s, y, reduction=reduction, **options)
    with torch.no_grad():
        s.div_(2.0)
    (0.3 * loss).backward()
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("again", ["float16", "retained", "create_graph"])
def test_where_the_scores_are_read_again_autograd_says_that_they_changed(again):
    dtype = torch.float16 if again == "float16" else torch.float32
    x = (
        torch.randn(300, 1000, generator=torch.Generator().manual_seed(0))
        .to(dtype)
        .requires_grad_()
    )
    s = x * 1.0
    loss = nll.cross_entropy(s, torch.arange(300))
    if again == "retained":
        loss.backward(retain_graph=True)
    with torch.no_grad():
        s.div_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x, create_graph=again == "create_graph")


def test_a_layer_may_change_before_a_first_backward():
    h, head = torch.randn(20, 4, requires_grad=True), torch.randn(30, 4, requires_grad=True)
    y = torch.arange(20)
    expected = torch.autograd.grad(nll.linear_cross_entropy(h, head, y), (h, head))
    loss = nll.linear_cross_entropy(h, head, y)
    with torch.no_grad():
        head.zero_()
    for actual, truth in zip(torch.autograd.grad(loss, (h, head)), expected, strict=True):
        assert torch.equal(actual, truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("ours", [nll.cross_entropy, None], ids=["scores", "layer"])
def test_row_weights_of_zero_are_nan_without_a_gradient_in_every_path(ours, dtype, backend):
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    y, zeros = torch.arange(6), torch.zeros(6)
    for options in (
        {},
        {"label_smoothing": 0.1},
        {"z_loss": 0.1},
        {"weight": torch.ones(9, dtype=dtype)},
    ):
        if ours is None:
            loss = nll.linear_cross_entropy(
                x, torch.eye(9, dtype=dtype), y, row_weights=zeros, **options
            )
        else:
            loss = ours(x, y, row_weights=zeros, **options)
        assert loss.isnan()
        assert torch.equal(torch.autograd.grad(loss, x)[0], torch.zeros_like(x))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}], ids=str)
def test_class_weights_of_zero_leave_no_gradient(options, backend):
    """The mean over nothing is NaN, as PyTorch's; its gradient is 0, as where every row is
    ignored.
    """
    x, y = torch.randn(6, 9, requires_grad=True), torch.arange(6)
    loss = nll.cross_entropy(x, y, torch.zeros(9), **options)
    assert loss.isnan() == ("reduction" not in options)
    assert torch.equal(torch.autograd.grad(loss, x)[0], torch.zeros_like(x))


def test_ours_in_the_place_of_pytorch_s(monkeypatch):
    """The names that a program replaces in a model of somebody else's are not those that ours
    call.
    """
    x, y = torch.randn(40, 50), torch.arange(40)
    calls = {
        "nll_loss": lambda f: f(x.log_softmax(1), y, weight=torch.ones(50)),
        "cross_entropy": lambda f: f(x, y, label_smoothing=0.1),
        "log_softmax": lambda f: f(x, 1),
    }
    expected = {name: call(getattr(F, name)) for name, call in calls.items()}
    for name in calls:
        monkeypatch.setattr(F, name, getattr(nll, name))
        monkeypatch.setattr(torch, name, getattr(nll, name), raising=False)
    for backend in BACKENDS:
        with nll.use_backend(backend):
            for name, call in calls.items():
                torch.testing.assert_close(call(getattr(F, name)), expected[name])
            nll.token_statistics(x, y, entropy=True)
            nll.linear_kl_divergence(x, torch.ones(9, 50), x, torch.ones(9, 50))


# ---- Hooks on what the graph saves: offloading, checkpoints --------------------------------------


def penalty(loss, at: list[Tensor]) -> Tensor:
    """A function of the first gradients, as in adversarial training."""
    value = weighted(loss(*at))
    gradients = torch.autograd.grad(value, at[:1], create_graph=True)
    return value + sum(g.square().sum() for g in gradients)


@pytest.mark.parametrize(
    ("name", "backend", "how"),
    by_turns(
        [name for name in LOSSES if "sampled" not in name],
        BACKENDS,
        ["offloaded", "checkpoint", "reentrant checkpoint"],
    ),
    indirect=["backend"],
)
def test_saved_tensor_hooks_and_checkpoints(name, how, backend):
    loss, dtype = LOSSES[name], dtype_of(backend)
    function = (
        (lambda *t: weighted(loss.ours(*t)))
        if "reentrant" in how
        else (lambda *t: penalty(loss.ours, list(t)))
    )
    at = leaves(loss, dtype)
    expected = torch.autograd.grad(function(*at), at)
    at = leaves(loss, dtype)
    if how == "offloaded":
        with torch.autograd.graph.save_on_cpu():
            function(*(t * 1.0 for t in at)).backward()
    else:
        run = torch.utils.checkpoint.checkpoint
        run(
            lambda *t: function(*(x * 1.0 for x in t)), *at, use_reentrant="reentrant" in how
        ).backward()
    for leaf, truth in zip(at, expected, strict=True):
        close(leaf.grad, truth)


@pytest.mark.parametrize("shape", [(4, 5), (300, 1000)], ids=str)
def test_what_others_raise_inside_a_loss_is_passed_on(shape):
    class StopError(Exception):
        pass

    def pack(tensor):
        calls.append(tensor)
        raise StopError

    calls = []
    x, y = torch.randn(shape, requires_grad=True), torch.zeros(shape[0], dtype=torch.int64)
    with (
        pytest.raises(StopError),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        nll.cross_entropy(x, y)
    assert len(calls) == 1
