"""The closed forms of the landscapes against automatic differentiation, values by hand, and one point at a time."""

import itertools
from typing import Callable, NamedTuple

import pytest
import torch
from torch.autograd.functional import hessian

from antipgd.landscapes import (
    Landscape,
    LeastSquares,
    LinearNetwork,
    MatrixSensing,
    QuadraticRegression,
    WideningValley,
    product,
)

QUANTITIES = ("loss", "gradient", "hessian_trace", "trace_gradient")
D, M, S = 4, 3, 2


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def data(*shape):
    return normal(*shape, D, seed=1), normal(*shape, seed=2)


class Case(NamedTuple):
    """A landscape; the shapes of runs that it takes; and the landscape of one run, from its index."""

    landscape: Landscape
    shapes: list
    of_run: Callable


FREE = [(), (3,), (2, 3), (2, 3, 4)]
SHARED = QuadraticRegression(*data(M))
NETWORK = LinearNetwork(*data(M))
PER_SEED_X, PER_SEED_Y = data(S, M)

MATRICES, LABELS = normal(S, M, 2, 2, seed=3), normal(S, M, seed=4)
SENSING = MatrixSensing(MATRICES[0], LABELS[0])  # two by two, so dim is D

CASES = {
    "valley": Case(WideningValley(D - 1), FREE, lambda run: WideningValley(D - 1)),
    "regression, one data set": Case(SHARED, FREE, lambda run: SHARED),
    "regression, a data set per seed": Case(
        QuadraticRegression(PER_SEED_X, PER_SEED_Y),
        [(S, 1), (S, 5), (3, S, 5)],
        lambda run: QuadraticRegression(PER_SEED_X[run[-2]], PER_SEED_Y[run[-2]]),
    ),
    "linear network, one data set": Case(NETWORK, FREE, lambda run: NETWORK),
    "linear network, a data set per seed": Case(
        LinearNetwork(PER_SEED_X, PER_SEED_Y),
        [(S, 1), (S, 5), (3, S, 5)],
        lambda run: LinearNetwork(PER_SEED_X[run[-2]], PER_SEED_Y[run[-2]]),
    ),
    "matrix sensing, one data set": Case(SENSING, FREE, lambda run: SENSING),
    "matrix sensing, a data set per seed": Case(
        MatrixSensing(MATRICES, LABELS),
        [(S, 1), (S, 5), (3, S, 5)],
        lambda run: MatrixSensing(MATRICES[run[-2]], LABELS[run[-2]]),
    ),
}
ONE_RUN = {name: case.of_run((0, 0)) for name, case in CASES.items()}
each_landscape = pytest.mark.parametrize("landscape", ONE_RUN.values(), ids=ONE_RUN.keys())
each_fit = pytest.mark.parametrize("fit", [l for l in ONE_RUN.values() if isinstance(l, LeastSquares)])
each_shape = pytest.mark.parametrize(
    "case, shape", [pytest.param(c, s, id=f"{name} {s}") for name, c in CASES.items() for s in c.shapes]
)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=tolerance, atol=tolerance)


def slope(function, w):
    """The gradient of a scalar function, by automatic differentiation."""
    w = w.clone().requires_grad_()
    return torch.autograd.grad(function(w), w)[0]


@each_landscape
@pytest.mark.parametrize("seed", range(3))
def test_derivatives_are_those_of_the_loss(landscape, seed):
    w = normal(landscape.dim, seed=10 + seed)
    close(landscape.gradient(w), slope(landscape.loss, w))
    close(landscape.hessian_trace(w), hessian(landscape.loss, w).trace())
    close(landscape.trace_gradient(w), slope(landscape.hessian_trace, w))


