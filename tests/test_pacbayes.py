"""The bounds against numerical optimisation and integration, and their guarantees against simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from antipgd import pacbayes


def test_linear_bound_by_hand():
    assert pacbayes.linear_bound(0.1, 2.0, 100, lam=20, delta=0.05) == pytest.approx(0.1 + 20 / 800 + (2 + math.log(20)) / 20)
    printed = pacbayes.linear_bound(0.1, 2.0, 100, lam=20, delta=0.05, constant=1 / 2)
    assert printed == pytest.approx(0.1 + 20 / 200 + (2 + math.log(20)) / 20)


@pytest.mark.parametrize("q", [0.0, 1e-3, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("budget", [1e-6, 0.01, 0.3])
def test_kl_inverse_is_the_root(q, budget):
    p = pacbayes.kl_inverse(q, budget)
    root = optimize.brentq(lambda p: pacbayes.bernoulli_kl(q, p) - budget, q, 1 - 1e-16)
    assert q <= p <= 1 and p == pytest.approx(root, abs=1e-9)


def test_kl_inverse_at_the_ends():
    assert pacbayes.kl_inverse(1.0, 0.5) == 1
    assert pacbayes.kl_inverse(0.3, 0.0) == pytest.approx(0.3, abs=1e-7)  # rounding of a divergence near 0
    assert pacbayes.kl_inverse(0.0, 0.7) == pytest.approx(1 - math.exp(-0.7), abs=1e-9)
    assert pacbayes.bernoulli_kl(0.5, 0.0) == math.inf and pacbayes.bernoulli_kl(0.0, 0.0) == 0


def test_bernoulli_kl_is_scipys():
    for q, p in [(0.2, 0.7), (0.5, 0.5), (0.9, 0.01)]:
        assert pacbayes.bernoulli_kl(q, p) == pytest.approx(stats.entropy([q, 1 - q], [p, 1 - p]), abs=1e-12)


def test_gaussian_kl_is_the_integral_in_one_dimension_and_adds_up_over_coordinates():
    means, prior = torch.tensor([[0.3], [-1.0]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    s, prior_s = 0.4, 0.9

    def by_integral(mean):
        q, p = stats.norm(mean, s), stats.norm(0.5, prior_s)
        return integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), mean - 12 * s, mean + 12 * s)[0]

    each = pacbayes.gaussian_kl(means, s, prior, prior_s)
    assert each.tolist() == pytest.approx([by_integral(0.3), by_integral(-1.0)], rel=1e-8)
    both = pacbayes.gaussian_kl(means.flatten(), s, prior.expand(2), prior_s)
    assert both.item() == pytest.approx(each.sum().item(), rel=1e-12)
    assert pacbayes.gaussian_kl(prior, 0.9, prior, 0.9).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("risk", [0.02, 0.3])
def test_bounds_hold_at_their_confidence_for_one_predictor(risk):
    """Q = P, one predictor: the bound on its risk fails in at most delta of the data sets."""
    M, delta, trials = 50, 0.1, 20_000
    means = np.random.default_rng(0).binomial(M, risk, trials) / M
    values = np.unique(means)
    for bound in (
        lambda mean: pacbayes.seeger_bound(mean, 0.0, M, delta=delta),
        lambda mean: pacbayes.sampled_risk_bound(mean, M, delta=delta),
        lambda mean: pacbayes.linear_bound(mean, 0.0, M, lam=math.sqrt(8 * M), delta=delta),
    ):
        bounds = {mean: bound(float(mean)) for mean in values}
        failed = sum(bounds[mean] < risk for mean in means)
        assert stats.binomtest(failed, trials).proportion_ci(0.999).low < delta
        assert all(bounds[mean] > mean for mean in values if mean < 1)


@pytest.mark.parametrize("M", [8, 60, 2000])
def test_seeger_bound_pays_for_the_mean_that_its_proof_needs(M):
    """It spends ln(2 sqrt(M)): enough for E exp(M kl(L, risk)), which is exact for coins, and sqrt(M) is not."""
    k = np.arange(M + 1)
    mean = np.exp(stats.binom(M, 0.3).logpmf(k) + [M * pacbayes.bernoulli_kl(i / M, 0.3) for i in k]).sum()
    for empirical, kl in ((0.1, 3.0), (0.0, 0.5)):
        budget = M * pacbayes.bernoulli_kl(empirical, pacbayes.seeger_bound(empirical, kl, M, delta=0.05))
        assert budget == pytest.approx(kl + math.log(2 * math.sqrt(M) / 0.05), rel=1e-6)
        assert math.sqrt(M) < mean <= 0.05 * math.exp(budget - kl)


def test_sampled_risk_bound_by_hand():
    bound = pacbayes.sampled_risk_bound(0.2, 500, delta=0.01)
    assert 500 * pacbayes.bernoulli_kl(0.2, bound) == pytest.approx(math.log(2 / 0.01), rel=1e-6)


def test_bounds_grow_with_the_divergence_and_fall_with_the_data():
    seeger = [pacbayes.seeger_bound(0.1, kl, 100, delta=0.05) for kl in (0, 1, 10, 100)]
    assert seeger == sorted(seeger) and len(set(seeger)) == 4
    assert pacbayes.seeger_bound(0.1, 5.0, 1000, delta=0.05) < pacbayes.seeger_bound(0.1, 5.0, 100, delta=0.05)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pacbayes.linear_bound(0.1, 1.0, 10, lam=0.0, delta=0.1), "positive"),
        (lambda: pacbayes.linear_bound(0.1, 1.0, 10, lam=math.nan, delta=0.1), "positive"),
        (lambda: pacbayes.linear_bound(0.1, 1.0, 10, lam=1.0, delta=1.0), "between 0 and 1"),
        (lambda: pacbayes.seeger_bound(0.1, 1.0, 10, delta=0.0), "between 0 and 1"),
        (lambda: pacbayes.seeger_bound(1.1, 1.0, 10, delta=0.1), r"risk in \[0, 1\]"),
        (lambda: pacbayes.sampled_risk_bound(0.1, 10, delta=-1), "between 0 and 1"),
        (lambda: pacbayes.kl_inverse(0.1, -0.1), "budget"),
        (lambda: pacbayes.kl_inverse(0.1, math.nan), "budget"),
        (lambda: pacbayes.gaussian_kl(torch.zeros(2), 0.0, torch.zeros(2), 1.0), "positive"),
    ],
)
def test_bad_input_is_refused_with_its_cause(call, message):
    with pytest.raises(ValueError, match=message):
        call()
