"""Values and gradients of the losses, judged by a float64 definition and by PyTorch's own error."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, BASE_CASES, CASES, DTYPES, REDUCTIONS, by_type_and_backend
from definitions import (
    HALF,
    Problem,
    definition,
    definition_log_softmax,
    definition_nll,
    differentiate,
    pytorch,
)
from torch import Tensor

import nll

NLL_CASES = [case for case in CASES if case.in_nll_loss]
# What log_softmax can tell apart.
LAYOUTS = list({(case.shape, case.layout, case.logits): case for case in BASE_CASES}.values())


def by_name(value) -> str | None:
    return getattr(value, "name", None) or (
        str(value).removeprefix("torch.") if value in DTYPES else None
    )


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


def unit_in_the_last_place(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbours of the dtype around each value."""
    exponent = torch.frexp(value.double()).exponent - 1
    return torch.finfo(dtype).eps * 2.0 ** exponent.clamp(min=-14).double()


def assert_accurate(actual: Tensor, truth: Tensor, error: Tensor | float) -> None:
    """Assert an error of at most `error` where the truth is finite, and the truth's inf and NaN
    elsewhere.
    """
    finite = truth.isfinite()
    torch.testing.assert_close(actual.double()[~finite], truth[~finite], equal_nan=True)
    off = (actual.double() - truth).abs()
    assert ((off <= error) | ~finite).all(), f"error {off[finite].max():.3g}, allowed {error}"


def assert_judged(loss, define, case, problem) -> None:
    """Judge the loss and its gradient by their truth in float64, and by PyTorch's error where it
    has the case.
    """
    value, gradient = differentiate(loss, problem)
    in_double = problem._replace(input=problem.input.double())
    true_value, true_gradient = differentiate(
        lambda *args, **kwargs: define(*args, **kwargs).loss, in_double
    )

    if case.in_pytorch and problem.input.dtype is not torch.float64:
        torch_value, torch_gradient = pytorch(loss, problem)
        value_error, gradient_error = (
            largest(torch_value - true_value),
            largest(torch_gradient - true_gradient),
        )
    else:
        # PyTorch lacks an argument, or the truth is itself no more exact than the result: the
        # rounding of a few operations on terms of this size, in the dtype of the arithmetic.
        scale = define(problem.input, problem.target, **problem.kwargs).scale.nan_to_num(0.0)
        eps = torch.finfo(torch.float32 if problem.input.dtype in HALF else problem.input.dtype).eps
        value_error = 8.0 * eps * scale
        gradient_error = largest(value_error) / case.options.get("temperature", 1.0)
    # PyTorch may add the same rows in another order; adding n numbers in pairs rounds log2(n)
    # times.
    units = (
        1
        if problem.kwargs["reduction"] == "none"
        else 1 + math.ceil(math.log2(max(1, problem.target.numel())))
    )
    assert_accurate(
        value, true_value, value_error + units * unit_in_the_last_place(true_value, value.dtype)
    )
    # An element of the gradient is a difference of terms, whose rounding it keeps where they
    # cancel.
    size = largest(true_gradient)
    if problem.target.is_floating_point():  # p - q, of which q is as large as this
        rows = problem.input.numel() // problem.input.shape[min(1, problem.input.dim() - 1)]
        size = size.maximum(
            largest(problem.target) / (rows if problem.kwargs["reduction"] == "mean" else 1)
        )
    terms = unit_in_the_last_place(size, torch.float32)
    units = unit_in_the_last_place(true_gradient, gradient.dtype)
    assert_accurate(gradient, true_gradient, gradient_error + terms + units)


def largest(error: Tensor) -> Tensor:
    if not error.numel():
        return error.new_zeros((), dtype=torch.float64)
    return error.double().abs().nan_to_num(0.0, posinf=torch.inf).flatten().max()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.layout != "contiguous"], ids=by_name
)
def test_cases_are_not_contiguous_where_they_say_so(case):
    assert not case.build(torch.float32).input.is_contiguous()


CALLS = ("case", "dtype", "backend")


@pytest.mark.parametrize(CALLS, by_type_and_backend(CASES), ids=by_name, indirect=["backend"])
def test_cross_entropy(case, dtype, backend, device):
    assert_judged(nll.cross_entropy, definition, case, case.build(dtype, device))


@pytest.mark.parametrize(CALLS, by_type_and_backend(NLL_CASES), ids=by_name, indirect=["backend"])
def test_nll_loss(case, dtype, backend, device):
    assert_judged(nll.nll_loss, definition_nll, case, case.build_nll(dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
@pytest.mark.parametrize("case", LAYOUTS, ids=by_name)
def test_log_softmax(case, dtype, backend, device):
    input = case.build(dtype, device).input
    for dim in range(-input.dim(), input.dim()):
        if not input.numel():  # no largest element to start the definition from
            assert nll.log_softmax(input, dim).shape == input.shape
            continue
        truth = definition_log_softmax(input, dim)
        units = unit_in_the_last_place(truth, dtype)
        # In float64 the truth is as rounded as the result, by what it is the difference of.
        double = 8.0 * torch.finfo(torch.float64).eps * largest(input.nan_to_num(neginf=0.0))
        error = double if dtype is torch.float64 else largest(F.log_softmax(input, dim) - truth)
        assert_accurate(nll.log_softmax(input, dim), truth, error + units)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3)], ids=str)
