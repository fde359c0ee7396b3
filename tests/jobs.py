"""Functions that the tests of sweeps run in other processes, which find them by name; this file imports little.

A configuration is a dictionary with ``x`` and ``log``, a folder in which each call leaves a file: what ran, how often.
"""

import os
import secrets
import signal
import time
from pathlib import Path


def square(configuration):
    Path(configuration["log"], f"{configuration['x']}-{os.getpid()}-{secrets.token_hex(4)}").touch()
    return configuration["x"] ** 2


def slow_square(configuration):
    result = square(configuration)
    time.sleep(0.5)
    return result


def fatal_for_three(configuration):
    """Kills its own process on x = 3, unless a file "cured" lies in the log's folder; without a word."""
    result = square(configuration)
    if configuration["x"] == 3 and not Path(configuration["log"], "cured").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def fatal_for_three_among_slow_ones(configuration):
    """As ``fatal_for_three``, when the others that began with it are still at work."""
    if configuration["x"] != 3:
        time.sleep(1)
        return square(configuration)
    time.sleep(0.2)
    return fatal_for_three(configuration)


def fails(configuration):
    """What can go wrong in a job, by x."""
    match configuration["x"]:
        case 1:
            raise ValueError("one is too small")
        case 2:
            raise SystemExit(2)
        case 3:
            return {1, 2}  # no JSON
        case 4:
            return float("nan")  # no JSON either
    return square(configuration)
