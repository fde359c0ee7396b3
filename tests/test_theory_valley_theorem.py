"""The predictions of Theorem 3.1 against exact means over sign patterns, symbolic algebra, and simulations."""

import math

import numpy as np
import pytest
import sympy
import torch
from scipy import integrate

from antipgd import theory
from antipgd.dynamics import anti_pgd, log_spaced, pgd, run
from antipgd.landscapes import WideningValley

SIGNS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)  # three coordinates of u, and v


def floor(d):
    return torch.tensor([d**-0.5] * d + [0.0], dtype=torch.float64).reshape(1, 1, -1)


def drifts(alpha, sigma, points=200):
    """The change of |u|^2 - 4/3 v^2 in one PGD step, (points, 16 sign patterns), inside the domain; d = 3, D = 1."""
    generator = torch.Generator().manual_seed(0)
    U = alpha * (1 / alpha**2) ** torch.rand(points, 1, generator=generator, dtype=torch.float64)
    v = 2 * sigma / alpha**2 * (2 * torch.rand(points, 1, generator=generator, dtype=torch.float64) - 1)
    v[0] = 0  # here the bound on the drift is attained
    u = torch.nn.functional.normalize(torch.randn(points, 3, generator=generator, dtype=torch.float64)) * U.sqrt()
    w = torch.cat([u, v], dim=1)
    after = (w - alpha / 2 * WideningValley(3).gradient(w))[:, None] + sigma * SIGNS
    height = lambda w: w[..., :-1].square().sum(-1) - 4 / 3 * w[..., -1].square()
    return height(after) - height(w)[:, None]


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("part", [0.01, 1.0])
def test_pgd_drifts_outwards_and_its_supermartingale_falls(alpha, part):
    sigma = math.sqrt(part * alpha**3 / 2)
    change = drifts(alpha, sigma)
    assert change.mean(1).min().item() == pytest.approx(theory.pgd_drift(3, sigma), rel=1e-9)
    theta = -math.log(theory.pgd_left_exit_bound(alpha, 1.0, 3, sigma)) / (1 - alpha)
    assert (-theta * change).exp().mean(1).max() <= 1


@pytest.mark.parametrize("alpha, D, d, sigma", [(0.25, 1.0, 3, 0.03), (0.5, 1.0, 8, 0.25), (0.9, 4.0, 20, 1.2)])
def test_left_exit_bound_has_the_largest_exponent_that_the_drift_pays_for(alpha, D, d, sigma):
    """With |u|^2 <= D / alpha, |v| <= 2 sigma / alpha^2: omega^2 / 2 times the squares of the signs is omega times the drift."""
    squares = (4 * D / alpha + (8 / 3 * 2 * sigma / alpha**2) ** 2) * sigma**2
    omega = 2 * theory.pgd_drift(d, sigma) / squares
    assert math.log(theory.pgd_left_exit_bound(alpha, D, d, sigma)) == pytest.approx(-omega * (D - alpha * D), rel=1e-12)


def test_bound_on_the_exit_time_is_optional_stopping():
    alpha, d, sigma = 0.5, 5, 0.1
    highest = (math.sqrt(1 / alpha) + sigma * math.sqrt(d)) ** 2
    assert theory.pgd_drift(d, sigma) * theory.pgd_exit_time_bound(alpha, 1.0, d, sigma) == pytest.approx(highest - 1)


def test_dimension_is_where_the_bound_reaches_p():
    alpha, sigma = 0.3, 0.02
    chi = 64 * sigma**2 / (9 * alpha**3)
    d = theory.pgd_dimension(alpha, 0.05, chi=chi)
    assert theory.pgd_left_exit_bound(alpha, 1.0, d, sigma) == pytest.approx(0.05, rel=1e-12)


def test_exit_probability_and_stationary_law_solve_the_equations_of_the_diffusion():
    U, d, eta = sympy.symbols("U d eta", positive=True)
    drift, half_square = d - 1 / (1 - eta * U / 2), 2 * U  # in units of sigma^2
    scale = U ** (-(d - 1) / 2) / sympy.sqrt(1 - eta * U / 2)
    assert sympy.simplify((half_square * sympy.diff(scale, U) + drift * scale) / scale) == 0
    alpha, numbers = 0.4, {d: 5, eta: 0.2}
    slope = sympy.lambdify(U, scale.subs(numbers))
    right, whole = (integrate.quad(slope, low, 1 / alpha)[0] for low in (1, alpha))
    assert theory.pgd_left_exit_diffusion(alpha, 1, 5, 0.2) == pytest.approx(right / whole, rel=1e-9)
    law = theory.pgd_stationary(0.2, 5)
    flux = lambda x: 2 * x * law.pdf(x)
    for x in (1.0, 5.0, 9.0):
        step = 1e-4
        assert (flux(x + step) - flux(x - step)) / (2 * step) == pytest.approx((5 - 1 / (1 - 0.1 * x)) * law.pdf(x), rel=1e-6)
    assert theory.pgd_plateau(0.2, 5) == pytest.approx(law.mean(), rel=1e-12)


