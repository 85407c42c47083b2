"""Statistics of labels, judged by their formulas on the scores as a whole, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BACKENDS
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import nll


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request):
    with nll.use_backend(request.param):
        yield


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def labels(*shape: int, classes: int, ignored: int = 3) -> Tensor:
    y = torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(9))
    y.view(-1)[::ignored] = -100
    return y


def formula(z: Tensor, y: Tensor, topk: int) -> tuple[Tensor, ...]:
    """log p, lse, entropy, correct, rank, the largest log p and their classes; of ignored rows
    too.
    """
    log_p = z.log_softmax(-1)
    picked = log_p.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    entropy = torch.special.entr(log_p.exp()).sum(-1)
    order = torch.argsort(z, dim=-1, descending=True, stable=True)
    rank = (order == y.unsqueeze(-1)).int().argmax(-1)
    top = log_p.gather(-1, order[..., :topk])
    return picked, z.logsumexp(-1), entropy, order[..., 0] == y, rank, top, order[..., :topk]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "softcap": 2.0}])
@pytest.mark.parametrize("budget", [1, 3000, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_statistics_of_a_linear_layer(dtype, budget, options):
    x, head, bias = (
        normal(4, 6, 5, dtype=dtype),
        normal(30, 5, seed=1, dtype=dtype),
        normal(30, seed=2, dtype=dtype),
    )
    y = labels(4, 6, classes=30)
    layer = {"linear_weight": head, "linear_bias": bias}
    found = nll.token_statistics(x, y, entropy=True, topk=4, max_memory=budget, **layer, **options)
    z = torch.nn.functional.linear(x, head, bias).double()
    if options:
        z = 2.0 * torch.tanh(z / 2.0) / 0.7
    log_p, lse, entropy, correct, rank, top, index = formula(z, y, 4)
    kept = y != -100
    assert torch.equal(found.kept, kept)
    tolerance = (
        {"rtol": 1e-12, "atol": 1e-12} if dtype is torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    )
    for actual, truth in (
        (found.log_prob, log_p),
        (found.lse, lse),
        (found.entropy, entropy),
        (found.topk_log_prob, top),
    ):
        assert actual.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(actual[kept].double(), truth[kept], **tolerance)
        assert actual[~kept].count_nonzero() == 0
    if dtype is torch.float64:  # no ties by rounding
        assert torch.equal(found.correct, correct & kept)
        assert torch.equal(found.rank, torch.where(kept, rank, -1))
        assert torch.equal(found.topk_index[kept], index[kept])


def test_statistics_of_scores_are_those_of_a_layer():
    x, head, y = normal(12, 5), normal(30, 5, seed=1), labels(12, classes=30)
    of_layer = nll.token_statistics(x, y, linear_weight=head, entropy=True, topk=2)
    of_scores = nll.token_statistics(x @ head.T, y, entropy=True, topk=2, max_memory=1000)
    for a, b in zip(of_layer, of_scores, strict=True):
        torch.testing.assert_close(a, b)


def test_log_probability_is_minus_the_cross_entropy():
    x, head, y = normal(12, 5), normal(30, 5, seed=1), labels(12, classes=30)
    loss = nll.linear_cross_entropy(x, head, y, reduction="none", softcap=3.0)
    torch.testing.assert_close(
        nll.token_statistics(x, y, linear_weight=head, softcap=3.0).log_prob, -loss
    )


@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_derivatives(check):
    y = labels(5, classes=7)
    at = tuple(t.requires_grad_() for t in (normal(5, 3), normal(7, 3, seed=1), normal(7, seed=2)))

    def statistics(x, head, bias):
        found = nll.token_statistics(
            x,
            y,
            linear_weight=head,
            linear_bias=bias,
            entropy=True,
            topk=2,
            temperature=0.8,
            max_memory=1000,
        )
        assert not found.rank.requires_grad
        assert not found.topk_log_prob.requires_grad
        return found.log_prob, found.lse, found.entropy

    assert check(statistics, at)


# PyTorch's forward mode
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_torch_func():
    x, head, y = normal(6, 3), normal(7, 3, seed=1), labels(6, classes=7)

    def total(x):
        found = nll.token_statistics(x, y, linear_weight=head, entropy=True, max_memory=1000)
        return (found.log_prob * torch.arange(6) + found.entropy.square()).sum()

    def plain(x):
        log_p, _, entropy, *_ = formula(x @ head.T, y, 1)
        kept = y != -100
        return (
            torch.where(kept, log_p, 0.0) * torch.arange(6)
            + torch.where(kept, entropy, 0.0).square()
        ).sum()

    v = normal(6, 3, seed=3)
    for transform in (
        lambda f: torch.func.grad(f)(x),
        lambda f: torch.func.jvp(f, (x,), (v,)),
        lambda f: torch.func.jvp(torch.func.grad(f), (x,), (v,)),
        lambda f: torch.func.hessian(f)(x),
        lambda f: torch.vmap(f)(torch.stack([x, v])),
    ):
        torch.testing.assert_close(transform(total), transform(plain))


def test_compiled():
    x, head, y = normal(6, 3).requires_grad_(), normal(7, 3, seed=1), labels(6, classes=7)

    def total(x):
        found = nll.token_statistics(x, y, linear_weight=head, entropy=True, topk=2)
        return (found.log_prob + found.entropy).sum()

    torch.compiler.reset()
    value = torch.compile(total, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(value, total(x))
    torch.testing.assert_close(torch.autograd.grad(value, x), torch.autograd.grad(total(x), x))


def test_of_equal_scores_the_first_is_the_largest():
    found = nll.token_statistics(torch.zeros(3, 4), torch.tensor([0, 1, 3]), topk=1)
    assert found.correct.tolist() == [True, False, False]
    assert found.rank.tolist() == [0, 1, 3]


def test_infinite_scores():
    z = torch.tensor([[0.0, -torch.inf, 1.0]], requires_grad=True)
    found = nll.token_statistics(z, torch.tensor([2]), entropy=True)
    p = 1.0 / (1.0 + math.exp(-1.0))
    assert found.entropy.item() == pytest.approx(
        -p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-6
    )
    (gradient,) = torch.autograd.grad(found.entropy.sum(), z)
    assert gradient.isfinite().all()


def test_perplexity_and_accuracy():
    z, y = normal(8, 10, 20), labels(8, 10, classes=20)
    batches = [nll.token_statistics(z[i : i + 2], y[i : i + 2]) for i in range(0, 8, 2)]
    kept = y != -100
    loss = torch.nn.functional.cross_entropy(z.flatten(0, 1), y.flatten(), reduction="none")[
        kept.flatten()
    ]
    found = nll.perplexity(batches)
    assert found.n == kept.sum()
    assert found.value == pytest.approx(loss.mean().exp().item(), rel=1e-12)
    assert found.standard_error == pytest.approx(
        (loss.std() / len(loss) ** 0.5 * loss.mean().exp()).item(), rel=1e-10
    )
    assert nll.perplexity(iter(batches)) == found
    right = nll.accuracy(nll.token_statistics(z, y))
    assert right.value == pytest.approx((z.argmax(-1) == y)[kept].double().mean().item())


def test_labels_of_one_sequence_are_not_independent():
    # Each label counted twice is no more known: by sequence the error stays, by token it falls by
    # sqrt(2).
    z, y = normal(40, 1, 20), labels(40, 1, classes=20, ignored=100)
    once, twice = (
        nll.token_statistics(z, y),
        nll.token_statistics(z.expand(40, 2, 20), y.expand(40, 2)),
    )
    by_sequence = [nll.perplexity(s, clusters="sequence").standard_error for s in (once, twice)]
    assert by_sequence[1] == pytest.approx(by_sequence[0], rel=1e-10)
    by_token = [nll.perplexity(s).standard_error for s in (once, twice)]
    assert by_token[1] == pytest.approx(by_token[0] / 2**0.5, rel=0.02)


def test_standard_error_covers():
    # 95 of 100 intervals of plus and minus 1.96 errors should hold the truth, a share of 0.5;
    # sequences of 5 labels that agree with each other.
    draw = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(400):
        right = (torch.rand(60, 1, generator=draw) < 0.5).expand(60, 5)
        z = torch.stack([right.double(), 0.5 * torch.ones(60, 5, dtype=torch.float64)], -1)
        found = nll.accuracy(
            nll.token_statistics(z, torch.zeros(60, 5, dtype=torch.int64)), clusters="sequence"
        )
        covered += abs(found.value - 0.5) < 1.96 * found.standard_error
    assert 0.92 < covered / 400 < 0.98


def test_nothing_counts():
    found = nll.perplexity(nll.token_statistics(torch.zeros(2, 3), torch.tensor([-100, -100])))
    assert math.isnan(found.value)
    assert found.n == 0


BAD = [
    ({"target": torch.tensor([0, 5])}, IndexError, r"labels in \[0, 4\].*got 5 at row 1"),
    ({"target": torch.tensor([0])}, ValueError, r"rows' shape \(2,\), got \(1,\)"),
    ({"target": torch.tensor([0.0, 1.0])}, RuntimeError, "labels of type int64"),
    ({"topk": 6}, ValueError, r"topk in \[0, 5\], got 6"),
    ({"topk": 1.0}, TypeError, "topk to be an int"),
    ({"linear_bias": torch.ones(5)}, ValueError, "linear_bias with a linear_weight only"),
    ({"input": torch.tensor(1.0)}, ValueError, r"logits of shape \(..., C\)"),
    ({"temperature": 0.0}, ValueError, "temperature above 0"),
    ({"max_memory": -1}, ValueError, "at least 1, got -1"),
]


@pytest.mark.parametrize(("wrong", "kind", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input(wrong, kind, message):
    with pytest.raises(kind, match=message):
        nll.token_statistics(**{"input": torch.ones(2, 5), "target": torch.tensor([0, 1]), **wrong})


def test_bad_clusters():
    with pytest.raises(
        ValueError, match="expected clusters to be 'token' or 'sequence', got 'document'"
    ):
        nll.perplexity([], clusters="document")


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("with_head", [False, True])
def test_allowed_classes_are_those_that_are_left(with_head, by_row, softcap):
    """The statistics are those of the allowed classes alone."""
    classes, n = 30, 12
    x, head = normal(n, classes, seed=4), None
    if with_head:
        x, head = normal(n, 5), normal(classes, 5, seed=1)
    z = x if head is None else x @ head.T
    few = torch.arange(classes) % 3 != 1
    allowed = few.expand(n, classes).clone() if by_row else few
    position = torch.arange(20)  # among those that are left
    y = few.nonzero()[position[:n], 0]
    y[3] = -100
    point = x.clone().requires_grad_()
    ours = nll.token_statistics(
        point,
        y,
        linear_weight=head,
        allowed_classes=allowed,
        softcap=softcap,
        entropy=True,
        topk=3,
        max_memory=2000,
    )
    left = z[:, few].clone().requires_grad_()
    short = torch.where(y == -100, -100, position[:n])
    theirs = nll.token_statistics(left, short, softcap=softcap, entropy=True, topk=3)
    for name in ("log_prob", "lse", "entropy", "correct", "rank", "topk_log_prob", "kept"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    index = few.nonzero()[:, 0][theirs.topk_index.clamp(min=0)]
    kept = y != -100
    assert torch.equal(ours.topk_index[kept], index[kept])
    weights = normal(3, n, seed=5)
    outputs = [(s.log_prob, s.lse, s.entropy) for s in (ours, theirs)]
    slopes = [
        torch.autograd.grad(sum((w * o).sum() for w, o in zip(weights, out, strict=True)), t)[0]
        for out, t in zip(outputs, (point, left), strict=True)
    ]
    expected = torch.zeros_like(z).index_copy_(1, few.nonzero()[:, 0], slopes[1])
    torch.testing.assert_close(slopes[0], expected if head is None else expected @ head)


def test_a_label_that_is_not_allowed_comes_last():
    x = torch.tensor([[3.0, 1.0, 2.0, 9.0]], dtype=torch.float64, requires_grad=True)
    allowed = torch.tensor([True, True, True, False])
    found = nll.token_statistics(x, torch.tensor([3]), allowed_classes=allowed, topk=4)
    assert found.log_prob.item() == -math.inf
    assert found.rank.item() == 3
    assert not found.correct.item()
    assert found.topk_index[0, :3].tolist() == [0, 2, 1]
    assert found.topk_log_prob[0, 3].item() == -math.inf
    torch.testing.assert_close(found.lse, x[:, :3].logsumexp(1))
