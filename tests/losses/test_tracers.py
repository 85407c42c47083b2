"""Tracers, exported programs and registered operators: the graph of the definition for other
numbers, or an error.
"""

from __future__ import annotations

import copy
import logging
import warnings

import pytest
import torch
from cases import BACKENDS, IN_FLOAT64
from derivatives import CLASSES, LABELS, LOSSES, MEMORY, points
from pairwise import by_turns
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import nll

SMOOTH = [name for name in LOSSES if "sampled" not in name]  # whose answer is no draw


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def quiet():
    torch._dynamo.reset()
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def arguments(name: str, seed: int = 0) -> list[Tensor]:
    """The points of a loss, for another seed with other numbers."""
    made = points(torch.float32)
    moved = {key: t * (1.0 + 0.1 * seed) for key, t in made.items()}
    moved["probabilities"] = (made["probabilities"].log() * (1.0 + 0.1 * seed)).softmax(1)
    return [moved[key] for key in LOSSES[name].arguments]


@pytest.mark.parametrize(
    ("name", "tracer", "backend"),
    by_turns(SMOOTH, ["jit.trace", "make_fx", "make_fx of gradients"], BACKENDS),
    indirect=["backend"],
)
def test_a_trace_holds_for_other_numbers(name, tracer, backend):
    at, other = arguments(name), arguments(name, 1)

    def loss(*tensors):
        return LOSSES[name].ours(*tensors)

    def gradients(*tensors):
        inner = [t.detach().requires_grad_() for t in tensors]
        return torch.autograd.grad(loss(*inner).sum(), inner)

    function = gradients if "gradients" in tracer else loss
    trace = (
        make_fx(function)
        if "make_fx" in tracer
        else lambda *at: torch.jit.trace(loss, at, check_trace=False)
    )
    traced = trace(*at)
    torch.testing.assert_close(traced(*other), function(*other), rtol=1e-4, atol=1e-5)


def test_a_trace_holds_for_other_numbers_of_rows(backend):
    """Blocks of rows are not written into it."""
    x, head = torch.randn(40, 8), torch.randn(30, 8)
    y = torch.arange(40) % 30
    losses = {
        "linear_cross_entropy": lambda x, y: nll.linear_cross_entropy(x, head, y, max_memory=3000),
        "token_statistics": lambda x, y: (
            nll.token_statistics(x, y, linear_weight=head, max_memory=3000).log_prob
        ),
        "linear_kl_divergence": lambda x, y: nll.linear_kl_divergence(
            x, head, x, head + 1.0, max_memory=3000
        ),
        "cross_entropy": lambda x, y: nll.cross_entropy(x @ head.T, y, label_smoothing=0.1),
    }
    twice = torch.cat([x, 2.0 * x]), torch.cat([y, y])
    for loss in losses.values():
        traced = torch.jit.trace(loss, (x, y), check_trace=False)
        torch.testing.assert_close(traced(*twice), loss(*twice), rtol=1e-4, atol=1e-5)


