"""The formulas of appendix C.1 against the mean over all sign patterns, computed without sampling."""

import itertools

import pytest
import torch

from antipgd import theory

RHOS = (0.3, 0.9, 0.0, 1.0, 0.6)


def exact_second_moment(rhos, w0, sigma, anti):
    """E w^2 in one dimension over all 2^K patterns of signs."""
    signs = sigma * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=len(rhos))), dtype=torch.float64)
    w, old = torch.full((len(signs),), w0, dtype=torch.float64), 0.0
    for k, rho in enumerate(rhos):
        w, old = rho * w + signs[:, k] - anti * old, signs[:, k]
    return w.square().mean().item()


@pytest.mark.parametrize("anti", [True, False])
@pytest.mark.parametrize("steps", range(1, len(RHOS) + 1))
def test_second_moment_is_the_mean_over_all_signs(anti, steps):
    exact = exact_second_moment(RHOS[:steps], 1.7, 0.4, anti)
    assert theory.second_moment(RHOS[:steps], 1.7**2, 1, 0.4, anti=anti) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("anti", [True, False])
def test_noise_grows_with_the_dimension_and_the_start_does_not(anti):
    one, three = (theory.second_moment(RHOS[:2], 5.0, d, 0.4, anti=anti) for d in (1, 3))
    start = 5.0 * (RHOS[0] * RHOS[1]) ** 2
    assert three - start == pytest.approx(3 * (one - start), rel=1e-12)


@pytest.mark.parametrize("anti", [True, False])
@pytest.mark.parametrize("rho", [0.2, 0.5, 0.95])
def test_limit_is_where_a_constant_multiplier_leads(anti, rho):
    late = theory.second_moment([rho] * 600, 7.0, 3, 0.4, anti=anti)
    assert theory.second_moment_limit(rho, 3, 0.4, anti=anti) == pytest.approx(late, rel=1e-10)


def test_both_kinds_leave_equally_much_at_one_half():
    anti, plain = (theory.second_moment_limit(0.5, 3, 0.4, anti=kind) for kind in (True, False))
    assert anti == pytest.approx(plain, rel=1e-14)
