"""`import nll` is light, needs PyTorch and NumPy alone, and knows every name."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import textwrap

import pytest

import nll

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
    layers = {name.split(".")[1] for name in added if name.startswith("nll.")}
    assert layers == {"_torch", "_version", "kernels", "losses"}


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


@pytest.mark.parametrize("imports", ["import torch, nll", "import nll, torch"])
def test_the_operators_are_registered(imports):
    """An exported program, loaded after nothing but `import nll`, finds them."""
    code = f"{imports}; print(torch.ops.nll.cross_entropy.default)"
    assert python(code) == "nll.cross_entropy.default\n"


@pytest.mark.slow
def test_an_exported_program_is_loaded_after_import_nll(tmp_path):
    path = str(tmp_path / "loss.pt2")
    python(f"""
    import torch, nll

    class Loss(torch.nn.Module):
        def forward(self, features, head, labels):
            return nll.linear_cross_entropy(features, head, labels)

    tensors = torch.randn(40, 16), torch.randn(200, 16), torch.arange(40)
    program = torch.export.export(Loss(), tensors)
    assert "torch.ops.nll." in str(program.graph)
    torch.export.save(program, {path!r})
    """)
    assert python(f"import nll, torch; print(type(torch.export.load({path!r})).__name__)") == (
        "ExportedProgram\n"
    )


@pytest.mark.parametrize(
    ("arguments", "original", "command"),
    [
        (["/usr/bin/nll", "fit"], [], True),
        (["C:\\bin\\nll.exe".replace("\\", "/")], [], True),
        (["-m", "--help"], ["python", "-W", "error", "-m", "nll", "--help"], True),
        (["-m"], ["python", "-m", "pytest"], False),
        (["-m", "nll"], ["python", "-m", "timeit", "nll"], False),
        (["-m", "a", "b", "c"], ["python"], False),
        (["-c"], ["python", "-c", "import nll", "nll"], False),
        (["train.py", "nll"], ["python", "train.py", "nll"], False),
        ([], ["python"], False),
    ],
)
def test_only_the_command_waits_with_the_losses(arguments, original, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert nll._is_command() is command


def test_names():
    assert set(nll.__all__) <= set(dir(nll))
    assert {*nll._HOME, "__version__"} == set(nll.__all__)
    for name, home in nll._HOME.items():
        assert getattr(nll, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match=r"^module 'nll' has no attribute 'regress'$"):
        _ = nll.regress


def test_the_homes_are_those_that_type_checkers_read():
    tree = ast.parse(inspect.getsource(nll))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If) and not node.orelse][:1]
    stated = {a.name: node.module for node in checked.body for a in node.names}
    assert stated == nll._HOME


def test_star_help_and_pickle():
    code = """
    from nll import *
    import nll, pickle, pydoc

    assert fit is nll.fit and "nll.estimation.fit" in pydoc.render_doc(nll.fit)
    assert pickle.loads(pickle.dumps(nll.fit)) is fit
    print(sorted(set(nll.__all__) - set(globals())))
    """
    assert python(code) == "[]\n"