class Module(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


HEAD = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(300) < 200


def of_layer(**options):
    return lambda a, t: nll.linear_cross_entropy(a @ HEAD[:16, :].T, HEAD, t, **options)


DYNAMIC = {
    "cross_entropy": lambda a, t: nll.cross_entropy(a @ HEAD.T, t),
    "cross_entropy none": lambda a, t: nll.cross_entropy(a @ HEAD.T, t, reduction="none"),
    "cross_entropy with options": lambda a, t: nll.cross_entropy(
        a @ HEAD.T, t, torch.ones(300), label_smoothing=0.1, z_loss=0.1, softcap=3.0
    ),
    "cross_entropy of allowed classes": lambda a, t: nll.cross_entropy(
        a @ HEAD.T, t, allowed_classes=MASK
    ),
    "cross_entropy of probabilities": lambda a, t: nll.cross_entropy(
        a @ HEAD.T, (a @ HEAD.T).softmax(1)
    ),
    "nll_loss": lambda a, t: nll.nll_loss(a @ HEAD.T, t),
    "log_softmax": lambda a, t: nll.log_softmax(a @ HEAD.T, 1),
    "linear_cross_entropy": of_layer(),
    "linear_cross_entropy none": of_layer(reduction="none"),
    "linear_cross_entropy with options": of_layer(
        label_smoothing=0.1, z_loss=0.1, weight=torch.ones(300)
    ),
    "linear_cross_entropy of allowed classes": of_layer(allowed_classes=MASK, max_memory=10_000),
    "token_statistics": lambda a, t: nll.token_statistics(a @ HEAD.T, t).log_prob,
    "token_statistics of a layer": lambda a, t: (
        nll.token_statistics(
            a, t, linear_weight=HEAD, entropy=True, topk=3, max_memory=10_000
        ).entropy
    ),
    "linear_kl_divergence": lambda a, t: nll.linear_kl_divergence(
        a, HEAD, a.flip(1), HEAD, max_memory=100_000
    ),
    "linear_kl_divergence from probabilities": lambda a, t: nll.linear_kl_divergence(
        a, HEAD, (a.flip(1) @ HEAD.T).softmax(1), reverse=True
    ),
    "sampled_cross_entropy": lambda a, t: nll.sampled_cross_entropy(a, HEAD, t, 300),
}


@pytest.mark.parametrize(
    ("name", "strict", "asked"),  # exported with a gradient or without one, by turns
    [(name, k == 1, (i + k) % 2 == 1) for i, name in enumerate(DYNAMIC) for k in range(2)],
)
def test_exported_programs_take_any_number_of_rows_and_give_gradients(name, strict, asked):
    loss = DYNAMIC[name]
    a = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    y = torch.arange(40) % 200
    n = torch.export.Dim("n", min=2)
    example = a.clone().requires_grad_(asked)
    program = torch.export.export(
        Module(loss), (example, y), dynamic_shapes=(({0: n}, {0: n}),), strict=strict
    )
    program = program.module()
    for rows in (2, 40, 70):
        x, t = torch.cat([a, 2.0 * a])[:rows].clone(), torch.cat([y, y])[:rows]
        found = []
        for function in (program, loss):
            leaf = x.clone().requires_grad_()
            value = function(leaf, t)
            found.append((value.detach(), torch.autograd.grad(value.square().sum(), leaf)[0]))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["cross_entropy", "linear_cross_entropy", "token_statistics", "linear_kl_divergence"]
)
def test_second_derivatives_of_an_exported_program_are_right(name):
    loss = DYNAMIC[name]
    a, y = torch.randn(40, 16, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 200
    program = torch.export.export(Module(loss), (a, y)).module()
    products = []
    for function in (program, loss):
        leaf = a.clone().requires_grad_()
        (g,) = torch.autograd.grad(function(leaf, y).sum(), leaf, create_graph=True)
        products.append(torch.autograd.grad((g * a).sum(), leaf)[0])
    torch.testing.assert_close(*products, rtol=1e-4, atol=1e-5)


def test_a_program_exported_without_gradients_by_weights():
    a, y, r = torch.randn(40, 16), torch.arange(40), torch.ones(40)
    layer = Module(lambda a, r: nll.linear_cross_entropy(a, HEAD, y, row_weights=r))
    value = torch.export.export(layer, (a, r)).module()(a, r.clone().requires_grad_())
    with pytest.raises(
        RuntimeError,
        match="expected no gradient with respect to the target or weights in a program exported",
    ):
        value.backward()
    scores = Module(lambda a, r: nll.cross_entropy(a @ HEAD.T, y, row_weights=r))
    found = []
    for function in (torch.export.export(scores, (a, r)).module(), scores):
        by = r.clone().requires_grad_()
        found.append(torch.autograd.grad(function(a, by), by)[0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("layer", [False, True])
def test_a_mask_made_inside_a_compiled_function(layer):
    h, y = torch.randn(300, 16), torch.arange(300) % 200

    def loss(h, y):
        allowed = torch.arange(300) < 200
        if layer:
            return nll.linear_cross_entropy(h, HEAD, y, allowed_classes=allowed)
        return nll.cross_entropy(h @ HEAD.T, y, allowed_classes=allowed)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (300, 170):
        torch.testing.assert_close(compiled(h[:rows], y[:rows]), loss(h[:rows], y[:rows]))


MODULES = {
    "LogSoftmax": lambda: nll.LogSoftmax(1),
    "NLLLoss": nll.NLLLoss,
    "CrossEntropyLoss": nll.CrossEntropyLoss,
    "LinearCrossEntropyLoss": lambda: nll.LinearCrossEntropyLoss(4, 5),
}


@pytest.mark.parametrize("name", MODULES)
def test_what_does_not_work_says_what_does(name):
    module = MODULES[name]()
    with pytest.raises(
        RuntimeError,
        match=rf"does not compile nll\.{name}: use torch\.compile or "
        rf"torch\.export",
    ):
        torch.jit.script(module)
    with pytest.raises(RuntimeError, match=rf"does not compile nll\.{name}"):
        torch.jit.script(nn.Sequential(nn.Linear(3, 3), module))
    with pytest.raises(
        TypeError,
        match=r"torch\.fx\.symbolic_trace does not trace nll: use "
        r"torch\.export",
    ):
        torch.fx.symbolic_trace(module)
    assert repr(copy.deepcopy(module)) == repr(module)


# ---- The operators -------------------------------------------------------------------------------


def operators() -> dict:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=draw).to(dtype)

    ops, table = torch.ops.nll, {}
    mask = torch.arange(CLASSES) != 4
    more = {
        "": (None, None, None),
        " with weights": (normal(CLASSES).abs(), normal(6).abs(), mask),
    }
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for said, (weight, row_weights, allowed) in more.items():
            for reduction in ("mean", "none"):
                z, q = normal(6, CLASSES, dtype=dtype), normal(6, CLASSES, dtype=dtype).softmax(1)
                options = (
                    -100,
                    reduction,
                    0.1 if said else 0.0,
                    1.0,
                    3.0 if said else None,
                    0.1 if said else 0.0,
                )
                of = f"{reduction}, {dtype}{said}"
                table[f"cross_entropy {of}"] = (
                    ops.cross_entropy,
                    (z, LABELS, weight, row_weights, allowed, *options),
                )
                table[f"cross_entropy {of}, probabilities"] = (
                    ops.cross_entropy,
                    (z, q, weight, row_weights, allowed, *options),
                )
                sums = torch.stack(
                    [z.float().amax(1), (z.float() - z.float().amax(1, keepdim=True)).exp().sum(1)]
                )
                slope = torch.ones(6 if reduction == "none" else ())
                tensors = z, LABELS, weight, row_weights, allowed
                table[f"cross_entropy_backward {of}"] = (
                    ops.cross_entropy_backward,
                    ([slope], [sums], *tensors, *options, [True]),
                )
                x, head, bias = (
                    normal(6, 4, dtype=dtype),
                    normal(CLASSES, 4, dtype=dtype),
                    normal(CLASSES, dtype=dtype),
                )
                layer = (
                    x,
                    head,
                    bias if said else None,
                    LABELS,
                    weight,
                    row_weights,
                    allowed,
                    *options,
                    MEMORY,
                )
                for wanted in ([True, True, bool(said)], [False, True, False], [False] * 3):
                    at = f"{of}, {wanted}"
                    table[f"linear_cross_entropy {at}"] = ops.linear_cross_entropy, (*layer, wanted)
                    backward = [slope], [], *layer, wanted
                    table[f"linear_cross_entropy_backward {at}"] = (
                        ops.linear_cross_entropy_backward,
                        backward,
                    )
        label, kept = LABELS.clamp(min=0), LABELS != -100
        for entropy, topk in ((False, 0), (True, 3)):
            x, head = normal(6, 4, dtype=dtype), normal(CLASSES, 4, dtype=dtype)
            for of, of_head in ((x, head), (normal(6, CLASSES, dtype=dtype), None)):
                asked = (
                    of,
                    of_head,
                    None,
                    label,
                    kept,
                    mask if topk else None,
                    0.7,
                    None,
                    entropy,
                    topk,
                    MEMORY,
                )
                at = f"{dtype}, {entropy}, {of_head is None}"
                table[f"token_statistics {at}"] = ops.token_statistics, asked
                number, of_entropy = torch.ones(6), torch.ones(6 if entropy else (6, 0))
                grads, saved = [number, number, of_entropy], [of_entropy, number, number]
                wanted = [True, of_head is not None, False]
                table[f"token_statistics_backward {at}"] = (
                    ops.token_statistics_backward,
                    (grads, saved, *asked, wanted),
                )
        y, other = normal(6, 3, dtype=dtype), normal(CLASSES, 3, dtype=dtype)
        q = normal(6, CLASSES, dtype=dtype).softmax(1)
        for target, target_head in ((y, other), (q, None)):
            for reduction, row_weights in (("none", None), ("mean", normal(6).abs())):
                sides = x, head, None, target, target_head, None, row_weights
                asked = *sides, 1.0, 2.0, False, reduction, MEMORY
                at = f"{dtype}, {target_head is None}, {reduction}"
                for wanted in (
                    [True, True, False, True, target_head is not None, False],
                    [False, True, False, False, False, False],
                ):
                    table[f"linear_kl_divergence {at}, {wanted}"] = (
                        ops.linear_kl_divergence,
                        (*asked, wanted),
                    )
                    slope = torch.ones(6 if reduction == "none" else ())
                    table[f"linear_kl_divergence_backward {at}, {wanted}"] = (
                        ops.linear_kl_divergence_backward,
                        ([slope], [], *asked, wanted),
                    )
    return table


OPERATORS = operators()


def test_every_operator_is_in_the_table():
    names = (schema.name for schema in torch._C._jit_get_all_schemas())
    registered = {name.removeprefix("nll::") for name in names if name.startswith("nll::")}
    assert len(registered) == 8
    assert registered == {name.split()[0] for name in OPERATORS}


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *by_turns([name for name in OPERATORS if "float64" not in name], BACKENDS),
        *by_turns([name for name in OPERATORS if "float64" in name], IN_FLOAT64),
    ],
    indirect=["backend"],
)
def test_opcheck(name, backend):
    operator, arguments = OPERATORS[name]
    opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


