"""The compiled loops' statistics of the tokens against automatic differentiation in float64."""

import pytest
import torch

from nll.kernels import cpu, reference

pytestmark = pytest.mark.skipif(cpu.MISSING is not None, reason=f"{cpu.MISSING}")
SETS = cpu.instruction_sets()


@pytest.fixture(params=SETS)
def instruction_set(request):
    cpu.use_instructions(request.param)
    yield request.param
    cpu.use_instructions(SETS[0])


def statistics_of(z, y, slopes, softcap, temperature):
    """log p, lse, H and the gradient of their sum with slopes, by autograd in float64; 0 log 0 =
    0.
    """
    z = z.double().requires_grad_()
    s = (z if softcap is None else softcap * torch.tanh(z / softcap)) / temperature
    lse = s.logsumexp(1)
    log_p = s - lse[:, None]
    entropy = -(log_p.exp() * torch.where(log_p.detach() == -torch.inf, 0.0, log_p)).sum(1)
    found = log_p.gather(1, y[:, None])[:, 0], lse, entropy
    (gradient,) = torch.autograd.grad(
        sum((a.double() * t).sum() for a, t in zip(slopes, found, strict=True)), z
    )
    return [t.detach() for t in found], gradient


@pytest.mark.parametrize("scores", ["normal", "x 30", "+300", "confident", "-inf"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 65, 1000, 5003])
def test_statistics(classes, dtype, scores, instruction_set):
    draw = torch.Generator().manual_seed(classes)
    z = torch.randn(9, classes, generator=draw, dtype=torch.float64)
    y = torch.randint(0, classes, (9,), generator=draw)
    y[0], y[1] = 0, classes - 1
    if scores == "-inf":
        z[torch.rand(z.shape, generator=draw) < 0.3] = -torch.inf
        z.scatter_(1, y[:, None], 0.5)
    elif scores == "confident":
        z.scatter_add_(1, y[:, None], torch.linspace(5.0, 40.0, 9, dtype=torch.float64)[:, None])
    elif scores != "normal":
        z = 30.0 * z if scores == "x 30" else z + 300.0
    for softcap, temperature in ((None, 1.0), (3.0, 0.7)):
        if scores == "-inf" and softcap:
            continue
        here = z.to(dtype)
        slopes = torch.randn(3, 9, generator=draw).to(cpu.accumulator(dtype))
        found = cpu.statistics_block(here, y, None, temperature, softcap, True)
        truth, gradient = statistics_of(here, y, slopes, softcap, temperature)
        # the truth's
        eps = torch.finfo(cpu.accumulator(dtype)).eps * (
            classes**0.5 if dtype is torch.float64 else 1.0
        )
        reach = 1.0 + torch.where(here.double().isfinite(), here.double().abs(), 0.0).amax(1)
        for ours, true in zip(found[:3], truth, strict=True):
            assert ((ours.double() - true).abs() <= 16 * eps * reach).all()
        of_label = here.gather(1, y[:, None])
        before = (here > of_label) | ((here == of_label) & (torch.arange(classes) < y[:, None]))
        assert torch.equal(found.rank, before.sum(1))
        cpu.statistics_block_backward(here, y, None, temperature, softcap, found, tuple(slopes))
        within = torch.finfo(dtype).eps * gradient.abs() + 64 * eps * reach[:, None] / temperature
        assert (
            (here.double() - gradient).abs() <= within + torch.finfo(dtype).smallest_normal
        ).all()


def test_statistics_of_special_scores():
    z = torch.tensor(
        [[0.0, torch.nan, 1.0], [-torch.inf] * 3, [torch.inf, 0.0, 0.0], [0.0, torch.inf, 1.0]]
    )
    for backend in (cpu, reference):
        found = backend.statistics_block(
            z, torch.zeros(4, dtype=torch.int64), None, 1.0, None, True
        )
        log_prob, lse, entropy, rank = found[:4]
        assert log_prob.isnan().tolist() == [True, True, True, False]
        assert log_prob[3] == -torch.inf
        assert lse.nan_to_num(7.0, 8.0, 9.0).tolist() == [7.0, 9.0, 8.0, 8.0]
        assert entropy.isnan().tolist() == [True, True, True, True]
        assert rank.tolist() == [1, 0, 0, 2]


def test_a_confident_label_has_its_log_probability_to_the_last_digit():
    z = torch.zeros(3, 4)
    z[:, 1] = torch.tensor([15.0, 25.0, 45.0])
    found = cpu.statistics_block(z, torch.ones(3, dtype=torch.int64), None, 1.0, None, False)
    torch.testing.assert_close(
        found.log_prob.double(), -torch.log1p(3.0 * torch.exp(-z[:, 1].double())), rtol=1e-6, atol=0
    )
