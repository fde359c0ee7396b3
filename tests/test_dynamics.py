"""The engine against plain loops that make one run, one step at a time, with the gradient by hand or autograd."""

import math
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.autograd.functional import hessian

from antipgd import dynamics
from antipgd.dynamics import (
    BLOCK,
    Method,
    anti_pgd,
    descend,
    gd,
    label_noise,
    log_spaced,
    over_seeds,
    pgd,
    ratio_over_seeds,
    run,
    sgd,
    trace_regularised,
)
from antipgd.landscapes import Landscape, LinearNetwork, QuadraticRegression, WideningValley
from antipgd.noise import LAWS, AntiPGD, keyed_seed

SEEDS = [0, 1, 2]
STEPS = 2 * BLOCK + 10
D, M = 6, 5


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# --- Plain runs -------------------------------------------------------------------------------------------------


def valley_loss(w):
    return w[-1] ** 2 * (w[:-1] ** 2).sum() / 2


def regression_loss(w, X, y):
    return ((X @ w**2 - y) ** 2).mean() / 4


def network_loss(w, X, y):
    return ((w[-1] * (X @ w[:-1]) - y) ** 2).mean() / 2


def slope(function, w):
    w = w.clone().requires_grad_()
    return torch.autograd.grad(function(w), w)[0]


def trace(function, w):
    return hessian(function, w, create_graph=True).trace()


def draws(landscape, methods, seeds, steps, law="gaussian"):
    """What the engine draws for each step: xi (steps, S, dim), labels (steps, S, M), points chosen by batch size."""
    stepper = dynamics.Stepper(landscape, methods, seeds, law, torch.zeros(landscape.dim, dtype=torch.float64))
    blocks = []
    for _ in range(0, steps, BLOCK):
        stepper.draw_block()
        blocks.append((stepper.xi[1:].clone(), getattr(stepper, "labels", None), dict(stepper.weights)))
    xi, labels, weights = zip(*blocks)
    labels = None if labels[0] is None else torch.cat(labels).squeeze(2)[:steps]
    chosen = {size: torch.cat([w[size] for w in weights]).squeeze(2) > 0 for size in weights[0]}
    return torch.cat(xi).squeeze(2)[:steps], labels, chosen


def plain_run(loss, data, w, method, xi, labels, chosen, steps):
    """The iterates 0 to ``steps`` of one run, and the part of xi that each of them still carries."""
    w_path, owed_path, owed = [w], [torch.zeros_like(w)], torch.zeros_like(w)
    for n in range(steps):
        now = data
        if data:
            X, y = data
            rows = chosen[method.batch_size][n] if method.batch_size else slice(None)
            if method.label_sigma:
                y = y - method.label_sigma * labels[n]
            now = X[rows], y[rows]
        gradient = slope(lambda w: loss(w, *now), w)
        if method.trace_sigma:
            gradient = gradient + method.trace_sigma**2 / 2 * slope(lambda w: trace(lambda v: loss(v, *data), w), w)
        w = w - method.lr * gradient
        if method.sigma:
            w = w + method.sigma * xi[n] - owed
            owed = method.cancel * method.sigma * xi[n]
        w_path.append(w)
        owed_path.append(owed)
    return torch.stack(w_path), torch.stack(owed_path)


SHARED = normal(M, D, seed=1), normal(M, seed=2).abs()
PER_SEED = normal(len(SEEDS), M, D, seed=3), normal(len(SEEDS), M, seed=4).abs()