def test_log_softmax_of_a_scalar_and_of_nothing(shape, backend, device):
    input = torch.ones(shape, device=device)
    for dim in range(-max(1, input.dim()), max(1, input.dim())):
        torch.testing.assert_close(nll.log_softmax(input, dim), F.log_softmax(input, dim))


# The worked example: three samples, five classes.
FEATURES = [
    [-0.3280, -0.6004, -0.1753, 1.2293, 1.5320],
    [-0.4770, -2.7324, 0.5937, -1.8657, 0.4829],
    [-1.5907, 0.9821, -1.3793, 0.7273, 0.0256],
]
LABELS = torch.tensor([1, 0, 3])
LOG_SOFTMAX = [
    [-2.6459, -2.9183, -2.4932, -1.0886, -0.7859],
    [-1.9291, -4.1845, -0.8584, -3.3178, -0.9692],
    [-3.4186, -0.8458, -3.2072, -1.1006, -1.8023],
]


def test_worked_example_log_softmax(backend, device):
    log_p = nll.LogSoftmax(dim=1)(torch.tensor(FEATURES, dtype=torch.float64, device=device))
    # The features are rounded to four digits themselves.
    expected = torch.tensor(LOG_SOFTMAX, dtype=torch.float64, device=device)
    torch.testing.assert_close(log_p, expected, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: nll.NLLLoss()(nll.LogSoftmax(dim=1)(x), y),
        lambda x, y: nll.CrossEntropyLoss()(x, y),
    ],
    ids=["NLLLoss of LogSoftmax", "CrossEntropyLoss"],
)
def test_worked_example_loss_and_gradient(loss, backend, device):
    x = torch.tensor(FEATURES, dtype=torch.float64, device=device, requires_grad=True)
    value = loss(x, LABELS.to(device))
    assert f"{value.item():.4f}" == "1.9827"
    value.backward()
    # The gradient is (p - one-hot) / 3, with p = exp(log_softmax) to the four digits given.
    expected = (torch.tensor(LOG_SOFTMAX, dtype=torch.float64).exp() - F.one_hot(LABELS, 5)) / 3
    torch.testing.assert_close(x.grad, expected.to(device), atol=5e-5, rtol=0.0)


RESULT_DTYPES = [
    ("log_softmax", torch.bfloat16, torch.bfloat16),
    ("log_softmax", torch.float16, torch.float16),
    ("log_softmax", torch.float32, torch.float32),
    ("log_softmax", torch.float64, torch.float64),
    ("nll_loss", torch.bfloat16, torch.bfloat16),
    ("nll_loss", torch.float16, torch.float16),
    ("nll_loss", torch.float32, torch.float32),
    ("nll_loss", torch.float64, torch.float64),
    ("cross_entropy", torch.bfloat16, torch.float32),
    ("cross_entropy", torch.float16, torch.float32),
    ("cross_entropy", torch.float32, torch.float32),
    ("cross_entropy", torch.float64, torch.float64),
]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("name", "dtype", "expected"), RESULT_DTYPES, ids=by_name)
def test_dtype_of_result_and_gradient(name, dtype, expected, reduction, backend, device):
    x = torch.tensor(FEATURES, dtype=dtype, device=device, requires_grad=True)
    arguments, kwargs = (x, 1), {}
    if name != "log_softmax":
        arguments = x, LABELS.to(device)
        kwargs = {"reduction": reduction, "weight": torch.ones(5, dtype=dtype, device=device)}
    value = getattr(nll, name)(*arguments, **kwargs)
    value.sum().backward()
    assert (value.dtype, x.grad.dtype) == (expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=by_name)
def test_log_softmax_converts_before_it_computes(dtype, backend, device):
    x = torch.tensor([3, 1, 2], device=device)
    log_p = nll.log_softmax(x, 0, dtype=dtype)
    assert log_p.dtype == dtype
    torch.testing.assert_close(log_p, F.log_softmax(x, 0, dtype=dtype))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", HALF, ids=by_name)
def test_nll_loss_adds_half_types_in_float32(dtype, reduction, seed, backend, device):
    # The only rounding to the half type is that of the result: it is the number nearest to the
    # truth.
    draw = torch.Generator().manual_seed(seed)
    log_p = torch.randn(1000, 5, generator=draw).log_softmax(1).to(device, dtype)
    target = torch.randint(0, 5, (1000,), generator=draw).to(device)
    weight = torch.rand(5, generator=draw).to(device, dtype)
    truth = definition_nll(log_p, target, weight=weight, reduction=reduction).loss
    assert nll.nll_loss(log_p, target, weight, reduction=reduction) == truth.to(dtype)


@pytest.mark.parametrize("case", LAYOUTS, ids=by_name)
def test_arguments_stay_as_they_are(case, backend, device):
    input, target, kwargs = case.build(torch.float32, device)
    tensors = [input, target, *(v for v in kwargs.values() if isinstance(v, Tensor))]
    before = [tensor.clone() for tensor in tensors]
    differentiate(nll.cross_entropy, Problem(input, target, kwargs))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


