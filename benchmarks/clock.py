"""How long a call takes and how much memory it holds, on a processor or an accelerator."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nll.kernels import memory


def devices() -> list[str]:
    """Where calls can be measured on this machine."""
    return ["cpu", *["cuda"] * torch.cuda.is_available()]


def seconds(device: str, step: Callable[[], Any], repeats: int = 1) -> float:
    """Of one call out of several; on an accelerator by its own events, the host's time where that
    is the longer.
    """
    if device != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        return (time.perf_counter() - start) / repeats
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    for _ in range(repeats):
        step()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3 / repeats


def in_turn(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each measure once in every round, after two rounds to warm up: what disturbs one disturbs
    all.
    """
    found: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds + 2):
        for name, measure in measures.items():
            found[name] += [measure()] * (turn > 1)
    return found


def medians(calls: Iterable[Callable[[], Any]], rounds: int, repeats: int = 1) -> list[float]:
    """The median seconds of calls on a processor, taken in turn."""
    measures = {str(i): partial(seconds, "cpu", call, repeats) for i, call in enumerate(calls)}
    return [statistics.median(times) for times in in_turn(measures, rounds).values()]


def held(device: str, step: Callable[[], Any]) -> int | None:
    """The most bytes that a call holds besides what is there before it; None where the system does
    not tell.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    memory.release()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _status("VmRSS")
        step()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
