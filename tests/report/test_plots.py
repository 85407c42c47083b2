"""Pictures: how many panels, and where their curves have their peaks."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import distributions as td
from truth import ANES96, anes96

from nll import Fit, SoftmaxRegression, fit
from nll.regression.after.calibration import calibration
from nll.report import plots


def anes() -> Fit:
    table = anes96()
    return SoftmaxRegression().fit(table[list(ANES96.columns)], table.PID).result_


NORMAL = [4.1, 3.9, 5.2, 4.4, 4.6]


def test_a_panel_for_each_parameter():
    assert len(plots.likelihood_curves(anes()).axes) == 36
    assert len(plots.likelihood_curves(anes(), most=7).axes) == 7
    assert len(plots.likelihood_curves(fit(td.Normal, NORMAL)).axes) == 2


def test_no_error_no_panel():
    shares = fit(td.Categorical, [0, 2, 2])  # nobody chose 1
    assert [axis.get_title() for axis in plots.likelihood_curves(shares).axes] == [
        "probs[0]",
        "probs[2]",
    ]
    assert plots.likelihood_curves(fit(td.Poisson, [0, 0])) is None
    assert plots.likelihood_curves(fit(td.Uniform, NORMAL)) is None
    assert plots.likelihood_curves(fit(td.Normal, [1.0, 1.0])) is None


@pytest.mark.parametrize(
    "make", [anes, lambda: fit(td.Normal, NORMAL), lambda: fit(td.Laplace, NORMAL)]
)
def test_the_curves_peak_at_the_estimate(make):
    result = make()
    axes = plots.likelihood_curves(result).axes
    for axis, name, estimate in zip(axes, result.names, result.vector.tolist(), strict=True):
        curve, parabola, mark = axis.get_lines()
        x, gain = curve.get_data()
        assert axis.get_title() == name.removeprefix("coef[").removesuffix("]")
        assert x[np.nanargmax(gain)] == pytest.approx(estimate, rel=1e-12)
        assert np.nanmax(gain) == pytest.approx(0, abs=1e-9)
        assert parabola.get_ydata().max() == 0
        assert mark.get_xdata()[0] == estimate


def test_the_parabola_of_a_quadratic_is_the_curve():
    """A location of Normal data has a quadratic log-likelihood."""
    curve, parabola, _ = plots.likelihood_curves(fit(td.Normal, NORMAL)).axes[0].get_lines()
    np.testing.assert_allclose(curve.get_ydata(), parabola.get_ydata(), rtol=1e-9, atol=1e-12)


def test_where_the_likelihood_is_not_defined_there_is_no_curve():
    """Three standard errors below this probability there is none."""
    curve = plots.likelihood_curves(fit(td.Bernoulli, [1, 0, 0, 0, 0])).axes[0].get_lines()[0]
    x, gain = curve.get_data()
    assert np.isnan(gain[x < 0]).all()
    assert np.isfinite(gain[(x > 0) & (x < 1)]).all()


def distribution(model, data, **options):
    result = fit(model, data, **options)
    return result, result.plot("distribution").axes


@pytest.mark.parametrize("model", [td.Normal, td.Laplace, td.LogNormal, td.Exponential, td.Uniform])
def test_density(model):
    """The bars and the curve enclose about the same area."""
    data = torch.rand(400, generator=torch.Generator().manual_seed(0)) + 0.1
    _, (axis,) = distribution(model, data)
    assert sum(bar.get_width() * bar.get_height() for bar in axis.patches) == pytest.approx(
        1, rel=1e-12
    )
    x, density = axis.get_lines()[0].get_data()
    inside = np.trapezoid(density, x)
    assert inside == pytest.approx(float(inside_of(model, data)), abs=1e-3)
    assert axis.get_ylabel() == "density"


def inside_of(model, data) -> torch.Tensor:
    """The fitted probability of the interval that the data span."""
    result = fit(model, data)
    cdf = model(**result.params, validate_args=False).cdf
    return cdf(data.double().max()) - cdf(data.double().min())


@pytest.mark.parametrize("model", [td.Poisson, td.Geometric])
def test_probabilities(model):
    data = [0, 3, 1, 1, 2, 0, 0, 4]
    result, (axis,) = distribution(model, data)
    assert [bar.get_height() for bar in axis.patches] == pytest.approx(np.bincount(data) / 8)
    fitted = model(**result.params).log_prob(torch.arange(5.0).double()).exp()
    np.testing.assert_allclose(axis.get_lines()[0].get_ydata(), fitted, rtol=1e-12)
    assert axis.get_ylabel() == "probability"


def test_categories_are_named():
    _, (axis,) = distribution(td.Categorical, ["pear", "fig", "pear"])
    assert [text.get_text() for text in axis.get_xticklabels()] == ["fig", "pear"]


@pytest.mark.parametrize("counts", [[0, 20_000], [20_000, 20_005], [2**62, 2**61, 3]])
def test_large_counts_do_not_need_a_bar_for_each_number(counts):
    _, (axis,) = distribution(td.Poisson, [float(count) for count in counts])
    assert len(axis.patches) <= 1000


def test_calibration():
    draw = np.random.default_rng(0)
    curves = [
        calibration(str(k), draw.random(50), draw.random(50) < 0.5, np.ones(50)) for k in range(7)
    ]
    figure = plots.calibration(curves)
    assert [axis.get_title() for axis in figure.axes] == list("0123456")
    diagonal, points = figure.axes[0].get_lines()[:2]
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_array_equal(points.get_xdata(), curves[0].predicted)
    assert len(plots.calibration(curves[:1]).axes) == 1


def test_long_names_are_cut():
    result = fit(td.Categorical, ["a" * 60, "b"])
    title = plots.likelihood_curves(result).axes[0].get_title()
    assert len(title) == 28
    assert title.endswith("…")


def test_svg_is_xml_and_the_same_each_time():
    """Also with signs that mean something in XML and in TeX."""
    result = fit(td.Categorical, ["<b>&'\"", "$x^2$", "größe", "}$_", "b--> c"])
    pictures = []
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pictures.append(plots.svg(plots.likelihood_curves(result)))
    assert pictures[0] == pictures[1]
    assert ElementTree.fromstring(pictures[0]).tag.endswith("svg")


def test_a_backend_that_does_not_exist_stops_no_picture():
    code = """
import os, nll, torch
nll.fit(torch.distributions.Poisson, [1.0, 2.0, 4.0]).plot()
assert os.environ["MPLBACKEND"] == "nonsense"
"""
    environment = {**os.environ, "MPLBACKEND": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
