"""Every loss by every tensor that it can be differentiated by, beside the same in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import nll

ROWS, CLASSES, FEATURES, OTHER_FEATURES = 6, 9, 4, 3
LABELS = torch.tensor([0, 8, -100, 3, 3, 7])
ALLOWED = torch.arange(CLASSES) != 5
MEMORY = 2 * 20 * 8 * (CLASSES + FEATURES)  # a few rows at a time


@dataclass(frozen=True)
class Loss:
    """A function of some tensors, ours and plain PyTorch's; the tensors to differentiate by."""

    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    arguments: tuple[str, ...]  # names of POINTS


def points(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Numbers for each argument."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    return {
        "scores": normal(ROWS, CLASSES),
        "log_p": normal(ROWS, CLASSES).log_softmax(1),
        "features": normal(ROWS, FEATURES),
        "head": normal(CLASSES, FEATURES),
        "bias": normal(CLASSES),
        "other features": normal(ROWS, OTHER_FEATURES),
        "other head": normal(CLASSES, OTHER_FEATURES),
        "probabilities": normal(ROWS, CLASSES).softmax(1),
        "weight": normal(CLASSES).abs() + 0.1,
        "row weights": normal(ROWS).abs() + 0.1,
    }


def _cross_entropy(
    z, target=LABELS, weight=None, row_weights=None, reduction="mean", smoothing=0.0, z_loss=0.0
):
    """From the formula, with 0 log 0 = 0; z of (N, C)."""
    log_p = z - z.logsumexp(1, keepdim=True)
    labels = not target.is_floating_point()
    kept = target != -100 if labels else torch.ones_like(z[:, 0], dtype=torch.bool)
    q = (
        torch.nn.functional.one_hot(target.clamp(min=0), z.shape[1]).to(z.dtype)
        if labels
        else target
    )
    w = torch.ones_like(z[0]) if weight is None else weight
    mass = torch.where(kept, w[target.clamp(min=0)], 0.0) if labels else torch.ones_like(z[:, 0])
    u = ((1.0 - smoothing) * q + smoothing / z.shape[1]) * w
    rows = torch.where(kept, -(u * torch.where(u == 0.0, 0.0, log_p)).sum(1), 0.0)
    squares = torch.where(kept, z.logsumexp(1) ** 2, 0.0)
    r = torch.ones_like(mass) if row_weights is None else row_weights
    if reduction == "none":
        return r * (rows + z_loss * squares)
    if reduction == "sum":
        return (r * (rows + z_loss * squares)).sum()
    return (r * rows).sum() / (r * mass).sum() + z_loss * (r * squares).sum() / (r * kept).sum()


def _statistics(z):
    log_p = z.log_softmax(1)
    y = LABELS.clamp(min=0)
    numbers = (
        log_p.gather(1, y[:, None])[:, 0]
        + 0.3 * z.logsumexp(1)
        - 0.7 * (log_p.exp() * log_p).sum(1)
    )
    return torch.where(LABELS != -100, numbers, 0.0)


def _of_statistics(found):
    return found.log_prob + 0.3 * found.lse + 0.7 * found.entropy


def _kl(p, q, reverse):
    p, q = (q, p) if reverse else (p, q)
    return (q.exp() * (q - p)).sum(1)


