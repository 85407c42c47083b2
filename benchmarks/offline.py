"""Compile every Triton kernel for accelerators that need not be there; say what of each they use.

    python benchmarks/offline.py
    python benchmarks/offline.py --specialisations
    python benchmarks/offline.py --instructions

Registers and shared memory limit how many programs run side by side; a spilled register is written
to memory and read again, which no kernel may do at the sizes that it is launched with.

A launch compiles a kernel for the whole numbers that it is called with: 1 becomes a constant of the
compiler, a multiple of 16 is known as one, and a number that 32 bits do not hold has 64. Neither
Triton's interpreter nor the table does so; `--specialisations` compiles such kernels, and prints no
table.

`--instructions` prints what the loss and gradient of long rows take on sm_90: instructions for each
number, as the difference of two sizes of a tile, and reads and writes of 16 bytes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import triton
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, make_backend

from nll.kernels.triton.statistics import MOST
from nll.kernels.triton.tiles import ALIGNED, IN_LINES, SHIFTED, STRIDED, compiled_for, tile

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
FLOATS = {"smoothing", "inverse_temperature", "softcap", "z_loss"}
LABELS = {"target", "counters", "offender", "rank"}
DOUBLE = {"numbers", "totals"}
POINTERS = {"x", "gradient", "result"}  # of the scores' type
WHOLE_NUMBERS = {
    "rows",
    "classes",
    "inner",
    "step",
    "stride",
    "count",
    "lead",
    "start",
    "ignore_index",
}
OPTIONS = ("WEIGHT", "FACTOR", "SMOOTH", "ALLOWED", "CAP", "Z")
NO_OPTIONS = dict.fromkeys(OPTIONS, False)
ALL_OPTIONS = dict.fromkeys(OPTIONS, True)

ITEMSIZE = {"bf16": 2, "fp32": 4}

# Classes, and how many rows lie side by side: short rows, a whole long one, parts of a longer,
# class second.
SHAPES = {
    "C = 10": (10, 1),
    "C = 1000": (1000, 1),
    "C = 8192": (8192, 1),
    "C = 32768": (32768, 1),
    "C = 50257": (50257, 1),
    "C = 131072": (131072, 1),
    "class second": (21, 512),
}

# How a launch specialises a whole number; what it notes of a number or an address divisible by 16.
ONE, DIVISIBLE, LONG, INTEGER = "1", "divisible by 16", "64 bits", "a whole number"
DIVISIBLE_BY_16 = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Variant:
    """A kernel as it is launched for some shape and options."""

    file: str
    kernel: str
    said: str
    warps: int
    constants: dict[str, Any] = field(default_factory=dict)
    probabilities: bool = False


def variants(shapes: dict[str, tuple[int, int]] = SHAPES, dtype: str = "bf16") -> Iterator[Variant]:
    """The kernels at the sizes of their tiles for these shapes."""
    for said, shape in shapes.items():
        size = ITEMSIZE[dtype]
        lie = (
            STRIDED if shape[1] > 1 or shape[0] < IN_LINES else SHIFTED if shape[0] % 8 else ALIGNED
        )
        modes = {
            "forward": (True, False),
            "forward with gradient": (True, True),
            "backward": (False, True),
        }
        for mode, (forward, gradient) in modes.items():
            for labelled, options in (
                (True, NO_OPTIONS),
                (True, ALL_OPTIONS),
                (False, ALL_OPTIONS),
            ):
                t = tile(*shape, size, options is ALL_OPTIONS)
                sizes = {"ROWS": t.rows, "BLOCK": t.classes, "SIDE": shape[1] > 1}
                constants = {"FORWARD": forward, "GRADIENT": gradient, "LABELS": labelled}
                constants |= {"MEAN": True, "WHOLE": t.whole, "Z_TENSOR": False, "LIE": lie.value}
                constants |= {"SAVED": True, "UPSTREAM": not forward}
                constants |= {**sizes, **options}
                of = "labels" if labelled else "probabilities"
                how = f"{said}, {of}, {mode}" + (", every option" if options is ALL_OPTIONS else "")
                yield Variant(
                    "cross_entropy", "cross_entropy_kernel", how, t.warps, constants, not labelled
                )
        if said == "class second":
            continue
        t = tile(*shape, size)
        block = {"CAP": True, "ALLOWED": True, "ROWS": t.rows, "BLOCK": min(t.classes, MOST)}
        yield Variant("statistics", "statistics_kernel", said, min(t.warps, 4), block)
        yield Variant(
            "statistics",
            "statistics_backward_kernel",
            said,
            min(t.warps, 4),
            {"ENTROPY": True, **block},
        )
    yield Variant("rescale", "rescale_kernel", "", 4, {"COPY": True, "BLOCK": 4096})
    constants = {"LABELS": True, "WEIGHT": True, "FACTOR": True, "BLOCK": 1024, "PARTS": 64}
    yield Variant("labels", "census_kernel", "", 4, constants)
    constants = {"MEAN": True, "BLOCK": 1024, "PARTS": 64}
    yield Variant("totals", "total_kernel", "", 4, constants)


def kernel_of(variant: Variant) -> Any:
    """The kernel itself."""
    return getattr(importlib.import_module(f"nll.kernels.triton.{variant.file}"), variant.kernel)


def compiled(variant: Variant, target: GPUTarget, dtype: str) -> Any:
    """The kernel for a target, of scores of a type; for class last its strides are known to be
    1.
    """
    kernel = kernel_of(variant)
    second = variant.said.startswith("class second")
    known = {f"{tensor}_{'inner' if second else 'class'}" for tensor in "xgoqa"} | (
        set() if second else {"inner"}
    )
    constants = {**variant.constants, **dict.fromkeys(known & set(kernel.arg_names), 1)}
    signature = {name: kind(name, variant, dtype) for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constexprs=constants)
    return triton.compile(source, target=target, options=how(variant, target))


def how(variant: Variant, target: GPUTarget) -> dict[str, int]:
    """The options of a launch."""
    return compiled_for(
        variant.warps, variant.constants.get("CAP", False), target.backend == "cuda"
    )


def kind(name: str, variant: Variant, dtype: str) -> str:
    """The type of a kernel's argument."""
    if name == "target" and variant.probabilities:
        return f"*{dtype}"
    if name in LABELS:
        return "*i64"
    if name in DOUBLE:
        return "*fp64"
    if name == "allowed":
        return "*i1"
    if is_number(name):
        return "i32"
    return f"*{dtype}" if name in POINTERS else "fp32" if name in FLOATS else "*fp32"


