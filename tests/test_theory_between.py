"""The range from PGD to Anti-PGD: the closed forms against sums over all past noise, and against their limits."""

import math

import pytest
import torch
from numpy import euler_gamma
from scipy import integrate

from antipgd import theory

PAIRS = [(rho, c) for rho in (-0.4, 0.3, 0.95) for c in (0.0, 0.6, 1.0, 1.7)]


def weights_of_the_noise(rho, c, taken, steps):
    """How w_n - taken * xi_n depends on xi_n, xi_(n-1), ...: run the recursion on the unit impulses."""
    w, impulse = [], 0.0
    for k in range(steps):
        impulse = rho * impulse + (k == 0) - c * (k == 1)
        w.append(impulse)
    w[0] -= taken
    return torch.tensor(w, dtype=torch.float64)


@pytest.mark.parametrize(("rho", "c"), PAIRS)
@pytest.mark.parametrize("taken", [0.0, 0.6, 1.0])
def test_variance_is_the_sum_over_all_past_noise(rho, c, taken):
    exact = 0.3**2 * weights_of_the_noise(rho, c, taken, 2000).square().sum().item()
    assert theory.dial_variance(rho, c, 0.3, taken=taken) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.95])
def test_the_ends_are_the_limits_of_the_corollary(rho):
    for c, anti in ((0, False), (1, True)):
        assert theory.dial_variance(rho, c, 0.3) == pytest.approx(theory.second_moment_limit(rho, 1, 0.3, anti=anti))


def test_best_is_least():
    rhos = torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)
    grid = torch.linspace(0, 1.2, 12001, dtype=torch.float64)
    totals = theory.dial_variance(rhos, grid[:, None], 1.0).sum(1)
    assert theory.dial_best(rhos).item() == pytest.approx(grid[totals.argmin()].item(), abs=1e-4)
    assert theory.dial_best(rhos[:1]).item() == pytest.approx(0.5)


@pytest.mark.parametrize("rho", [-0.4, 0.3, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
def test_autoregressive_variance_is_the_sum_over_all_lags(rho, gamma):
    lags = torch.arange(-1500, 1501)
    correlation = (-gamma) ** lags.abs().double()
    of_w = rho ** lags.abs().double() / (1 - rho**2)
    assert theory.autoregressive_variance(rho, gamma, 0.7) == pytest.approx(0.7 * (correlation * of_w).sum().item())


def test_drift_at_the_ends():
    assert theory.dial_drift(0.5, 0.0, 10, 0.3) == pytest.approx(theory.pgd_drift(10, 0.3))  # its bound, at r = 1/2
    eta, U, sigma = 0.01, 0.1, 0.2
    assert theory.dial_drift(eta * U, 1.0, 10, sigma) == pytest.approx(-U / theory.anti_decay_time(sigma, eta), rel=1e-3)


@pytest.mark.parametrize("r", [0.01, 0.5, 1.2])
@pytest.mark.parametrize("d", [3, 100])
def test_the_drift_turns_there(r, d):
    c = theory.dial_turn(r, d)
    assert 0 < c < 1
    assert theory.dial_drift(r, c, d, 1.0) == pytest.approx(0, abs=1e-12 * d)
    assert theory.dial_drift(r, c - 0.01, d, 1.0) > 0 > theory.dial_drift(r, c + 0.01, d, 1.0)


def test_stationary_law_at_the_end_is_that_of_pgd():
    law, pgd = theory.dial_stationary(0.1, 10, 0.0), theory.pgd_stationary(0.1, 10)
    assert law.ppf([0.1, 0.5, 0.9]) == pytest.approx(pgd.ppf([0.1, 0.5, 0.9]))
    assert theory.dial_plateau(0.1, 10, 0.0) == pytest.approx(theory.pgd_plateau(0.1, 10))


@pytest.mark.parametrize("c", [0.3, 0.8, 0.95])
def test_stationary_law_balances_drift_and_spread(c):
    """The mean drift and the mean of U * drift + spread vanish: the law is stationary to second order."""
    eta, d, sigma = 0.1, 10, 0.2
    law = theory.dial_stationary(eta, d, c)
    assert law.mean() == pytest.approx(theory.dial_plateau(eta, d, c))

    def mean_of(f):
        return integrate.quad(lambda U: f(U) * law.pdf(U), 0, 2 / eta, limit=200)[0]

    def drift(U):
        return theory.dial_drift(eta * U, c, d, sigma)

    scale = mean_of(lambda U: abs(drift(U)))
    assert mean_of(drift) == pytest.approx(0, abs=1e-5 * scale)
    spread = 4 * (1 - c) ** 2 * sigma**2  # the variance of a step of U, over U
    assert mean_of(lambda U: 2 * U * drift(U) + spread * U) == pytest.approx(0, abs=1e-5 * scale * law.mean())


def test_plateau_is_zero_for_anti_pgd():
    assert theory.dial_plateau(0.1, 10, 1.0) == 0


@pytest.mark.parametrize("c", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("n", [1, 2, 17])
def test_saddle_moment_is_the_sum_over_the_noise(n, c):
    exact = 0.3**2 * weights_of_the_noise(1.2, c, 0.0, n).square().sum().item()
    assert theory.saddle_moment(n, 1.2, c, 0.3) == pytest.approx(exact, rel=1e-10)


def test_exit_is_when_the_spread_has_the_size_of_the_bound():
    """At the mean exit time the root mean square is R times exp((log 2 + Euler's constant) / 2), up to the last xi."""
    R, rho, sigma = 1e4, 1.1, 0.01
    for c in (0.0, 0.9, 1.0):
        spread = math.sqrt(theory.saddle_moment(theory.saddle_exit_time(R, rho, c, sigma), rho, c, sigma))
        assert spread / R == pytest.approx(math.exp((math.log(2) + euler_gamma) / 2), rel=1e-6)