@each_shape
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_all_runs_at_once_are_one_run_at_a_time(case, shape, quantity):
    w = normal(*shape, case.landscape.dim, seed=3)
    before = w.clone()
    together = getattr(case.landscape, quantity)(w)
    assert together.shape == (shape if quantity in ("loss", "hessian_trace") else w.shape)
    for run in itertools.product(*map(range, shape)):
        close(together[run], getattr(case.of_run(run), quantity)(w[run]))
    assert w.equal(before)


def test_valley_by_hand():
    valley, w = WideningValley(2), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)  # u = (1, 2), v = 3
    assert valley.dim == 3
    close(valley.loss(w), 9 * 5 / 2)
    close(valley.gradient(w), [1 * 9, 2 * 9, 5 * 3])
    close(valley.hessian_trace(w), 2 * 9 + 5)
    close(valley.trace_gradient(w), [2 * 1, 2 * 2, 2 * 2 * 3])


def test_regression_by_hand():
    X, y, w = (torch.tensor(values, dtype=torch.float64) for values in ([[1, 2], [0, 1]], [1, 1], [1, 2]))
    fit = QuadraticRegression(X, y)
    assert (fit.dim, fit.samples) == (2, 2)
    close(fit.residuals(w), [1 * 1 + 2 * 4 - 1, 4 - 1])  # 8 and 3
    close(fit.loss(w), (64 + 9) / 8)
    close(fit.gradient(w), [8 * 1 / 2, (2 * 8 + 3) * 2 / 2])
    close(fit.hessian_trace(w), (8 * 3 + 3 * 1) / 2 + 2 * (1 * 1 + 5 * 4) / 2)
    close(fit.trace_gradient(w), [(4 * 1 + 2 * 3) * 1 / 2, (4 * 5 + 2 * 7) * 2 / 2])


@each_fit
def test_reweighted_and_shifted_residuals_make_the_gradient_of_that_loss(fit):
    weights, shift, w = normal(fit.samples, seed=4).abs(), normal(fit.samples, seed=5), normal(fit.dim, seed=6)
    scale = fit.loss(w) / fit.residuals(w).square().sum()

    def loss(w):
        r = fit.residuals(w)
        return scale * (weights * r.square() + 2 * shift * r).sum()

    close(fit.pull_back(w, fit.residuals(w) * weights + shift), slope(loss, w))


def test_sparse_problem_is_solved_by_its_weights():
    train, test, target = QuadraticRegression.sparse(range(S), d=7, M=5, nonzero=3, test_samples=11)
    assert target.tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert train.X.shape == (S, 5, 7) and test.X.shape == (S, 11, 7)
    for landscape in (train, test):
        at_target = target.expand(S, 1, 7)
        close(landscape.loss(at_target), torch.zeros(S, 1))
        close(landscape.gradient(at_target), torch.zeros(S, 1, 7))
        norms = landscape.X[..., :3].square().sum((-2, -1))
        close(landscape.hessian_trace(at_target), 2 * norms.unsqueeze(-1) / landscape.samples)
        assert (landscape.loss(at_target + 0.1) > 0).all()


def test_sparse_problem_is_fixed_by_each_seed():
    state = torch.get_rng_state()
    both, test, _ = QuadraticRegression.sparse([0, 1])
    again, test_again, _ = QuadraticRegression.sparse([1, 0])
    assert torch.get_rng_state().equal(state)
    assert both.X.equal(again.X.flip(0)) and both.y.equal(again.y.flip(0)) and test.X.equal(test_again.X.flip(0))
    assert not both.X[0].equal(both.X[1])
    rows = torch.cat([both.X, test.X], dim=-2).flatten(0, 1)
    assert len(rows.unique(dim=0)) == len(rows) == 2 * 140


def test_sparse_problem_has_standard_normal_rows():
    rows = QuadraticRegression.sparse(range(5))[0].X
    for power, moment in ((1, 0), (2, 1), (4, 3)):
        values = rows.pow(power).flatten()
        assert (values.mean() - moment).abs() < 4 * values.std() / len(values) ** 0.5