def is_number(name: str) -> bool:
    """Whether a kernel's argument is a whole number: a size, a stride, a label."""
    return name in WHOLE_NUMBERS or re.fullmatch(r"[a-z]_(outer|class|inner)", name) is not None


def used(kernel: Any) -> tuple[int, int, int]:
    """Registers of a thread, bytes of shared memory, and what is spilled."""
    if "amdgcn" in kernel.asm:
        found = dict(
            re.findall(
                r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count):\s+(\d+)", kernel.asm["amdgcn"]
            )
        )
        return int(found["vgpr_count"]), kernel.metadata.shared, int(found["vgpr_spill_count"])
    arch = kernel.metadata.target.arch
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(kernel.asm["ptx"])
        file.flush()
        command = [
            get_ptxas(arch).path,
            "-v",
            f"--gpu-name=sm_{arch}{'a' * (arch >= 90)}",
            file.name,
            "-o",
            os.devnull,
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = (
        re.findall(what, said)[0] for what in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
    )
    return int(registers), kernel.metadata.shared, int(spilled)


@dataclass(frozen=True)
class Specialisation:
    """A variant of a kernel, how some of its numbers are special, and how far to compile it."""

    variant: Variant
    numbers: dict[str, str]
    wholly: bool

    def __str__(self) -> str:
        names = ", ".join(self.numbers) if len(self.numbers) == 1 else "every whole number"
        special = f"{names}: {next(iter(self.numbers.values()))}"
        return " | ".join(filter(None, (self.variant.kernel, self.variant.said, special)))


def specialisations() -> Iterator[Specialisation]:
    """Each whole number of each kernel by itself in every way, and all of them at once.

    Whether a number is a constant, 32 or 64 bits is what the parser of a kernel works with: it
    finds the faults of types before any pass of the compiler, at a tenth of the cost. That one is
    divisible by 16 it only notes, for passes that choose how memory is read: such kernels are
    compiled to the end. So are those with all numbers special at once.
    """
    for variant in with_every_option("C = 1000", "C = 131072"):
        for name in numbers_of(variant):
            yield Specialisation(variant, {name: ONE}, wholly=False)
            if not variant.constants.get("WHOLE"):
                yield Specialisation(variant, {name: LONG}, wholly=False)
        # Who writes softcap=1 or softcap=30 has not given a float.
        for name in sorted(FLOATS.intersection(kernel_of(variant).arg_names)):
            yield Specialisation(variant, {name: ONE}, wholly=False)
            yield Specialisation(variant, {name: INTEGER}, wholly=False)
    for variant in variants({"C = 1": (1, 1)}):
        yield Specialisation(variant, dict.fromkeys(numbers_of(variant), ONE), wholly=True)
    for variant in with_every_option("C = 131072", "class second"):
        for how in (DIVISIBLE, LONG):
            yield Specialisation(variant, dict.fromkeys(numbers_of(variant), how), wholly=True)
    for variant in with_every_option("C = 131072"):
        if variant.constants.get("FORWARD", True) and variant.constants.get("GRADIENT", True):
            for name in numbers_of(variant):
                yield Specialisation(variant, {name: DIVISIBLE}, wholly=True)


def with_every_option(*shapes: str) -> Iterator[Variant]:
    """The kernels at these shapes; of one with options, what is compiled with all of them."""
    of = variants({said: SHAPES[said] for said in shapes})
    return (variant for variant in of if variant.constants.get("CAP", True))


def numbers_of(variant: Variant) -> list[str]:
    """The arguments of a kernel that are whole numbers."""
    return [name for name in kernel_of(variant).arg_names if is_number(name)]


def check(special: Specialisation, target: GPUTarget, dtype: str) -> None:
    """Compile a kernel as a launch with such numbers does; every address is divisible by 16."""
    variant = special.variant
    kernel, constants = kernel_of(variant), variant.constants
    if special.numbers.get("rows") == ONE and "PARTS" in constants:
        constants = {**constants, "PARTS": 1}  # one row is one part of the census
    constants = constants | {name: 1 for name, how in special.numbers.items() if how == ONE}
    signature = {name: kind(name, variant, dtype) for name in kernel.arg_names}
    bits = {LONG: "i64", INTEGER: "i32"}
    signature |= {name: bits[how] for name, how in special.numbers.items() if how in bits}
    signature |= dict.fromkeys(constants, "constexpr")
    known = {
        (i,): DIVISIBLE_BY_16
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or special.numbers.get(name) == DIVISIBLE
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=known)
    if special.wholly:
        triton.compile(source, target=target, options=how(variant, target))
        return
    backend, context = make_backend(target), ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    options = backend.parse_options({"num_warps": variant.warps})
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    source.make_ir(target, options, functions, modules, context)


def check_specialisations() -> int:
    """Print what does not compile, and how much does; return how many do not."""
    all_of_them, failed = list(specialisations()), 0
    for special in all_of_them:
        try:
            check(special, TARGETS["sm_90"], "bf16")
        except Exception as error:
            failed += 1
            print(f"{special} | {reason(error)}", flush=True)
    right, kernels = len(all_of_them) - failed, {special.variant.kernel for special in all_of_them}
    count = f"{right} of {len(all_of_them)} specialisations of {len(kernels)} kernels"
    print(f"Triton {triton.__version__}: {count} compile for sm_90")
    return failed


def reason(error: BaseException) -> str:
    """The first cause of an error; Triton's ends with the line of the kernel and what is wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^")]
    return " | ".join([type(error).__name__, *lines[-2:]])


def print_table() -> int:
    """Print what each kernel uses; return how many kernels spill."""
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


def print_instructions() -> int:
    """Print what the kernels of long rows take for each number without options; addresses, sizes
    and strides as in a launch.
    """
    print("| type | classes | instructions a number | reads, writes of 16 bytes |")
    print("|---|---|---|---|")
    for dtype in ITEMSIZE:
        for variant in variants({f"C = {c}": (c, 1) for c in (50257, 131072)}, dtype):
            if not variant.said.endswith("labels, forward with gradient"):
                continue
            small, large = (
                launched(replace(variant, constants={**variant.constants, "BLOCK": size}), dtype)
                for size in (4096, 8192)
            )
            each = (instructions(large) - instructions(small)) / (4096 / (32 * variant.warps))
            wide = [
                len(re.findall(rf"{what}\.global\S*\.v4", small.asm["ptx"]))
                for what in ("ld", "st")
            ]
            classes = variant.said.split(",")[0].removeprefix("C = ")
            print(f"| {dtype} | {classes} | {each:.1f} | {wide[0]}, {wide[1]} |", flush=True)
    return 0


def launched(variant: Variant, dtype: str) -> Any:
    """The kernel as it is launched for contiguous logits, for sm_90."""
    kernel = kernel_of(variant)
    ones = {"inner", *(name for name in kernel.arg_names if name.endswith("_class"))}
    constants = {**variant.constants, **dict.fromkeys(ones, 1)}
    signature = {name: kind(name, variant, dtype) for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    zero = {"lead", "start", "q_outer", "q_inner", "a_outer", "a_inner"}
    known = {
        (i,): DIVISIBLE_BY_16
        for i, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in zero
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=known)
    return triton.compile(source, target=TARGETS["sm_90"], options=how(variant, TARGETS["sm_90"]))


def instructions(kernel: Any) -> int:
    """How many there are, without padding."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [Path(triton.__path__[0], "backends/nvidia/bin/nvdisasm"), "-c", file.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return len(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?!NOP)\S", listing))


def main() -> int:
    """Do what is asked; the exit status is 1 if a kernel spills, or does not compile."""
    parser = argparse.ArgumentParser(description="Compile Triton kernels for absent accelerators.")
    parser.add_argument(
        "--specialisations",
        action="store_true",
        help="compile the kernels for numbers that a launch specialises, and print no table",
    )
    parser.add_argument("--instructions", action="store_true", help="count those of a number")
    asked = parser.parse_args()
    if asked.instructions:
        return print_instructions()
    return int((check_specialisations() if asked.specialisations else print_table()) > 0)


if __name__ == "__main__":
    sys.exit(main())
