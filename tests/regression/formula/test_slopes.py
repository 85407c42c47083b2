"""Derivatives of what a formula computes, against differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nll.regression.formula.expression import expression

TABLE = pd.DataFrame({"x": np.linspace(0.31, 2.73, 25), "z": np.linspace(2.0, 1.0, 25)})


@pytest.mark.parametrize(
    "text",
    [
        "np.log(x) * z",
        "x**3 / z",
        "np.where(x > 1, x**2, z)",
        "np.fabs(x - z)",
        "np.cbrt(x)",
        "scale(x)",
        "center(x * z)",
        "poly(x, 3)",
        "bs(x, df=5)",
        "cr(x, df=4)",
    ],
)
def test_the_derivative_is_the_limit_of_differences(text):
    one, state, step = expression(text), {}, 1e-6
    one(TABLE, state)

    def columns(value):
        value = getattr(value, "__wrapped__", value)
        return np.stack(list(value.values()), 1) if isinstance(value, dict) else np.asarray(value)

    ends = TABLE.x.min(), TABLE.x.max()
    high, low = (one(TABLE.assign(x=(TABLE.x + h).clip(*ends)), state) for h in (step, -step))
    expected = (columns(high) - columns(low)) / (2 * step)
    found = columns(one.slope(TABLE, state, "x"))
    inside = slice(1, -1)  # a difference leaves the range of the fit's rows at its ends
    np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-5, atol=1e-6)


def test_what_jumps_has_no_derivative():
    assert expression("I(x > 1)").slope(TABLE, {}, "x") is None
