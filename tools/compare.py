"""When two outputs of a cell say the same: equal words, equal integers, and other numbers up to rounding.

Rounding is a relative difference of ``RTOL`` or an absolute one of ``ATOL``: what is zero up to the rounding of a
computation is 0.0 on one machine and 1e-17 on another. So the tests cannot tell numbers below ``ATOL`` apart.
"""

import math
import re

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
INTEGER = re.compile(r"[-+]?\d+")
ATOL = 1e-10
RTOL = 1e-4  # another processor may round the last digits differently; what cells print has few


def is_float(number):
    return not INTEGER.fullmatch(number)


def same_number(a, b):
    """Whether two written numbers agree: integers exactly, others up to rounding. (A float's zero is written "0", too.)"""
    if INTEGER.fullmatch(a) or INTEGER.fullmatch(b):
        return a == b or (is_float(a) or is_float(b)) and max(abs(float(a)), abs(float(b))) <= ATOL
    return math.isclose(float(a), float(b), rel_tol=RTOL, abs_tol=ATOL)


def same(a, b):
    """Whether two texts agree in all but the rounding of their numbers."""
    if NUMBER.split(a) != NUMBER.split(b):
        return False
    return all(map(same_number, NUMBER.findall(a), NUMBER.findall(b)))


class Output(str):
    """An output's text, equal to whatever says the same."""

    __hash__ = None

    def __eq__(self, other):
        return same(self, other)

    def __ne__(self, other):
        return not self == other
