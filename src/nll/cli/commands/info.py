"""`nll info`: what is installed and what is missing. It runs without the command's packages."""

from __future__ import annotations


def info() -> None:
    """Show versions, devices, threads and backends, and what is missing."""
    from nll.cli.facts import facts

    entries = facts()
    width = max(len(name) for name, _ in entries)
    print("\n".join(f"{name:{width}}  {value}" for name, value in entries))