def test_sparse_problem_in_float32_is_the_rounded_one():
    short, _, target = QuadraticRegression.sparse([0], dtype=torch.float32)
    assert short.X.dtype == short.y.dtype == target.dtype == torch.float32
    assert short.X.equal(QuadraticRegression.sparse([0])[0].X.float())


@pytest.mark.parametrize("X, y", [((3, 2), (2,)), ((3, 2), (3, 1)), ((2, 3, 4), (3,)), ((2, 3, 4), (2, 4))])
@pytest.mark.parametrize("fit", [QuadraticRegression, LinearNetwork])
def test_targets_of_another_shape_are_refused(fit, X, y):
    with pytest.raises(ValueError, match="one data set for each seed"):
        fit(torch.ones(X), torch.ones(y))


@pytest.mark.parametrize("seeds, runs", [(1, (3, 2)), (S, (1, 2)), (S, (4, 1, 2)), (1, (4, 3, 2))])
def test_one_data_set_or_one_row_of_runs_is_shared_by_all(seeds, runs):
    for make, shape in [(QuadraticRegression, (3, D)), (MatrixSensing, (3, 2, 2))]:
        fit = make(normal(seeds, *shape, seed=1), normal(seeds, 3, seed=2))
        w = normal(*runs, fit.dim, seed=3)
        rows = max(seeds, runs[-2])
        full = make(normal(seeds, *shape, seed=1).expand(rows, *shape), normal(seeds, 3, seed=2).expand(rows, 3))
        every = w.expand(*runs[:-2], rows, runs[-1], fit.dim)
        close(fit.residuals(w), full.residuals(every))
        close(fit.gradient(w), full.gradient(every))


def test_product_is_the_same_in_one_call_and_in_several():
    a, B, c = normal(S, 3, D, seed=1), normal(S, D, 2, seed=2), normal(S, 1, 2, seed=3)
    expected = 0.3 * torch.einsum("sij,sjk->sik", a, B)
    for batch in (a, a.expand(2, *a.shape)):
        close(product(batch, B, factor=0.3), expected.expand(*batch.shape[:-1], 2))
        close(product(batch, B, factor=0.3, minus=c), (expected - c).expand(*batch.shape[:-1], 2))
    c[0] = torch.nan  # what is taken away counts, where something is
    assert product(a, B, minus=c)[0].isnan().all() and product(a, B).isfinite().all()


def test_data_of_other_seeds_or_dimension_are_refused():
    landscape = CASES["regression, a data set per seed"].landscape
    for shape in [(S + 1, 5, D), (S, 5, D + 1)]:
        with pytest.raises(RuntimeError, match="size"):
            landscape.loss(normal(*shape))


@pytest.mark.parametrize("d", [0, -1])
def test_valley_needs_a_coordinate_besides_v(d):
    with pytest.raises(ValueError, match="at least one coordinate u"):
        WideningValley(d)


def test_shortest_valley_is_the_product_of_two_numbers():
    w = torch.tensor([2.0, 3.0], dtype=torch.float64)
    close(WideningValley(1).loss(w), 4 * 9 / 2)
    close(WideningValley(1).hessian_trace(w), 4 + 9)


def test_network_by_hand():
    X, y, w = (torch.tensor(values, dtype=torch.float64) for values in ([[1, 2], [0, 1]], [1, 1], [1, 2, 3]))
    fit = LinearNetwork(X, y)  # u = (1, 2), v = 3; the hidden unit is 5 and 2
    assert (fit.dim, fit.samples) == (3, 2)
    close(fit.residuals(w), [3 * 5 - 1, 3 * 2 - 1])  # 14 and 5
    close(fit.loss(w), (14**2 + 5**2) / 4)
    close(fit.gradient(w), [14 * 3 / 2, (2 * 14 + 5) * 3 / 2, (14 * 5 + 5 * 2) / 2])
    close(fit.hessian_trace(w), (9 * 6 + 25 + 4) / 2)


