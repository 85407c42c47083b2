"""Factors of any size: upstream gradients, class and row weights, means over many rows, in every
type.

A gradient in float16 may not be stored before all that multiplies it is known; no factor is rounded
to a half type.
"""

from __future__ import annotations

import pytest
import torch
from cases import BACKENDS, on_every_backend
from definitions import HALF
from torch import Tensor
from torch.nn.functional import one_hot

import nll
from nll.losses import dispatch
from nll.losses.layer import block_sizes

ROWS, CLASSES, FEATURES = 512, 300, 16


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


@pytest.fixture(params=["eager", "compiled"])
def run(request):
    """How a function is run."""
    if request.param == "eager":
        return lambda function: function
    torch._dynamo.reset()
    return lambda function: torch.compile(function, backend="aot_eager", fullgraph=True)


class Layer:
    """Features, a head, labels; the loss of the scores that they make, in float64 by its
    formula.
    """

    def __init__(self, dtype: torch.dtype, rows: int = ROWS) -> None:
        draw = torch.Generator().manual_seed(0)
        self.x = (0.5 * torch.randn(rows, FEATURES, generator=draw)).to(dtype)
        self.head = (0.5 * torch.randn(CLASSES, FEATURES, generator=draw)).to(dtype)
        self.y = torch.randint(0, CLASSES, (rows,), generator=draw)
        self.weight = torch.rand(CLASSES, generator=draw) + 0.1
        self.row_weights = torch.rand(rows, generator=draw) + 0.1

    def truth(
        self, scale: float, reduction: str, weight=None, row_weights=None
    ) -> tuple[Tensor, Tensor]:
        x, head = (t.double().requires_grad_() for t in (self.x, self.head))
        w = torch.ones(CLASSES, dtype=torch.float64) if weight is None else weight.double()
        r = torch.ones(len(x), dtype=torch.float64) if row_weights is None else row_weights.double()
        factor = r * w[self.y]
        rows = -(one_hot(self.y, CLASSES) * (x @ head.T).log_softmax(1)).sum(1)
        total = (factor * rows).sum()
        return torch.autograd.grad(
            scale * (total / factor.sum() if reduction == "mean" else total), (x, head)
        )

    def gradients(
        self, run, scale: float, reduction: str, **weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        leaves = [t.clone().requires_grad_() for t in (self.x, self.head)]

        def loss(x: Tensor, head: Tensor) -> Tensor:
            return nll.linear_cross_entropy(
                x, head, self.y, reduction=reduction, max_memory=200_000, **weights
            )

        value = run(loss)(*leaves)
        assert value.dtype is torch.float32
        (value * scale).sum().backward()
        return tuple(leaf.grad for leaf in leaves)


def assert_right(
    actual: Tensor, truth: Tensor, slack: float = 1.0, bias_in_eps: float = 0.12
) -> None:
    """To a few roundings of the type, and of what is below its normal numbers; and not biased."""
    information = torch.finfo(actual.dtype)
    size = truth.abs().amax(-1, keepdim=True)
    assert actual.isfinite().all()
    error = (actual.double() - truth).abs()
    assert (
        error
        <= slack * (2.0 * information.eps * size + information.smallest_normal * information.eps)
    ).all()
    bias = (actual.double() * truth).sum() / truth.square().sum()
    if truth.abs().max() > 1000.0 * information.smallest_normal:
        assert abs(float(bias) - 1.0) < information.eps * bias_in_eps  # 1 / 3 in a half type: 0.25


SCALES = [1.0, 1.0 / 3.0, 32768.0, 65536.0]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_layer_under_any_scale_of_the_loss(dtype, reduction, scale, run):
    layer = Layer(dtype)
    each = scale / ROWS if reduction == "none" else scale
    for actual, truth in zip(
        layer.gradients(run, each, reduction), layer.truth(each, reduction), strict=True
    ):
        assert_right(actual, truth, 2.0)


@pytest.mark.parametrize("size", [1e-9, 1e-4, 1e6])
@pytest.mark.parametrize("which", ["weight", "row_weights"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_only_the_ratios_of_weights_count_in_a_mean(dtype, which, size, run):
    layer = Layer(dtype)
    weights = {which: getattr(layer, which) * size}
    for actual, truth in zip(
        layer.gradients(run, 1024.0, "mean", **weights),
        layer.truth(1024.0, "mean", **weights),
        strict=True,
    ):
        assert_right(actual, truth, 2.0)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_rows_of_very_different_weights(dtype, run):
    """Each row's gradient by its features has its own digits, be its weight a billionth of
    another's.
    """
    layer = Layer(dtype)
    row_weights = torch.logspace(-6, 0, ROWS)
    scale = 65536.0
    (by_x, _), (truth, _) = (
        layer.gradients(run, scale, "mean", row_weights=row_weights),
        layer.truth(scale, "mean", row_weights=row_weights),
    )
    assert_right(by_x, truth, 2.0)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_sum_with_weights_of_one_over_n(dtype, run):
    layer = Layer(dtype)
    row_weights = torch.full((ROWS,), 1e-6)
    scale = 65536.0
    for actual, truth in zip(
        layer.gradients(run, scale, "sum", row_weights=row_weights),
        layer.truth(scale, "sum", row_weights=row_weights),
        strict=True,
    ):
        assert_right(actual, truth, 2.0)


@pytest.mark.parametrize("size", [1e-9, 1e6])
def test_products_of_float16_on_an_accelerator(size, monkeypatch):
    """Where float16 is multiplied as it is, its gradient by the scores is stored as shares of each
    row's largest.
    """
    monkeypatch.setattr(block_sizes, "multiplies_fast", lambda input: True)
    layer = Layer(torch.float16)
    for weights in (
        {"weight": layer.weight * size},
        {"row_weights": torch.logspace(-6, 0, ROWS) * size},
    ):
        gradients = layer.gradients(lambda f: f, 65536.0, "mean", **weights)
        for actual, truth in zip(gradients, layer.truth(65536.0, "mean", **weights), strict=True):
            assert_right(actual, truth, 2.0)


@pytest.mark.parametrize(
    ("scale", "options", "reduction", "dtype", "backend"),
    on_every_backend(
        [*SCALES, 1e-3],
        [{}, {"label_smoothing": 0.1}, {"weight": 1e-9}, {"row_weights": 1e6}],
        ["mean", "sum", "none"],
        HALF,
    ),
    ids=str,
    indirect=["backend"],
)
def test_scores_under_any_scale_of_the_loss(dtype, reduction, options, scale, backend):
    draw = torch.Generator().manual_seed(0)
    # the gradients of labels differ
    x = (3.0 * torch.randn(60, 70, generator=draw)).to(dtype).requires_grad_()
    y = torch.randint(0, 70, (60,), generator=draw)
    options = dict(options)
    for name in ("weight", "row_weights"):
        if name in options:
            options[name] = (
                torch.rand(70 if name == "weight" else 60, generator=draw) + 0.1
            ) * options[name]
    if reduction != "mean" and "row_weights" in options:
        scale = scale * 0.5e-6
    elif reduction != "mean" and not options:
        scale = min(scale, 60000.0)  # times a gradient of 1
    elif reduction != "mean" and "weight" in options:
        scale = scale * 0.5e9
    found, truth = [], []
    for z, gradients in ((x, found), (x.detach().double().requires_grad_(), truth)):
        name = "reference" if gradients is truth else backend
        exact = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
        with nll.use_backend(name):
            loss = nll.cross_entropy(
                z, y, reduction=reduction, **(exact if gradients is truth else options)
            )
            gradients += torch.autograd.grad((loss * scale).sum(), z)
    # Triton's interpreter cuts a bfloat16 off instead of rounding it.
    truncated = backend == "triton" and dispatch.INTERPRETED and dtype is torch.bfloat16
    assert_right(found[0], truth[0], bias_in_eps=1.0 if truncated else 0.22)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_statistics_of_a_layer_under_a_scale(dtype):
    layer = Layer(dtype)
    x, head = (t.clone().requires_grad_() for t in (layer.x, layer.head))
    found = nll.token_statistics(x, layer.y, linear_weight=head)
    (-65536.0 / ROWS * found.log_prob).sum().backward()
    for actual, truth in zip((x.grad, head.grad), layer.truth(65536.0, "mean"), strict=True):
        assert_right(actual, truth, 2.0)
