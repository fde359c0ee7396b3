"""The predictions of section 2.1 and appendix A against autograd, exact means and the optimizer itself."""

import itertools

import numpy as np
import pytest
import torch

from antipgd import AntiPGD, theory
from antipgd.landscapes import QuadraticRegression, WideningValley
from antipgd.noise import LAWS

GAUSS = np.polynomial.hermite.hermgauss(8)
LEGENDRE = np.polynomial.legendre.leggauss(8)
RULES = {  # nodes and weights for sigma = 1; eight nodes of Gauss are exact for polynomials up to degree 15
    "gaussian": (GAUSS[0] * 2**0.5, GAUSS[1] / np.pi**0.5),
    "rademacher": (np.array([1.0, -1.0]), np.array([0.5, 0.5])),
    "uniform": (LEGENDRE[0] * 3**0.5, LEGENDRE[1] / 2),
}


def grid(law, d):
    """Points (n, d) and weights (n,) of the product rule for the law with sigma = 1."""
    nodes, weights = (torch.from_numpy(values) for values in RULES[law])
    return torch.cartesian_prod(*[nodes] * d), torch.cartesian_prod(*[weights] * d).prod(-1)


def derivatives(seed, d=3):
    """Random derivatives of order 1 to 3 of one coordinate of a gradient, symmetric in their indices."""
    generator = torch.Generator().manual_seed(seed)
    H, T, F = (torch.randn([d] * k, dtype=torch.float64, generator=generator) for k in (1, 2, 3))
    T = (T + T.T) / 2
    return H, T, sum(F.permute(order) for order in itertools.permutations(range(3))) / 6


def exact_variance(H, T, F, eta, sigma, law):
    """Variance of eta times the cubic polynomial with these derivatives, exact up to rounding."""
    points, weights = grid(law, len(H))
    xi = sigma * points
    values = eta * (
        xi @ H
        + torch.einsum("nj,jk,nk->n", xi, T, xi) / 2
        + torch.einsum("nj,nk,nl,jkl->n", xi, xi, xi, F) / 6
    )
    return weights @ (values - weights @ values).square()


def landscapes():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    y = torch.randn(4, dtype=torch.float64, generator=generator)
    return [WideningValley(3), QuadraticRegression(X, y)]


@pytest.mark.parametrize("landscape", landscapes(), ids=lambda landscape: type(landscape).__name__)
def test_smoothed_loss_and_its_gradient(landscape):
    z = torch.randn(landscape.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def by_autograd(w):
        return landscape.loss(w) + 0.3**2 / 2 * torch.func.jacrev(torch.func.grad(landscape.loss))(w).trace()

    torch.testing.assert_close(theory.smoothed_loss(landscape, z, 0.3), by_autograd(z), rtol=1e-12, atol=0)
    gradient = torch.func.grad(by_autograd)(z)
    torch.testing.assert_close(theory.smoothed_gradient(landscape, z, 0.3), gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("law", RULES)
def test_smoothed_gradient_is_the_mean_gradient_of_a_quartic(law):
    landscape = WideningValley(3)
    z = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points, weights = grid(law, 4)
    mean = weights @ landscape.gradient(z + 0.4 * points)
    torch.testing.assert_close(mean, theory.smoothed_gradient(landscape, z, 0.4), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_increment_correlation(law):
    p = torch.nn.Parameter(torch.zeros(500, dtype=torch.float64))
    optimizer = torch.optim.SGD([p], lr=0.1)
    AntiPGD(optimizer, 2.0, law=law)
    path = []
    for _ in range(200):
        p.grad = torch.zeros_like(p)
        optimizer.step()
        path.append(p.detach().clone())
    moves = torch.stack(path).diff(dim=0)
    for lag in range(4):
        products = (moves[: len(moves) - lag] * moves[lag:]).mean(0) / (2 * 2.0**2)
        score = (products.mean() - theory.increment_correlation(lag)) / (products.std() / 500**0.5)
        assert abs(score) < 4


@pytest.mark.parametrize("law", theory.KURTOSIS)
def test_step_variance_without_cubic_terms_is_exact(law):
    H, T, F = derivatives(0)
    exact = exact_variance(H, T, 0 * F, 0.1, 0.7, law)
    torch.testing.assert_close(theory.step_variance(H, T, 0 * F, 0.1, 0.7, law), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("law", theory.KURTOSIS)
@pytest.mark.parametrize("seed", range(5))
def test_step_variance_misses_only_the_sixth_order(law, seed):
    H, T, F = derivatives(seed)
    missed = [exact_variance(H, T, F, 0.1, sigma, law) - theory.step_variance(H, T, F, 0.1, sigma, law) for sigma in (1.0, 0.5)]
    torch.testing.assert_close(missed[0] / missed[1], torch.tensor(64.0, dtype=torch.float64), rtol=1e-8, atol=0)


def test_every_law_of_the_noise_has_its_kurtosis():
    assert set(theory.KURTOSIS) == set(LAWS)
    for law, kurtosis in theory.KURTOSIS.items():
        nodes, weights = RULES[law]
        assert weights @ nodes**4 == pytest.approx(kurtosis, rel=1e-12)


def test_variance_of_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="Unknown noise law 'cauchy'"):
        theory.step_variance(torch.ones(2), torch.ones(2, 2), torch.ones(2, 2, 2), 0.1, 0.1, "cauchy")
