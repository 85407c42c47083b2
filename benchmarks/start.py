"""How long `import nll` and the start of the command take: medians of fresh processes, in turn.

    python benchmarks/start.py [--rounds 15]

The imports are timed inside of their process, the command from outside, next to a Typer application
of two subcommands that do nothing; ratios are medians of those within a turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from time import perf_counter

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
IMPORTS = """
from time import perf_counter

times = [perf_counter()]
import torch; times.append(perf_counter())
import nll; times.append(perf_counter())
nll.fit; times.append(perf_counter())
print(*times)
"""
COMPLETE = {"_NLL_COMPLETE": "complete_bash", "COMP_WORDS": "nll fit --", "COMP_CWORD": "2"}


def run(*arguments: str, **variables: str) -> str:
    """Return what a fresh process prints; bytecode is cached, as it is for users."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        arguments, env=kept | variables, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def imports() -> list[float]:
    """Return the seconds of `import torch`, then of `import nll`, then of the first `nll.fit`."""
    times = list(map(float, run(sys.executable, "-c", IMPORTS).split()))
    return [later - time for time, later in pairwise(times)]


def starts(bare: str) -> dict[str, float]:
    """Return the seconds of a start of the command, or of the bare application, by name."""
    command = str(Path(sys.executable).with_name("nll"))
    seconds = {}
    for name, arguments, variables in (
        ("bare --help", [sys.executable, bare, "--help"], {}),
        ("nll --help", [command, "--help"], {}),
        ("nll --version", [command, "--version"], {}),
        ("nll fit --<TAB>", [command], COMPLETE),
        ("bare one --help", [sys.executable, bare, "one", "--help"], {}),
        ("nll fit --help", [command, "fit", "--help"], {}),
    ):
        start = perf_counter()
        run(*arguments, **variables)
        seconds[name] = perf_counter() - start
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.py")
        bare.write_text(BARE, "utf-8")
        turns = [(imports(), starts(str(bare))) for _ in range(rounds + 1)][1:]
    for i, name in enumerate(("import torch", "then import nll", "then nll.fit")):
        print(f"{name:20}{1e3 * statistics.median(times[i] for times, _ in turns):6.0f} ms")
    for name in turns[0][1]:
        base = "bare one --help" if name == "nll fit --help" else "bare --help"
        time = statistics.median(seconds[name] for _, seconds in turns)
        ratio = statistics.median(seconds[name] / seconds[base] for _, seconds in turns)
        compared = f"{ratio:6.2f} times {base}" if name.startswith("nll") else ""
        print(f"{name:20}{1e3 * time:6.0f} ms{compared}")


if __name__ == "__main__":
    main()
