"""The definition's own steps."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, DTYPES
from definitions import definition_nll

from nll.kernels.reference import pick_or_nan

NLL_CASES = [case for case in CASES if case.in_nll_loss]


def by_name(value) -> str | None:
    return getattr(value, "name", None) or (
        str(value).removeprefix("torch.") if value in DTYPES else None
    )


@pytest.mark.parametrize(
    "case", [case for case in NLL_CASES if case.name.endswith("none")], ids=by_name
)
def test_pick_or_nan_picks_what_nll_loss_picks(case):
    log_p, target, kwargs = case.build_nll(torch.float32)
    ignore_index = kwargs.get("ignore_index", -100)
    expected = definition_nll(log_p, target, ignore_index=ignore_index, reduction="none").loss
    torch.testing.assert_close(pick_or_nan(log_p, target.long(), ignore_index), expected.float())


@pytest.mark.parametrize(
    ("target", "ignore_index", "expected"),
    [
        ([0, 3, 2], -100, [0.1, torch.nan, 2.2]),
        ([-1, 1, -100], -100, [torch.nan, 1.1, 0.0]),
        # -100 is a label like any other when 1 is ignored
        ([3, -100, 1], 1, [torch.nan, torch.nan, 0.0]),
        ([9, 9, 0], 9, [0.0, 0.0, 2.0]),
        ([2**40, -(2**40), 0], -100, [torch.nan, torch.nan, 2.0]),
    ],
    ids=str,
)
def test_pick_or_nan_marks_labels_out_of_range(target, ignore_index, expected):
    log_p = -torch.tensor([[0.1, 0.2, 0.3], [1.0, 1.1, 1.2], [2.0, 2.1, 2.2]])
    torch.testing.assert_close(
        pick_or_nan(log_p, torch.tensor(target), ignore_index),
        torch.tensor(expected),
        equal_nan=True,
    )


def test_pick_or_nan_sends_no_gradient_from_a_label_out_of_range():
    log_p = torch.zeros(3, 2, requires_grad=True)
    pick_or_nan(log_p, torch.tensor([0, 5, -100]), -100).nan_to_num(0.0).sum().backward()
    assert log_p.grad.tolist() == [[-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