def test_pgd_stays_where_the_stationary_law_says():
    d, eta, sigma = 5, 0.25, 0.02
    out = run(WideningValley(d), floor(d) * math.sqrt(theory.pgd_plateau(eta, d)), [pgd(eta, sigma)], 16_000,
              seeds=range(20), law="rademacher", record=torch.arange(4000, 16_001, 200))  # fmt: skip
    means = out.w[:, :, 0, :-1].square().sum(-1).mean(0)
    z = (means.mean() - theory.pgd_plateau(eta, d)) / (means.std() / math.sqrt(len(means)))
    assert abs(z) < 4


@pytest.mark.parametrize("drawn", [False, True])
def test_reach_is_attained_and_confines(drawn):
    """The worst signs: the drawn first noise points against u_0, and the noise of the next step along it."""
    d, sigma, eta = 4, 0.1, 0.25
    w0, worst = floor(d)[0, 0], sigma * torch.ones(d + 1, dtype=torch.float64)
    first = -worst if drawn else torch.zeros_like(worst)
    w = w0 - eta * WideningValley(d).gradient(w0) + worst - first
    assert w[:-1].norm().item() == pytest.approx(theory.anti_reach(1, d, sigma, drawn=drawn), rel=1e-12)
    edge = 1 / theory.anti_reach(1, d, sigma, drawn=drawn) ** 2
    assert theory.anti_overshoot(1, d, sigma, 0.999 * edge, drawn=drawn) == 0
    assert theory.anti_overshoot(1, d, sigma, 1.2 * edge, drawn=drawn) == pytest.approx(0.2)
    assert theory.anti_v_bound(1, d, sigma, edge, drawn=drawn) == pytest.approx(2 * sigma)
    assert theory.anti_v_bound(1, d, sigma, 1.2 * edge, drawn=drawn) == pytest.approx(2.5 * sigma)


def confined(length, eta, d=4):
    return theory.anti_confined(1, d, length / math.sqrt(d), eta)


def test_each_part_of_the_hypothesis_of_confinement_counts():
    assert confined(1.0, 0.1) and not confined(1.001, 0.1)  # the noise is no longer than the start
    assert confined(0.2, 0.98 * (1 + 0.8) / 1.44) and not confined(0.2, 0.98 * 2 / 1.44)  # |v| = 2 sigma / (1 - a)
    assert not confined(0.2, 4 / 1.44)  # a = 3
    assert confined(0.9, 0.3) and not confined(0.9, 0.31)  # 4 eta d sigma^2 < 1


def test_confinement_covers_all_of_the_papers_setting_without_a_first_noise():
    for alpha in np.linspace(0.01, 0.999, 100):
        for d in (1, 2, 3, 4, 5, 8, 20, 1000):
            sigma = math.sqrt(min(alpha**3 / 2, 1 / (8 * alpha), alpha / (2 * d)))
            assert theory.anti_confined(1, d, sigma, alpha / 2)
            assert theory.anti_v_bound(1, d, sigma, alpha / 2) < 4 * sigma
            assert theory.anti_confined(1, d, sigma, alpha / 2, drawn=True) or alpha > 0.65


def test_anti_pgd_keeps_its_bounds_and_ends_at_the_limits():
    alpha, d = 0.6, 5
    eta, sigma = alpha / 2, math.sqrt(alpha / (2 * d))
    record = torch.unique(torch.cat([log_spaced(1500), torch.arange(500, 1500, 10)]))[1:]
    out = run(WideningValley(d), floor(d), [anti_pgd(eta, sigma)], 1500, seeds=range(40), law="rademacher", record=record)
    u, v = out.w[:, :, 0, :-1], out.w[:, :, 0, -1]
    U = u.square().sum(-1)
    assert v.abs().max() <= 2 * sigma + 1e-6 and u.norm(dim=-1).max() <= theory.anti_reach(1, d, sigma) + 1e-6
    error = U.std(1) / math.sqrt(U.shape[1])
    bound = torch.tensor([theory.anti_moment_bound(k, 1, d, sigma, eta) for k in record.tolist()])
    assert ((U.mean(1) - bound) < 4 * error).all()
    late = record >= 500
    for values, lower, upper in (
        (U[late].mean(0), d * sigma**2, theory.anti_moment_limit(d, sigma, eta)),
        ((d * v.square() + U)[late].mean(0), 2 * d * sigma**2, theory.anti_trace_limit(d, sigma, eta)),
    ):
        error = values.std() / math.sqrt(len(values))
        assert lower - 4 * error < values.mean() < upper + 4 * error


