"""The one table of cases that every backend of the losses runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest
import torch
from definitions import (
    Problem,
    broadcast,
    class_dim,
    lay,
    new,
)
from pairwise import pairs
from torch import Tensor

from nll.losses import dispatch

# A backend that has to be there and is not is run all the same, and fails.
REQUIRED = os.environ.get("NLL_REQUIRE_COMPILED") == "1"
BACKENDS = ["reference", "cpu", "triton"] if REQUIRED else list(dispatch.BACKENDS)
# What the kernels of accelerators do not take, as float64, the reference computes in their place.
IN_FLOAT64 = [name for name in BACKENDS if name != "triton"]
# The kernels of accelerators take a hundred times as long in Triton's interpreter.
SLOW = ["triton"] if dispatch.INTERPRETED else []

# Where a backend's tensors lie: the compiled loops are for processors, the kernels for accelerators
# or Triton's interpreter; the reference runs on what is tested, where it does what they cannot.
DEVICES = {
    "reference": torch.device(os.environ.get("NLL_TEST_DEVICE", "cpu")),
    "cpu": torch.device("cpu"),
    "triton": torch.device("cpu" if dispatch.INTERPRETED else "cuda"),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
REDUCTIONS = ["none", "mean", "sum"]

# What our losses take and PyTorch's do not.
EXTRAS = {"temperature", "softcap", "z_loss", "row_weights", "allowed_classes"}


@dataclass(frozen=True, eq=False)
class Case:
    """One set of arguments, the same numbers in every dtype up to rounding."""

    name: str
    shape: tuple[int, ...] = (6, 5)
    # or "uint8" (labels), "probabilities", "one-hot", "masses" (with any sum)
    target: str = "labels"
    layout: str = "contiguous"  # of the numbers in memory; the others are in lay
    # "large": about +-1e4; "infinite": one class of each row is -inf; "minus infinity"
    logits: str = "normal"
    ignored: str = "none"  # or "some", "all": which rows have the label ignore_index
    weight: str = "none"  # "positive", or "zeros": weights of some classes are 0
    row_weights: bool = False
    # "classes": a mask (C); "input": one for each row; "not the label": the label is out
    allowed: str = "all"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def build(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Problem:
        """Return the arguments of cross_entropy, the same numbers on every device."""

        def laid(tensor: Tensor) -> Tensor:
            return lay(tensor.to(device), self.layout)

        draw = torch.Generator().manual_seed(self.seed)
        classes = self.shape[class_dim(self.shape)]
        rows = tuple(n for d, n in enumerate(self.shape) if d != class_dim(self.shape))
        labels = torch.randint(0, classes, rows, generator=draw)
        if self.target == "uint8" and classes > 156:
            # what an ignore_index of -100 becomes when it is wrapped into a byte
            labels.view(-1)[0] = 156
        input = 2.0 * torch.randn(self.shape, generator=draw, dtype=torch.float64)
        if self.logits == "large":
            input += 1e4 * input.sign()
        elif self.logits == "infinite":  # not the label: that row would lose everything
            input.scatter_(
                class_dim(self.shape), ((labels + 1) % classes)[new(self.shape)], -torch.inf
            )
        elif self.logits == "minus infinity":
            input.view(-1, classes)[0, labels.view(-1)[0]] = -torch.inf
        allowed = self._allowed(labels, draw)
        if self.target == "one-hot":
            target = torch.zeros(self.shape, dtype=dtype)
            target.scatter_(class_dim(self.shape), labels[new(self.shape)], 1.0)
        elif self.target in ("probabilities", "masses"):
            target = torch.rand(self.shape, generator=draw, dtype=torch.float64)
            if allowed is not None:
                target = target * broadcast(allowed, self.shape)
            if self.target == "probabilities":
                target = target / target.sum(class_dim(self.shape), keepdim=True)
            target = target.to(dtype)
        else:
            target = self._ignore(labels)
        kwargs = dict(self.options)
        if self.weight != "none":
            weight = torch.rand(classes, generator=draw, dtype=torch.float64) + 0.2
            kwargs["weight"] = laid(weight.to(dtype))
            if self.weight == "zeros":
                kwargs["weight"][::3] = 0.0
        if self.row_weights:
            row_weights = torch.rand(rows, generator=draw, dtype=torch.float64)
            kwargs["row_weights"] = laid(row_weights.to(dtype))
        if allowed is not None:
            kwargs["allowed_classes"] = laid(allowed)
        return Problem(laid(input.to(dtype)), laid(target), kwargs)

    def build_nll(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Problem:
        """Return the arguments of nll_loss: log-probabilities in place of the scores."""
        scores, target, kwargs = self.build(torch.float64, device)
        log_p = scores.log_softmax(class_dim(self.shape)).to(dtype)
        kwargs = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in kwargs.items()}
        return Problem(lay(log_p, self.layout), target, kwargs)

    def _ignore(self, labels: Tensor) -> Tensor:
        """Mark every third row, or all, as ignored; see that the others' labels are not
        ignore_index.
        """
        classes, ignore_index = (
            self.shape[class_dim(self.shape)],
            self.options.get("ignore_index", -100),
        )
        if self.ignored == "all":
            labels = torch.full_like(labels, ignore_index)
        elif self.ignored == "some":
            labels = torch.where(labels == ignore_index, (labels + 1) % classes, labels)
            labels.view(-1)[1::3] = ignore_index
        return labels.to(torch.uint8) if self.target == "uint8" else labels

    def _allowed(self, labels: Tensor, draw: torch.Generator) -> Tensor | None:
        if self.allowed == "all":
            return None
        classes = self.shape[class_dim(self.shape)]
        if self.allowed == "classes":
            mask = torch.rand(classes, generator=draw) < 0.3
            mask[labels] = True
            return mask
        mask = torch.rand(self.shape, generator=draw) < 0.6
        label = labels[new(self.shape)]
        # never a row with nothing left
        mask.scatter_(class_dim(self.shape), (label + 1) % classes, True)
        return mask.scatter_(class_dim(self.shape), label, self.allowed == "input")

    @property
    def in_pytorch(self) -> bool:
        """Whether PyTorch's cross_entropy takes these arguments and gets them right."""
        extras = EXTRAS & self.options.keys() or self.row_weights or self.allowed != "all"
        # It takes uint8 labels for (C) and (N, C) only, and not with weights and smoothing at once.
        weighted_smoothing = self.weight != "none" and "label_smoothing" in self.options
        bytes_fit = len(self.shape) <= 2 and not weighted_smoothing
        return not extras and (self.target != "uint8" or bytes_fit)

    @property
    def in_nll_loss(self) -> bool:
        """Whether nll_loss takes these arguments."""
        labels = self.target in ("labels", "uint8")
        return labels and self.in_pytorch and "label_smoothing" not in self.options


