"""What the compiled loops promise beyond the case table: bits, threads, instruction sets, memory,
forks.
"""

import gc
import os

import pytest
import torch
import torch.nn.functional as F

import nll
from nll.kernels import cpu, memory
from nll.kernels.types import Options

pytestmark = pytest.mark.skipif(cpu.MISSING is not None, reason=f"{cpu.MISSING}")
SETS = cpu.instruction_sets()


@pytest.fixture(autouse=True)
def compiled():
    with nll.use_backend("cpu"):
        yield


@pytest.fixture(params=SETS)
def instruction_set(request):
    cpu.use_instructions(request.param)
    yield request.param
    cpu.use_instructions(SETS[0])


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def exp_errors(first: int, last: int, step: int) -> float:
    """The largest relative error of exp in units of 2^-24, over every `step`-th float32 between two
    bit patterns.
    """
    worst = 0.0
    for begin in range(first, last, step << 22):
        bits = torch.arange(begin, min(begin + (step << 22), last), step, dtype=torch.int64)
        x = (bits - (1 << 32)).to(torch.int32).view(torch.float32)
        y = cpu.exponential(x)
        truth = x.double().exp()
        worst = max(worst, float(((y.double() - truth) / truth).abs().max()) * 2**24)
    return worst


# The bits of -0.0 and of the last number whose exponential is normal, -87.33654.
RANGE = (0x80000000, 0xC2AEAC4F)


@pytest.mark.parametrize("step", [4099, pytest.param(1, marks=pytest.mark.slow)])
def test_exp_keeps_its_bound(step, instruction_set):
    # Without fused multiplication every step rounds twice.
    assert exp_errors(*RANGE, step) <= (1.7 if instruction_set == "baseline" else 1.5)


def test_exp_far_below_is_zero(instruction_set):
    x = torch.tensor([-200.0, -torch.inf, -3e38, torch.nan])
    y = cpu.exponential(x)
    assert y[:3].tolist() == [0.0, 0.0, 0.0]
    assert y[3].isnan()


def rows_of(input, target, **options):
    x = input.clone().requires_grad_()
    loss = nll.cross_entropy(x, target, reduction="none", **options)
    loss.sum().backward()
    assert x.grad is not None
    return loss.detach(), x.grad


