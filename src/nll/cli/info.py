"""`nll info`: what runs here, and what is missing. It needs PyTorch and NumPy alone."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import nll
from nll.kernels import cpu, reference
from nll.losses import dispatch

# package -> what it brings, and the extra that installs it
_OPTIONAL = {
    "scikit-learn": ("SoftmaxRegression", "regression"),
    "scipy": ("SoftmaxRegression", "regression"),
    "formulaic": ("formulas", "cli"),
    "pandas": ("tables", "cli"),
    "pyarrow": ("CSV and Parquet files", "cli"),
    "matplotlib": ("pictures", "cli"),
    "jinja2": ("the report page", "cli"),
    "rich": ("the terminal's tables", "cli"),
    "sympy": ("derivations", "derive"),
    "typer": ("the command", "cli"),
}


def info() -> None:
    """Show versions, devices, threads and backends, and what is missing."""
    found = facts()
    width = max(len(name) for name, _ in found)
    print("\n".join(f"{name:{width}}  {value}" for name, value in found))


def facts() -> list[tuple[str, str]]:
    """Pairs of a name and what was found."""
    found = [
        ("nll", f"{nll.__version__} ({os.path.dirname(nll.__file__)})"),
        ("Python", platform.python_version()),
        ("PyTorch", torch.__version__),
        ("Machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"),
        ("Threads", f"{torch.get_num_threads()} (torch.set_num_threads changes it)"),
        ("Devices", ", ".join(_devices())),
        ("Backend reference", _first_line(reference)),
        (
            "Backend cpu",
            cpu.MISSING or f"{_first_line(cpu)}; instruction set {cpu.instruction_set()}",
        ),
    ]
    found.append(("Backend triton", _triton()))
    for package, (brings, extra) in _OPTIONAL.items():
        installed = _version(package)
        found.append((package, installed or f"missing: no {brings}; pip install 'nll[{extra}]'"))
    return found


def _devices() -> list[str]:
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [
            f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _triton() -> str:
    if dispatch.TRITON_MISSING is not None:
        return f"{dispatch.TRITON_MISSING}: a tensor on an accelerator goes to the reference"
    return f"Triton {_version('triton')}" + (
        ", interpreted on this processor" * dispatch.INTERPRETED
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_line(module: object) -> str:
    return (module.__doc__ or "").strip().splitlines()[0].rstrip(".")
