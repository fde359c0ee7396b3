"""What the theory predicts, as functions of the setting, in the order of the paper (sections 2.1, 2.3, 3.3, 5; A to C).

Where a formula of the paper does not hold as printed, the function is the corrected one; the chapter of the same
subject derives it and shows what was wrong. Notation of the valley: d coordinates u, D = |u_0|^2 at the start,
alpha in (0, 1) for the domain alpha D < |u|^2 < D / alpha.
"""

import math

import torch
from numpy import euler_gamma
from scipy import integrate, stats

from antipgd.noise import check_law

# --- Section 2.1 and appendix A: the smoothed loss ---------------------------------------------------------------


def smoothed_loss(landscape, z, sigma):
    """The regularised loss ``L + sigma^2/2 Tr Hessian`` at z (..., dim): shape (...). Equations (6) and (20)."""
    return landscape.loss(z) + sigma**2 / 2 * landscape.hessian_trace(z)


def smoothed_gradient(landscape, z, sigma):
    """Its gradient, shape (..., dim): the direction of the mean Anti-PGD step, equations (5) and (19)."""
    return landscape.gradient(z) + sigma**2 / 2 * landscape.trace_gradient(z)


def increment_correlation(lag):
    """Correlation of a coordinate of ``xi_{n+1} - xi_n`` with itself ``lag`` steps later; after equation (2)."""
    return {0: 1.0, 1: -0.5}.get(lag, 0.0)


KURTOSIS = {"gaussian": 3.0, "rademacher": 1.0, "uniform": 1.8}  # E xi_j^4 / sigma^4


def step_variance(H, T, F, eta, sigma, law):
    """Conditional variance of one coordinate of an Anti-PGD step given z, up to eta^2 O(sigma^6). Corrects (24).

    H: (d,), T: (d, d), F: (d, d, d), the derivatives at z of that coordinate of the gradient, of order 1 to 3.
    law: a noise law of ``noise.py``; all are symmetric. PGD's own variance is sigma^2 exactly, equation (23).
    """
    check_law(law)
    excess = KURTOSIS[law] - 3
    from_T = T.square().sum() / 2 + excess / 4 * T.diagonal().square().sum()
    from_HF = torch.einsum("j,jkk->", H, F) + excess / 3 * torch.einsum("j,jjj->", H, F)
    return eta**2 * (sigma**2 * H.square().sum() + sigma**4 * (from_T + from_HF))


# --- Theorem 2.1 and appendix B: convergence of the regularised gradient ------------------------------------------


def smoothed_smoothness(d, sigma, beta1, beta3):
    """Lipschitz constant of the gradient of the smoothed loss: ``beta1 + d sigma^2 beta3 / 2``.

    beta1 bounds the Hessian of L and beta3 its fourth derivatives, as forms on unit vectors.
    """
    return beta1 + d * sigma**2 * beta3 / 2


def smoothed_loss_drop(d, sigma, beta3):
    """How far the infimum of the smoothed loss can lie below that of L: ``d^2 sigma^4 beta3 / 24``. After (34)."""
    return d**2 * sigma**4 * beta3 / 24


def third_moment(d, sigma, law):
    """E |xi|^3 of the noise vector, for the law "gaussian" or "rademacher"; the O(sigma^3) of equation (25)."""
    if law == "rademacher":
        return d**1.5 * sigma**3
    if law == "gaussian":
        return (math.sqrt(2) * sigma) ** 3 * math.exp(math.lgamma((d + 3) / 2) - math.lgamma(d / 2))
    raise ValueError(f"No closed form for the law {law!r}: there is one for 'gaussian' and 'rademacher'.")


def gradient_bound(gap, N, eta, d, sigma, beta1, beta3, third_moment):
    """Theorem 2.1, corrected: a bound on the mean over n < N of ``E |gradient of the smoothed loss at z_n|^2``.

    gap: smoothed loss at z_0 minus its infimum. third_moment: E |xi|^3 of the noise.
    Returns its three terms, of order 1/(eta N), eta sigma^2 and sigma^6; the bound is their sum.
    Raises ValueError where eta exceeds 1 / smoothness, since the descent argument needs it.
    """
    beta = smoothed_smoothness(d, sigma, beta1, beta3)
    if eta > 1 / beta:
        raise ValueError(f"eta is {eta:g}: the theorem needs at most 1 / (beta1 + d sigma^2 beta3 / 2) = {1 / beta:g}.")
    return 2 * gap / (eta * N), beta * beta1**2 * d * eta * sigma**2, (beta3 * third_moment / 6) ** 2


# --- Section 2.3: label noise -------------------------------------------------------------------------------------


def label_noise_covariance(jacobian, sigma, *, common=False):
    """Covariance (d, d) of the gradient noise that label noise makes, for ``L = sum of squares / (2 M)``; compare (9).

    jacobian: (M, d), the model's derivatives at each data point. Independent noise on each label gives sigma^2 / M
    times the Gauss-Newton matrix; one common number for all labels, as in the paper, a matrix of rank one.
    """
    M = len(jacobian)
    if common:
        total = jacobian.sum(0)
        return sigma**2 / M**2 * torch.outer(total, total)
    return sigma**2 / M**2 * jacobian.T @ jacobian


