"""The sums of a softmax regression: by operators against autodiff, compiled against the
operators.
"""

import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor

from nll.kernels import cpu
from nll.kernels.multinomial import (
    Rows,
    SparseRows,
    Standard,
    by_operators,
    row_sums,
    sparse_sums,
)

SETS = ["operators", *cpu.instruction_sets()]
SQUARES = [None, "information", "scores", "weighted scores"]


@pytest.fixture(params=SETS)
def implementation(request):
    """Each instruction set of this machine in turn, and PyTorch's operators."""
    if request.param == "operators":
        yield lambda rows, standard, theta, direction=None, square=None: by_operators(
            rows, standard, theta, direction, square
        )
        return
    cpu.use_instructions(request.param)
    yield row_sums
    cpu.use_instructions(SETS[1])


def problem(
    n: int,
    p: int,
    classes: int,
    *,
    counted=False,
    weighted=True,
    offset=False,
    intercept=True,
    seed=0,
):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, dtype=torch.float64, generator=draw)
    labels = torch.randint(0, classes, (n,), generator=draw)
    target = torch.randint(0, 4, (n, classes), generator=draw).double() if counted else None
    weights = torch.randint(0, 4, (n,), generator=draw).double() if weighted else None
    moved = torch.randn(n, classes, dtype=torch.float64, generator=draw) if offset else None
    standard = Standard(
        torch.randn(p, dtype=torch.float64, generator=draw),
        torch.rand(p, generator=draw).double() + 0.5,
        intercept,
    )
    theta = torch.randn(classes - 1, p + intercept, dtype=torch.float64, generator=draw)
    return Rows(x, None if counted else labels, weights, target, moved), standard, theta


def log_likelihood(rows: Rows, standard: Standard, theta: Tensor, each: bool = False) -> Tensor:
    x = (rows.x.double() - standard.centre) * standard.scale
    x = torch.cat([torch.ones(len(x), 1), x], 1) if standard.intercept else x
    scores = torch.cat([torch.zeros(len(x), 1), x @ theta.T], 1)
    log_p = (scores if rows.offset is None else scores + rows.offset).log_softmax(1)
    own = (
        log_p.gather(1, rows.labels[:, None])[:, 0]
        if rows.target is None
        else (rows.target * log_p).sum(1)
    )
    return own if each else (own if rows.weights is None else rows.weights * own).sum()


KINDS = [
    {},
    {"weighted": False},
    {"intercept": False},
    {"offset": True},
    {"counted": True},
    {"counted": True, "offset": True, "weighted": False},
]
SIZES = [(1, 1, 2), (7, 3, 3), (300, 4, 6), (1030, 13, 2), (700, 6, 12)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("n", "p", "classes"), SIZES)
def test_sums_are_the_derivatives(implementation, n, p, classes, kind):
    rows, standard, theta = problem(n, p, classes, **kind)
    flat = lambda vector: log_likelihood(rows, standard, vector.reshape(theta.shape))  # noqa: E731
    score = torch.autograd.functional.jacobian(flat, theta.reshape(-1))
    information = -torch.autograd.functional.hessian(flat, theta.reshape(-1))
    found = implementation(rows, standard, theta, square="information")
    size = float(information.abs().max())
    torch.testing.assert_close(
        found.log_likelihood, flat(theta.reshape(-1)), rtol=1e-13, atol=1e-12
    )
    torch.testing.assert_close(
        found.score.reshape(-1), score, rtol=0, atol=1e-13 * (float(score.abs().max()) + n)
    )
    torch.testing.assert_close(found.square, information, rtol=0, atol=1e-13 * (size + 1))
    direction = theta.flip(0) + 0.5
    moved = implementation(rows, standard, theta, direction=direction).score.reshape(-1)
    torch.testing.assert_close(
        moved, information @ direction.reshape(-1), rtol=1e-11, atol=1e-12 * (size + 1)
    )


