"""NaN, infinities, nothing allowed, no classes: as PyTorch answers, but for 0 log 0."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, REDUCTIONS, SLOW, on_every_backend
from definitions import Problem, definition, differentiate

import nll


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


# The worked example: three samples, five classes.
FEATURES = [
    [-0.3280, -0.6004, -0.1753, 1.2293, 1.5320],
    [-0.4770, -2.7324, 0.5937, -1.8657, 0.4829],
    [-1.5907, 0.9821, -1.3793, 0.7273, 0.0256],
]
LABELS = torch.tensor([1, 0, 3])


SPECIAL_SCORES = {
    "nan": [torch.nan, 1.0, 2.0],
    "inf": [torch.inf, 1.0, 2.0],
    "inf at the label": [0.0, torch.inf, 2.0],
    "two inf": [torch.inf, torch.inf, 2.0],
    "-inf": [-torch.inf, 1.0, 2.0],
    "-inf at the label": [0.0, -torch.inf, 2.0],
    "all -inf": [-torch.inf, -torch.inf, -torch.inf],
    "inf and -inf": [torch.inf, -torch.inf, 0.0],
}
SPECIAL_TARGETS = {
    "label": torch.tensor([1, 0]),
    "ignored": torch.tensor([-100, 0]),
    "one-hot": torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    "probabilities": torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]]),
}
SPECIAL_WEIGHTS = {
    "no weights": None,
    "weights": torch.tensor([0.5, 1.0, 2.0]),
    "a weight of 0": torch.tensor([1.0, 0.0, 1.0]),
    "a weight of nan": torch.tensor([1.0, 2.0, torch.nan]),
    "a first weight of nan": torch.tensor([torch.nan, 2.0, 1.0]),
    "a weight of inf": torch.tensor([torch.inf, 1.0, 1.0]),
}


@pytest.mark.parametrize(
    ("scores", "target", "weight", "backend"),
    on_every_backend(SPECIAL_SCORES, SPECIAL_TARGETS, SPECIAL_WEIGHTS),
    indirect=["backend"],
)
def test_nan_and_inf_are_where_pytorch_has_them_but_for_0_log_0(
    scores, target, weight, backend, device
):
    if backend == "triton" and weight == "a weight of inf":
        pytest.skip(
            "a kernel does not look for infinite weights: NaN is where they are, and may "
            "be elsewhere"
        )
    x = torch.tensor([SPECIAL_SCORES[scores], [0.5, -1.0, 0.25]], device=device)
    y, w = SPECIAL_TARGETS[target].to(device), SPECIAL_WEIGHTS[weight]
    w = None if w is None else w.to(device)
    pairs = list(itertools.product(REDUCTIONS, (0.0, 0.1, 1.0)))
    if backend in SLOW:  # each reduction and each smoothing once
        first = list(SPECIAL_SCORES).index(scores) + list(SPECIAL_TARGETS).index(target)
        pairs = [pairs[3 * i + (first + i) % 3] for i in range(3)]
    for reduction, label_smoothing in pairs:
        options = {"reduction": reduction, "label_smoothing": label_smoothing, "weight": w}
        problem = Problem(x, y, options)
        ours, theirs = (differentiate(f, problem) for f in (nll.cross_entropy, F.cross_entropy))
        if weight in ("no weights", "weights", "a weight of 0"):  # its NaN of 0 log 0 is 0 here
            truth = differentiate(lambda *args, **kwargs: definition(*args, **kwargs).loss, problem)
            theirs = tuple(
                torch.where(a.isnan(), b.to(a.dtype), a) for a, b in zip(theirs, truth, strict=True)
            )
        elif weight == "a weight of inf" and label_smoothing == 1.0:
            continue  # the label counts for nothing here, and 0 times infinity for NaN there
        finite = weight in ("no weights", "weights", "a weight of 0")  # others go to the reference
        if target == "ignored" and (
            backend == "triton" or (backend == "cpu" and finite)
        ):  # it does not read such a row: no NaN comes of it
            assert ours[1][0].count_nonzero() == 0
            theirs[1][0] = 0.0
        torch.testing.assert_close(
            ours, theirs, equal_nan=True, msg=lambda text, at=options: f"{at}: {text}"
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_passes_special_values_on_as_pytorch_does(value, reduction, backend, device):
    log_p = torch.tensor([[-1.0, value, -2.0], [-1.0, -2.0, value]], device=device)
    for target in ([1, 0], [1, -100], [0, 0], [-100, -100]):
        problem = Problem(log_p, torch.tensor(target, device=device), {"reduction": reduction})
        ours, theirs = (differentiate(function, problem) for function in (nll.nll_loss, F.nll_loss))
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_a_row_that_allows_no_class_counts_for_nothing_when_ignored(backend, device):
    x = torch.tensor(FEATURES, device=device, requires_grad=True)
    allowed = torch.tensor([[False] * 5, [True] * 5, [True] * 5], device=device)
    target = torch.tensor([-100, 0, 3], device=device)
    options = {"label_smoothing": 0.1, "z_loss": 0.1}
    nll.cross_entropy(x, target, allowed_classes=allowed, **options).backward()
    rest = torch.tensor(FEATURES[1:], device=device, requires_grad=True)
    nll.cross_entropy(rest, target[1:], **options).backward()
    torch.testing.assert_close(x.grad, torch.cat([torch.zeros(1, 5, device=device), rest.grad]))


def test_smoothing_all_away_leaves_the_label_no_share(backend, device):
    # -sum_c q_c log p_c with q uniform over the allowed classes, of which the label is none: 0 log
    # 0 = 0.
    allowed = torch.tensor([True, False, True, True, True], device=device)
    x, y = torch.tensor(FEATURES[0], device=device), torch.tensor(1, device=device)
    loss = nll.cross_entropy(x, y, label_smoothing=1.0, allowed_classes=allowed)
    torch.testing.assert_close(loss, -x[allowed].log_softmax(0).mean())


def test_scores_of_a_class_not_allowed_change_nothing(backend, device):
    allowed = torch.tensor([True, True, False, True, True], device=device)
    x, labels = torch.tensor(FEATURES, device=device), LABELS.to(device)
    y = x.clone()
    options = {"allowed_classes": allowed, "label_smoothing": 0.1}
    for value in (torch.nan, torch.inf, 1e30):
        y[:, 2] = value
        losses = [nll.cross_entropy(scores, labels, **options) for scores in (x, y)]
        assert torch.equal(*losses)


def test_zero_classes_of_probabilities_have_no_mean(backend, device):
    empty = torch.zeros(3, 0, device=device)
    for reduction in REDUCTIONS:
        ours, theirs = (
            loss(empty, empty, reduction=reduction) for loss in (nll.cross_entropy, F.cross_entropy)
        )
        torch.testing.assert_close(ours, theirs, equal_nan=True)