# landscape, loss of one run, its data from the index of the seed
PROBLEMS = {
    "regression": (QuadraticRegression(*SHARED), regression_loss, lambda s: SHARED),
    "regression, data per seed": (QuadraticRegression(*PER_SEED), regression_loss, lambda s: [a[s] for a in PER_SEED]),
    "network, data per seed": (LinearNetwork(*PER_SEED), network_loss, lambda s: [a[s] for a in PER_SEED]),
    "valley": (WideningValley(D), valley_loss, lambda s: ()),
}
FREE_OF_DATA = [
    gd(0.05),
    anti_pgd(0.05, 0.1),
    trace_regularised(0.05, 0.4),
    pgd(0.04, 0.02),
    Method("half-way", 0.03, sigma=0.1, cancel=0.5),
    Method("regularised Anti-PGD", 0.02, sigma=0.05, cancel=1, trace_sigma=0.3),
    gd(0.01),
]
WITH_DATA = [
    label_noise(0.03, 0.2),
    sgd(0.02, 2),
    Method("Anti-SGD", 0.02, sigma=0.1, cancel=1.0, batch_size=3),
    sgd(0.01, 3),
    Method("SGD on noisy labels", 0.02, batch_size=2, label_sigma=0.3),
    Method("everything", 0.02, sigma=0.05, cancel=0.7, batch_size=3, label_sigma=0.2, trace_sigma=0.3),
]


def methods_for(landscape):
    return FREE_OF_DATA + (WITH_DATA if hasattr(landscape, "samples") else [])


def start(landscape):
    return normal(landscape.dim, seed=5) / 2 + 0.5


def whole(landscape, methods, steps=STEPS, **options):
    return run(landscape, start(landscape), methods, steps, **{"seeds": SEEDS, "record": range(steps + 1), **options})


@pytest.fixture(scope="module")
def regression():
    return PROBLEMS["regression"][0]


@pytest.fixture(scope="module")
def valley():
    return PROBLEMS["valley"][0]


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_every_method_is_a_plain_loop(problem):
    landscape, loss, data_of = problem
    methods = methods_for(landscape)
    together = whole(landscape, methods)
    xi, labels, chosen = draws(landscape, methods, SEEDS, STEPS)
    assert together.w.isfinite().all()
    for c, method in enumerate(methods):
        s = c % len(SEEDS)  # each seed in turn
        labels_here = None if labels is None else labels[:, s]
        chosen_here = {size: rows[:, s] for size, rows in chosen.items()}
        w, owed = plain_run(loss, data_of(s), start(landscape), method, xi[:, s], labels_here, chosen_here, STEPS)
        close(together.w[:, s, c], w)
        close(together.z[:, s, c], w - owed)
    others = together.w[-1].flatten(0, 1)
    assert torch.pdist(others).gt(1e-6).sum() > len(methods)  # the methods went different ways


# --- What a run depends on, and what not --------------------------------------------------------------------------


def test_order_and_company_of_methods_change_nothing(regression):
    methods = methods_for(regression)
    together = whole(regression, methods)
    close(whole(regression, methods[::-1]).w.flip(2), together.w)
    for c, method in enumerate(methods):
        alone = whole(regression, [method])
        close(alone.w[:, :, 0], together.w[:, :, c])
        close(alone.z[:, :, 0], together.z[:, :, c])


def test_company_of_seeds_changes_nothing(regression):
    methods = methods_for(regression)
    close(whole(regression, methods, seeds=[2, 0]).w, whole(regression, methods).w[:, [2, 0]])


def test_repeated_run_is_equal_bit_for_bit(regression):
    first, second = (whole(regression, methods_for(regression)) for _ in range(2))
    assert first.w.equal(second.w) and first.z.equal(second.z)