def _case(
    name: str, shape: tuple[int, ...] = (6, 5), *, options: dict[str, Any] | None = None, **rest
) -> Case:
    return Case(name, shape, options=options or {}, **rest)


SMOOTH = {"label_smoothing": 0.1}
EVERYTHING = {"label_smoothing": 0.1, "temperature": 0.7, "softcap": 3.0, "z_loss": 0.01}

# Reductions are added below.
BASE_CASES = [
    # shapes
    _case("C", (5,)),
    _case("C with weights and smoothing", (5,), weight="positive", options=SMOOTH),
    _case("C with probabilities", (5,), target="probabilities"),
    _case("C with everything", (5,), row_weights=True, allowed="classes", options=EVERYTHING),
    _case("N C"),
    _case("N C d1", (4, 5, 3)),
    _case(
        "N C d1 with probabilities",
        (4, 5, 3),
        target="probabilities",
        weight="positive",
        options=SMOOTH,
    ),
    _case("N C d1 d2", (2, 5, 3, 2)),
    _case("N C d1 d2 with weights", (2, 5, 3, 2), weight="positive", ignored="some"),
    _case(
        "N C d1 d2 with smoothing", (2, 5, 3, 2), weight="positive", ignored="some", options=SMOOTH
    ),
    _case("N C d1 d2 with probabilities", (2, 5, 3, 2), target="probabilities", weight="positive"),
    _case("N C d1 d2 d3", (2, 4, 2, 1, 3), weight="positive", ignored="some"),
    _case("zero rows", (0, 5)),
    _case("zero rows with weights and smoothing", (0, 5), weight="positive", options=SMOOTH),
    _case("zero rows of probabilities", (0, 5), target="probabilities"),
    _case("zero rows of three dimensions", (0, 5, 3)),
    _case("zero rows of four dimensions", (2, 5, 0, 3), row_weights=True, options={"z_loss": 0.01}),
    _case("one class", (6, 1)),
    _case("one class with smoothing", (6, 1), weight="positive", options=SMOOTH),
    _case("one class with probabilities", (6, 1), target="probabilities"),
    _case("one row", (1, 5)),
    _case("many classes", (3, 1000)),
    # layouts in memory
    _case("transposed", layout="transposed", weight="positive"),
    _case("transposed probabilities", target="probabilities", layout="transposed"),
    _case("strided", layout="strided", weight="positive", ignored="some"),
    _case("strided with smoothing", (4, 5, 3), layout="strided", weight="positive", options=SMOOTH),
    _case("strided probabilities", (4, 5, 3), target="probabilities", layout="strided"),
    _case(
        "transposed of four dimensions",
        (2, 5, 3, 2),
        layout="transposed",
        weight="positive",
        options=SMOOTH,
    ),
    _case("classes last", (2, 5, 3, 2), layout="classes last"),
    _case(
        "classes last of probabilities", (4, 5, 3), target="probabilities", layout="classes last"
    ),
    _case(
        "classes last with everything",
        (2, 5, 3, 2),
        layout="classes last",
        row_weights=True,
        allowed="input",
        options=EVERYTHING,
    ),
    _case("expanded rows", layout="expanded"),
    # class weights
    _case("weights", weight="positive"),
    _case("weights of zero", weight="zeros", seed=1),
    _case("weights with probabilities", target="probabilities", weight="positive"),
    # ignored rows
    _case("ignored", ignored="some"),
    _case("ignored with weights", ignored="some", weight="positive"),
    _case("ignored with smoothing", ignored="some", options=SMOOTH),
    _case("ignored with weights and smoothing", ignored="some", weight="positive", options=SMOOTH),
    _case("ignored class 0", ignored="some", options={"ignore_index": 0}),
    _case(
        "ignored class 4 with weights",
        ignored="some",
        weight="positive",
        options={"ignore_index": 4},
    ),
    _case("ignored class 0 with smoothing", ignored="some", options={"ignore_index": 0, **SMOOTH}),
    _case("ignored index above the classes", ignored="some", options={"ignore_index": 255}),
    _case("all ignored", ignored="all"),
    _case("all ignored with weights", ignored="all", weight="positive"),
    _case("all ignored with smoothing", ignored="all", options=SMOOTH),
    _case("all ignored of class 0", ignored="all", options={"ignore_index": 0}),
    _case("all ignored with everything", ignored="all", row_weights=True, options=EVERYTHING),
    # label smoothing
    _case("smoothing", options=SMOOTH),
    _case("smoothing of all", options={"label_smoothing": 1.0}),
    _case("smoothing with weights", weight="positive", options=SMOOTH),
    # class probabilities
    _case("probabilities", target="probabilities"),
    _case("probabilities with smoothing", target="probabilities", options=SMOOTH),
    _case("probabilities smoothed away", target="probabilities", options={"label_smoothing": 1.0}),
    _case("one-hot", target="one-hot", weight="positive"),
    _case("masses with smoothing", target="masses", weight="positive", options=SMOOTH),
    # labels of one byte
    _case("uint8", target="uint8", weight="positive"),
    _case("uint8 with smoothing", target="uint8", options=SMOOTH),
    _case("uint8 with weights and smoothing", target="uint8", weight="positive", options=SMOOTH),
    _case("uint8 ignored class 0", target="uint8", ignored="some", options={"ignore_index": 0}),
    _case("uint8 ignored 255", target="uint8", ignored="some", options={"ignore_index": 255}),
    _case("uint8 label 156", (4, 200), target="uint8"),
    _case("uint8 and an index beyond bytes", target="uint8", options={"ignore_index": 256}),
    _case(
        "uint8 N C d1 d2", (2, 5, 3, 2), target="uint8", ignored="some", options={"ignore_index": 0}
    ),
    # scores
    _case("temperature", options={"temperature": 0.3}),
    _case("temperature above one", (4, 5, 3), ignored="some", options={"temperature": 4.0}),
    _case("softcap", options={"softcap": 1.5}),
    _case(
        "softcap and temperature", weight="positive", options={"softcap": 1.5, "temperature": 0.3}
    ),
    # z-loss
    _case("z-loss", options={"z_loss": 0.1}),
    _case("z-loss with weights", ignored="some", weight="positive", options={"z_loss": 0.1}),
    _case("z-loss with smoothing", ignored="some", options={"z_loss": 0.1, **SMOOTH}),
    _case("z-loss with probabilities", target="probabilities", options={"z_loss": 0.1}),
    # weights of rows
    _case("row weights", row_weights=True),
    _case("row weights with weights", row_weights=True, weight="positive", ignored="some"),
    _case("row weights with z-loss", row_weights=True, ignored="some", options={"z_loss": 0.1}),
    _case("row weights with probabilities", (4, 5, 3), target="probabilities", row_weights=True),
    # allowed classes
    _case("allowed classes", (4, 7), allowed="classes"),
    _case(
        "allowed classes with smoothing",
        (4, 7),
        allowed="classes",
        weight="positive",
        options=SMOOTH,
    ),
    _case("allowed classes of four dimensions", (2, 9, 2, 2), allowed="classes", options=SMOOTH),
    _case("allowed classes with probabilities", (4, 7), target="probabilities", allowed="classes"),
    _case("allowed classes by row", (4, 7), allowed="input"),
    _case(
        "allowed classes by row with smoothing",
        (3, 7, 2),
        allowed="input",
        weight="positive",
        options=SMOOTH,
    ),
    _case("allowed with smoothed masses", (4, 7), target="masses", allowed="input", options=SMOOTH),
    _case("labels not allowed", (4, 7), allowed="not the label"),
    # extreme scores
    _case("large", logits="large"),
    _case("large with smoothing", logits="large", weight="positive", options=SMOOTH),
    _case("large with probabilities", logits="large", target="probabilities"),
    _case("large with softcap", logits="large", options={"softcap": 30.0, "z_loss": 0.01}),
    _case("minus infinity", logits="infinite", weight="positive"),
    _case("minus infinity with z-loss", logits="infinite", options={"z_loss": 0.1}),
    _case("minus infinity with softcap", logits="infinite", options={"softcap": 5.0}),
    _case("minus infinity with smoothing", logits="infinite", options=SMOOTH),
    _case("minus infinity with probabilities", logits="infinite", target="probabilities"),
    _case(
        "minus infinity with smoothed probabilities",
        logits="infinite",
        target="probabilities",
        options=SMOOTH,
    ),
    _case(
        "minus infinity with smoothed one-hot", logits="infinite", target="one-hot", options=SMOOTH
    ),
    _case("minus infinity at the label", logits="minus infinity"),
    # combinations
    _case(
        "everything",
        (4, 9, 3),
        ignored="some",
        weight="positive",
        row_weights=True,
        allowed="classes",
        options=EVERYTHING,
    ),
    _case(
        "everything by row",
        ignored="some",
        weight="positive",
        row_weights=True,
        allowed="input",
        options={"ignore_index": 2, **EVERYTHING},
    ),
    _case(
        "everything with probabilities",
        (4, 9, 3),
        target="probabilities",
        weight="positive",
        row_weights=True,
        allowed="input",
        options=EVERYTHING,
    ),
]

CASES = [
    replace(
        case, name=f"{case.name}, {reduction}", options={**case.options, "reduction": reduction}
    )
    for case in BASE_CASES
    for reduction in REDUCTIONS
]


def by_type_and_backend(cases: list[Case]) -> list[Any]:
    """Each of CASES in each type on each backend.

    Without the slow tests a case meets every type and every reduction, each type with another
    reduction.
    """

    def latin(case: Case, of_dtype: int) -> bool:
        of_case, of_reduction = divmod(CASES.index(case), len(REDUCTIONS))
        return (of_case + of_dtype) % len(REDUCTIONS) == of_reduction

    return [
        pytest.param(case, dtype, name, marks=[] if latin(case, i) else pytest.mark.slow)
        for case in cases
        for i, dtype in enumerate(DTYPES)
        for name in BACKENDS
    ]


def on_every_backend(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Every combination on each backend; on a slow one so many that every two values meet."""
    every, few = list(product(*axes)), pairs(*axes)
    return [(*row, name) for name in BACKENDS for row in (few if name in SLOW else every)]
