"""What users ask of a loss: the rows of a table in docs/losses.md, each with the test that shows
it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nll
from nll.losses.layer import block_sizes

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"
ROWS, FEATURES, CLASSES = 6, 3, 5
LOSSES = ["cross_entropy", "linear_cross_entropy"]


class Given:
    """Features, a head, labels; the loss of the scores, or of the layer in blocks of a row or
    two.
    """

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        draw = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return (
                torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
            )

        self.x, self.head, self.bias = (
            normal(ROWS, FEATURES),
            normal(CLASSES, FEATURES),
            normal(CLASSES),
        )
        self.y = torch.randint(0, CLASSES, (ROWS,), generator=draw)
        self.q = torch.softmax(normal(ROWS, CLASSES).detach(), 1).requires_grad_()

    def scores(self) -> Tensor:
        return F.linear(self.x, self.head)

    def loss(
        self, name: str, target: Tensor | None = None, x: Tensor | None = None, **options
    ) -> Tensor:
        x, target = self.x if x is None else x, self.y if target is None else target
        if name == "cross_entropy":
            return nll.cross_entropy(F.linear(x, self.head), target, **options)
        return nll.linear_cross_entropy(x, self.head, target, max_memory=200, **options)


def same(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def agree(given: Given, ours: Tensor, theirs: Tensor) -> None:
    """The values, and the gradients by features and head."""
    same(ours, theirs)
    leaves = given.x, given.head
    gradients = [
        torch.autograd.grad(loss.sum(), leaves, retain_graph=True) for loss in (ours, theirs)
    ]
    same(*gradients)


@pytest.fixture
def given() -> Given:
    return Given()


def test_no_full_scores(given):
    plan = nll.explain(nll.linear_cross_entropy, given.x, given.head, given.y, max_memory=200)
    assert plan.rows is not None
    assert plan.rows < ROWS
    agree(given, given.loss("linear_cross_entropy"), F.cross_entropy(given.scores(), given.y))


@pytest.mark.parametrize("name", LOSSES)
def test_class_weights(name, given):
    weight = torch.linspace(0.5, 2.0, CLASSES, dtype=torch.float64)
    agree(given, given.loss(name, weight=weight), F.cross_entropy(given.scores(), given.y, weight))


@pytest.mark.parametrize("name", LOSSES)
def test_ignore_index(name, given):
    given.y[::2] = -7
    agree(
        given,
        given.loss(name, ignore_index=-7),
        F.cross_entropy(given.scores(), given.y, ignore_index=-7),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_label_smoothing(name, given):
    agree(
        given,
        given.loss(name, label_smoothing=0.2),
        F.cross_entropy(given.scores(), given.y, label_smoothing=0.2),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_class_probabilities(name, given):
    q = given.q.detach()
    agree(given, given.loss(name, q), F.cross_entropy(given.scores(), q))


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_by_class_probabilities(name, given):
    (ours,) = torch.autograd.grad(given.loss(name, given.q), given.q)
    (theirs,) = torch.autograd.grad(F.cross_entropy(given.scores(), given.q), given.q)
    same(ours, theirs)


def test_further_dimensions():
    x, y = torch.randn(2, 5, 3, 4, dtype=torch.float64), torch.randint(0, 5, (2, 3, 4))
    same(nll.cross_entropy(x, y), F.cross_entropy(x, y))


def test_leading_dimensions(given):
    shaped = nll.linear_cross_entropy(
        given.x.view(2, 3, FEATURES), given.head, given.y.view(2, 3), reduction="none"
    )
    same(shaped, F.cross_entropy(given.scores(), given.y, reduction="none").view(2, 3))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_reductions(name, reduction, given):
    agree(
        given,
        given.loss(name, reduction=reduction),
        F.cross_entropy(given.scores(), given.y, reduction=reduction),
    )


def test_bias(given):
    ours = nll.linear_cross_entropy(given.x, given.head, given.y, linear_bias=given.bias)
    agree(given, ours, F.cross_entropy(F.linear(given.x, given.head, given.bias), given.y))


@pytest.mark.parametrize("name", LOSSES)
def test_z_loss(name, given):
    z = given.scores()
    agree(
        given,
        given.loss(name, z_loss=0.1),
        F.cross_entropy(z, given.y) + 0.1 * z.logsumexp(1).square().mean(),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_softcap(name, given):
    agree(
        given,
        given.loss(name, softcap=0.7),
        F.cross_entropy(0.7 * torch.tanh(given.scores() / 0.7), given.y),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_temperature(name, given):
    agree(given, given.loss(name, temperature=0.3), F.cross_entropy(given.scores() / 0.3, given.y))


@pytest.mark.parametrize("name", LOSSES)
def test_row_weights(name, given):
    r = torch.linspace(0.5, 2.0, ROWS, dtype=torch.float64)
    rows = F.cross_entropy(given.scores(), given.y, reduction="none")
    agree(given, given.loss(name, row_weights=r), (r * rows).sum() / r.sum())


@pytest.mark.parametrize("name", LOSSES)
def test_allowed_classes(name, given):
    allowed = torch.arange(CLASSES) != 4
    given.y[given.y == 4] = 0
    z = given.scores()[:, :4]
    agree(given, given.loss(name, allowed_classes=allowed), F.cross_entropy(z, given.y))


@pytest.mark.parametrize("layer", [False, True])
def test_differentiable_logsumexp_entropy_and_log_probability(layer, given):
    z = given.scores()
    found = (
        nll.token_statistics(
            given.x, given.y, linear_weight=given.head, entropy=True, max_memory=200
        )
        if layer
        else nll.token_statistics(z, given.y, entropy=True)
    )
    log_p = z.log_softmax(1)
    assert found.entropy is not None
    agree(given, found.lse, z.logsumexp(1))
    agree(given, found.entropy, -(log_p.exp() * log_p).sum(1))
    agree(given, found.log_prob, log_p.gather(1, given.y[:, None])[:, 0])


def test_accuracy_and_top_k(given):
    found = nll.token_statistics(given.x, given.y, linear_weight=given.head, topk=2)
    best = given.scores().log_softmax(1).topk(2)
    same(found.topk_log_prob, best.values.detach())
    assert torch.equal(found.topk_index, best.indices)
    assert torch.equal(found.correct, given.scores().argmax(1) == given.y)
    assert nll.accuracy(found).value == found.correct.double().mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_sums(dtype):
    # 4000 rows that each add 1/2 to the head's gradient, one at a time: in the half types the sum
    # would stop at 256, or 1024.
    x, head = torch.ones(4000, 1, dtype=dtype), torch.zeros(2, 1, dtype=dtype, requires_grad=True)
    loss = nll.linear_cross_entropy(
        x, head, torch.zeros(4000, dtype=torch.int64), reduction="sum", max_memory=1
    )
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, head)[0].flatten().tolist() == [-2000.0, 2000.0]


@pytest.mark.parametrize("name", LOSSES)
def test_exact(name):
    # No term is dropped for being small: a class with probability 1e-12 has the gradient 1e-12.
    x = torch.tensor([[0.0, -27.631]], dtype=torch.float64, requires_grad=True)
    eye, y = torch.eye(2, dtype=torch.float64), torch.tensor([0])
    loss = (
        nll.cross_entropy(x, y) if name == "cross_entropy" else nll.linear_cross_entropy(x, eye, y)
    )
    p = torch.sigmoid(x.detach()[0, 1])
    same(torch.autograd.grad(loss, x)[0], torch.stack([-p, p])[None])


# PyTorch's forward mode
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives_forward_mode_and_vmap(name, given):
    def ours(x):
        return given.loss(name, x=x)

    def theirs(x):
        return F.cross_entropy(F.linear(x, given.head), given.y)

    x, v = given.x.detach(), given.q.detach()[:, :FEATURES]
    for transform in (
        lambda f: torch.func.jvp(f, (x,), (v,)),
        lambda f: torch.func.hessian(f)(x),
        lambda f: torch.autograd.functional.hvp(f, x, v),
        lambda f: torch.vmap(f)(torch.stack([x, v])),
    ):
        same(transform(ours), transform(theirs))


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_in_one_graph(name, given):
    torch.compiler.reset()
    compiled = torch.compile(lambda x: given.loss(name, x=x), fullgraph=True, backend="aot_eager")
    agree(given, compiled(given.x), given.loss(name))


@pytest.mark.parametrize("name", LOSSES)
def test_repeatable(name, given):
    def bits():
        return torch.autograd.grad(given.loss(name), (given.x, given.head))

    first = bits()
    assert all(torch.equal(a, b) for _ in range(5) for a, b in zip(first, bits(), strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_labels_are_checked(name, given):
    given.y[4] = CLASSES
    with pytest.raises(IndexError, match="got 5 at row 4"):
        given.loss(name)


@pytest.mark.parametrize("name", LOSSES)
def test_no_wait_for_the_device(name):
    # Tensors without memory: asking one for its value raises.
    given = Given()
    for key in ("x", "head", "y"):
        setattr(given, key, getattr(given, key).to("meta"))
    weight = torch.ones(CLASSES, dtype=torch.float64, device="meta")
    loss = given.loss(name, z_loss=0.1, label_smoothing=0.1, weight=weight)
    gradients = torch.autograd.grad(loss, (given.x, given.head))
    assert [gradient.shape for gradient in gradients] == [given.x.shape, given.head.shape]


def test_sampled_softmax(given):
    same(
        nll.sampled_cross_entropy(given.x, given.head, given.y, CLASSES),
        F.cross_entropy(given.scores(), given.y),
    )


@pytest.mark.parametrize("name", LOSSES)
def test_float8_is_refused(name, given):
    scores, x = given.scores().to(torch.float8_e4m3fn), given.x.to(torch.float8_e4m3fn)
    arguments = (scores, given.y) if name == "cross_entropy" else (x, given.head, given.y)
    with pytest.raises(
        NotImplementedError,
        match=r"float32, float64, bfloat16 or float16, got "
        r"float8_e4m3fn",
    ):
        getattr(nll, name)(*arguments)


def in_a_shard(rank: int, port: int) -> None:
    """Two processes, each with half of the classes."""
    from torch import distributed
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
    from torch.distributed.tensor.parallel import loss_parallel

    os.environ.update(
        MASTER_ADDR="localhost", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2"
    )
    distributed.init_process_group("gloo")
    mesh, given = init_device_mesh("cpu", (2,)), Given()
    full = given.scores().detach().requires_grad_()
    z = distribute_tensor(full.detach(), mesh, [Shard(1)]).requires_grad_()
    y = distribute_tensor(given.y, mesh, [Replicate()])
    with loss_parallel():
        loss = nll.cross_entropy(z, y, temperature=0.7)
        loss.backward()
    truth = nll.cross_entropy(full, given.y, temperature=0.7)
    same(loss.full_tensor(), truth.detach())  # type: ignore[attr-defined]
    same(z.grad.full_tensor(), torch.autograd.grad(truth, full)[0])  # type: ignore[union-attr]
    for options in (
        {"label_smoothing": 0.1},
        {"target": distribute_tensor(given.q.detach(), mesh, [Shard(1)])},
    ):
        with (
            loss_parallel(),
            pytest.raises(RuntimeError, match="expected logits whose classes are in one place"),
        ):
            nll.cross_entropy(z, **{"target": y, **options})
    head = distribute_tensor(given.head.detach(), mesh, [Shard(0)])
    with pytest.raises(
        TypeError,
        match=r"expected linear_weight to be a plain Tensor, got "
        r"DTensor: .*\(full_tensor\)",
    ):
        nll.linear_cross_entropy(given.x, head, given.y)
    distributed.destroy_process_group()


def test_classes_over_processes():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    here = str(Path(__file__).parent)
    run = (
        "import sys; sys.path.insert(0, {!r}); import test_features; "
        "test_features.in_a_shard({}, {})"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", run.format(here, rank, port)]) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]


def test_processors_without_amx_multiply_half_types_in_float32(given):
    x, head = given.x.bfloat16(), given.head.bfloat16()
    fast = block_sizes.multiplies_fast(x)
    assert block_sizes.plan(x, head, None).dtype is (torch.bfloat16 if fast else torch.float32)


def test_the_page_names_every_test():
    table = PAGE.read_text(encoding="utf-8").split("## Features")[1].split("\n## ")[0]
    named = set(re.findall(r"`(test_\w+)`", table))
    here = {name for name in globals() if name.startswith("test_")} - {
        "test_the_page_names_every_test"
    }
    assert named == here
