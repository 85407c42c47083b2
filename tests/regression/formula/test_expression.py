"""What a formula may compute: an allow-list, and nothing else is run."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

from nll.regression.formula.design import design, parse
from nll.regression.formula.terms import Terms

RNG = np.random.default_rng(0)
N = 40
TABLE = pd.DataFrame(
    {
        "y": RNG.integers(0, 2, N),
        "x": RNG.gamma(2.0, 1.0, N),
        "k": RNG.integers(0, 3, N),
        "g": RNG.choice(["a)", "b", "c"], N),
    }
)
TOUCH = "__import__('os').system('touch pwned')"
ATTACKS = f"""I({TOUCH})
{TOUCH}
{{{TOUCH}}}
I((lambda: x)())
I([v for v in x])
I(sum(v for v in x))
I(f"{{x}}")
I(x.__class__)
x.__class__
I(x.values)
I(x.to_csv("pwned"))
I("%s" % x)
I("a".format(x))
I(x[0])
I(*x)
I((z := x))
I(x if True else x)
I(x and k)
I(open("pwned", "w"))
I(eval("1"))
I(np.vectorize(print)(x))
I(np.frompyfunc(print, 1, 1)(x))
I(np.apply_along_axis(print, 0, x))
np.fromfile("pwned")
np.load("pwned")
np.savetxt("pwned", x)
np.log(x, out=x)
np.log(x, x)
np.log(x, where=k)
np.log(x, dtype=object)
np.add.reduce(x)
np.lib.npyio.os.system("touch pwned")
np.mean(x)
I(9**9**9)
(x + k + g)**99 + I(x + 9**9**9)
bs(x, df=10**9)
poly(x, 1000000000)
hashed(g, 4, hash_func=eval)
center(x, _state=x)
scale(x, **{{"center": True}})
bs(x, extrapolation='"] + {TOUCH.replace("'", '"')} + x["')
`{TOUCH}`
`__import__`("os")
I(`x.__class__`)
I(quoted_5f5f696d706f72745f5f_("os"))
Q("{TOUCH}")
C(g, contr.__class__)
C(g, levels=eval("1"))
C(g, np.eye(3))
I("a" * 10**10)
I([0] * 10**10)
[x ~ k]
lag(x)
__builtins__
I(np)""".splitlines()
ATTACKS += [
    "I(" + "(" * 3000 + "x" + ")" * 3000 + ")",
    "I(" + "-" * 9000 + "x)",
    "*".join(f"x{j}" for j in range(60)),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_run(attack, tmp_path, monkeypatch):
    """As a term, as the response, and in a saved model."""
    monkeypatch.chdir(tmp_path)
    for formula in (f"y ~ {attack}", f"{attack} ~ x"):
        with pytest.raises(ValueError, match=r"^expected "):
            design(TABLE, parse(formula))
    kept = {
        "formula": attack,
        "columns": ["Intercept", attack],
        "categories": {},
        "state": {"pairs": []},
    }
    with pytest.raises(ValueError, match=r"^expected "):
        Terms.from_dict(kept).design(TABLE)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("term", "hint"),
    [
        ("factor(g)", "write C"),
        ("sqrt(x)", "write np.sqrt"),
        ("np.mean(x)", "'np.mean(x)'"),
        ("f(x)", "'f(x)'"),
    ],
)
def test_what_is_not_allowed_is_named(term, hint):
    with pytest.raises(ValueError, match="elementwise functions as np") as error:
        parse(f"y ~ {term}")
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("I(1 < x)", lambda t: t.x > 1),
        ("I((x > 1) + (k > 0))", lambda t: (t.x > 1).astype(int) + (t.k > 0)),
        ("I((x > 1) & ~(k > 0))", lambda t: (t.x > 1) & ~(t.k > 0)),
        ("I(big * 4)", lambda t: t.big.astype(float) * 4),
        ("I(k**2 - k**-2.0 * 0)", lambda t: t.k**2 - 0 * t.k),
        ("big:big2", lambda t: t.big.astype(float) * t.big2),
        ("log(x)", lambda t: np.log(t.x)),
        ("np.where(k > 1, x, -x)", lambda t: np.where(t.k > 1, t.x, -t.x)),
        ("I(g == 'a)')", lambda t: t.g == "a)"),
        ("{x + 1}", lambda t: t.x + 1),
        ("np.log(Sepal.Length)", lambda t: np.log(t["Sepal.Length"])),
        ("np.log(`np`) + 0", lambda t: np.log(t["np"])),
    ],
)
def test_what_is_allowed(term, expected):
    """Whole numbers do not overflow, and truth values add up as numbers."""
    table = TABLE.assign(k=TABLE.k + 1, big=2**61 + TABLE.k, big2=2**61 - TABLE.k, np=TABLE.x + 1)
    table["Sepal.Length"] = TABLE.x + 2
    found = design(table, parse(f"y ~ {term}"))
    np.testing.assert_allclose(
        found.x.iloc[:, 0].astype(float), np.asarray(expected(table), float), rtol=1e-15
    )


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("C(g, Treatment('b'))", "C(g, Treatment('b'))[T.c]"),
        ("C(g, contr.sum)", "C(g, contr.sum)[S.b]"),
        ("C(g, Sum)", "C(g, Sum)[S.b]"),
        ("C(g, {'b or c': [-1, .5, .5]})", "C(g, {'b or c': [-1, 0.5, 0.5]})[b or c]"),
        ("C(g, contr.treatment('a)'))", "C(g, contr.treatment('a)'))[T.c]"),
    ],
)
def test_contrasts(text, columns):
    assert columns in design(TABLE, parse(f"y ~ {text}")).x.columns
