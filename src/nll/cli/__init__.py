"""The command `nll`: every subcommand is a module of `commands`."""

from __future__ import annotations

import importlib.util
import sys

_NEEDED = (
    "typer",
    "rich",
    "formulaic",
    "pandas",
    "pyarrow",
    "sklearn",
    "matplotlib",
    "jinja2",
    "sympy",
)


def main() -> None:
    """Run the command; without its packages say how to get them, and what runs without them."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        from nll.cli.app import app

        app()
    elif sys.argv[1:] == ["info"]:
        from nll.cli.commands.info import info

        info()
    elif sys.argv[1:] == ["--version"]:
        from nll._version import __version__

        print(f"nll {__version__}")
    else:
        sys.exit(
            f"nll: the command needs {', '.join(missing)}: pip install 'nll[cli]' "
            "(nll info and nll --version run without)"
        )
