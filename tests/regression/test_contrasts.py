"""Classes and their baseline: numbers, coefficients of all classes, other baselines."""

import torch

from nll.regression.contrasts import Classes, without

CLASSES = Classes(("a", "b", "c"), baseline=1)


def test_the_baseline_is_numbered_first():
    assert CLASSES.order.tolist() == [1, 0, 2]
    assert CLASSES.baseline_first == ("b", "a", "c")
    assert CLASSES.numbers(torch.tensor([0, 1, 2, 2])).tolist() == [1, 0, 2, 2]
    assert without(1, 3) == [0, 2]
    assert without(None, 3) == [0, 1, 2]


def test_the_baseline_has_zeros():
    coef = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert CLASSES.to_full(coef).tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]


def test_another_baseline_subtracts_its_coefficients():
    coef = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    other = Classes(CLASSES.names, baseline=2)
    moved = other.differences(CLASSES.of_all) @ coef
    assert moved.tolist() == [[-2.0, -2.0], [-3.0, -4.0]]
