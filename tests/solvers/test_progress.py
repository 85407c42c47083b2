"""What a long search says on a terminal."""

from __future__ import annotations

import io
import sys
from itertools import count, pairwise
from types import SimpleNamespace

import torch
from torch import distributions as td

from nll import fit
from nll.solvers import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def hurried() -> SimpleNamespace:
    """A clock on which ten seconds pass from one look to the next."""
    return SimpleNamespace(monotonic=count(0.0, 10.0).__next__)


def test_a_long_search_says_where_it_stands_and_leaves_nothing(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "time", hurried())
    fit(td.Weibull, [1.0, 2.0, 3.5, 4.0])
    said = terminal.getvalue().split("\r")
    assert said[1].startswith("Weibull: step 0, log-likelihood -")
    assert len(said) > 3
    assert said[-1] == ""
    assert said[-2].strip() == ""
    assert len(said[-2]) == len(said[-3].rstrip())


def test_a_short_search_and_a_file_hear_nothing(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(td.Weibull, [1.0, 2.0, 3.5, 4.0])
    assert terminal.getvalue() == ""
    monkeypatch.undo()
    monkeypatch.setattr(progress, "time", hurried())
    fit(td.Weibull, [1.0, 2.0, 3.5, 4.0])
    assert capsys.readouterr().err == ""


def test_a_function_hears_every_step():
    steps = []
    found = fit(
        td.Weibull, torch.tensor([1.0, 2.0, 3.5, 4.0]), progress=lambda *what: steps.append(what)
    )
    assert [step for step, _, _ in steps] == list(range(found.steps))
    assert all(after[1] >= before[1] for before, after in pairwise(steps))
