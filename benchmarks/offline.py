"""Compile every Triton kernel for accelerators that need not be there, and say what of each they use.

    python benchmarks/offline.py

Registers and shared memory limit how many programs run side by side; a spilled register is written to memory and read
again, which no kernel may do at the sizes that it is launched with.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from nll.kernels.triton.tiles import tile

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
FLOATS = {"smoothing", "inverse_temperature", "softcap"}
LABELS = {"target", "first", "offender", "rank"}
POINTERS = {"x", "y", "out", "gradient"}  # of the scores' type
WHOLE_NUMBERS = {"rows", "classes", "inner", "step", "stride", "ignore_index"}
NO_OPTIONS = {"WEIGHT": False, "FACTOR": False, "SMOOTH": False, "CAP": False, "Z": False}
ALL_OPTIONS = {"WEIGHT": True, "FACTOR": True, "SMOOTH": True, "CAP": True, "Z": True}


@dataclass(frozen=True)
class Variant:
    """A kernel as it is launched for some shape and options."""

    file: str
    kernel: str
    said: str
    warps: int
    constants: dict[str, Any] = field(default_factory=dict)
    probabilities: bool = False


def variants() -> Iterator[Variant]:
    """The kernels at the sizes of their tiles: short rows, a whole long one, parts of a longer, class second."""
    shapes = {"C = 10": (10, 1), "C = 1000": (1000, 1), "C = 8192": (8192, 1), "C = 131072": (131072, 1)}
    shapes["class second"] = 21, 64
    for said, shape in shapes.items():
        t = tile(*shape)
        sizes = {"ROWS": t.rows, "BLOCK": t.classes}
        modes = {"forward": (True, False), "forward with gradient": (True, True), "backward": (False, True)}
        for mode, (forward, gradient) in modes.items():
            for labelled, options in ((True, NO_OPTIONS), (True, ALL_OPTIONS), (False, ALL_OPTIONS)):
                constants = {"FORWARD": forward, "GRADIENT": gradient, "UNLESS_ONE": not forward, "LABELS": labelled}
                constants |= {"MEAN": True, "WHOLE": t.whole, "PARTS": 8, **sizes, **options}
                of = "labels" if labelled else "probabilities"
                how = f"{said}, {of}, {mode}" + (", every option" if options is ALL_OPTIONS else "")
                yield Variant("cross_entropy", "cross_entropy_kernel", how, t.warps, constants, not labelled)
        for backward in (False, True):
            constants = {"BACKWARD": backward, "WHOLE": t.whole, **sizes}
            yield Variant("log_softmax", "log_softmax_kernel", f"{said}{', backward' * backward}", t.warps, constants)
        if said == "class second":
            continue
        block = {"CAP": True, "ROWS": t.rows, "BLOCK": min(t.classes, 4096)}
        yield Variant("statistics", "statistics_kernel", said, min(t.warps, 4), block)
        yield Variant("statistics", "statistics_backward_kernel", said, min(t.warps, 4), {"ENTROPY": True, **block})
        sizes = {"ROWS": t.rows, "BLOCK": min(t.classes, 4096)}
        yield Variant("log_softmax", "pick_backward_kernel", said, min(t.warps, 4), sizes)
    yield Variant("log_softmax", "pick_kernel", "", 4, {"ROWS": 1024, "PARTS": 8})
    constants = {"LABELS": True, "WEIGHT": True, "FACTOR": True, "BLOCK": 1024, "PARTS": 64}
    yield Variant("labels", "census_kernel", "", 4, constants)
    yield Variant("labels", "report_kernel", "", 4, {"PARTS": 64})


def compiled(variant: Variant, target: GPUTarget, dtype: str) -> Any:
    """The kernel for a target, of scores of a type; for class last its strides are known to be 1."""
    kernel = getattr(importlib.import_module(f"nll.kernels.triton.{variant.file}"), variant.kernel)
    second = variant.said.startswith("class second")
    known = {f"{tensor}_{'inner' if second else 'class'}" for tensor in "xgoq"} | (set() if second else {"inner"})
    constants = {**variant.constants, **dict.fromkeys(known & set(kernel.arg_names), 1)}
    signature = {name: kind(name, variant, dtype) for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constexprs=constants)
    return triton.compile(source, target=target, options={"num_warps": variant.warps})


def kind(name: str, variant: Variant, dtype: str) -> str:
    """The type of a kernel's argument."""
    if name == "target" and variant.probabilities:
        return f"*{dtype}"
    if name in LABELS:
        return "*i64"
    if name in WHOLE_NUMBERS or re.fullmatch(r"[a-z]_(outer|class|inner)", name):
        return "i32"
    return f"*{dtype}" if name in POINTERS else "fp32" if name in FLOATS else "*fp32"


def used(kernel: Any) -> tuple[int, int, int]:
    """Registers of a thread, bytes of shared memory, and what is spilled."""
    if "amdgcn" in kernel.asm:
        found = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count):\s+(\d+)", kernel.asm["amdgcn"]))
        return int(found["vgpr_count"]), kernel.metadata.shared, int(found["vgpr_spill_count"])
    arch = kernel.metadata.target.arch
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(kernel.asm["ptx"])
        file.flush()
        command = [get_ptxas(arch).path, "-v", f"--gpu-name=sm_{arch}{'a' * (arch >= 90)}", file.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = (re.findall(what, said)[0] for what in (r"Used (\d+) registers", r"(\d+) bytes spill stores"))
    return int(registers), kernel.metadata.shared, int(spilled)


def main() -> int:
    """Print a table; return how many kernels spill."""
    heads = " | ".join(f"{name}: registers, shared, spilled" for name in TARGETS)
    print(f"| kernel | shape and options | warps | {heads} |")
    print("|---|---|---|" + "---|" * len(TARGETS))
    spilled = 0
    for variant in variants():
        of = [used(compiled(variant, target, "bf16")) for target in TARGETS.values()]
        spilled += sum(spill > 0 for *_, spill in of)
        cells = " | ".join(f"{registers}, {shared}, {spill}" for registers, shared, spill in of)
        print(f"| {variant.kernel} | {variant.said} | {variant.warps} | {cells} |", flush=True)
    return spilled


if __name__ == "__main__":
    sys.exit(main())