@pytest.mark.parametrize("steps", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_longer_run_begins_like_the_shorter(regression, steps):
    short, long = (whole(regression, methods_for(regression), steps=n) for n in (steps, STEPS))
    assert short.w.equal(long.w[: steps + 1]) and short.z.equal(long.z[: steps + 1])


def test_starts_broadcast_and_are_left_alone(valley):
    methods, w0 = FREE_OF_DATA, normal(len(SEEDS), len(FREE_OF_DATA), valley.dim)
    before = w0.clone()
    every = run(valley, w0, methods, 5, seeds=SEEDS)
    assert w0.equal(before) and every.w[0].equal(w0) and every.z[0].equal(w0)
    for c, method in enumerate(methods):
        by_seed = run(valley, w0[:, [c]], [method], 5, seeds=SEEDS)
        close(by_seed.w[:, :, 0], every.w[:, :, c])
        one = run(valley, w0[1, c], [method], 5, seeds=SEEDS)
        close(one.w[:, 1, 0], every.w[:, 1, c])


def test_global_random_states_are_left_alone(regression):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    whole(regression, methods_for(regression))
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_float32_has_the_noise_of_float64():
    def final(dtype):
        landscape = QuadraticRegression(*(a.to(dtype) for a in SHARED))
        return run(landscape, start(landscape).to(dtype), methods_for(landscape), STEPS, seeds=SEEDS)

    short, long = final(torch.float32), final(torch.float64)
    assert short.w.dtype == short.z.dtype == torch.float32
    close(short.w.double(), long.w, tolerance=1e-4)
    assert not short.w.double().equal(long.w)


# --- The noise ----------------------------------------------------------------------------------------------------


def test_engine_and_optimizer_make_the_same_updates(valley, monkeypatch):
    lr, sigma = 0.05, 0.1
    engine = whole(valley, [anti_pgd(lr, sigma)], seeds=[0])
    xi = iter(draws(valley, [anti_pgd(lr, sigma)], [0], STEPS)[0][:, 0])
    monkeypatch.setattr("antipgd.noise.draw", lambda law, out, generator: out.copy_(next(xi)))
    w = start(valley).requires_grad_()
    optimizer = torch.optim.SGD([w], lr=lr)
    noise = AntiPGD(optimizer, sigma=sigma)
    for n in range(STEPS):
        optimizer.zero_grad()
        valley_loss(w).backward()
        optimizer.step()
        close(w.detach(), engine.w[n + 1, 0, 0])
        with noise.at_z():
            close(w.detach(), engine.z[n + 1, 0, 0])


def test_z_of_anti_pgd_follows_the_gradient_at_w_alone(valley):
    lr, sigma = 0.05, 0.1
    path = whole(valley, [anti_pgd(lr, sigma)])
    w, z = path.w[:, :, 0], path.z[:, :, 0]
    xi = sigma * draws(valley, path.methods, SEEDS, STEPS)[0]
    close(w[1:], z[1:] + xi)
    close(z[1], z[0] - lr * valley.gradient(z[0]))  # xi_0 = 0
    close(z[2:], z[1:-1] - lr * valley.gradient(z[1:-1] + xi[:-1]))


@pytest.mark.parametrize("cancel", [0, 0.5, 1])
def test_z_is_w_without_what_is_taken_back_next(valley, cancel):
    still = whole(valley, [Method("", 0.0, sigma=0.3, cancel=cancel)])
    w, z = still.w[:, :, 0], still.z[:, :, 0]
    xi = 0.3 * draws(valley, still.methods, SEEDS, STEPS)[0]
    close(w[1:] - w[:-1], xi - cancel * torch.cat([torch.zeros_like(xi[:1]), xi[:-1]]))
    close(w[1:] - z[1:], cancel * xi)


def test_methods_of_a_seed_share_their_noise(valley):
    still = whole(valley, [anti_pgd(0.0, 0.1), pgd(0.0, 0.1), anti_pgd(0.0, 0.2)])
    anti, plain, wider = (still.w - still.w[0]).unbind(2)
    close(plain, anti.cumsum(0))  # both are made of the same xi
    close(wider, 2 * anti)


def test_noise_differs_between_seeds_steps_coordinates_and_streams():
    landscape = QuadraticRegression(normal(D, D), normal(D))  # as many labels as coordinates
    xi, labels, _ = draws(landscape, [pgd(0.1, 0.1), label_noise(0.1, 0.1)], range(40), 1000)
    for a, b in [
        (xi[:, :-1], xi[:, 1:]),
        (xi[:-1], xi[1:]),
        (xi[:-BLOCK], xi[BLOCK:]),
        (xi[..., :-1], xi[..., 1:]),
        (xi, labels),
        (labels[:-1], labels[1:]),
    ]:
        products = (a * b).flatten()
        assert products.mean().abs() < 4 * products.std() / len(products) ** 0.5


def standardised(law):
    """The engine's unit noise, seen from outside: xi of a standing Anti-PGD, and the labels that explain the path of
    gradient descent where X is the identity and each coordinate feels its own label only."""
    landscape = QuadraticRegression(torch.eye(M, dtype=torch.float64), normal(M))
    lr, steps = 1e-3, 10 * BLOCK
    path = whole(landscape, [anti_pgd(0.0, 0.1), label_noise(lr, 0.5)], steps, seeds=range(10), law=law)
    w = path.w[:-1, :, 1]
    residuals = (path.w[:-1, :, 1] - path.w[1:, :, 1]) * M / (lr * w)
    return (path.w[1:, :, 0] - path.w[0, 0, 0]) / 0.1, (residuals - landscape.residuals(w)) / 0.5


@pytest.mark.parametrize("law, kurtosis", [("gaussian", 3), ("rademacher", 1), ("uniform", 1.8)])
@pytest.mark.parametrize("stream", ["xi", "labels"])
def test_noise_has_the_moments_of_its_law(stream, law, kurtosis):
    values = standardised(law)[("xi", "labels").index(stream)].flatten()
    for power, moment in [(1, 0), (2, 1), (3, 0), (4, kurtosis)]:
        powers = values**power
        # The second term: what the reconstruction from the path loses, where all powers are equal.
        assert (powers.mean() - moment).abs() < 4 * powers.std() / len(powers) ** 0.5 + 1e-9


def test_every_law_of_the_noise_is_tested():
    assert set(LAWS) == {"gaussian", "rademacher", "uniform"}


def test_label_noise_is_new_for_each_step_seed_and_point():
    labels = standardised("gaussian")[1]
    for a, b in [(labels[:-1], labels[1:]), (labels[:, :-1], labels[:, 1:]), (labels[..., :-1], labels[..., 1:])]:
        products = (a * b).flatten()
        assert products.mean().abs() < 4 * products.std() / len(products) ** 0.5


def test_unknown_law_is_refused(valley):
    with pytest.raises(ValueError, match="Unknown noise law 'cauchy'.*gaussian"):
        whole(valley, [pgd(0.1, 0.1)], law="cauchy")


# --- Minibatches --------------------------------------------------------------------------------------------------


def visible_weights(sizes, seeds, steps=5 * BLOCK):
    """The weight of each data point in each gradient, (steps, S, sizes, M), from the paths where X is the identity."""
    landscape = QuadraticRegression(torch.eye(M, dtype=torch.float64), torch.full((M,), 9.0, dtype=torch.float64))
    lr = 1e-3
    path = run(
        landscape,
        torch.ones(M, dtype=torch.float64),
        [sgd(lr, size) for size in sizes],
        steps,
        seeds=seeds,
        record=range(steps + 1),
    )
    w = path.w[:-1]
    return (w - path.w[1:]) * M / (lr * w * landscape.residuals(w))


def test_minibatch_holds_exactly_its_number_of_points():
    sizes = list(range(1, M + 1))
    weights = visible_weights(sizes, SEEDS)
    for c, size in enumerate(sizes):
        taken = weights[:, :, c] > 1e-6
        assert (taken.sum(-1) == size).all()
        close(weights[:, :, c], taken.double() * (M / size), tolerance=1e-9)


@pytest.mark.parametrize("size", range(1, M))
def test_minibatches_are_uniform_without_replacement(size):
    taken = (visible_weights([size], range(10))[:, :, 0] > 1e-6).flatten(0, 1).double()
    n = len(taken)
    single, pair = size / M, size * (size - 1) / (M * (M - 1))
    assert ((taken.mean(0) - single).abs() < 4 * (single * (1 - single) / n) ** 0.5).all()
    together = (taken.T @ taken / n)[~torch.eye(M, dtype=bool)]
    assert ((together - pair).abs() <= 4 * (pair * (1 - pair) / n) ** 0.5).all()


def test_batch_of_one_is_the_point_with_the_largest_number(regression):
    stepper = dynamics.Stepper(regression, [sgd(0.1, 1)], SEEDS, "gaussian", start(regression))
    order = torch.stack(
        [torch.rand(BLOCK, 1, M, generator=torch.Generator().manual_seed(keyed_seed(s, 2, 1))) for s in SEEDS], dim=1
    )
    chosen = order.topk(1, dim=-1).indices
    assert (stepper._minibatches(1).nonzero()[:, -1] == chosen.flatten()).all()


def test_minibatches_are_new_at_each_step_and_seed():
    taken = (visible_weights([2], SEEDS)[:, :, 0] > 1e-6).double()
    share = 2 * 2 / M  # points that two independent minibatches have in common, on average
    for a, b in [(taken[:-1], taken[1:]), (taken[:-BLOCK], taken[BLOCK:]), (taken[:, :-1], taken[:, 1:])]:
        common = (a * b).sum(-1).flatten()
        assert (common.mean() - share).abs() < 4 * common.std() / len(common) ** 0.5


@pytest.mark.parametrize("size", [1, 2, 4])
def test_mean_gradient_of_minibatches_is_the_full_gradient(regression, size):
    lr, w0, seeds = 0.1, start(regression), range(2000)
    after = run(regression, w0, [sgd(lr, size)], 1, seeds=seeds, record=[1]).w[0, :, 0]
    gradients = (w0 - after) / lr
    error = gradients.std(0) / len(seeds) ** 0.5
    assert ((gradients.mean(0) - regression.gradient(w0)).abs() < 4 * error).all()
    assert (error > 0).all()


def test_methods_of_a_seed_share_their_minibatches_and_labels(regression):
    chosen = whole(regression, [sgd(0.02, 2), Method("twin", 0.02, batch_size=2), label_noise(0.02, 0.2)])
    twins = whole(regression, [label_noise(0.02, 0.2), sgd(0.02, 2), Method("twin", 0.02, label_sigma=0.2)])
    close(chosen.w[:, :, 0], chosen.w[:, :, 1])
    close(twins.w[:, :, 0], twins.w[:, :, 2])


def test_minibatch_of_all_points_is_gradient_descent(regression):
    path = whole(regression, [sgd(0.03, M), gd(0.03)])
    close(path.w[:, :, 0], path.w[:, :, 1])


# --- Records ------------------------------------------------------------------------------------------------------


def test_recorded_steps_are_those_of_the_whole_path(regression):
    every = whole(regression, methods_for(regression))
    some = whole(regression, methods_for(regression), record=[STEPS, 3, 0, BLOCK, 3, BLOCK + 1])
    assert some.steps.tolist() == [0, 3, BLOCK, BLOCK + 1, STEPS]
    assert some.w.equal(every.w[some.steps]) and some.z.equal(every.z[some.steps])
    assert every.w[0].equal(start(regression).expand_as(every.w[0])) and every.z[0].equal(every.w[0])


def test_steps_are_recorded_on_a_logarithmic_axis_by_default(valley):
    assert run(valley, start(valley), [gd(0.1)], 100, seeds=[0]).steps.equal(log_spaced(100))


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 100, 12345])
@pytest.mark.parametrize("per_decade", [5, 10])
def test_log_spaced_steps_grow_by_a_constant_factor(steps, per_decade):
    points = log_spaced(steps, per_decade)
    assert points.dtype == torch.int64
    assert points[:2].tolist() == [0, 1] and points[-1] == steps
    gaps, bound = points.diff(), 10 ** (1 / per_decade)
    assert (gaps > 0).all()
    # Between a point before rounding and the next lies the factor; each of the two is rounded by at most 1/2.
    assert (points[2:] - 0.5 <= bound * (points[1:-1] + 0.5) + 1e-9).all()
    # A step or several points in a decade: from 10 on their number is that of the decades.
    assert abs((points >= 10).sum() - max(0, per_decade * np.log10(steps / 10) + 1)) <= 1