GRADIENTS = [name for name in OPERATORS if "backward" not in name and "float32" in name]


@pytest.mark.parametrize(("name", "backend"), by_turns(GRADIENTS, BACKENDS), indirect=["backend"])
def test_opcheck_with_gradients(name, backend):
    operator, arguments = OPERATORS[name]
    floating = [
        i for i, t in enumerate(arguments) if isinstance(t, Tensor) and t.is_floating_point()
    ]
    of = floating[:1] if operator is torch.ops.nll.cross_entropy else floating[:2]
    if operator is torch.ops.nll.linear_cross_entropy:
        arguments = (*arguments[:-1], [True, True, False])
    with_gradients = [t.clone().requires_grad_() if i in of else t for i, t in enumerate(arguments)]
    opcheck(operator, tuple(with_gradients))


def test_an_open_number_of_classes():
    """Of probabilities, which have no labels to count."""
    z, mask = torch.randn(6, 9), torch.arange(9) < 7
    q = torch.nn.functional.pad(torch.randn(6, 7).softmax(1), (0, 2))

    def loss(z, q, mask):
        return nll.cross_entropy(z, q, label_smoothing=0.1, allowed_classes=mask)

    compiled = torch.compile(loss, backend="aot_eager", dynamic=True, fullgraph=True)
    traced = make_fx(lambda z, q: nll.cross_entropy(z, q), tracing_mode="symbolic")(z, q)
    for c in (9, 8):
        torch.testing.assert_close(
            compiled(z[:, :c], q[:, :c], mask[:c]), loss(z[:, :c], q[:, :c], mask[:c])
        )
        torch.testing.assert_close(
            traced(z[:, :c], q[:, :c]), nll.cross_entropy(z[:, :c], q[:, :c])
        )
