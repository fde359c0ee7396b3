"""The predictions of Theorem 2.1, each against an independent computation that attains or samples it."""

import math

import pytest
import sympy
import torch

from antipgd import theory
from antipgd.noise import draw


@pytest.mark.parametrize("law", ["gaussian", "rademacher"])
@pytest.mark.parametrize("d", [1, 4])
def test_third_moment_of_the_noise(law, d):
    sigma, count = 0.7, 200_000
    xi = sigma * draw(law, torch.empty(count, d, dtype=torch.float64), torch.Generator().manual_seed(0))
    cubes = xi.norm(dim=-1) ** 3
    error = cubes.mean().item() - theory.third_moment(d, sigma, law)
    assert abs(error) <= 4 * cubes.std().item() / count**0.5 + 1e-12


def test_third_moment_knows_two_laws():
    with pytest.raises(ValueError, match="uniform"):
        theory.third_moment(3, 1.0, "uniform")


def test_smoothness_is_attained_in_one_dimension():
    w, sigma, beta1, beta3 = sympy.symbols("w sigma beta1 beta3", positive=True)
    L = beta1 * w**2 / 2 + beta3 * w**4 / 24
    smoothed = L + sigma**2 / 2 * sympy.diff(L, w, 2)
    at_zero = sympy.diff(smoothed, w, 2).subs(w, 0)
    assert sympy.expand(at_zero - theory.smoothed_smoothness(1, sigma, beta1, beta3)) == 0


def test_smoothness_bounds_the_hessian_of_a_smoothed_wave():
    generator = torch.Generator().manual_seed(1)
    A = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    w, sigma = torch.randn(500, 4, generator=generator, dtype=torch.float64), 1.5
    lengths = A.square().sum(1)
    beta1 = torch.linalg.eigvalsh(A.T @ A)[-1].item()
    beta3 = torch.linalg.eigvalsh((A.T * lengths) @ A)[-1].item()
    weights = torch.cos(w @ A.T) * (1 - sigma**2 / 2 * lengths)  # L = sum of 1 - cos(a . w)
    hessian = torch.einsum("nk,ki,kj->nij", weights, A, A)
    largest = torch.linalg.matrix_norm(hessian, 2).max()
    assert beta1 < largest <= theory.smoothed_smoothness(4, sigma, beta1, beta3)


@pytest.mark.parametrize("d", [1, 3])
def test_the_smoothed_loss_can_lie_as_low_as_its_bound(d):
    w, sigma, beta3 = sympy.symbols(f"w:{d}"), *sympy.symbols("sigma beta3", positive=True)
    L = beta3 / 24 * (sum(x**2 for x in w) - d * sigma**2) ** 2  # at least zero
    smoothed = L + sigma**2 / 2 * sum(sympy.diff(L, x, 2) for x in w)
    lowest = smoothed.subs({x: 0 for x in w})
    assert sympy.expand(lowest + theory.smoothed_loss_drop(d, sigma, beta3)) == 0


def test_first_term_is_attained_by_one_step_into_the_minimum():
    beta, z, N = 3.0, 0.8, 7
    first, second, third = theory.gradient_bound(beta * z**2 / 2, N, 1 / beta, 1, 0.0, beta, 0.0, 0.0)
    assert math.isclose(first, (beta * z) ** 2 / N, rel_tol=1e-12) and second == third == 0


def test_second_term_is_attained_by_noise_alone():
    beta, d, sigma = 3.0, 5, 0.2
    xi = sigma * torch.randint(0, 2, (100, d), generator=torch.Generator().manual_seed(2)).mul(2).sub(1).double()
    z = torch.zeros(d, dtype=torch.float64)
    for noise in xi:
        z = z - beta * (z + noise) / beta
        _, second, _ = theory.gradient_bound(0.0, 1, 1 / beta, d, sigma, beta, 0.0, 0.0)
        assert math.isclose((beta * z).square().sum().item(), second, rel_tol=1e-12)


def test_third_term_is_attained_in_a_limit():
    stiff, sigma, beta3 = 1e6, 0.1, 2.0  # L' = stiff * w + beta3 |w|^3 / 6
    z = 0.0
    for _ in range(20):
        z = -beta3 * (abs(z + sigma) ** 3 + abs(z - sigma) ** 3) / (12 * stiff)
    gradient = stiff * z + beta3 * (abs(z) ** 3 / 6 + sigma**2 / 2 * abs(z))
    *_, third = theory.gradient_bound(0.0, 1, 1e-9, 1, sigma, stiff, beta3, theory.third_moment(1, sigma, "rademacher"))
    assert math.isclose(gradient**2, third, rel_tol=1e-6)


def test_learning_rates_beyond_the_theorem_are_refused():
    largest = 1 / theory.smoothed_smoothness(2, 0.5, 1.0, 4.0)
    theory.gradient_bound(1.0, 10, largest, 2, 0.5, 1.0, 4.0, 0.0)
    with pytest.raises(ValueError, match="eta"):
        theory.gradient_bound(1.0, 10, largest * 1.001, 2, 0.5, 1.0, 4.0, 0.0)
