"""Anti-PGD: gradient descent with anticorrelated noise.

``AntiPGD`` and ``PGD`` put the noise on your own optimizer; the other modules hold what the book's chapters share.
"""

from antipgd.curvature import hessian_trace
from antipgd.noise import AntiPGD, CorrelatedNoise, PGD

__all__ = ["AntiPGD", "CorrelatedNoise", "PGD", "hessian_trace"]