# --- Divergence ---------------------------------------------------------------------------------------------------


class Hill(Landscape):
    """``L(w) = -w**2 / 2``: gradient descent grows by the factor 1 + lr at each step."""

    dim = 1

    def gradient(self, w):
        return -w


PLACES = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, STEPS]


def start_that_leaves_at(lr, n):
    """A start from which descent with lr leaves float64 exactly at step n, by a loop of Python's own numbers."""
    w0 = sys.float_info.max / (1 + lr) ** (n - 0.5)
    w, step = w0, 0
    while math.isfinite(w):
        w, step = w + lr * w, step + 1
    assert step == n
    return w0


def test_divergence_is_reported_at_its_step_and_others_go_on():
    lr, still = 1.0, [pgd(0.0, 0.5), anti_pgd(0.0, 0.5)]
    w0 = torch.tensor([[start_that_leaves_at(lr, n)] for n in PLACES] + [[1.0], [1.0]], dtype=torch.float64)
    methods = [replace(gd(lr), name=f"GD {n}") for n in PLACES] + still
    path = run(Hill(), w0, methods, STEPS, seeds=SEEDS, record=range(STEPS + 1))

    assert path.diverged_at.tolist() == [PLACES + [-1, -1]] * len(SEEDS)
    for c, n in enumerate(PLACES):
        assert path.w[:n, :, c].isfinite().all() and not path.w[n:, :, c].isfinite().any()
    assert path.w[:, :, -2:].equal(run(Hill(), w0[-2:], still, STEPS, seeds=SEEDS, record=range(STEPS + 1)).w)
    assert path.divergences()[0] == "GD 1 (lr 1, sigma 0), seed 0: not finite from step 1 on"
    assert len(path.divergences()) == len(PLACES) * len(SEEDS)