LAYOUTS = [(70, 33), (70, 1000), (9, 40000), (5, 21, 130), (3, 300, 7)]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
def test_every_instruction_set_is_as_exact_as_pytorch(shape, dtype, instruction_set):
    input = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).to(dtype)
    target = torch.randint(
        0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(2)
    )
    weight = torch.rand(shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for options in ({}, {"label_smoothing": 0.1, "weight": weight}):
        theirs = input.float() if dtype in (torch.bfloat16, torch.float16) else input
        ours = {**options, "weight": options["weight"].to(theirs.dtype)} if options else {}
        loss, gradient = rows_of(input, target, **ours)
        x = input.double().clone().requires_grad_()
        truth = F.cross_entropy(x, target, reduction="none", **options)
        truth.sum().backward()
        their_error = (
            (F.cross_entropy(theirs, target, reduction="none", **ours) - truth).abs().max()
        )
        unit = torch.finfo(loss.dtype).eps * truth.detach().abs().max()
        assert (loss - truth).abs().max() <= their_error + 4 * unit
        # of the result, and of the arithmetic that led to it
        rounding = torch.finfo(dtype).eps * x.grad.abs()
        units = 8 if dtype is torch.float64 else 4  # there the truth is no more exact
        assert (
            (gradient - x.grad).abs()
            <= rounding + units * torch.finfo(loss.dtype).eps * x.grad.abs().max()
        ).all()


@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
def test_a_row_has_the_same_bits_in_any_company(shape, threads):
    draw = torch.Generator().manual_seed(4)
    input = torch.randn(shape, generator=draw)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=draw)
    loss, gradient = rows_of(input, target)
    order = torch.randperm(shape[0], generator=draw)
    for part in (order, order[:1], order[: shape[0] // 2 + 1]):
        for count in (1, 2, 3):
            threads(count)
            part_loss, part_gradient = rows_of(input[part], target[part])
            assert torch.equal(part_loss, loss[part])
            assert torch.equal(part_gradient, gradient[part])


@pytest.mark.parametrize("classes", [21, 300])
def test_channels_last(classes):
    """The classes are neighbours in memory, and yet the result is laid out as the shape says."""
    draw = torch.Generator().manual_seed(6)
    input = torch.randn(2, classes, 5, 4, generator=draw).to(memory_format=torch.channels_last)
    target = torch.randint(0, classes, (2, 5, 4), generator=draw)
    for labels in (target, torch.randn(input.shape, generator=draw).softmax(1)):
        ours, theirs = input.clone().requires_grad_(), input.contiguous().requires_grad_()
        slope = torch.randn(2, 5, 4, generator=draw)
        for reduction in ("mean", "none"):
            loss = nll.cross_entropy(ours, labels, reduction=reduction)
            truth = F.cross_entropy(theirs, labels, reduction=reduction)
            torch.testing.assert_close(loss, truth)
            upstream = slope if reduction == "none" else None
            torch.testing.assert_close(
                torch.autograd.grad(loss, ours, upstream),
                torch.autograd.grad(truth, theirs, upstream),
            )
    ours, theirs = input.clone().requires_grad_(), input.contiguous().requires_grad_()
    torch.testing.assert_close(nll.log_softmax(ours, 1), torch.log_softmax(theirs, 1))
    slope = torch.randn(input.shape, generator=draw)
    torch.testing.assert_close(
        torch.autograd.grad(nll.log_softmax(ours, 1), ours, slope),
        torch.autograd.grad(torch.log_softmax(theirs, 1), theirs, slope),
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_threads_share_long_rows_without_a_trace(count, threads):
    input, target = torch.randn(1, 300_000), torch.tensor([123_456])
    x, y = input.clone().requires_grad_(), input.clone().requires_grad_()
    nll.cross_entropy(x, target).backward()
    threads(count)
    nll.cross_entropy(y, target).backward()
    assert torch.equal(x.grad, y.grad)


@pytest.mark.parametrize("factor", [1.0, 0.25, 0.3, -2.0, 0.0])
def test_any_upstream_gradient(factor):
    x = torch.randn(40, 500, requires_grad=True)
    target = torch.randint(0, 500, (40,))
    (factor * nll.cross_entropy(x, target, z_loss=1e-3)).backward()
    y = x.detach().double().requires_grad_()
    (factor * nll.cross_entropy(y, target, z_loss=1e-3)).backward()
    torch.testing.assert_close(x.grad, y.grad.float(), rtol=1e-5, atol=1e-9)


def test_the_first_gradient_is_not_the_second():
    """The gradient that the forward pass made is handed over once; the next backward makes its
    own.
    """
    x = torch.randn(40, 500, requires_grad=True)
    loss = nll.cross_entropy(x, torch.randint(0, 500, (40,)))
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    first.mul_(0.0)
    (second,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(second, kept)


def test_logits_that_were_changed_are_noticed_where_they_are_needed():
    x = torch.randn(40, 500, requires_grad=True) * 1.0
    loss = nll.cross_entropy(x, torch.randint(0, 500, (40,)), reduction="none")
    x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()


def test_memory_of_a_large_gradient_is_used_again():
    memory.release()
    x = torch.randn(2000, 1000, requires_grad=True)
    target = torch.randint(0, 1000, (2000,))
    nll.cross_entropy(x, target).backward()
    address = x.grad.data_ptr()
    x.grad = None
    gc.collect()
    assert memory.retained_bytes() >= x.numel() * 4
    nll.cross_entropy(x, target).backward()
    assert x.grad.data_ptr() == address
    x.grad = None
    memory.release()
    assert memory.retained_bytes() == 0


def test_a_forked_process_computes_too(threads):
    threads(2)
    x, target = torch.randn(400, 1000), torch.randint(0, 1000, (400,))
    expected = nll.cross_entropy(x, target).item()
    child = os.fork()
    if child == 0:
        os._exit(0 if nll.cross_entropy(x, target).item() == expected else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("label", [-1, 7, 2**40, -(2**40)])
def test_the_first_label_out_of_range_is_named(label):
    target = torch.zeros(5000, dtype=torch.int64)
    target[[1234, 4000]] = torch.tensor([label, 9])
    with pytest.raises(IndexError, match=f"got {label} at row 1234"):
        nll.cross_entropy(torch.randn(5000, 7), target)


@pytest.mark.slow
def test_more_scores_than_32_bits_count():
    rows, classes = 33, 1 << 26
    x = torch.empty(rows, classes, dtype=torch.bfloat16).normal_(
        generator=torch.Generator().manual_seed(5)
    )
    target = torch.full((rows,), classes - 1)
    loss = nll.cross_entropy(x, target, reduction="none")
    last = x[-1].double()
    assert abs(loss[-1].item() - (last.logsumexp(0) - last[-1]).item()) < 1e-5


OPERATOR_CALLS = {
    "labels": {},
    "sum of smoothed rows": {"reduction": "sum", "label_smoothing": 0.1},
    "rows": {"reduction": "none", "softcap": 5.0, "temperature": 0.5},
    "probabilities": {"target": "probabilities", "z_loss": 0.01},
    "weights": {"weight": True, "row_weights": True, "z_loss": 0.01},
    "allowed classes": {"allowed": True, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPERATOR_CALLS)
def test_the_operator_that_the_compiler_sees(name, dtype):
    options = dict(OPERATOR_CALLS[name])
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(20, 300, generator=draw).to(dtype).requires_grad_()
    y = torch.randint(0, 300, (20,), generator=draw)
    if options.pop("target", None):
        y = torch.rand(20, 300, generator=draw).to(dtype)
    weight = torch.rand(300, generator=draw).to(dtype) if options.pop("weight", None) else None
    row_weights = torch.rand(20, generator=draw) if options.pop("row_weights", None) else None
    allowed = torch.arange(300) < 290 if options.pop("allowed", None) else None
    arguments = (x, y, weight, row_weights, allowed, *Options(**options))
    torch.library.opcheck(torch.ops.nll.cross_entropy.default, arguments)
    loss, *sums = torch.ops.nll.cross_entropy(*arguments)
    sums = [tensor.detach() for tensor in sums]
    grad = torch.rand(loss.shape, generator=draw)
    torch.library.opcheck(
        torch.ops.nll.cross_entropy_backward.default,
        ([grad], sums, x.detach(), *arguments[1:], [True]),
    )
    torch.testing.assert_close(
        loss,
        nll.cross_entropy(
            x, y, weight, row_weights=row_weights, allowed_classes=allowed, **options
        ),
    )


@pytest.mark.parametrize(
    "options", [{}, {"reduction": "none", "label_smoothing": 0.1, "z_loss": 0.01}], ids=str
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_code_calls_the_operator(options, dynamic):
    graphs = []

    def keep(graph, _):
        graphs.append(graph.code)
        return graph.forward

    def loss(x, y):
        return nll.cross_entropy(x * 2.0, y, **options).sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, backend=keep, fullgraph=True, dynamic=dynamic)
    for rows in (30, 50):
        x, y = torch.randn(rows, 700, requires_grad=True), torch.randint(0, 700, (rows,))
        value, truth = compiled(x, y), loss(x, y)
        torch.testing.assert_close(value, truth)
        torch.testing.assert_close(torch.autograd.grad(value, x), torch.autograd.grad(truth, x))
    assert all("ops.nll.cross_entropy" in code for code in graphs)
    assert len(graphs) == (1 if dynamic else 2)


def test_compiled_code_names_the_label_out_of_range():
    torch.compiler.reset()
    compiled = torch.compile(nll.cross_entropy, backend="aot_eager", fullgraph=True)
    with pytest.raises(IndexError, match="row 3"):
        compiled(torch.randn(30, 700), torch.full((30,), 5).index_fill(0, torch.tensor([3]), 700))


@pytest.mark.parametrize("factor", [1.0, 65536.0])
def test_a_scaled_loss_in_float16_loses_nothing_to_underflow(factor):
    x = torch.randn(40, 3000, generator=torch.Generator().manual_seed(8)).half().requires_grad_()
    target = torch.randint(0, 3000, (40,), generator=torch.Generator().manual_seed(9))
    (nll.cross_entropy(x, target) * factor).backward()
    y = x.detach().double().requires_grad_()
    (nll.cross_entropy(y, target) * factor).backward()
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-3, atol=2.0**-25)


def test_confident_rows_lose_nothing():
    """A label that has nearly all of the probability: the loss is small, right to many digits,
    never below 0.
    """
    for classes in (10, 50_000):
        x = torch.randn(50, classes, generator=torch.Generator().manual_seed(10))
        target = torch.randint(0, classes, (50,), generator=torch.Generator().manual_seed(11))
        x[torch.arange(50), target] = torch.linspace(15.0, 45.0, 50)
        loss = nll.cross_entropy(x, target, reduction="none")
        truth = F.cross_entropy(x.double(), target, reduction="none")
        assert (loss >= 0).all()
        theirs = F.cross_entropy(x, target, reduction="none")
        assert (loss - truth).abs().max() <= (theirs - truth).abs().max() + 2.0**-24


def test_the_smallest_float16_numbers_are_read(instruction_set):
    # Below 2^-14 they are subnormal; numbers that are so in float32 count as 0.
    y = torch.full((2, 300), -20.0, dtype=torch.float16)
    slope = (torch.arange(600).view(2, 300) % 40 * 2.0**-24).half()
    assert torch.equal(cpu.log_softmax_backward(slope, y, 1), slope)


@pytest.mark.parametrize("classes", [700, 5000])
def test_sums_of_rows_side_by_side_lose_nothing(classes):
    # bfloat16 scores near 200 are 1 apart: many equal terms, whose sum one by one drifts to one
    # side.
    x = (torch.randn(classes, 3, generator=torch.Generator().manual_seed(0)) + 200.0).bfloat16()
    with nll.use_backend("cpu"):
        found = nll.log_softmax(x, 0, torch.float32)
    assert (found.double() - x.double().log_softmax(0)).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_a_mean_over_no_weight_is_nan_whatever_the_z_loss_adds(name):
    x, y = torch.randn(2, 3), torch.zeros(2, dtype=torch.int64)
    with nll.use_backend(name):
        assert nll.cross_entropy(x, y, torch.tensor([0.0, 1.0, 1.0]), z_loss=0.1).isnan()
