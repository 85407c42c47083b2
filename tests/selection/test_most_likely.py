"""Maximum likelihood as a choice between named hypotheses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions as td

from nll import most_likely

WHITE, BLACK = 1, 0


def test_the_two_boxes():
    """Box A holds 99 white balls and a black one, box B the reverse; the ball is white."""
    choice = most_likely({"A": td.Bernoulli(0.99), "B": td.Bernoulli(0.01)}, WHITE)
    assert (choice.winner, choice.tied, choice.impossible, choice.n) == ("A", (), (), 1)
    assert choice.log_likelihoods == pytest.approx(
        {"A": math.log(0.99), "B": math.log(0.01)}, rel=1e-15
    )
    assert choice.likelihood_ratios == pytest.approx({"A": 1, "B": 99}, rel=1e-14)
    assert choice.status == "A makes the data most likely"


def test_the_summary_ranks_the_hypotheses():
    choice = most_likely({"B": td.Bernoulli(0.01), "A": td.Bernoulli(0.99)}, [WHITE])
    assert str(choice) == choice.summary()
    assert choice.summary().splitlines() == [
        "   log-likelihood  times less likely than the best",
        "A    -0.010050336  1",
        "B      -4.6051702  99",
        "A makes the data most likely (n = 1).",
    ]


shares = st.floats(0.0, 1.0, width=32)


@given(shares, shares)
def test_the_larger_share_of_white_wins(p1, p2):
    choice = most_likely({"first": td.Bernoulli(p1), "second": td.Bernoulli(p2)}, WHITE)
    if p1 == p2:
        assert choice.winner is None
        assert choice.tied == (() if p1 == 0 else ("first", "second"))
    elif abs(math.log(max(p1, p2)) - (math.log(min(p1, p2)) if min(p1, p2) else -math.inf)) > 1e-6:
        assert choice.winner == ("first" if p1 > p2 else "second")
        assert choice.likelihood_ratios[choice.winner] == 1.0


@given(st.lists(st.sampled_from([WHITE, BLACK]), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_log_likelihoods_are_those_of_the_sample(sample, p):
    """L(p) = p^(sum x) (1 - p)^(n - sum x)."""
    choice = most_likely({"p": td.Bernoulli(torch.tensor(p, dtype=torch.float64))}, sample)
    white = sum(sample)
    expected = white * math.log(p) + (len(sample) - white) * math.log1p(-p)
    assert choice.log_likelihoods["p"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("hypotheses", "data", "winner", "tied", "impossible", "status"),
    [
        pytest.param(
            {"A": td.Bernoulli(0.3), "B": td.Bernoulli(0.7), "C": td.Bernoulli(0.1)},
            [1, 0],
            None,
            ("A", "B"),
            (),
            "a tie: the data are equally likely under A and B",
            id="tie by symmetry",
        ),
        pytest.param(
            {"A": td.Bernoulli(0.1), "B": td.Bernoulli(0.9)},
            [1, 0] * 500,
            None,
            ("A", "B"),
            (),
            "a tie: the data are equally likely under A and B",
            id="tie after many roundings",
        ),
        pytest.param(
            {"A": td.Bernoulli(1.0), "B": td.Poisson(3.0)},
            [-1],
            None,
            (),
            ("A", "B"),
            "the data are impossible under every hypothesis",
            id="impossible under all",
        ),
        pytest.param(
            {"A": td.Bernoulli(1.0), "B": td.Bernoulli(0.001)},
            [1] * 50 + [0],
            "B",
            (),
            ("A",),
            "B makes the data most likely",
            id="one black ball refutes the box without any",
        ),
        pytest.param(
            {"A": td.Uniform(0.0, 1.0), "B": td.Uniform(0.0, 2.0)},
            [0.5, 1.5],
            "B",
            (),
            ("A",),
            "B makes the data most likely",
            id="outside the support",
        ),
        pytest.param(
            {
                "A": td.Categorical(torch.tensor([1.0, 0.0])),
                "B": td.Categorical(torch.tensor([0.9, 0.1])),
            },
            [0, 1],
            "B",
            (),
            ("A",),
            "B makes the data most likely",
            id="a class of probability 0",
        ),
        pytest.param(
            {"A": td.Poisson(0.0), "B": td.Poisson(1.0)},
            [0, 0],
            "A",
            (),
            (),
            "A makes the data most likely",
            id="certain",
        ),
        pytest.param(
            {"only": td.Normal(0.0, 1.0)},
            0.3,
            "only",
            (),
            (),
            "only makes the data most likely",
            id="no rival",
        ),
    ],
)
def test_winners_ties_and_the_impossible(hypotheses, data, winner, tied, impossible, status):
    choice = most_likely(hypotheses, data)
    assert (choice.winner, choice.tied, choice.impossible, choice.status) == (
        winner,
        tied,
        impossible,
        status,
    )
    assert [choice.log_likelihoods[name] for name in impossible] == [-math.inf] * len(impossible)


def test_ratios_of_the_impossible():
    ratios = most_likely({"A": td.Bernoulli(1.0), "B": td.Bernoulli(0.5)}, [0]).likelihood_ratios
    assert ratios == {"A": math.inf, "B": 1.0}
    # Nothing is so many times as likely as what cannot happen.
    ratios = most_likely({"A": td.Bernoulli(1.0), "B": td.Bernoulli(1.0)}, [0]).likelihood_ratios
    assert all(map(math.isnan, ratios.values()))


def test_functions_are_hypotheses():
    """One log-probability for each row, or one for all of them; what they get is float64."""
    seen = []

    def parabola(x):
        seen.append(x)
        return -x.square()

    choice = most_likely(
        {"rows": parabola, "all": lambda x: -3, "list": lambda x: [-1.0, -5.0]}, [1, 2]
    )
    assert choice.log_likelihoods == {"rows": -5.0, "all": -3.0, "list": -6.0}
    assert choice.winner == "all"
    assert (seen[0].dtype, seen[0].shape) == (torch.float64, (2,))


def test_a_function_that_is_being_trained():
    parameter = torch.tensor(0.5, requires_grad=True)
    assert most_likely({"net": lambda x: -(x - parameter).square()}, [0.5]).log_likelihoods == {
        "net": 0.0
    }


# One of each kind of support and of parameters, on data that fit it.
DISTRIBUTIONS = {
    "Bernoulli": (td.Bernoulli(0.3), [1, 0]),
    "Bernoulli by logits": (td.Bernoulli(logits=torch.tensor(0.3)), [1, 0]),
    "Beta": (td.Beta(2.0, 3.0), [0.2, 0.7]),
    "Binomial": (td.Binomial(5, torch.tensor(0.3)), [2, 5]),
    "Categorical": (td.Categorical(logits=torch.tensor([0.1, 0.2, 0.5])), [2, 0]),
    "Cauchy": (td.Cauchy(0.0, 1.0), [-3.0, 7.0]),
    "Chi2": (td.Chi2(3.0), [0.5, 4.0]),
    "Gamma": (td.Gamma(2.0, 0.5), [0.5, 4.0]),
    "Geometric": (td.Geometric(logits=torch.tensor(0.3)), [0, 4]),
    "Gumbel": (td.Gumbel(0.0, 2.0), [-1.0, 3.0]),
    "HalfCauchy": (td.HalfCauchy(2.0), [0.1, 3.0]),
    "HalfNormal": (td.HalfNormal(2.0), [0.1, 3.0]),
    "InverseGamma": (td.InverseGamma(2.0, 1.5), [0.1, 3.0]),
    "Kumaraswamy": (td.Kumaraswamy(2.0, 1.5), [0.1, 0.3]),
    "LogNormal": (td.LogNormal(0.3, 1.5), [0.1, 3.0]),
    "NegativeBinomial": (td.NegativeBinomial(3.0, torch.tensor(0.3)), [0, 4]),
    "Pareto": (td.Pareto(1.0, 2.0), [1.5, 4.0]),
    "StudentT": (td.StudentT(3.0), [1.5, -40.0]),
    "VonMises": (td.VonMises(0.1, 2.0), [0.5, -2.0]),
    "Weibull": (td.Weibull(1.5, 2.0), [0.5, 2.0]),
    "transformed": (
        td.TransformedDistribution(td.Normal(0.0, 1.0), [td.transforms.ExpTransform()]),
        [0.5, 2.0],
    ),
    "mixture": (
        td.MixtureSameFamily(
            td.Categorical(torch.tensor([0.3, 0.7])), td.Normal(torch.tensor([0.0, 4.0]), 1.0)
        ),
        [0.5, 3.0],
    ),
    "Dirichlet": (td.Dirichlet(torch.tensor([0.5, 1.5])), [[0.25, 0.75], [0.5, 0.5]]),
    "Independent": (
        td.Independent(td.Normal(torch.zeros(2), torch.ones(2)), 1),
        [[0.25, 0.75], [-2.0, 0.5]],
    ),
    "Multinomial": (td.Multinomial(3, torch.tensor([0.2, 0.8])), [[1, 2], [3, 0]]),
    "MultivariateNormal": (
        td.MultivariateNormal(torch.zeros(2), 2 * torch.eye(2)),
        [[0.25, 0.75], [-2.0, 0.5]],
    ),
    "OneHotCategorical": (td.OneHotCategorical(torch.tensor([0.2, 0.8])), [[1, 0], [0, 1]]),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_distribution_of_torch(name):
    """Also where it has computed, and so keeps, its logits beside its probabilities."""
    distribution, data = DISTRIBUTIONS[name]
    expected = float(distribution.log_prob(torch.tensor(data, dtype=torch.float32)).sum())
    choice = most_likely({name: distribution}, data)
    assert choice.log_likelihoods[name] == pytest.approx(expected, rel=2e-6)  # of float32


def test_parameters_are_the_decimals_that_were_written():
    """Bernoulli(0.99) holds a float32 near 0.99; the tie with a float64 0.99 shows what is
    meant.
    """
    exact = td.Bernoulli(torch.tensor(0.99, dtype=torch.float64))
    assert most_likely({"float32": td.Bernoulli(0.99), "float64": exact}, [1, 1, 0]).tied == (
        "float32",
        "float64",
    )


def test_a_distribution_that_is_being_trained():
    loc = torch.tensor(1.0, requires_grad=True)
    choice = most_likely({"A": td.Normal(loc, 1.0), "B": td.Normal(0.0, 1.0)}, [0.9])
    assert choice.winner == "A"