def test_divergence_under_noise_is_that_of_a_plain_loop(regression):
    methods = [
        Method("wild", 0.35, sigma=0.5, cancel=1.0, batch_size=1),
        sgd(0.01, 1),
        Method("wilder", 0.5, sigma=0.1, label_sigma=0.2),
        pgd(0.12, 0.2),
    ]
    seeds = range(6)
    path = whole(regression, methods, seeds=seeds)
    xi, labels, chosen = draws(regression, methods, seeds, STEPS)
    for s in seeds:
        for c, method in enumerate(methods):
            rows = {size: points[:, s] for size, points in chosen.items()}
            w, _ = plain_run(regression_loss, SHARED, start(regression), method, xi[:, s], labels[:, s], rows, STEPS)
            gone = (~w.isfinite().all(-1)).nonzero().flatten().tolist()
            assert path.diverged_at[s, c] == (gone[0] if gone else -1)
    assert len(path.diverged_at.unique()) > 4  # at several steps, and some runs not at all
    assert (path.diverged_at[:, 1] == -1).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_lost_runs_are_those_with_a_coordinate_that_is_not_finite(value):
    w = normal(3, 4, 5)
    w[0, 1] = torch.finfo(w.dtype).max  # finite, though its sum is not
    assert not dynamics.lost(w).any()
    w[2, 3, 4] = value
    assert dynamics.lost(w).nonzero().tolist() == [[2, 3]]


