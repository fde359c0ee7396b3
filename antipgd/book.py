"""What the chapters share: the scale at which they run, checks, and verdicts on the paper's statements."""

import os

SCALE = "ANTIPGD_SCALE"


def at_scale(*, quick, full):
    """The value for the scale of this run: ``quick`` (the default) or ``full``, the environment variable ANTIPGD_SCALE.

    Raises ValueError for another value of the variable.
    """
    values = {"quick": quick, "full": full}
    scale = os.environ.get(SCALE, "quick")
    if scale not in values:
        raise ValueError(f"{SCALE} is {scale!r}: set it to 'quick' or 'full'.")
    return values[scale]


def check(statement, condition):
    """Print ``holds: statement``, or raise AssertionError where the condition is false."""
    if not bool(condition):
        raise AssertionError(f"does not hold: {statement}")
    print(f"holds: {statement}")


def claim(name, finding, *, printed, corrected=None, caveat=False):
    """Print the verdict on one statement of the paper: ``[name] verdict: finding``.

    name: its id in ``book/claims.yml``, such as "eq-24" or "thm-2.1". finding: what the cell found, in words.
    printed: whether the statement holds as it is printed. corrected: whether our corrected statement holds, where
    there is one. caveat: the printed statement holds, but the reader should know more (a hypothesis that is
    needed, a slip that nothing depends on).

    The verdict follows from these: holds; caveat; corrected (printed fails, ours holds); not-reproduced (printed
    fails and there is none to put in its place). Raises AssertionError where our own correction fails, and
    ValueError where a correction or a caveat stands beside a statement that does not call for it.
    """
    printed = bool(printed)
    if corrected is not None and not bool(corrected):
        raise AssertionError(f"the corrected form of {name} does not hold: {finding}")
    if printed and corrected is not None:
        raise ValueError(f"{name} holds as printed: it takes no correction.")
    if caveat and not printed:
        raise ValueError(f"{name} fails as printed: a caveat belongs to a statement that holds.")
    if printed:
        verdict = "caveat" if caveat else "holds"
    else:
        verdict = "not-reproduced" if corrected is None else "corrected"
    print(f"[{name}] {verdict}: {finding}")