def _losses() -> dict[str, Loss]:
    table: dict[str, Loss] = {}
    options: dict[str, dict[str, Any]] = {
        "": {},
        " with everything": {"smoothing": 0.1, "z_loss": 0.1},
    }
    for reduction in ("mean", "none", "sum"):
        for said, more in options.items():
            ours = {
                "label_smoothing": more.get("smoothing", 0.0),
                "z_loss": more.get("z_loss", 0.0),
            }
            of, plain = {"reduction": reduction, **ours}, {"reduction": reduction, **more}
            table[f"cross_entropy {reduction}{said}"] = Loss(
                lambda z, of=of: nll.cross_entropy(z, LABELS, **of),
                lambda z, plain=plain: _cross_entropy(z, **plain),
                ("scores",),
            )
            table[f"linear_cross_entropy {reduction}{said}"] = Loss(
                lambda x, h, b, of=of: nll.linear_cross_entropy(
                    x, h, LABELS, linear_bias=b, max_memory=MEMORY, **of
                ),
                lambda x, h, b, plain=plain: _cross_entropy(x @ h.T + b, **plain),
                ("features", "head", "bias"),
            )
    table["cross_entropy by weights"] = Loss(
        lambda z, w, r: nll.cross_entropy(z, LABELS, w, row_weights=r, label_smoothing=0.1),
        lambda z, w, r: _cross_entropy(z, weight=w, row_weights=r, smoothing=0.1),
        ("scores", "weight", "row weights"),
    )
    table["cross_entropy by probabilities"] = Loss(
        lambda z, q: nll.cross_entropy(z, q),
        lambda z, q: _cross_entropy(z, q),
        ("scores", "probabilities"),
    )
    table["linear_cross_entropy by weights"] = Loss(
        lambda x, h, w, r: nll.linear_cross_entropy(
            x, h, LABELS, weight=w, row_weights=r, max_memory=MEMORY
        ),
        lambda x, h, w, r: _cross_entropy(x @ h.T, weight=w, row_weights=r),
        ("features", "head", "weight", "row weights"),
    )
    table["linear_cross_entropy by probabilities"] = Loss(
        lambda x, h, q: nll.linear_cross_entropy(x, h, q, reduction="none"),
        lambda x, h, q: _cross_entropy(x @ h.T, q, reduction="none"),
        ("features", "head", "probabilities"),
    )
    table["log_softmax"] = Loss(
        lambda z: nll.log_softmax(z, 1), lambda z: z - z.logsumexp(1, keepdim=True), ("scores",)
    )
    for reduction in ("mean", "none"):
        table[f"nll_loss {reduction}"] = Loss(
            lambda z, r=reduction: nll.nll_loss(z, LABELS, reduction=r),
            lambda z, r=reduction: _picked(z, r),
            ("log_p",),
        )
    table["token_statistics"] = Loss(
        lambda z: _of_statistics(nll.token_statistics(z, LABELS, entropy=True)),
        _statistics,
        ("scores",),
    )
    table["token_statistics of a layer"] = Loss(
        lambda x, h, b: _of_statistics(
            nll.token_statistics(
                x, LABELS, linear_weight=h, linear_bias=b, entropy=True, max_memory=MEMORY
            )
        ),
        lambda x, h, b: _statistics(x @ h.T + b),
        ("features", "head", "bias"),
    )
    for reverse in (False, True):
        table[f"linear_kl_divergence of two heads{', reverse' * reverse}"] = Loss(
            lambda x, h, b, y, k, r=reverse: nll.linear_kl_divergence(
                x,
                h,
                y,
                k,
                linear_bias=b,
                temperature=2.0,
                target_temperature=1.5,
                reverse=r,
                reduction="none",
            ),
            lambda x, h, b, y, k, r=reverse: _kl(
                ((x @ h.T + b) / 2.0).log_softmax(1), ((y @ k.T) / 1.5).log_softmax(1), r
            ),
            ("features", "head", "bias", "other features", "other head"),
        )
        table[f"linear_kl_divergence from probabilities{', reverse' * reverse}"] = Loss(
            lambda x, h, q, r=reverse: nll.linear_kl_divergence(
                x, h, q, reverse=r, max_memory=MEMORY
            ),
            lambda x, h, q, r=reverse: _kl_of(x @ h.T, q, r).mean(),
            ("features", "head", "probabilities"),
        )
    table["sampled_cross_entropy of every class"] = Loss(
        lambda x, h, b: nll.sampled_cross_entropy(x, h, LABELS, CLASSES, linear_bias=b),
        lambda x, h, b: _cross_entropy(x @ h.T + b),
        ("features", "head", "bias"),
    )
    return table


def _picked(log_p, reduction):
    kept = LABELS != -100
    rows = torch.where(kept, -log_p.gather(1, LABELS.clamp(min=0)[:, None])[:, 0], 0.0)
    return rows if reduction == "none" else rows.sum() / kept.sum()


def _kl_of(z, q, reverse):
    log_p = z.log_softmax(1)
    return (log_p.exp() * (log_p - q.log())).sum(1) if reverse else (q * (q.log() - log_p)).sum(1)


LOSSES = _losses()