@pytest.mark.skipif(cpu.MISSING is not None, reason=f"{cpu.MISSING}")
@pytest.mark.parametrize("counted", [False, True])
def test_products_with_probabilities_that_are_known(counted):
    rows, standard, theta = problem(777, 3, 5, counted=counted, offset=True)
    kept = torch.full((5, 777), torch.nan, dtype=torch.float64)
    first = row_sums(rows, standard, theta, probabilities=kept)
    torch.testing.assert_close(first.score, row_sums(rows, standard, theta).score, rtol=0, atol=0)
    torch.testing.assert_close(
        kept.sum(0), torch.ones(777, dtype=torch.float64), rtol=1e-14, atol=0
    )
    again = row_sums(
        rows, standard, theta, direction=theta + 1, probabilities=kept, cached=True
    ).score
    anew = row_sums(rows, standard, theta, direction=theta + 1).score
    torch.testing.assert_close(again, anew, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("square", ["scores", "weighted scores"])
@pytest.mark.parametrize("counted", [False, True])
def test_outer_products_of_the_rows_scores(implementation, square, counted):
    rows, standard, theta = problem(211, 3, 4, counted=counted)
    each = torch.autograd.functional.jacobian(
        lambda vector: log_likelihood(rows, standard, vector.reshape(theta.shape), each=True),
        theta.reshape(-1),
    )
    factor = rows.weights if square == "scores" else rows.weights**2
    found = implementation(rows, standard, theta, square=square).square
    torch.testing.assert_close(found, each.T @ (factor[:, None] * each), rtol=1e-11, atol=1e-10)


def test_layouts_and_types_do_not_matter(implementation):
    rows, standard, theta = problem(500, 5, 4)
    expected = implementation(rows, standard, theta, square="information")
    wide = torch.zeros(1000, 9, dtype=torch.float64)
    wide[::2, 1:6] = rows.x
    for x in (rows.x.T.contiguous().T, wide[::2, 1:6]):
        found = implementation(rows._replace(x=x), standard, theta, square="information")
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    single = rows._replace(x=rows.x.float())
    found = implementation(single, standard, theta, square="information")
    expected = implementation(
        single._replace(x=single.x.double()), standard, theta, square="information"
    )
    torch.testing.assert_close(found.square, expected.square, rtol=1e-13, atol=1e-13)


def test_rows_that_are_fitted_almost_surely_keep_their_digits(implementation):
    """1 - p of the label is the sum of the others: at scores of +-80 it is 2e-35, and not 0."""
    if implementation is not row_sums:
        pytest.skip("PyTorch's log_softmax has rounded it away")
    rows = Rows(torch.tensor([[80.0], [-80.0]], dtype=torch.float64), torch.tensor([1, 0]))
    standard = Standard(torch.zeros(1).double(), torch.ones(1).double(), False)
    found = implementation(
        rows, standard, torch.ones(1, 1, dtype=torch.float64), square="information"
    )
    tail = torch.tensor(-80.0, dtype=torch.float64).exp()
    torch.testing.assert_close(found.log_likelihood, -2 * tail, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.score[0, 0], 160 * tail, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.square[0, 0], 12800 * tail, rtol=1e-13, atol=0)


def test_scores_too_large_for_float64_are_not_finite(implementation):
    rows, standard, theta = problem(9, 2, 3)
    assert not bool(implementation(rows, standard, theta * 1e308).log_likelihood.isfinite())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads):
    before = torch.get_num_threads()
    rows, standard, theta = problem(5000, 4, 3)
    expected = by_operators(rows, standard, theta, None, "information")
    try:
        torch.set_num_threads(threads)
        found = row_sums(rows, standard, theta, square="information")
    finally:
        torch.set_num_threads(before)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-10)


def test_no_rows_add_up_to_nothing(implementation):
    rows, standard, theta = problem(0, 2, 3)
    found = implementation(rows, standard, theta, square="information")
    assert float(found.log_likelihood) == 0.0
    assert not bool(found.square.any())


