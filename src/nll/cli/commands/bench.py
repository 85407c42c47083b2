"""`nll bench`: compare the losses with PyTorch's on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nll.cli.output import require_places, write_json


def bench(
    only: Annotated[
        str, typer.Option(help="Only the cases whose name or dtype contains this text.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=2, help="Number of timing rounds.")] = 9,
    device: Annotated[str, typer.Option(help="Device to benchmark: cpu or cuda.")] = "cpu",
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Also compare with torch.compile.")
    ] = True,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="Write the figures as JSON; - prints them to stdout."),
    ] = None,
) -> None:
    """Compare the losses with PyTorch's on this machine: time, memory, error against float64."""
    require_places([], [], json_path)
    from nll.cli import benchmark

    chosen = [case for case in benchmark.CASES if only in f"{case.name} {case.dtype}"]
    if not chosen:
        names = ", ".join(case.name for case in benchmark.CASES)
        raise typer.BadParameter(f"no case matches {only!r}: {names}", param_hint="--only")
    devices = benchmark.devices()
    if device not in devices:
        raise typer.BadParameter(
            f"expected {' or '.join(devices)}, got {device!r}", param_hint="--device"
        )
    figures = benchmark.run(chosen, rounds, compiled, device)
    if json_path is not None:
        write_json(figures, json_path)
    if str(json_path) != "-":
        benchmark.show(figures, compiled)