# --- Appendix C.1: accumulated noise of w_{k+1} = rho_k w_k + eps_k -----------------------------------------------


def second_moment(rhos, w0_squared, d, sigma, *, anti):
    """E |w_{k+1}|^2 for given multipliers rho_0 ... rho_k: Proposition C.4, equations (50) and (51).

    anti: eps_0 = xi_0 and eps_k = xi_k - xi_{k-1} as in appendix C; otherwise eps_k = xi_k.
    """
    moment, noise = w0_squared, 0.0
    for k, rho in enumerate(rhos):
        moment = rho**2 * moment
        noise = rho**2 * noise + ((1 - rho) ** 2 * (k > 0) if anti else 1)
    return moment + (noise + anti) * d * sigma**2


def second_moment_limit(rho, d, sigma, *, anti):
    """Its limit for a constant multiplier rho in (0, 1): Corollary C.5, equations (54) and (55)."""
    return d * sigma**2 * (2 / (1 + rho) if anti else 1 / (1 - rho**2))


# --- Theorem 3.1, PGD: it leaves on the right ---------------------------------------------------------------------


def pgd_drift(d, sigma):
    """A lower bound on the drift of ``|u|^2 - 4/3 v^2`` per step while ``eta |u|^2 <= 1/2``."""
    return (d - 4 / 3) * sigma**2


def pgd_exit_time_bound(alpha, D, d, sigma):
    """An upper bound on the mean number of steps to leave the domain, eta = alpha / (2 D), d >= 2."""
    overshoot = (math.sqrt(D / alpha) + sigma * math.sqrt(d)) ** 2
    return (overshoot - D) / pgd_drift(d, sigma)


def pgd_left_exit_bound(alpha, D, d, sigma):
    """An upper bound on the probability to leave on the left; Rademacher noise, sigma^2 <= alpha^3 D / 2, d >= 2."""
    chi = 64 * sigma**2 / (9 * alpha**3 * D)
    return math.exp(-(d - 4 / 3) * alpha * (1 - alpha) / (2 * (1 + chi)))


def pgd_dimension(alpha, p, chi=32 / 9):
    """The dimension from which the bound above is at most p; 32/9 is the largest chi that the theorem admits."""
    return 4 / 3 + 2 * (1 + chi) * math.log(1 / p) / (alpha * (1 - alpha))


def pgd_left_exit_diffusion(alpha, D, d, eta):
    """That probability for small sigma, by averaging over the fast v. Not a proof."""

    def scale(U):
        return U ** (-(d - 1) / 2) * (1 - eta * U / 2) ** -0.5

    above, _ = integrate.quad(scale, D, D / alpha)
    below, _ = integrate.quad(scale, alpha * D, D)
    return above / (above + below)


def pgd_stationary(eta, d):
    """The law of |u|^2 for PGD that nothing stops, as a frozen scipy distribution. Averaging argument, not a proof.

    ``eta |u|^2 / 2`` is Beta((d - 1)/2, 3/2): PGD climbs to the edge of stability and stays there, whatever sigma.
    """
    return stats.beta((d - 1) / 2, 3 / 2, scale=2 / eta)


def pgd_plateau(eta, d):
    """The mean of that law, ``(2 / eta) (d - 1) / (d + 2)``."""
    return 2 / eta * (d - 1) / (d + 2)


# --- Theorem 3.1 and Corollary 3.1, Anti-PGD: it goes to the flat end ---------------------------------------------


def anti_reach(D, d, sigma, *, drawn=False):
    """An upper bound on |u_k| for all k, where ``anti_confined`` holds; it is attained.

    drawn: xi_0 is drawn like the others; otherwise it is zero.
    """
    return math.sqrt(D) + (2 if drawn else 1) * sigma * math.sqrt(d)


def anti_overshoot(D, d, sigma, eta, *, drawn=False):
    """How far below zero a multiplier of v can come: a, with ``1 - eta |u_k|^2 >= -a`` for all k."""
    return max(0.0, eta * anti_reach(D, d, sigma, drawn=drawn) ** 2 - 1)


def anti_v_bound(D, d, sigma, eta, *, drawn=False):
    """An upper bound on |v_k| for all k, where ``anti_confined`` holds: 2 sigma, or more if multipliers can be negative."""
    return 2 * sigma / (1 - anti_overshoot(D, d, sigma, eta, drawn=drawn))


def anti_confined(D, d, sigma, eta, *, drawn=False):
    """The hypothesis of the bounds for Anti-PGD with Rademacher noise.

    The noise is no longer than the start, the multipliers of v stay in (-1, 1] and, with the bound on v that follows,
    those of u in [0, 1]; in the long run those of v are positive.
    """
    a, length = anti_overshoot(D, d, sigma, eta, drawn=drawn), sigma * math.sqrt(d)
    return length <= math.sqrt(D) and a < 1 and 4 * eta * sigma**2 <= (1 - a) ** 2 and 4 * eta * length**2 < 1


