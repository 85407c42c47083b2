"""How long `import nll` and the start of the command take: medians of fresh processes, in turn,
and of the differences and ratios within a turn.

    python benchmarks/start.py [--rounds 15]

The command is compared with a Typer application of two commands that do nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = """
import typer

app = typer.Typer()


@app.command()
def one(name: str, count: int = 1) -> None:
    "Do the one thing."


@app.command()
def two(name: str, count: int = 1) -> None:
    "Do the other thing."


app()
"""
COMPLETE = {"_NLL_COMPLETE": "complete_bash", "COMP_WORDS": "nll fit --", "COMP_CWORD": "2"}


def cases(bare: str) -> list[tuple[str, list[str], dict[str, str]]]:
    """Return names, programs and their variables; each is compared with the last above it whose
    name has no "nll".
    """
    python, command = sys.executable, str(Path(sys.executable).with_name("nll"))
    return [
        ("import torch", [python, "-c", "import torch"], {}),
        ("import torch, nll", [python, "-c", "import torch, nll"], {}),
        ("import torch, nll; nll.fit", [python, "-c", "import torch, nll; nll.fit"], {}),
        ("bare --help", [python, bare, "--help"], {}),
        ("nll --help", [command, "--help"], {}),
        ("nll --version", [command, "--version"], {}),
        ("nll fit --<TAB>", [command], COMPLETE),
        ("bare one --help", [python, bare, "one", "--help"], {}),
        ("nll fit --help", [command, "fit", "--help"], {}),
    ]


def seconds(arguments: list[str], variables: dict[str, str]) -> float:
    """Return how long a fresh process takes."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(arguments, env=kept | variables, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.py")
        bare.write_text(BARE, "utf-8")
        names, *programs = zip(*cases(str(bare)), strict=True)
        turns = [list(map(seconds, *programs)) for _ in range(rounds + 1)][1:]
    base = 0
    for i, name in enumerate(names):
        base = base if "nll" in name else i
        time_of = statistics.median(turn[i] for turn in turns)
        more = statistics.median(turn[i] - turn[base] for turn in turns)
        ratio = statistics.median(turn[i] / turn[base] for turn in turns)
        print(f"{name:28}{1e3 * time_of:6.0f} ms {1e3 * more:+6.0f} ms {ratio:6.2f}")


if __name__ == "__main__":
    main()
