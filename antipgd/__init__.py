"""Anti-PGD: gradient descent with anticorrelated noise.

``AntiPGD`` and ``PGD`` put the noise on your own optimizer, ``sigma_for`` and ``NoiseSchedule`` say how strong it is, and
``hessian_trace`` measures what it is for; the other modules hold what the book's chapters share.
"""

from antipgd.curvature import hessian_trace
from antipgd.noise import PGD, AntiPGD, CorrelatedNoise
from antipgd.strength import NoiseSchedule, sigma_for

__all__ = ["AntiPGD", "PGD", "CorrelatedNoise", "NoiseSchedule", "hessian_trace", "sigma_for"]
