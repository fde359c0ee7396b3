"""Anti-PGD: gradient descent with anticorrelated noise.

``AntiPGD`` and ``PGD`` put the noise on your own optimizer, ``sigma_for`` and ``NoiseSchedule`` say how strong it is, and
``hessian_trace`` and ``expected_sharpness`` measure what it is for.

Where to find what: ``noise`` is the method, ``guards`` what may carry it, ``strength`` how strong it is, ``curvature`` the
traces. ``landscapes`` and ``dynamics`` are the toy losses and their runs, ``theory`` and ``pacbayes`` the formulas.
``experiments``, ``sweep`` and ``results`` make and store long runs, ``vision/`` is the ResNet18, and ``book/`` serves the
chapters alone.
"""

from antipgd.curvature import expected_sharpness, hessian_trace
from antipgd.noise import PGD, AntiPGD, CorrelatedNoise
from antipgd.strength import NoiseSchedule, sigma_for

__all__ = ["AntiPGD", "PGD", "CorrelatedNoise", "NoiseSchedule", "expected_sharpness", "hessian_trace", "sigma_for"]
