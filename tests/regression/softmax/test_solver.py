"""How the maximum is searched, and that every way ends at the same place."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from softmax_cases import same, sample

from nll import SoftmaxRegression
from nll.regression import existence
from nll.regression.softmax import solver

LINE = np.arange(10.0)


def test_an_estimate_alone_is_judged_as_well(monkeypatch):
    """Without the information: overlap by its certificate or the programme, separation by the
    programme.
    """
    monkeypatch.setattr(solver, "MANY_PARAMETERS", 4)
    x, y = sample(400)
    whole = SoftmaxRegression().fit(x, y)
    alone = SoftmaxRegression(standard_errors=False).fit(x, y).result_
    assert alone.converged
    assert alone.status.endswith("no standard errors") or alone.status.startswith(
        "converged: a finite maximum exists"
    )
    assert bool(alone.standard_errors["coef"].isnan().all())
    same(alone.params["coef"], whole.result_.params["coef"], 1e-6)
    # the programme has to decide
    monkeypatch.setattr(existence, "certified_by_bound", lambda *_: False)
    assert SoftmaxRegression(standard_errors=False).fit(x, y).result_.converged
    assert SoftmaxRegression(standard_errors=False, alpha=1.0).fit(x, y).result_.converged
    with pytest.warns(ConvergenceWarning, match="class False is separated from True"):
        assert (
            not SoftmaxRegression(standard_errors=False)
            .fit(LINE[:, None], LINE > 4)
            .result_.converged
        )


def test_many_rows_take_many_blocks(monkeypatch):
    """The sums over blocks are the sums over the rows."""
    from nll.data import prefetch

    x, y = sample(n=1000)
    whole = SoftmaxRegression().fit(x, y).result_
    monkeypatch.setattr(prefetch, "_BLOCK_BYTES", 1)
    parts = SoftmaxRegression().fit(x, y).result_
    same(parts.params["coef"], whole.params["coef"], 1e-12)
    assert parts.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-13)
    same(parts.covariance, whole.covariance, 1e-11)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((200, 3, 3), {}, "Newton steps, each with the information (few coefficients and rows)"),
        ((100_000, 12, 5), {}, "gradients from a start on some of the rows, then one information"),
        (
            (4000, 40, 8),
            {},
            "products with the information, formed once at the end (many coefficients)",
        ),
        ((4000, 40, 8), {"standard_errors": False}, "never formed (many coefficients)"),
    ],
)
def test_the_fit_says_how_it_was_searched(shape, options, said):
    n, p, classes = shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, p))
    scores = x @ rng.normal(size=(p, classes)) * 0.2
    fitted = (
        SoftmaxRegression(**options)
        .fit(x, (scores + rng.gumbel(size=scores.shape)).argmax(1))
        .result_
    )
    assert said in fitted.solver
    assert fitted.to_dict()["solver"] == fitted.solver
    assert "Solver" in fitted.summary()
