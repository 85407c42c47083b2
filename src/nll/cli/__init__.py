"""The command `nll`: every subcommand is a module here."""

from __future__ import annotations

import importlib.util
import signal
import sys

_NEEDED = ("typer", "rich", "formulaic", "pandas", "pyarrow", "sklearn", "matplotlib", "jinja2")


def main() -> None:
    """Run the command; without its packages, say how to get them."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"nll: the command needs {', '.join(missing)}: pip install 'nll[cli]'")
    if hasattr(signal, "SIGPIPE"):  # `nll fit ... | head` ends quietly
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    from nll.cli.app import app

    app()