def test_run_without_divergence_reports_none(valley):
    path = whole(valley, FREE_OF_DATA)
    assert (path.diverged_at == -1).all() and path.diverged_at.shape == (len(SEEDS), len(FREE_OF_DATA))
    assert path.divergences() == []


# --- Over seeds, descent, progress ----------------------------------------------------------------------------------


def by_hand(values):
    """Mean and half width of Student's 95 % interval of a list of numbers."""
    values = [v for v in values if np.isfinite(v)]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return np.mean(values), (high - low) / 2, len(values)


@pytest.mark.parametrize("dim", [-2, 0, 1])
def test_interval_over_seeds_is_students(dim):
    values = normal(5, 5, 5)
    got = over_seeds(values, dim)
    lists = values.movedim(dim, -1).numpy()
    for index in np.ndindex(lists.shape[:-1]):
        mean, half, n = by_hand(lists[index])
        assert got.mean[index].item() == pytest.approx(mean, rel=1e-12)
        assert got.half[index].item() == pytest.approx(half, rel=1e-12)
        assert got.n[index] == n == 5


def test_a_run_that_is_lost_makes_no_mean_unless_told():
    values = normal(6, 3)
    values[2, 1] = torch.inf
    got = over_seeds(values)
    assert got.mean.isfinite().tolist() == got.half.isfinite().tolist() == [True, False, True]
    assert got.n.tolist() == [6, 5, 6]


