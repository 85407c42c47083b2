"""The examples in the docstrings of the losses are right."""

import doctest

import pytest
import torch

import nll

DATA = {"Estimate", "Explanation", "TokenStatistics"}  # what the functions return
NAMES = [
    name
    for name in nll.__all__
    if getattr(getattr(nll, name), "__module__", "").startswith("nll.losses") and name not in DATA
]


@pytest.mark.parametrize("name", NAMES)
def test_example(name):
    (test,) = doctest.DocTestFinder(recurse=False).find(
        getattr(nll, name), name, globs={"nll": nll, "torch": torch}
    )
    assert test.examples
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(test).failed == 0
