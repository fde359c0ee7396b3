"""PAC-Bayes bounds and their hypotheses (paper, section 2.2).

Common hypotheses: the M data points are independent draws from one law; the prior P and delta are fixed before the
data are seen; the posterior Q may depend on the data in any way. A bound then holds for all Q at once, with
probability at least 1 - delta over the data. Losses and risks are numbers in [0, 1] unless a function says otherwise.
"""

import math

HOEFFDING = 1 / 8  # for a loss in [0, 1]; a loss in [0, B] has B^2 / 8, one of range 2 the paper's 1/2


def linear_bound(empirical, kl, M, *, lam, delta, constant=HOEFFDING):
    """``L(Q) + constant * lam / M + (KL(Q|P) + ln(1/delta)) / lam``: Theorem 2.2 with its hypotheses.

    Source: Catoni (2007); with this proof, Alquier's survey (arXiv 2110.11216).
    empirical: L(Q), the mean training loss under Q. lam: positive and fixed before the data, as the prior is.
    constant: such that ``E exp(lam (L_true(w) - L(w))) <= exp(constant lam^2 / M)`` for every w. The paper's lam/(2M)
    has 1/2, which is right for losses of range up to 2 and four times more than needed for losses in [0, 1].
    Raises ValueError for a lam that is not positive or a delta outside (0, 1).
    """
    check_level(delta)
    if not lam > 0:
        raise ValueError(f"lam is {lam!r}: the bound divides by it, so it has to be positive.")
    return empirical + constant * lam / M + (kl + math.log(1 / delta)) / lam


def seeger_bound(empirical, kl, M, *, delta):
    """The largest risk p with ``kl(L(Q) | p) <= (KL(Q|P) + ln(2 sqrt(M) / delta)) / M``; it has no lam to choose.

    Source: Seeger (2002) with Maurer's constant (2004); for losses in [0, 1].
    """
    check_level(delta)
    return kl_inverse(empirical, (kl + math.log(2 * math.sqrt(M) / delta)) / M)


def sampled_risk_bound(mean, n, *, delta):
    """An upper bound on L(Q), from the mean loss of n weights drawn from Q, with probability 1 - delta over the draws.

    Source: Langford and Caruana (2002). With it a bound holds for a posterior whose risk nobody can integrate;
    its delta adds to the bound's.
    """
    check_level(delta)
    return kl_inverse(mean, math.log(2 / delta) / n)


def bernoulli_kl(q, p):
    """Kullback-Leibler divergence of two coins, in nats; infinite where p is 0 or 1 and q is not."""

    def term(a, b):
        return 0.0 if a == 0 else math.inf if b == 0 else a * math.log(a / b)

    return term(q, p) + term(1 - q, 1 - p)


def kl_inverse(q, budget):
    """The largest p in [q, 1] with ``bernoulli_kl(q, p) <= budget``, to 1e-12 from above (bisection)."""
    if not 0 <= q <= 1 or not budget >= 0:
        raise ValueError(f"kl_inverse takes a risk in [0, 1] and a budget >= 0: got {q!r} and {budget!r}.")
    low, high = q, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if bernoulli_kl(q, middle) <= budget else (low, middle)
    return high


def gaussian_kl(mean, s, prior_mean, prior_s):
    """KL of N(mean, s^2 I) from N(prior_mean, prior_s^2 I), in nats, for means of shape (..., d): shape (...)."""
    if not (s > 0 and prior_s > 0):
        raise ValueError(f"Standard deviations are positive: got s = {s!r} and prior_s = {prior_s!r}.")
    d = mean.shape[-1]
    distance = (mean - prior_mean).square().sum(-1)
    return d * math.log(prior_s / s) + (d * s**2 + distance) / (2 * prior_s**2) - d / 2


def check_level(delta):
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta!r}: it is a probability strictly between 0 and 1.")