def test_runs_that_are_not_finite_are_left_out_of_the_interval_if_told():
    values = normal(6, 4)
    values[0, 0], values[1, 0], values[2, 0] = torch.nan, torch.inf, -torch.inf
    values[1:, 1] = torch.nan  # one run left
    values[:, 2] = torch.inf  # none left
    got = over_seeds(values, leave_out_lost=True)
    assert got.n.tolist() == [3, 1, 0, 6]
    assert got.mean.isfinite().tolist() == got.half.isfinite().tolist() == [True, False, False, True]
    assert (got.mean[0].item(), got.half[0].item(), 3) == pytest.approx(by_hand(values[:, 0].tolist()), rel=1e-12)


def test_interval_of_one_series_is_that_of_one_column():
    values = normal(5)
    got = over_seeds(values, 0)
    assert (got.mean.item(), got.half.item(), got.n.item()) == pytest.approx(by_hand(values.tolist()), rel=1e-12)


def test_ratio_over_seeds_is_the_interval_of_the_logarithms():
    values, others = normal(6, 4).exp(), normal(6, 4).exp() + 1
    logs = over_seeds((values.log() - others.log()), 0)
    mean, low, high = ratio_over_seeds(values, others)
    close(mean, (values / others).prod(0) ** (1 / 6))
    close(low.log(), logs.mean - logs.half)
    close(high.log(), logs.mean + logs.half)
    values[0, 1] = torch.inf
    assert ratio_over_seeds(values, others)[0].isnan().tolist() == [False, True, False, False]
    assert ratio_over_seeds(values, others, leave_out_lost=True)[0].isfinite().all()


def test_diverged_runs_lower_the_number_of_seeds():
    w0 = torch.ones(4, 1, 1, dtype=torch.float64)
    w0[0] = start_that_leaves_at(1.0, 10)
    path = run(Hill(), w0, [gd(1.0)], 20, seeds=range(4), record=[0, 9, 10, 20])
    left = over_seeds(path.w[..., 0], leave_out_lost=True)
    assert left.n.flatten().tolist() == [4, 4, 3, 3]
    close(left.mean[2:, 0], torch.tensor([2.0**10, 2.0**20], dtype=torch.float64))


def test_descended_is_gradient_descent_from_every_snapshot(regression):
    methods = methods_for(regression)
    path = whole(regression, methods, record=[0, 7, STEPS])
    before = path.w.clone()
    ends = path.descended(9)
    assert path.w.equal(before) and ends.shape == path.w.shape
    for t, s, c in np.ndindex(*ends.shape[:3]):
        w = path.w[t, s, c]
        for _ in range(9):
            w = w - methods[c].lr * slope(lambda w: regression_loss(w, *SHARED), w)
        close(ends[t, s, c], w)


def test_descend_takes_a_learning_rate_for_each_run(valley):
    w, lrs = start(valley), torch.tensor([[0.1], [0.2]], dtype=torch.float64)
    close(descend(valley, w.expand(2, -1), lrs, 2), whole(valley, [gd(0.1), gd(0.2)], steps=2).w[-1, 0])
    assert w.equal(start(valley))


