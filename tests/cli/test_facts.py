"""`nll info`: what runs here, and what does not."""

from __future__ import annotations

import platform
from importlib.metadata import version

import pytest
import torch

import nll
from nll.cli import facts as info
from nll.kernels import cpu


def test_facts():
    facts = dict(info.facts())
    assert facts["nll"].startswith(f"{nll.__version__} (")
    assert facts["Python"] == platform.python_version()
    assert facts["PyTorch"] == torch.__version__
    assert facts["Threads"].startswith(f"{torch.get_num_threads()} ")
    assert facts["Devices"].split(", ")[0] == "cpu"
    assert {"Backend reference", "Backend cpu"} <= set(facts)
    for package in ("scikit-learn", "pandas", "formulaic", "matplotlib", "rich"):
        assert facts[package] == version(package)


def test_the_compiled_library_is_described_or_missed(monkeypatch):
    monkeypatch.setattr(cpu, "MISSING", None)
    monkeypatch.setattr(cpu, "instruction_set", lambda: "abacus")
    assert dict(info.facts())["Backend cpu"].endswith("; instruction set abacus")
    monkeypatch.setattr(cpu, "MISSING", "no compiler")
    assert dict(info.facts())["Backend cpu"] == "no compiler"


@pytest.mark.parametrize(
    ("package", "says"),
    [
        ("scikit-learn", "missing: no SoftmaxRegression; pip install 'nll[regression]'"),
        ("formulaic", "missing: no formulas; pip install 'nll[cli]'"),
        ("matplotlib", "missing: no figures; pip install 'nll[cli]'"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(package, says, monkeypatch):
    def gone(name: str) -> str:
        if name == package:
            raise info.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(info, "version", gone)
    facts = dict(info.facts())
    assert facts[package] == says
    assert [name for name, value in facts.items() if value.startswith("missing: ")] == [package]
