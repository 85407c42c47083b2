"""Drawn shapes, layouts, types and options: the compiled loops against the definition in float64.

A number may be wrong by a few roundings of the terms that it is the sum of, and by what the
rounding of a score does to its exponential. A wrong term, or one that is missing, is far beyond
that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import nll
from nll.kernels import cpu, reference
from nll.kernels.layout import class_dim, rows_shape
from nll.kernels.reference import along

pytestmark = pytest.mark.skipif(cpu.MISSING is not None, reason=f"{cpu.MISSING}")
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
STREAMED = 1 << 24  # bytes of a gradient that is written past the caches
ROUNDINGS = 4.0

few = settings(max_examples=300, deadline=None, derandomize=True, database=None)
many = settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))


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


def doubled(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def bits(tensor: Tensor) -> Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize])


def check(what: str, ours: Tensor, truth: Tensor, bound: Tensor) -> None:
    truth = torch.where(
        truth.abs() > torch.finfo(ours.dtype).max, truth.sign() * math.inf, truth
    ).detach()
    ours = ours.detach().double()
    assert ours.shape == truth.shape
    alike = (ours == truth) | (ours.isnan() & truth.isnan())
    right = torch.where(truth.isfinite(), (ours - truth).abs() <= bound, alike) | (ours == truth)
    if not bool(right.all()):
        at = tuple((~right).nonzero()[0].tolist())
        within = bound.expand_as(truth)[at]
        raise AssertionError(
            f"{what} at {at}, one of {int((~right).sum())}: {ours[at]}, not {truth[at]} +- {within}"
        )


def run(
    call: Call,
    leaf: Tensor,
    arguments: tuple,
    options: dict[str, Any],
    slope: Tensor | None,
    view=None,
):
    """The loss, its gradient by the leaf, and the slope that it was made for."""
    x = leaf.detach().requires_grad_()
    scores = x if view is None else view(x)
    value = getattr(nll, call.loss)(scores, *arguments, **options)
    if slope is None:
        draw = torch.Generator().manual_seed(call.seed + 1)
        # All from one factor, but where the loss has a shape.
        drawn = (
            torch.randn(value.shape, generator=draw, dtype=value.dtype)
            if value.dim()
            else torch.ones_like(value)
        )
        slope = call.factor * drawn
    (gradient,) = torch.autograd.grad(value, x, slope.to(value.dtype))
    return value.detach(), gradient, slope


# ---- What may be wrong by how much ---------------------------------------------------------------


def least(dtype: torch.dtype) -> float:
    """What numbers near 0 may be wrong by: bfloat16 may go without those below the least normal
    number.
    """
    info = torch.finfo(dtype)
    return info.smallest_normal if dtype is not torch.float16 else info.smallest_normal * info.eps


def rounded(truth: Tensor, dtype: torch.dtype) -> Tensor:
    return truth.abs() * torch.finfo(dtype).eps + least(dtype)


def bounds(
    call: Call, x: Tensor, target: Tensor, options: dict[str, Any], slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of cross_entropy's value and gradient; everything is in float64."""
    dim, classes = class_dim(x), x.shape[class_dim(x)]
    temperature, softcap = options["temperature"], options["softcap"]
    smoothing, z_loss, weight = options["label_smoothing"], options["z_loss"], options["weight"]
    sums = cpu.accumulator(call.dtype)
    eps = torch.finfo(sums).eps
    if sums is torch.float64:  # there the definition's sums are no more exact
        eps *= max(8.0, x.numel() ** 0.5)

    z = reference.scaled_logits(x, temperature, softcap, None)
    lse = z.logsumexp(dim, keepdim=True)
    top = z.amax(dim, keepdim=True)
    p = (z - lse).exp()
    z, top = (torch.where(t.isfinite(), t, 0.0) for t in (z, top))
    # A score's own rounding, that of its distance from the largest, and the shorter exponential of
    # half types.
    reading = (2.0 * (temperature != 1.0) + 6.0 * (softcap is not None)) * z.abs()
    distance = torch.where(p > 0.0, (z - top).abs(), 0.0).clamp(max=110.0)
    near = z.abs().clamp(max=50.0)
    if sums is torch.float64:
        reading = reading + z.abs() + lse.abs()
    of_p = ROUNDINGS + reading + distance + (0.25 * near if call.dtype.itemsize == 2 else 0.0)
    of_sum = ROUNDINGS + (p * of_p).sum(dim, keepdim=True)

    labelled = target.shape != x.shape
    w = along(torch.ones(classes, dtype=x.dtype) if weight is None else weight, x).expand_as(x)
    if labelled:
        label = target.long().unsqueeze(dim)
        kept = label != options["ignore_index"]
        label = torch.where(kept, label, 0)
        at_label = torch.zeros_like(x).scatter_(dim, label, 1.0) * w * (1.0 - smoothing) * kept
        spread = w * smoothing / classes * kept
        mass = torch.where(kept, w.gather(dim, label), 0.0)
    else:
        kept = torch.ones_like(lse)
        at_label = torch.zeros_like(x)
        spread = ((1.0 - smoothing) * target + smoothing / classes) * w
        mass = torch.ones_like(lse)
    kept = kept.double()
    share = (
        torch.ones_like(lse)
        if options["row_weights"] is None
        else options["row_weights"].unsqueeze(dim)
    )
    mean = options["reduction"] == "mean"
    share_z = share * z_loss / ((share * kept).sum() if mean else 1.0) * kept
    share = share / ((share * mass).sum() if mean else 1.0)
    upstream = slope.double().abs()
    upstream = upstream.unsqueeze(dim) if upstream.dim() else upstream

    log_sum = (lse - top).abs()
    of_terms = (at_label * (of_sum + reading)).sum(dim, keepdim=True)
    of_terms += (spread * (of_sum + reading + ROUNDINGS * ((z - top).abs() + near + log_sum))).sum(
        dim, keepdim=True
    )
    size = (at_label + spread).sum(dim, keepdim=True)
    value = share * of_terms + share_z * (2.0 * lse.abs() * of_sum + 4.0 * lse**2)
    if options["reduction"] == "none":
        value = eps * value.squeeze(dim) + least(sums)
    else:
        value = eps * value.sum() + least(sums)

    rise = 1.0 / temperature
    rise = rise if softcap is None else rise * (1.0 - (x / softcap).tanh() ** 2)
    in_z = share * (size * p * (of_sum + of_p) + ROUNDINGS * (at_label + spread))
    in_z += share_z * 2.0 * p * (lse.abs() * (of_sum + of_p) + of_sum)
    whole = share * (size * p + at_label + spread) + share_z * 2.0 * lse.abs() * p
    # An exponential of less than the least number is 0; of a sum that may be as small as 1e-20.
    lost = least(sums) * 1e20 * (share * size + share_z * 2.0 * lse.abs()) / temperature
    of_rise = 0.0 if softcap is None else ROUNDINGS / temperature
    gradient = upstream * (eps * (in_z * rise + whole * of_rise) + lost)
    return value, gradient


