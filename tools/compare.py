"""When two outputs of a cell say the same: equal words, equal integers, and other numbers up to rounding."""

import math
import re

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
INTEGER = re.compile(r"[-+]?\d+")
RTOL = 1e-4  # another processor may round the last digits differently; what cells print has few


def same_number(a, b):
    """Whether two written numbers agree: integers exactly, others to a relative ``RTOL``."""
    if INTEGER.fullmatch(a) or INTEGER.fullmatch(b):
        return a == b
    return math.isclose(float(a), float(b), rel_tol=RTOL)


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