# Class probabilities and their weights may have a type of their own: the usual promotion decides.
MIXED = [
    (torch.float32, torch.float64, None),
    (torch.float32, torch.bfloat16, None),
    (torch.float32, torch.float32, torch.float64),
    (torch.float32, torch.float32, torch.bfloat16),
    (torch.float64, torch.float32, torch.float32),
]


@pytest.mark.parametrize(("dtype", "of_target", "of_weight"), MIXED, ids=by_name)
def test_probabilities_of_another_type(dtype, of_target, of_weight, backend, device):
    x = torch.tensor(FEATURES, dtype=dtype, device=device)
    q = torch.tensor(LOG_SOFTMAX).exp().to(device, of_target)
    weight = None if of_weight is None else torch.linspace(0.5, 1.5, 5).to(device, of_weight)
    torch.testing.assert_close(nll.cross_entropy(x, q, weight), F.cross_entropy(x, q, weight))


@pytest.mark.parametrize("dtype", HALF, ids=by_name)
def test_half_scores_with_float32_weights(dtype, backend, device):
    x, y = torch.tensor(FEATURES, dtype=dtype, device=device), LABELS.to(device)
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], device=device)
    expected = F.cross_entropy(x.float(), y, weight)
    torch.testing.assert_close(nll.cross_entropy(x, y, weight), expected)


def with_warnings(call):
    """Return what a call returns, and the warnings it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return call(), caught


DEPRECATED = [
    *[
        {"size_average": s, "reduce": r}
        for s, r in itertools.product((None, True, False), repeat=2)
    ],
    {"size_average": 0},
    {"reduce": 0},
    {"reduce": False, "reduction": "sum"},
    {"reduction": "elementwise_mean"},
]


@pytest.mark.parametrize("options", DEPRECATED, ids=str)
@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
def test_deprecated_options_reduce_and_warn_as_pytorch_does(name, options, backend, device):
    x, y = torch.tensor(FEATURES, device=device), LABELS.to(device)
    ours, our_warnings = with_warnings(lambda: getattr(nll, name)(x, y, **options))
    theirs, their_warnings = with_warnings(lambda: getattr(F, name)(x, y, **options))
    # The reduction is meant, not the last digit.
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0.0)
    assert [(w.category, str(w.message)) for w in our_warnings] == [
        (w.category, str(w.message)) for w in their_warnings
    ]


@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
def test_the_warning_points_at_the_call(name, backend, device):
    x, y = torch.tensor(FEATURES, device=device), LABELS.to(device)
    _, caught = with_warnings(lambda: getattr(nll, name)(x, y, size_average=True))
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
def test_arguments_stand_where_pytorch_has_them(name):
    def signature(function):
        return [
            (p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()
        ]

    ours, theirs = signature(getattr(nll, name)), signature(getattr(F, name))
    assert ours[: len(theirs)] == theirs
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, _, kind in ours[len(theirs) :])


AUTOCAST = [
    ("log_softmax", torch.bfloat16),
    ("log_softmax", torch.float32),
    ("nll_loss", torch.bfloat16),
    ("nll_loss", torch.float32),
    ("cross_entropy", torch.bfloat16),
    ("cross_entropy", torch.float32),
]


@pytest.mark.parametrize(("name", "dtype"), AUTOCAST, ids=by_name)
def test_autocast_gives_the_types_of_pytorch(name, dtype, backend, device):
    x = torch.tensor(FEATURES, dtype=dtype, device=device)
    second = 1 if name == "log_softmax" else LABELS.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        ours, theirs = getattr(nll, name)(x, second), getattr(F, name)(x, second)
    assert ours.dtype == theirs.dtype
    # cross_entropy in bfloat16: PyTorch rounds the log-probabilities to bfloat16, we do not.
    loose = (
        {"atol": 0.0, "rtol": torch.finfo(torch.bfloat16).eps} if dtype is torch.bfloat16 else {}
    )
    torch.testing.assert_close(ours, theirs, **loose)


def test_autocast_trains_a_layer(backend, device):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(4, 5).to(device), torch.randn(3, 4).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = nll.cross_entropy(layer(x), LABELS.to(device))
    loss.backward()
    assert loss.dtype == torch.float32
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.abs().sum() > 0.0


# They go to the reference, whatever the backend: each reduction meets each backend.
@pytest.mark.parametrize(
    ("case", "backend"),
    [(case, BACKENDS[(i + i // 3) % len(BACKENDS)]) for i, case in enumerate(CASES)],
    ids=by_name,
    indirect=["backend"],
)
def test_meta_tensors_have_the_shape_and_type_of_the_result(case, backend):
    problem = case.build(torch.bfloat16)
    kwargs = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in problem.kwargs.items()}
    meta = nll.cross_entropy(problem.input.to("meta"), problem.target.to("meta"), **kwargs)
    assert (meta.device.type, meta.shape, meta.dtype) == (
        "meta",
        definition(problem.input, problem.target, **problem.kwargs).loss.shape,
        torch.float32,
    )