def anti_moment_bound(k, D, d, sigma, eta, *, drawn=False):
    """An upper bound on E |u_k|^2 for k >= 1, Rademacher noise. At k = 1 and with ``xi_0 = 0`` it is attained."""
    length = sigma * math.sqrt(d)
    highest = anti_reach(D, d, sigma, drawn=drawn) - length  # of the length without the newest noise
    return 2 * length**2 + (1 - eta * sigma**2) ** (k - 1) * (highest**2 - length**2)


def anti_moment_decay(k, D, d, sigma, eta, *, drawn=False):
    """A sharper one with the right rate and limit, where ``anti_overshoot`` is zero; k >= 1."""
    rate = 2 * eta * sigma**2 * (1 - 2 * eta * sigma**2)
    start = D + d * sigma**2 if drawn else D
    return anti_moment_limit(d, sigma, eta) + (1 - rate) ** (k - 1) * start


def anti_moment_limit(d, sigma, eta):
    """An upper bound on limsup E |u_k|^2, barely above ``d sigma^2``."""
    return d * sigma**2 * (1 + 4 * eta * sigma**2 / (1 - 2 * eta * sigma**2))


def anti_trace_limit(d, sigma, eta):
    """An upper bound on limsup E Tr Hessian, barely above ``2 d sigma^2``; the sharp form of Corollary 3.1."""
    S = d * sigma**2
    return anti_moment_limit(d, sigma, eta) + S * (1 + 4 * eta * S / (1 - 2 * eta * S))


def anti_decay_time(sigma, eta):
    """The number of steps in which |u|^2 falls by a factor e, to leading order: ``1 / (2 eta sigma^2)``."""
    return 1 / (2 * eta * sigma**2)


# --- Section 5, the range from PGD to Anti-PGD: w' = w - eta grad L(w) + xi' - c xi ---------------------------------


def dial_variance(rho, c, sigma, *, taken=0.0):
    """The stationary variance of ``w - taken * xi`` in a direction of curvature mu, ``rho = 1 - eta mu`` in (-1, 1).

    For any real c, and tensors that broadcast. taken: 0 for w, c for z, 1 for w without the whole newest perturbation.
    """
    return sigma**2 * ((1 - taken) ** 2 + (rho - c) ** 2 / (1 - rho**2))


def dial_best(rhos):
    """The c that makes the sum of these variances over several directions least, at fixed sigma; rhos: (directions,)."""
    weights = 1 / (1 - rhos**2)
    return (weights * rhos).sum() / weights.sum()


def autoregressive_variance(rho, gamma, S):
    """The stationary variance where a step adds AR(1) noise of variance S and of correlation -gamma from step to step."""
    return S * (1 - rho * gamma) / ((1 - rho**2) * (1 + rho * gamma))


def dial_drift(r, c, d, sigma):
    """The mean change of ``|u|^2`` in a step on the floor of the valley, at ``r = eta |u|^2`` in (0, 2), for small sigma.

    By averaging over the fast v. Not a proof.
    """
    return sigma**2 * ((1 - c) ** 2 * (d - 2 / (2 - r)) - 4 * c * r / (2 - r))


def dial_turn(r, d):
    """The c in (0, 1) at which this drift is zero: below it a run climbs, above it falls. d (2 - r) > 2."""
    k = 4 * r / (d * (2 - r) - 2)
    return 1 + k / 2 - math.sqrt(k + k**2 / 4)


def dial_stationary(eta, d, c):
    """The law of ``|u|^2`` in the long run, for c in [0, 1) and small sigma, as a frozen scipy distribution.

    ``eta |u|^2 / 2`` is Beta((d - 1)/2, 3/2 + 2 c / (1 - c)^2), whatever sigma; at c = 0 it is ``pgd_stationary``.
    """
    return stats.beta((d - 1) / 2, 1.5 + 2 * c / (1 - c) ** 2, scale=2 / eta)


def dial_plateau(eta, d, c):
    """The mean of that law, ``(2 / eta) (d - 1) (1 - c)^2 / ((d + 2) (1 - c)^2 + 4 c)``; zero at c = 1."""
    return 2 / eta * (d - 1) * (1 - c) ** 2 / ((d + 2) * (1 - c) ** 2 + 4 * c)


def saddle_moment(n, rho, c, sigma):
    """E w_n^2, n >= 1, from the top of a parabola that bends down: ``rho = 1 + eta |mu| > 1``, w_0 = 0, xi_0 = 0."""
    return sigma**2 * (1 + (rho - c) ** 2 * (rho ** (2 * (n - 1)) - 1) / (rho**2 - 1))


def saddle_exit_time(R, rho, c, sigma):
    """The mean number of steps until |w| exceeds R, for Gaussian noise and R far above sigma."""
    reach = R * math.sqrt(rho**2 - 1) / (sigma * (rho - c))
    minus_mean_log = (math.log(2) + euler_gamma) / 2  # of |w| over its root mean square, for a normal w
    return 1 + (math.log(reach) + minus_mean_log) / math.log(rho)