def test_sparse_network_is_solved_by_every_split_of_its_coefficients():
    train, test, target = LinearNetwork.sparse(range(S), m=2, d=3, M=7, test_samples=11)
    close(target, [0.5**0.5, 0.5**0.5, 0, 0, 0])
    assert train.X.shape == (S, 7, 5) and test.X.shape == (S, 11, 5)
    for v in (0.3, 2.0):
        w = torch.cat([target / v, torch.tensor([v], dtype=torch.float64)]).expand(S, 1, 6)
        close(train.loss(w), torch.zeros(S, 1))
        close(test.loss(w), torch.zeros(S, 1))


def test_sensing_by_hand():
    A = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    fit = MatrixSensing(A, torch.tensor([1.0, 1.0], dtype=torch.float64), columns=1)
    U = torch.tensor([1.0, 2.0], dtype=torch.float64)  # U U^T = (1 2; 2 4)
    assert (fit.dim, fit.samples, fit.columns) == (2, 2, 1)
    close(fit.residuals(U), [1 + 2 * 2 - 1, 4 - 1])  # 4 and 3
    close(fit.loss(U), (16 + 9) / 4)
    close(fit.gradient(U), [4 * (1 + 2), 4 * 1 + 3 * 2])  # r_1 (1 1; 1 0) U + r_2 (0 0; 0 1) U
    close(fit.hessian_trace(U), (4 * (9 + 1 + 4) + 2 * (4 * 1 + 3 * 1)) / 2)


def test_low_rank_problem_is_solved_by_every_root_of_its_matrix():
    train, test, target = MatrixSensing.low_rank(range(S), n=4, rank=2, M=5, test_samples=7)
    close(torch.linalg.matrix_norm(target, ord=2), torch.ones(S))
    assert torch.linalg.matrix_rank(target).tolist() == [2] * S
    values, vectors = torch.linalg.eigh(target)
    U = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
    turned = U @ torch.linalg.qr(normal(4, 4))[0]
    for root in (U, turned):
        w = root.flatten(-2).unsqueeze(-2)
        close(train.loss(w), torch.zeros(S, 1))
        close(test.loss(w), torch.zeros(S, 1))
        close(train.gradient(w), torch.zeros(S, 1, 16))
    close(train.hessian_trace(U.flatten(-2).unsqueeze(-2)), train.hessian_trace(turned.flatten(-2).unsqueeze(-2)))
    assert (train.A.shape, test.A.shape) == ((S, 5, 16), (S, 7, 16))


def test_low_rank_problem_is_fixed_by_each_seed_scaled_and_noisy_as_said():
    both, test, target = MatrixSensing.low_rank([0, 1], norm=None)
    again, _, again_target = MatrixSensing.low_rank([1, 0], norm=3.0, label_noise=0.5)
    assert both.A.equal(again.A.flip(0)) and not both.A[0].equal(both.A[1])
    close(torch.linalg.matrix_norm(again_target, ord=2), torch.full((2,), 3.0))
    ratio = again_target.flip(0) / target
    close(ratio, ratio[:, :1, :1].expand_as(ratio), 1e-9)
    noise = again.y[:, 0] - (again.A @ again_target.flatten(-2).unsqueeze(-1)).squeeze(-1)
    values = noise.flatten() / 0.5
    assert values.mean().abs() < 4 / 200**0.5 and (values.square().mean() - 1).abs() < 4 * (2 / 200) ** 0.5
    assert len(torch.cat([both.A, test.A], dim=1).flatten(0, 1).unique(dim=0)) == 400


@pytest.mark.parametrize("A, y", [((3, 2), (3,)), ((3, 2, 3), (3,)), ((3, 2, 2), (2,)), ((2, 3, 2, 2), (3,))])
def test_measurements_of_another_shape_are_refused(A, y):
    with pytest.raises(ValueError, match=r"\(seeds, M"):
        MatrixSensing(torch.ones(A), torch.ones(y))