# ---- The comparison ------------------------------------------------------------------------------


def compare(call: Call) -> None:
    number = torch.Generator().manual_seed(call.seed)
    x = scores_of(call, number)
    arguments: tuple = ()
    options: dict[str, Any] = dict(call.options)
    if call.loss == "log_softmax":
        if call.infinite and x.numel():
            x[
                (torch.rand(x.shape, generator=number) < 0.3) & (x < x.amax(call.dim, keepdim=True))
            ] = -torch.inf
        arguments = (call.dim, call.to)
    else:
        target = target_of(call, x, number)
        target = call.target_layout.view(call.target_layout.put(target), target.shape)
        arguments, options["weight"] = (target,), weight_of(call, number)
    if call.loss == "cross_entropy":
        rows = torch.rand(rows_shape(x), generator=number, dtype=torch.float64)
        options["row_weights"] = rows.to(call.dtype) if call.row_weights else None
    room = call.layout.put(x.to(call.dtype))
    x = call.layout.view(room, call.shape)
    copy, truth_x = room.clone(), (x if call.to is None else x.to(call.to)).double().contiguous()

    torch.set_num_threads(call.threads)
    cpu.use_instructions(call.instruction_set)
    try:
        with nll.use_backend("cpu"):
            if call.in_place:
                value, gradient, slope = in_place(call, room, arguments, options)
            else:
                value, gradient, slope = run(call, x, arguments, options, None)
                assert gradient.is_contiguous()
    finally:
        torch.set_num_threads(1)
        cpu.use_instructions(SETS[0])
    assert torch.equal(bits(room), bits(copy))
    assert gradient.dtype is call.dtype

    exact = {key: doubled(option) for key, option in options.items()}
    of_truth = (call.dim,) if call.loss == "log_softmax" else tuple(map(doubled, arguments))
    with nll.use_backend("reference"):
        truth, truth_gradient, _ = run(call, truth_x, of_truth, exact, slope.double())
    if truth_x.numel() == 0:
        zero = torch.zeros(())
        check("value", value, truth, zero)
        check("gradient", gradient, truth_gradient, zero)
        return
    if call.loss == "cross_entropy":
        value_bound, gradient_bound = bounds(call, truth_x, of_truth[0], exact, slope)
    elif call.loss == "log_softmax":
        value_bound, gradient_bound = log_softmax_bounds(call, truth_x, truth, slope.double())
    else:
        with nll.use_backend("reference"):
            value_bound = (
                ROUNDINGS
                * torch.finfo(cpu.accumulator(call.dtype)).eps
                * nll.nll_loss(-truth_x.abs(), *of_truth, **exact)
            )
        gradient_bound = (
            ROUNDINGS * torch.finfo(cpu.accumulator(call.dtype)).eps * truth_gradient.abs()
        )
    check("value", value, truth, value_bound + rounded(truth, value.dtype))
    check(
        "gradient", gradient, truth_gradient, gradient_bound + rounded(truth_gradient, call.dtype)
    )


