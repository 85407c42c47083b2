"""Digits: what all scores have in common costs none; shapes and sizes at the edge; numbers beyond
the range of exp.
"""

from __future__ import annotations

import math

import pytest
import torch
from cases import BACKENDS
from torch import Tensor

import nll

ROWS, CLASSES, TOP = 6, 40, 3
LABELS = torch.tensor([0, 39, 7, 7, 20, 3])


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


def scores(constant: float) -> Tensor:
    """Multiples of 1/4, which float32 holds with the constant too: the same differences to the last
    bit.
    """
    draw = torch.Generator().manual_seed(0)
    return torch.randint(-20, 20, (ROWS, CLASSES), generator=draw) / 4.0 + constant


def statistics(z: Tensor) -> Tensor:
    found = nll.token_statistics(z, LABELS, entropy=True, topk=TOP)
    return torch.cat([found.log_prob[:, None], found.entropy[:, None], found.topk_log_prob], 1)


def truth(z: Tensor) -> Tensor:
    log_p = z.double().log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1, keepdim=True)
    return torch.cat([log_p.gather(1, LABELS[:, None]), entropy, log_p.topk(TOP, 1).values], 1)


WAYS = {
    "eager": statistics,
    "compiled": lambda z: torch.compile(statistics, backend="aot_eager", fullgraph=True)(z),
    "func": lambda z: torch.func.vmap(lambda z: statistics(z))(z[None])[0],
    "jvp": lambda z: torch.func.jvp(statistics, (z,), (torch.ones_like(z),))[0],
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("constant", [0.0, 1e4, 1e6])
@pytest.mark.parametrize("way", WAYS)
def test_statistics(way, constant, backend):
    torch._dynamo.reset()
    z = scores(constant)
    torch.testing.assert_close(WAYS[way](z).double(), truth(z), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("constant", [0.0, 1e4, 1e6])
def test_gradients_of_statistics(constant, backend):
    z = scores(constant)
    slope = torch.tensor([1.0, 0.7])
    x, t = z.clone().requires_grad_(), z.double().requires_grad_()
    for order in (1, 2):
        gradients = []
        for point, function in ((x, statistics), (t, truth)):
            value = (function(point)[:, :2] * slope.to(point.dtype)).sum()
            (g,) = torch.autograd.grad(value, point, create_graph=order == 2)
            if order == 2:
                (g,) = torch.autograd.grad(
                    (g * torch.linspace(0, 1, CLASSES, dtype=g.dtype)).sum(), point
                )
            gradients.append(g.detach())
        torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("constant", [0.0, 1e4, 1e6])
def test_losses(constant, backend):
    """By the scores and, with a bias that all classes share, by a layer."""
    z = scores(constant)
    expected = -truth(z)[:, 0]
    rows = nll.cross_entropy(z, LABELS, reduction="none")
    x, head = z - constant, torch.eye(CLASSES)
    bias = torch.full((CLASSES,), constant)
    of_layer = nll.linear_cross_entropy(x, head, LABELS, linear_bias=bias, reduction="none")
    for ours in (rows, of_layer):
        torch.testing.assert_close(ours.double(), expected, rtol=2e-6, atol=2e-6)
    q = scores(0.0).flip(1)
    divergence = nll.linear_kl_divergence(
        x, head, q, head, linear_bias=bias, target_bias=bias, reduction="none"
    )
    log_p, log_q = (t.double().log_softmax(1) for t in (z, q))
    torch.testing.assert_close(
        divergence.double(), (log_q.exp() * (log_q - log_p)).sum(1), rtol=5e-6, atol=5e-6
    )


def test_perplexity_beyond_the_range_of_exp():
    found = nll.token_statistics(torch.tensor([[0.0, 2000.0], [0.0, 1500.0]]), torch.tensor([0, 0]))
    value = nll.perplexity(found)
    assert value.value == math.inf
    assert value.standard_error == math.inf
    assert nll.perplexity(
        nll.token_statistics(torch.zeros(2, 3), torch.tensor([0, 1]))
    ).value == pytest.approx(3.0)


@pytest.mark.parametrize("head", [False, True])
def test_one_label_of_no_dimension(head, backend):
    z, h = torch.randn(5), torch.randn(3)
    weights = torch.randn(5, 3)
    input = h if head else z
    options = {"linear_weight": weights} if head else {}
    found = nll.token_statistics(input, torch.tensor(2), entropy=True, topk=2, **options)
    log_p = (weights @ h if head else z).log_softmax(0)
    assert found.log_prob.shape == found.rank.shape == found.kept.shape == ()
    assert found.topk_index.shape == (2,)
    torch.testing.assert_close(found.log_prob, log_p[2])
    for clusters in ("token", "sequence"):
        assert nll.perplexity(found, clusters=clusters).n == 1
        assert nll.accuracy([found, found], clusters=clusters).n == 2
    torch.testing.assert_close(
        nll.linear_cross_entropy(h, weights, torch.tensor(2)), -(weights @ h).log_softmax(0)[2]
    )
    many = torch.func.vmap(lambda x, y: nll.token_statistics(x, y).log_prob)(
        torch.zeros(4, 5), torch.arange(4)
    )
    torch.testing.assert_close(many, torch.full((4,), -math.log(5.0)))


def test_batches_of_nothing(backend):
    empty = nll.token_statistics(torch.zeros(0, 3, 4), torch.zeros(0, 3, dtype=torch.long))
    some = nll.token_statistics(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long))
    for clusters in ("token", "sequence"):
        assert nll.perplexity([empty, some], clusters=clusters) == nll.perplexity(
            some, clusters=clusters
        )
        assert math.isnan(nll.perplexity(empty, clusters=clusters).value)


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_of_no_features_has_its_bias_for_scores(bias, backend):
    x, head = torch.zeros(4, 0, requires_grad=True), torch.zeros(5, 0, requires_grad=True)
    b = torch.randn(5, requires_grad=True) if bias else None
    y = torch.arange(4)
    z = torch.zeros(4, 5) if b is None else b.detach().expand(4, 5)
    losses = [
        nll.linear_cross_entropy(x, head, y, linear_bias=b),
        -nll.token_statistics(x, y, linear_weight=head, linear_bias=b).log_prob.mean(),
        nll.sampled_cross_entropy(x, head, y, 5, linear_bias=b),
    ]
    for loss in losses:
        torch.testing.assert_close(loss.detach(), -z.log_softmax(1)[torch.arange(4), y].mean())
        loss.backward()
    assert x.grad.shape == (4, 0)
    assert head.grad.shape == (5, 0)
    assert nll.linear_kl_divergence(x, head, x, head, linear_bias=b, target_bias=b).abs() < 1e-6


def test_no_classes_for_no_rows(backend):
    x, head, y = (
        torch.zeros(0, 3, requires_grad=True),
        torch.zeros(0, 3, requires_grad=True),
        torch.zeros(0).long(),
    )
    nll.linear_cross_entropy(x, head, y, reduction="sum").backward()
    assert nll.linear_cross_entropy(x, head, y).isnan()
    assert nll.linear_cross_entropy(x, head, y, reduction="none").shape == (0,)
    assert nll.token_statistics(x, y, linear_weight=head).log_prob.shape == (0,)
    assert nll.token_statistics(torch.zeros(0, 0), y, entropy=True).entropy.shape == (0,)
    assert nll.cross_entropy(torch.zeros(0, 0), y, reduction="none").shape == (0,)
    assert nll.linear_kl_divergence(x, head, x, head, reduction="none").shape == (0,)
    with pytest.raises(ValueError, match=r"expected logits of shape \(\.\.\., C\), got \(2, 0\)"):
        nll.token_statistics(torch.zeros(2, 0), torch.zeros(2).long())


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("constant", [0.0, 1e4, 1e6])
def test_gradients_of_logsumexp(constant, create_graph, backend):
    """p, to the last digits: as a statistic, and in a z-loss, where it is multiplied by 2 lse."""
    z = scores(constant)
    p = z.double().softmax(1)
    allowed = torch.ones(CLASSES, dtype=torch.bool)
    lse = z.double().logsumexp(1, keepdim=True)
    by_z_loss = 2.0 * lse * p / ROWS + (p - torch.nn.functional.one_hot(LABELS, CLASSES)) / ROWS
    functions = {
        "statistic": (lambda x: nll.token_statistics(x, LABELS).lse.sum(), p),
        "z-loss": (lambda x: nll.cross_entropy(x, LABELS, z_loss=1.0), by_z_loss),
        "z-loss, mask": (
            lambda x: nll.cross_entropy(x, LABELS, z_loss=1.0, allowed_classes=allowed),
            by_z_loss,
        ),
    }
    for function, expected in functions.values():
        x = z.clone().requires_grad_()
        (g,) = torch.autograd.grad(function(x), x, create_graph=create_graph)
        torch.testing.assert_close(
            g.detach().double(), expected, rtol=5e-6, atol=5e-6 * float(expected.abs().max())
        )