# ---- Sparse columns ------------------------------------------------------------------------------


@pytest.fixture(params=cpu.instruction_sets())
def instruction_set(request):
    cpu.use_instructions(request.param)
    yield request.param
    cpu.use_instructions(SETS[1])


def sparse(x: Tensor, rows: Rows) -> SparseRows:
    csr = csr_array(x.numpy())
    start, column, number = map(torch.from_numpy, (csr.indptr, csr.indices, csr.data))
    of_rows = rows.labels, rows.weights, rows.offset
    return SparseRows(start.long(), column.int(), number, *of_rows)


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 8, 9, 20])
def test_sparse_rows(classes, weighted, offset, instruction_set):
    n, q = 9000, 7  # more than one part
    rows, _, theta = problem(n, q, classes, weighted=weighted, offset=offset)
    kept = torch.rand(n, q, generator=torch.Generator().manual_seed(1)) < 0.3
    x = rows.x * kept  # some rows have no number at all
    assert bool((kept.sum(1) == 0).any())
    along = torch.randn(theta.shape, generator=torch.Generator().manual_seed(2)).double()
    unchanged = Standard(torch.zeros(q).double(), torch.ones(q).double(), True)

    def given(coef):
        return coef[:, 1:].T, coef[:, 0]

    p = torch.full((n, classes - 1), torch.nan, dtype=torch.float64)
    value, sums = sparse_sums(sparse(x, rows), given(theta), None, p)
    truth = by_operators(rows._replace(x=x), unchanged, theta, None, None)
    torch.testing.assert_close(value, truth.log_likelihood, rtol=1e-13, atol=0)
    score = torch.cat([truth.score[:, 1:], truth.score[:, :1]], 1).T
    torch.testing.assert_close(sums, score, rtol=1e-11, atol=1e-10)
    truth = by_operators(rows._replace(x=x), unchanged, theta, along, None)
    product = torch.cat([truth.score[:, 1:], truth.score[:, :1]], 1).T
    for probabilities in (p, None):
        _, sums = sparse_sums(sparse(x, rows), given(theta), given(along), probabilities)
        torch.testing.assert_close(sums, product, rtol=1e-11, atol=1e-10)


def test_sparse_sums_do_not_depend_on_the_threads():
    rows, _, theta = problem(20_000, 6, 4)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(sparse_sums(sparse(rows.x, rows), (theta[:, 1:].T, theta[:, 0])))
    torch.set_num_threads(before)
    for value, sums in found[1:]:
        assert torch.equal(value, found[0][0])
        assert torch.equal(sums, found[0][1])


def test_sparse_rows_that_are_fitted_almost_surely_keep_their_digits(instruction_set):
    x, labels = torch.tensor([[80.0], [-80.0]], dtype=torch.float64), torch.tensor([1, 0])
    one = torch.ones(1, 1, dtype=torch.float64)
    value, sums = sparse_sums(sparse(x, Rows(x, labels)), (one, torch.zeros(1).double()))
    tail = torch.tensor(-80.0, dtype=torch.float64).exp()
    torch.testing.assert_close(value, -2 * tail, rtol=1e-13, atol=0)
    torch.testing.assert_close(sums[0, 0], 160 * tail, rtol=1e-13, atol=0)


def test_sparse_rows_of_weight_0_count_for_nothing(instruction_set):
    x = torch.tensor([[1.0], [3000.0]], dtype=torch.float64)
    rows = Rows(x, torch.tensor([1, 0]), torch.tensor([1.0, 0.0]).double())
    one = torch.ones(1, 1, dtype=torch.float64)
    value, _ = sparse_sums(sparse(x, rows), (one, torch.zeros(1).double()))
    torch.testing.assert_close(value, torch.nn.functional.logsigmoid(x[0, 0]))
