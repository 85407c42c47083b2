"""`inplace_backward`: the gradient is right, lies where the scores were, and nothing else is
overwritten.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, on_every_backend

import nll

SHAPES = [(6, 5), (40, 600), (3, 9000), (4, 21, 6, 5), (2, 300, 7)]
OPTIONS = [
    {},
    {"reduction": "sum", "label_smoothing": 0.1},
    {"reduction": "none"},
    {"softcap": 3.0, "temperature": 0.7, "z_loss": 0.01},
]


@pytest.fixture(params=[None, *BACKENDS], ids=str)
def backend(request):
    if request.param is None:  # as it is chosen
        yield
        return
    with nll.use_backend(request.param):
        yield


def problem(shape, dtype=torch.float32, layout="contiguous"):
    draw = torch.Generator().manual_seed(0)
    leaf = torch.randn(shape, generator=draw).to(dtype)
    if layout == "channels last":
        leaf = leaf.movedim(1, -1).contiguous().movedim(-1, 1)
    elif layout == "strided":
        leaf = F.pad(leaf, (0, 3))[..., : shape[-1]]
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=draw)
    target.view(-1)[::3] = -100
    return leaf.requires_grad_(), target


LAYOUTS = ["contiguous", "strided", "channels last"]


@pytest.mark.parametrize(
    ("options", "layout", "shape", "backend"),
    [
        *[(*row, None) for row in itertools.product(OPTIONS, LAYOUTS, SHAPES)],
        *on_every_backend(OPTIONS, LAYOUTS, SHAPES),
    ],
    ids=str,
    indirect=["backend"],
)
def test_the_scores_become_their_gradient(shape, layout, options, backend):
    leaf, target = problem(shape, layout=layout)
    scores = leaf * 1.0 if layout != "strided" else F.pad(leaf, (0, 3))[..., : shape[-1]]
    scores.retain_grad()
    before, version = scores.detach().clone(), scores._version
    loss = nll.cross_entropy(scores, target, inplace_backward=True, **options)
    assert torch.equal(scores, before)
    slope = torch.rand(loss.shape, generator=torch.Generator().manual_seed(1))
    loss.backward(slope)
    expected = leaf.detach().double().requires_grad_()
    nll.cross_entropy(expected, target, **options).backward(slope.double())
    torch.testing.assert_close(leaf.grad.double(), expected.grad, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(scores.detach(), leaf.grad, rtol=0.0, atol=0.0)
    assert scores._version > version


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_type(dtype, backend):
    leaf, target = problem((30, 700), dtype)
    nll.cross_entropy(leaf * 1, target, inplace_backward=True).backward()
    other = leaf.detach().requires_grad_()
    nll.cross_entropy(other, target).backward()
    torch.testing.assert_close(leaf.grad, other.grad)


@pytest.mark.parametrize("arguments", ["probabilities", "row weights", "allowed classes"])
def test_arguments_with_derivatives_of_their_own(arguments, backend):
    leaf, target = problem((40, 600))
    kwargs, at = {}, [leaf]
    if arguments == "probabilities":
        target = torch.rand(40, 600).requires_grad_()
        at.append(target)
    elif arguments == "row weights":
        kwargs["row_weights"] = torch.rand(40).requires_grad_()
        at.append(kwargs["row_weights"])
    else:
        kwargs["allowed_classes"] = torch.arange(600) >= 0
    expected = torch.autograd.grad(nll.cross_entropy(leaf * 1.0, target, **kwargs), at)
    actual = torch.autograd.grad(
        nll.cross_entropy(leaf * 1.0, target, inplace_backward=True, **kwargs), at
    )
    torch.testing.assert_close(actual, expected)


def test_the_memory_around_a_slice_is_left_alone(backend):
    leaf = torch.randn(40, 700, requires_grad=True)
    scores = leaf * 1.0
    before = scores.detach().clone()
    nll.cross_entropy(
        scores[3:20, 50:650], torch.zeros(17, dtype=torch.int64), inplace_backward=True
    ).backward()
    changed = scores.detach() != before
    assert changed[3:20, 50:650].all()
    changed[3:20, 50:650] = False
    assert not changed.any()


@pytest.mark.parametrize("shape", [(6, 5), (40, 600)], ids=str)
class TestRefusals:
    def test_a_leaf(self, shape, backend):
        leaf, target = problem(shape)
        with pytest.raises(RuntimeError, match="got a leaf"):
            nll.cross_entropy(leaf, target, inplace_backward=True)

    def test_a_view_of_a_leaf(self, shape, backend):
        leaf, target = problem(shape)
        for view in (leaf.view(shape), leaf[:], leaf.T.T, leaf.view(-1).view(shape)):
            with pytest.raises(RuntimeError, match="view of a leaf"):
                nll.cross_entropy(view, target, inplace_backward=True)

    def test_scores_that_share_memory(self, shape, backend):
        row = torch.randn(1, shape[1], requires_grad=True) * 1.0
        with pytest.raises(RuntimeError, match="share memory"):
            nll.cross_entropy(row.expand(shape), problem(shape)[1], inplace_backward=True)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_a_second_backward(self, shape, reduction, backend):
        leaf, target = problem(shape)
        loss = nll.cross_entropy(
            leaf * 1.0, target, reduction=reduction, inplace_backward=True
        ).sum()
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="got a second"):
            loss.backward()

    def test_a_second_derivative(self, shape, backend):
        leaf, target = problem(shape)
        loss = nll.cross_entropy(leaf * 1.0, target, inplace_backward=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(loss, leaf, create_graph=True)

    def test_scores_that_another_derivative_needs(self, shape, backend):
        leaf, target = problem(shape)
        scores = leaf.exp()  # its derivative is the scores themselves
        loss = nll.cross_entropy(scores, target, inplace_backward=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("shape", [(6, 5), (40, 600)], ids=str)
class TestNothingToOverwrite:
    def test_without_a_backward(self, shape, backend):
        scores, target = problem(shape)
        expected = nll.cross_entropy(scores, target)
        assert torch.equal(
            nll.cross_entropy(scores.detach(), target, inplace_backward=True), expected
        )
        with torch.no_grad():
            assert torch.equal(nll.cross_entropy(scores, target, inplace_backward=True), expected)

    # Loaded at the first use of forward mode; it calls what is deprecated.
    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    def test_in_transformations_and_compiled_code(self, shape, backend):
        scores, target = problem(shape)
        scores = scores.detach()
        before = scores.clone()

        def loss(x):
            return nll.cross_entropy(x * 1.0, target, inplace_backward=True)

        expected = torch.func.grad(lambda x: nll.cross_entropy(x, target))(scores)
        torch.testing.assert_close(torch.func.grad(loss)(scores), expected)
        torch.testing.assert_close(
            torch.func.jvp(loss, (scores,), (scores,))[1], (expected * scores).sum()
        )
        leaf = scores.clone().requires_grad_()
        torch.compile(loss, backend="aot_eager", fullgraph=True)(leaf).backward()
        torch.testing.assert_close(leaf.grad, expected)
        assert torch.equal(scores, before)


def test_the_module(backend):
    leaf, target = problem((40, 600))
    loss = nll.CrossEntropyLoss(inplace_backward=True)
    assert "inplace_backward=True" in repr(loss)
    scores = leaf * 1.0
    loss(scores, target).backward()
    assert torch.equal(scores, leaf.grad)
