"""Drawn shapes, layouts, types and options: the compiled loops against the definition in float64.

A number may be wrong by a few roundings of the terms that it is the sum of, and by what the
rounding of a score does to its exponential. A wrong term, or one that is missing, is far beyond
that.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from drawn_calls import (
    SETS,
    Call,
    calls,
    scores_of,
    target_of,
    weight_of,
)
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import nll
from nll.kernels import cpu, reference
from nll.kernels.layout import class_dim, rows_shape
from nll.kernels.reference import along

pytestmark = pytest.mark.skipif(cpu.MISSING is not None, reason=f"{cpu.MISSING}")
STREAMED = 1 << 24  # bytes of a gradient that is written past the caches
ROUNDINGS = 4.0

few = settings(max_examples=300, deadline=None, derandomize=True, database=None)
many = settings(few, max_examples=5_000, suppress_health_check=list(HealthCheck))


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


def shares(of_rows: Tensor, mass: Tensor, mean: bool) -> Tensor:
    """What each row counts for: nothing in a mean over no mass, NaN without a gradient."""
    total = (of_rows * mass).sum() if mean else 1.0
    return of_rows / total if total else torch.zeros_like(of_rows)


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
    # A block of at most 4096 exponentials is added up in 64 sums side by side: an addition to the
    # one that holds the largest, 1, may lose half a unit of it.
    added = min(classes, 4096) / 64 / 2
    of_sum = ROUNDINGS + added + (p * of_p).sum(dim, keepdim=True)

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
    share_z = z_loss * kept * shares(share, kept, mean)
    share = shares(share, mass, mean)
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