def in_place(call: Call, room: Tensor, arguments: tuple, options: dict[str, Any]):
    """As `run`; the gradient has to lie where the scores were, and all else to be as it was."""
    computed = []

    def view(leaf: Tensor) -> Tensor:
        computed.append(leaf.clone())  # a product with 1 may change the bits of NaN
        return call.layout.view(computed[0], call.shape)

    value, gradient, slope = run(
        call, room, arguments, {**options, "inplace_backward": True}, None, view
    )
    gradient = call.layout.view(gradient, call.shape)
    after, before = computed[0].detach().clone(), room.clone()
    here = call.layout.view(after, call.shape)
    assert torch.equal(here.nan_to_num(77.0), gradient.nan_to_num(77.0))
    for whole in (after, before):
        call.layout.view(whole, call.shape).zero_()
    assert torch.equal(bits(after), bits(before))
    return value, gradient, slope


def log_softmax_bounds(call: Call, x: Tensor, y: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    dtype = call.dtype if call.to is None else call.to
    eps, of_result = torch.finfo(cpu.accumulator(dtype)).eps, torch.finfo(dtype).eps
    if dtype is torch.float64:  # there the definition's sums are no more exact
        eps *= max(1.0, x.shape[call.dim] ** 0.5 / ROUNDINGS)
    top, p, size = x.amax(call.dim, keepdim=True), y.exp(), y.abs()
    distance = torch.where(p > 0.0, top - x, 0.0)
    value = eps * (ROUNDINGS * (1.0 + (p * distance).sum(call.dim, keepdim=True)) + 2.0 * distance)
    of_p = ROUNDINGS * eps * (1.0 + torch.where(p > 0.0, size, 0.0)) + of_result * torch.where(
        p > 0.0, size, 0.0
    )
    total = slope.sum(call.dim, keepdim=True).abs()
    total_size = slope.abs().sum(call.dim, keepdim=True)
    of_sum = ROUNDINGS * eps * total_size
    return value, p * (total * of_p + of_sum) + ROUNDINGS * eps * slope.abs() + least(dtype) * total


@few
@given(calls())
def test_drawn_calls(call):
    compare(call)


@pytest.mark.slow
@many
@given(calls())
def test_many_drawn_calls(call):
    compare(call)


@settings(few, max_examples=3)
@given(calls(at_least=STREAMED))
def test_results_that_are_written_past_the_caches(call):
    compare(call)


@pytest.mark.slow
@settings(many, max_examples=100)
@given(calls(at_least=STREAMED))
def test_many_results_that_are_written_past_the_caches(call):
    compare(call)
