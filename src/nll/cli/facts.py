"""What is installed and what is missing. It needs only PyTorch and NumPy."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import nll
from nll.kernels import reference
from nll.losses import dispatch

# package -> what it is for, and the extra that installs it
_OPTIONAL = {
    "scikit-learn": ("SoftmaxRegression", "regression"),
    "scipy": ("SoftmaxRegression", "regression"),
    "formulaic": ("formulas", "cli"),
    "pandas": ("tables", "cli"),
    "pyarrow": ("CSV and Parquet files", "cli"),
    "matplotlib": ("figures", "cli"),
    "jinja2": ("the HTML report", "cli"),
    "rich": ("terminal tables", "cli"),
    "sympy": ("derivations", "derive"),
    "typer": ("the command", "cli"),
}


def facts() -> list[tuple[str, str]]:
    """Return pairs of a name and its value."""
    entries = [
        ("nll", f"{nll.__version__} ({os.path.dirname(nll.__file__)})"),
        ("Python", platform.python_version()),
        ("PyTorch", torch.__version__),
        ("Machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"),
        ("Threads", f"{torch.get_num_threads()} (set by torch.set_num_threads)"),
        ("Devices", ", ".join(_devices())),
        ("Backend reference", _first_line(reference)),
        ("Backend cpu", dispatch.compiled_loops()),
        ("Backend triton", _triton()),
    ]
    for package, (purpose, extra) in _OPTIONAL.items():
        missing = f"missing: no {purpose}; pip install 'nll[{extra}]'"
        entries.append((package, _version(package) or missing))
    return entries


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
        return f"{dispatch.TRITON_MISSING}: tensors on a GPU use the reference backend"
    interpreted = ", interpreted on the CPU" if dispatch.INTERPRETED else ""
    return f"Triton {_version('triton')}{interpreted}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_line(module: object) -> str:
    return (module.__doc__ or "").strip().splitlines()[0].rstrip(".")
