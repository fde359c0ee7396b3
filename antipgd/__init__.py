"""Anti-PGD: gradient descent with anticorrelated noise.

``AntiPGD`` and ``PGD`` put the noise on your own optimizer, ``sigma_for`` and ``NoiseSchedule`` say how strong it is, and
``hessian_trace`` and ``expected_sharpness`` measure what it is for; the other modules hold what the book's chapters share.
"""

from antipgd.curvature import expected_sharpness, hessian_trace
from antipgd.noise import PGD, AntiPGD, CorrelatedNoise
from antipgd.strength import NoiseSchedule, sigma_for

__all__ = ["AntiPGD", "PGD", "CorrelatedNoise", "NoiseSchedule", "expected_sharpness", "hessian_trace", "sigma_for"]
