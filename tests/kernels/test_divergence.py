"""The compiled loops' KL divergence against automatic differentiation in float64."""

import pytest
import torch

from nll.kernels import cpu, divergence

pytestmark = pytest.mark.skipif(cpu.MISSING is not None, reason=f"{cpu.MISSING}")
SETS = cpu.instruction_sets()
T, S = 1.7, 0.6  # temperatures


@pytest.fixture(params=SETS)
def instruction_set(request):
    cpu.use_instructions(request.param)
    yield request.param
    cpu.use_instructions(SETS[0])


def definition(layer, z, t, reverse):
    """Each row's divergence; 0 log 0 = 0."""
    log_p = (z / T).log_softmax(1)
    if not layer:
        return torch.special.xlogy(t, t).sum(1) - torch.where(t == 0.0, 0.0, t * log_p).sum(1)
    log_q = (t / S).log_softmax(1)
    if reverse:
        log_p, log_q = log_q, log_p
    q = log_q.exp()
    zero = q == 0.0
    return (q * (log_q.masked_fill(zero, 0.0) - log_p.masked_fill(zero, 0.0))).sum(1)


def block(layer, reverse, wanted, *tensors):
    function, held = divergence.block_function(
        True, layer, wanted, divergence.Options(T, S, reverse)
    )
    assert held == 2
    return function(*tensors)


def drawn(classes, dtype, layer, scores):
    draw = torch.Generator().manual_seed(classes)
    z, t = torch.randn(2, 9, classes, generator=draw, dtype=torch.float64)
    if scores == "x 30":
        z, t = 30.0 * z, 30.0 * t
    elif scores == "+300":
        z, t = z + 300.0, t - 300.0
    elif scores == "-inf":  # excluded by both
        out = torch.rand(z.shape, generator=draw) < 0.3
        out[:, 0] = False
        z, t = z.masked_fill(out, -torch.inf), t.masked_fill(out, -torch.inf)
    return z.to(dtype), (t if layer else t.softmax(1)).to(dtype)


@pytest.mark.parametrize("scores", ["normal", "x 30", "+300", "-inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 65, 1000, 5003])
@pytest.mark.parametrize(
    ("layer", "reverse"), [(True, False), (True, True), (False, False)], ids=str
)
def test_divergence(layer, reverse, classes, dtype, scores, instruction_set):
    z, t = drawn(classes, dtype, layer, scores)
    factor = torch.linspace(0.0, 2.0, 9, dtype=cpu.accumulator(dtype))
    points = [z.double().requires_grad_(), t.double().requires_grad_(layer)]
    truth = definition(layer, *points, reverse)
    wanted = points if layer else points[:1]
    gradients = torch.autograd.grad(truth, wanted, factor.double())
    by = True, layer
    forward, *none = block(layer, reverse, (False, False), z, t, None)
    assert none == [None, None]
    found, *by_both = block(layer, reverse, by, z.clone(), t.clone(), factor)
    assert torch.equal(found, forward)
    eps = torch.finfo(cpu.accumulator(dtype)).eps
    finite = [torch.where(point.isfinite(), point.abs(), 0.0).amax(1) for point in points]
    reach = (1.0 + finite[0] / T + finite[1] / S) * (1.0 + truth.detach())
    assert ((found.double() - truth.detach()).abs() <= 16 * eps * reach).all()
    for ours, true in zip(by_both, gradients, strict=False):
        scale = factor.double()[:, None] * reach[:, None]
        within = torch.finfo(dtype).eps * true.abs() + 32 * eps * scale
        assert ((ours.double() - true.nan_to_num(0.0)).abs() <= within).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_an_infinite_divergence_and_a_factor_of_0(reverse, instruction_set):
    z, t = torch.randn(2, 2, 40, generator=torch.Generator().manual_seed(0))
    (t if reverse else z)[:, 3] = -torch.inf
    found, *by = block(True, reverse, (True, True), z.clone(), t.clone(), torch.zeros(2))
    assert (found == torch.inf).all()
    assert all(not gradient.any() for gradient in by)
    z[:] = torch.nan
    found, *by = block(True, reverse, (True, True), z, t, None)
    assert all(result.isnan().all() for result in (found, *by))


def test_types_meet_in_the_wider_one(instruction_set):
    z, q = torch.randn(3, 50).to(torch.bfloat16), torch.randn(3, 50).softmax(1)
    found, by_model, _ = block(False, False, (True, False), z, q, None)
    truth = definition(False, z.double(), q.double(), False)
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-6)
    assert by_model.dtype is torch.float32
    assert z.dtype is torch.bfloat16