def test_progress_is_shown_for_long_work_only(valley, monkeypatch, capsys):
    whole(valley, FREE_OF_DATA)
    assert capsys.readouterr() == ("", "")
    work = STEPS * len(SEEDS) * len(FREE_OF_DATA) * valley.dim
    monkeypatch.setattr(dynamics, "LONG_WORK", work + 1)
    whole(valley, FREE_OF_DATA)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(dynamics, "LONG_WORK", work)
    whole(valley, FREE_OF_DATA)
    out, err = capsys.readouterr()
    assert out == "" and "100%" in err and "step" in err


# --- Methods and refusals -------------------------------------------------------------------------------------------


def test_constructors_switch_on_what_their_names_say():
    off = {"sigma": 0, "cancel": 0, "batch_size": None, "label_sigma": 0, "trace_sigma": 0}
    for method, on in [
        (gd(0.1), {}),
        (sgd(0.1), {"batch_size": 1}),
        (sgd(0.1, 7), {"batch_size": 7}),
        (pgd(0.1, 0.2), {"sigma": 0.2}),
        (anti_pgd(0.1, 0.2), {"sigma": 0.2, "cancel": 1}),
        (label_noise(0.1, 0.2), {"label_sigma": 0.2}),
        (trace_regularised(0.1, 0.2), {"trace_sigma": 0.2}),
    ]:
        assert vars(method) == {"name": method.name, "lr": 0.1, **off, **on}


@pytest.mark.parametrize("change", [{"methods": []}, {"seeds": []}, {"steps": 0}, {"steps": -1}])
@pytest.mark.parametrize("record", [None, [0]])
def test_run_of_nothing_is_refused(valley, change, record):
    arguments = {"methods": [gd(0.1)], "steps": 3, "seeds": [0], "record": record, **change}
    with pytest.raises(ValueError, match="at least one method, one seed and one step"):
        run(valley, start(valley), **arguments)


@pytest.mark.parametrize("record", [[-1], [11], [0, 11], [], [2.5]])
def test_record_outside_of_the_run_is_refused(valley, record):
    with pytest.raises(ValueError, match="Recorded steps are integers between 0 and 10"):
        run(valley, start(valley), [gd(0.1)], 10, seeds=[0], record=record)


def test_start_of_integers_is_refused(valley):
    with pytest.raises(ValueError, match="w0 is of torch.int64.*floating-point"):
        run(valley, torch.ones(valley.dim, dtype=torch.int64), [gd(0.1)], 10, seeds=[0])


@pytest.mark.parametrize("size", [0, -1, M + 1])
def test_batch_size_beyond_the_data_is_refused(regression, size):
    with pytest.raises(ValueError, match=f"batch_size is {size}: the landscape has {M} data points"):
        whole(regression, [gd(0.1), sgd(0.1, size)])


@pytest.mark.parametrize("method", [sgd(0.1), label_noise(0.1, 0.1)], ids=lambda method: method.name)
def test_methods_on_data_are_refused_on_a_loss_without(valley, method):
    with pytest.raises(ValueError, match=f"{method.name} needs data points, and WideningValley is a loss without data"):
        whole(valley, [gd(0.1), method])


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lr", "sigma", "label_sigma", "trace_sigma"])
def test_bad_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value}"):
        Method("", **{"lr": 0.1, name: value})


@pytest.mark.parametrize("cancel", [-0.1, 1.1, float("nan")])
def test_bad_cancel_is_refused(cancel):
    with pytest.raises(ValueError, match=f"cancel is {cancel}.*between 0"):
        Method("", lr=0.1, sigma=0.1, cancel=cancel)


def test_unknown_law_is_refused_also_where_nothing_draws():
    with pytest.raises(ValueError, match="Unknown noise law 'cauchy'"):
        run(WideningValley(1), torch.ones(2), [gd(0.1)], 1, seeds=[0], law="cauchy")


def test_descend_takes_one_learning_rate_as_a_number():
    valley, w = WideningValley(2), torch.tensor([[1.0, 0.5, 0.2], [0.3, -1.0, 0.4]], dtype=torch.float64)
    close = torch.testing.assert_close
    close(descend(valley, w, 0.1, 3), descend(valley, w, torch.tensor([[0.1]], dtype=torch.float64), 3))
