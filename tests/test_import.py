"""`import nll` is light, and needs PyTorch and NumPy alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAVY = (
    "torch._dynamo",
    "triton",
    "scipy",
    "sklearn",
    "matplotlib",
    "pandas",
    "pyarrow",
    "formulaic",
    "jinja2",
    "rich",
    "typer",
    "statsmodels",
    "polars",
    "sympy",
)

# Every finder of modules, blind to these packages: to Python they are not installed.
HIDDEN = f"""
import sys

class Blind:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {tuple(name for name in HEAVY if not name.startswith("torch"))!r}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path = [Blind(finder) for finder in sys.meta_path]
"""


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_import_does_not_import():
    """Compared with what PyTorch itself brings."""
    code = (
        "import sys, torch; before = set(sys.modules); import nll; "
        "print(*sorted(set(sys.modules) - before))"
    )
    added = python(code).split()
    assert "nll.losses.functional" in added
    assert [name for name in added if name.startswith(HEAVY)] == []
    assert [
        name for name in added if name.startswith(("nll.regression", "nll.report", "nll.cli"))
    ] == []


def test_without_any_optional_package():
    """The losses, a fit, a choice; and the estimator says what to install."""
    code = """
    import torch, nll
    from torch.distributions import Bernoulli

    x = torch.randn(3, 5, requires_grad=True)
    loss = nll.cross_entropy(x, torch.tensor([1, 0, 3]))
    loss.backward()
    both = nll.NLLLoss()(nll.LogSoftmax(dim=1)(x), torch.tensor([1, 0, 3]))
    assert torch.isclose(loss, both)
    assert x.grad.abs().sum() > 0

    result = nll.fit(torch.distributions.Uniform, [1.0, 2.5, 4.0])
    assert result.interval()["low"][1] == 1.0
    assert "not regular" in result.summary()
    letters = nll.fit(torch.distributions.Categorical, ["a", "b", "a"])
    assert letters.params["probs"][0] > 0.6

    boxes = {"A": Bernoulli(0.99), "B": Bernoulli(0.01)}
    assert nll.most_likely(boxes, 1).winner == "A"

    try:
        nll.SoftmaxRegression
    except ImportError as error:
        print(error)
    """
    assert python(HIDDEN + textwrap.dedent(code)) == (
        "nll.SoftmaxRegression needs scipy, which is not installed: pip install 'nll[regression]'\n"
    )


@pytest.mark.parametrize(
    ("argument", "code", "says"),
    [
        ("info", 0, "missing: no SoftmaxRegression; pip install 'nll[regression]'"),
        ("--version", 0, "nll "),
        (
            "fit",
            1,
            "nll: the command needs typer, rich, formulaic, pandas, pyarrow, sklearn, matplotlib, "
            "jinja2, sympy: "
            "pip install 'nll[cli]' (nll info and nll --version run without)\n",
        ),
    ],
)
def test_the_command_without_its_packages(argument, code, says):
    script = HIDDEN + (
        f"sys.argv = ['nll', {argument!r}]\nimport runpy\nrunpy.run_module('nll', "
        f"run_name='__main__')"
    )
    # Also without the records of what is installed, by which `nll info` knows.
    hidden = (
        "import importlib.metadata as m\ndef gone(name): raise "
        "m.PackageNotFoundError(name)\nm.version = gone\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden + script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert says in (done.stderr if code else done.stdout)


def test_names():
    import nll

    assert set(nll.__all__) <= set(dir(nll))
    assert all(getattr(nll, name) is not None for name in nll.__all__)
    with pytest.raises(AttributeError, match=r"^module 'nll' has no attribute 'regress'$"):
        _ = nll.regress
