"""Calls of the losses, drawn: shapes, layouts, types and options; and their tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from nll.kernels import cpu
from nll.kernels.layout import class_dim, rows_shape
from nll.kernels.reference import along

SETS = cpu.instruction_sets()
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [
    3,
    1,
    2,
    5,
    8,
    15,
    16,
    17,
    33,
    63,
    64,
    65,
    100,
    159,
    160,
    161,
    162,
    700,
    4095,
    4096,
    4097,
    5000,
    8200,
    0,
]
SCORES = ["normal", "x 30", "x 1000", "+50", "-50", "+200", "-200", "rising", "confident"]
MOST = 60_000  # scores of a call, and places of the room that they lie in
ROOM = 1 << 19
THREADS_WORTH = [1 << 17, 1 << 19]  # scores that are worth a thread: side by side, and in long rows


# ---- What is drawn -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where a tensor lies: in a room with its dimensions in some order, gaps around and between,
    some repeated.
    """

    order: tuple[int, ...]  # of the dimensions in memory, the slowest first
    before: tuple[int, ...]
    step: tuple[int, ...]
    behind: tuple[int, ...]
    repeated: tuple[bool, ...]

    def put(self, values: Tensor) -> Tensor:
        """A room that holds the values; around them NaN, or a wrong label."""
        sizes = self._own(values.shape)
        room = [
            b + n * s + e
            for n, b, s, e in zip(sizes, self.before, self.step, self.behind, strict=True)
        ]
        junk = math.nan if values.is_floating_point() else 77
        full = torch.full([room[d] for d in self.order], junk, dtype=values.dtype)
        self._slice(full, sizes).copy_(values[tuple(slice(n) for n in sizes)])
        return full

    def view(self, room: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The slice of a room that holds values of this shape."""
        return self._slice(room, self._own(shape)).expand(shape)

    def _own(self, shape: tuple[int, ...]) -> list[int]:
        return [
            min(n, 1) if repeated else n for n, repeated in zip(shape, self.repeated, strict=True)
        ]

    def _slice(self, room: Tensor, sizes: list[int]) -> Tensor:
        room = room.permute([self.order.index(d) for d in range(len(sizes))])
        ranges = [
            slice(b, b + n * s, s) for n, b, s in zip(sizes, self.before, self.step, strict=True)
        ]
        return room[tuple(ranges)]


@dataclass(frozen=True)
class Call:
    """A call of a loss: numbers that do not matter come from the seed."""

    loss: str
    seed: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    layout: Layout
    scores: str
    infinite: bool  # some scores are -inf, but for those of the labels
    instruction_set: str
    threads: int
    factor: float  # of the upstream gradient
    target: str = "int64"
    target_dtype: torch.dtype | None = None
    target_layout: Layout | None = None
    weight: str = "none"
    row_weights: bool = False
    in_place: bool = False
    dim: int = 0  # of log_softmax
    to: torch.dtype | None = None  # of log_softmax
    ignored: str = "some"
    options: tuple[tuple[str, Any], ...] = ()


@st.composite
def layouts(draw, shape: tuple[int, ...], can_repeat: tuple[int, ...] = ()) -> Layout:
    rank = len(shape)
    order = tuple(range(rank))
    kind = draw(st.sampled_from(["as the shape", "channels last", "permuted"]))
    if kind == "permuted":
        order = tuple(draw(st.permutations(order)))
    elif kind == "channels last" and rank > 2:
        order = (0, *range(2, rank), 1)
    before, step, behind, repeated = [0] * rank, [1] * rank, [0] * rank, (False,) * rank
    gaps, room = draw(st.booleans()), math.prod(max(n, 1) for n in shape)
    for d in range(rank):
        one = draw(st.integers(0, 3)), draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(0, 2))
        wider = room // max(shape[d], 1) * (one[0] + shape[d] * one[1] + one[2])
        if gaps and wider <= ROOM:
            room = wider
            before[d], step[d], behind[d] = one
    if can_repeat and draw(st.integers(0, 7)) == 7:
        repeated = tuple(d in can_repeat and draw(st.booleans()) for d in range(rank))
    return Layout(order, tuple(before), tuple(step), tuple(behind), repeated)


@st.composite
def shapes(draw, threads: int, at_least: int = 0) -> tuple[int, ...]:
    """A shape; one of so many scores, or of enough for the threads if there are more than one."""
    rank = draw(st.sampled_from([2, 2, 1, 3, 4]))
    if threads > 1 and draw(st.integers(0, 7)) == 7:
        at_least = threads * draw(st.sampled_from(THREADS_WORTH))
    most = at_least or MOST
    shape = [1] * rank
    classes = 0 if rank == 1 else 1
    for d in (
        draw(st.permutations(range(rank))) if not at_least else [classes, *range(rank - 1, -1, -1)]
    ):
        room = most // math.prod(max(n, 1) for n in shape)
        if d == classes and shape[d] > 1:
            continue
        shape[d] = draw(st.sampled_from([n for n in SIZES if n <= room and (n or not at_least)]))
    if at_least:  # of long or of short rows
        others = math.prod(shape) // shape[0]
        shape[0] = -(-at_least // others) + draw(st.integers(0, 3))
    return tuple(shape)


@st.composite
def calls(draw, at_least: int = 0) -> Call:
    loss = draw(st.sampled_from(["cross_entropy"] * 7 + ["log_softmax"] * 2 + ["nll_loss"]))
    dtype = draw(st.sampled_from(DTYPES))
    threads = draw(st.sampled_from([1, 1, 2, 3]))
    shape = draw(shapes(threads, -(-at_least // dtype.itemsize)))
    rank, classes = len(shape), shape[0 if len(shape) == 1 else 1]
    in_place = loss == "cross_entropy" and math.prod(shape) > 0 and draw(st.integers(0, 3)) == 3
    of_rows = tuple(d for d in range(rank) if rank > 1 and d != 1)
    common: dict[str, Any] = {
        "loss": loss,
        "seed": draw(st.integers(0, 1 << 20)),
        "dtype": dtype,
        "shape": shape,
        "layout": draw(layouts(shape, () if in_place else of_rows)),
        "scores": draw(st.sampled_from(SCORES)),
        "infinite": draw(st.integers(0, 7)) == 7,
        "instruction_set": draw(st.sampled_from(SETS)),
        "threads": threads,
        "factor": draw(st.sampled_from([1.0, 0.25, 3.7])),
    }
    if loss == "log_softmax":
        to = draw(st.sampled_from([None, None, None, torch.float32]))
        return Call(**common, dim=draw(st.integers(-rank, rank - 1)), to=to)
    target = draw(st.sampled_from(["int64", "int64"] + ["uint8"] * (classes <= 256)))
    options: dict[str, Any] = {"reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    weight = draw(st.sampled_from(["none", "none", "positive", "zeros"])) if classes else "none"
    if loss == "cross_entropy":
        target = draw(st.sampled_from([target, target, "probabilities"]))
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
        options["temperature"] = draw(st.sampled_from([1.0, 1.0, 0.3, 2.5]))
        options["softcap"] = draw(st.sampled_from([None, None, 3.0, 30.0]))
        options["z_loss"] = draw(st.sampled_from([0.0, 0.0, 1e-3, 0.5]))
    if target != "probabilities":
        # Without classes every label is ignored; PyTorch takes no labels of further dimensions
        # then.
        assume(classes or (rank <= 2 and target == "int64"))
        options["ignore_index"] = draw(st.sampled_from([-100, 0, classes // 2, 255]))
    of_target = shape if target == "probabilities" else tuple(shape[d] for d in of_rows)
    return Call(
        **common,
        target=target,
        target_dtype=draw(st.sampled_from([None, torch.float32])),
        target_layout=draw(layouts(of_target, tuple(range(len(of_target))))),
        weight=weight,
        row_weights=loss == "cross_entropy" and draw(st.integers(0, 2)) == 2,
        in_place=in_place,
        ignored=draw(st.sampled_from(["some", "some", "none", "most", "all"])),
        options=tuple(options.items()),
    )


# ---- From a call to tensors ----------------------------------------------------------------------


def scores_of(call: Call, number: torch.Generator) -> Tensor:
    x = torch.randn(call.shape, generator=number, dtype=torch.float64)
    if call.scores.startswith("x "):
        x *= float(call.scores[2:])
    elif call.scores == "rising":  # blocks of a long row that differ by more than exp can tell
        x += along(torch.linspace(-150.0, 150.0, call.shape[class_dim(x)], dtype=torch.float64), x)
    elif call.scores not in ("normal", "confident"):
        x += float(call.scores)
    return x


def target_of(call: Call, x: Tensor, number: torch.Generator) -> Tensor:
    """The target; puts what the scores are to have at the label, and -inf elsewhere, into x."""
    dim, classes = class_dim(x), x.shape[class_dim(x)]
    forbidden = torch.rand(x.shape, generator=number) < (0.3 if call.infinite else 0.0)
    if call.target == "probabilities":
        q = torch.rand(x.shape, generator=number, dtype=torch.float64)
        q[q < 0.3] = 0.0
        q /= q.sum(dim, keepdim=True).clamp(min=1e-3)
        if call.infinite:
            x[forbidden] = -torch.inf
        wide = call.dtype is torch.float64 or call.target_dtype is None
        return q.to(call.dtype if wide else call.target_dtype)
    label = torch.randint(0, max(classes, 1), rows_shape(x), generator=number)
    ignore = dict(call.options)["ignore_index"]
    share = {"none": 0.0, "some": 0.3, "most": 0.9, "all": 1.0}[call.ignored if classes else "all"]
    if call.target == "uint8" and ignore < 0:
        share = 0.0
    label[torch.rand(label.shape, generator=number) < share] = ignore
    # some of them repeated
    label = call.target_layout.view(call.target_layout.put(label), label.shape)
    if x.numel():
        there = torch.where((label >= 0) & (label < classes), label, 0).unsqueeze(dim)
        if call.scores == "confident":
            x.scatter_add_(dim, there, torch.full_like(x, 20.0))
        if call.infinite:
            x[forbidden.scatter(dim, there, False)] = -torch.inf
    return label.to(torch.uint8) if call.target == "uint8" else label


def weight_of(call: Call, number: torch.Generator) -> Tensor | None:
    if call.weight == "none":
        return None
    classes = call.shape[0 if len(call.shape) == 1 else 1]
    weight = torch.rand(2 * classes, generator=number, dtype=torch.float64)[::2] + 0.1
    if call.weight == "zeros":
        weight[torch.rand(classes, generator=number) < 0.5] = 0.0
    half = call.dtype.itemsize == 2
    return weight.to(call.target_dtype if half and call.target_dtype else call.dtype)