def test_limits_are_the_fixed_points_of_the_contractions():
    """In each step of the proof a moment m becomes at most (1 - (2 - 4x) x) m + 8 x^2 S, with x = eta sigma^2 or eta S."""
    d, sigma, eta = 5, 0.2, 0.3
    S = d * sigma**2
    u, v = 1.0, 1.0
    for _ in range(5000):
        x, y = eta * sigma**2, eta * S
        u = (1 - (2 - 4 * x) * x) * u + 8 * x**2 * S
        v = (1 - (2 - 4 * y) * y) * v + 8 * y**2 * sigma**2
    assert theory.anti_moment_limit(d, sigma, eta) == pytest.approx(u + S, rel=1e-10)
    assert theory.anti_trace_limit(d, sigma, eta) == pytest.approx(u + S + d * (v + sigma**2), rel=1e-10)


def test_moment_bounds_start_at_the_exact_mean():
    """The first step adds xi_1 to the start, less xi_0 where that is drawn: E |u_1|^2 over all signs."""
    D, d, sigma, eta = 2.0, 3, 0.1, 0.1
    signs = sigma * SIGNS[::2, :3]  # all signs of three coordinates, once each
    u1 = math.sqrt(D) * floor(d)[0, 0, :-1] + signs
    assert theory.anti_moment_bound(1, D, d, sigma, eta) == pytest.approx(u1.square().sum(-1).mean().item(), rel=1e-12)
    longest = (math.sqrt(D) + 2 * sigma * math.sqrt(d)) ** 2
    assert u1.square().sum(-1).mean() < theory.anti_moment_bound(1, D, d, sigma, eta, drawn=True) < longest
    gamma = theory.anti_moment_limit(d, sigma, eta) - d * sigma**2
    for drawn in (False, True):
        exact = D + (1 + drawn) * d * sigma**2
        assert theory.anti_moment_decay(1, D, d, sigma, eta, drawn=drawn) == pytest.approx(exact + gamma, rel=1e-12)


def test_moment_bounds_hold_in_every_step_of_the_worst_recursion():
    """The bounds' recursions, step by step: X' <= (1 - x) X for the excess, and m' <= (1 - (2 - 4x) x) m + 8 x^2 S."""
    d, sigma, eta = 4, 0.2, 0.5
    S, x = d * sigma**2, eta * sigma**2
    for drawn in (False, True):
        top = theory.anti_reach(1, d, sigma, drawn=drawn) - math.sqrt(S)
        X, m = top - math.sqrt(S), 1.0 + (S if drawn else 0)
        for k in range(1, 200):
            assert theory.anti_moment_bound(k, 1, d, sigma, eta, drawn=drawn) == pytest.approx(
                X * (top - math.sqrt(S)) + 2 * X * math.sqrt(S) + 2 * S, rel=1e-12
            )
            assert m + S <= theory.anti_moment_decay(k, 1, d, sigma, eta, drawn=drawn)
            X, m = (1 - x) * X, (1 - (2 - 4 * x) * x) * m + 8 * x**2 * S
        assert theory.anti_decay_time(sigma, eta) * -math.log(1 - (2 - 4 * x) * x) == pytest.approx(1, rel=3 * x)


def test_length_decays_at_the_predicted_rate():
    """With small noise the noise-free part of |u|^2 falls as exp(-k / decay time) before the floor d sigma^2 is near."""
    d, eta, sigma = 20, 0.1, 0.02
    record = [2000, 10_000]
    out = run(WideningValley(d), floor(d), [anti_pgd(eta, sigma)], 10_000, seeds=range(10), law="rademacher", record=record)
    logs = out.z[:, :, 0, :-1].square().sum(-1).log()
    slopes = ((logs[1] - logs[0]) / 8000).numpy()
    predicted = -1 / theory.anti_decay_time(sigma, eta)
    assert np.allclose(slopes.mean(), predicted, rtol=0.05)
