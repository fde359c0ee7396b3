"""What the chapters share: the scale at which they run, checks, tables, choices from a grid, verdicts."""

import os
from dataclasses import dataclass

import torch
from IPython.display import display

from antipgd import results
from antipgd.book.claims import label

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


@dataclass(frozen=True)
class Shown:
    """An output with two faces: Markdown for the reader, and plain text for the comparison and for a terminal."""

    plain: str
    markdown: str

    def __repr__(self):
        return self.plain

    def _repr_markdown_(self):
        return self.markdown


def table(head, rows):
    """Show rows of values below their headings, as a table that a phone can scroll.

    head: the headings. rows: a list of rows as long as the head; a float is shown with three digits, a string as it is
    (in Markdown, formulas included). Raises ValueError for a row of another length.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"The table has {len(head)} columns, and a row has {len(row)}: {row!r}.")
    cells = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    lines = [" | ".join(row) for row in [[str(name) for name in head], *cells]]
    rule = "|".join("---" for _ in head)
    markdown = "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])
    display(Shown("\n".join(lines), markdown))


def two_digits(x):
    """A number as text with two digits that count, and no exponent where it is read as easily without: 31,000; 0.0036."""
    return f"{float(f'{x:.2g}'):,g}" if 1e-3 <= abs(x) < 1e6 or not x else f"{x:.2g}"


def origin(*names, source=results):
    """Show, folded into one line, where stored results come from: their command, seeds, device, versions and date.

    names: of the results. source: the module that loads them and names their command, ``results`` or ``vision.records``.
    """
    lines = [f"- {told(source.load(name), source.RENEW)}" for name in names]
    words = "Stored result: how it was made" if len(names) == 1 else "Stored results: how they were made"
    head = f'<details class="origin"><summary>{words}</summary>'
    display(Shown("\n".join([words, *lines]), "\n\n".join([head, "\n".join(lines), "</details>"])))


def told(stored, renew):
    """Where a stored result comes from, in one line of Markdown."""
    made = stored.provenance
    changed = " with changes" if made["uncommitted changes of the module"] else ""
    confirmed = "; in small runs the present code gives the same bits as the one that made it" if "confirmed" in made else ""
    images = f" on {stored.configuration['images']} (`--data`)" if "images" in stored.configuration else ""
    return ", ".join([
        f"`{renew.format(name=stored.name)}`{images}: seeds {' '.join(map(str, stored.seeds))}",
        f"{made['device']}, threads: {made['threads']}",
        *(f"{name} {made[name]}" for name in ("python", "torch", "numpy")),
        f"{made['date'][:10]}, in {made['seconds']:.0f} s, from commit {made['commit'][:7]}{changed}{confirmed}",
    ])


@dataclass(frozen=True)
class Choice:
    """What ``choose`` found: the setting, its score, and the names of the grids on whose edge it lies."""

    setting: dict
    score: float
    edges: tuple


def choose(scores, *, edges="refuse", **grids):
    """The setting with the lowest score on a grid, by the one rule of this book: an optimum lies inside its grid.

    scores: shape (len of the first grid, len of the second, ...), a mean over what was set aside for choosing; lower is
    better. grids: the increasing values along each axis, by name, in the order of the axes.
    edges: "refuse" raises where the best lies on the edge of a grid, or beside settings whose runs failed, since then
    nothing shows that the score rises again before they do; "say" returns it with the grids' names.

    Raises ValueError for an edge, for a score that is not a number (a run that failed has the score infinity), and for
    scores of another shape than the grids.
    """
    scores = torch.as_tensor(scores, dtype=torch.float64)
    if scores.shape != tuple(len(grid) for grid in grids.values()):
        raise ValueError(f"The scores have the shape {tuple(scores.shape)}, and the grids {[*map(len, grids.values())]}.")
    if scores.isnan().any():
        raise ValueError("A score is not a number: give a run that failed the score infinity.")
    at = torch.unravel_index(scores.argmin(), scores.shape)
    setting = {name: grid[i] for (name, grid), i in zip(grids.items(), at)}
    on_edge = tuple(name for axis, name in enumerate(grids) if at_an_edge(scores, at, axis))
    if on_edge and edges == "refuse":
        where = ", ".join(f"{name} = {setting[name]:g}" for name in on_edge)
        raise ValueError(
            f"The best setting lies on the edge of its grid, or beside runs that failed: {where}. Extend the grid beyond "
            "it, or refine it there."
        )
    return Choice(setting, scores[at].item(), on_edge)


def at_an_edge(scores, at, axis):
    """Whether the grid ends at this place along this axis, or has only failed runs on one side of it."""
    along = scores[tuple(slice(None) if other == axis else i for other, i in enumerate(at))]
    i = at[axis]
    return bool(i in (0, len(along) - 1) or along[i - 1].isinf() or along[i + 1].isinf())


def check(statement, condition):
    """Print ``holds: statement``, or raise AssertionError where the condition is false."""
    if not bool(condition):
        raise AssertionError(f"does not hold: {statement}")
    print(f"holds: {statement}")


def claim(name, finding, *, printed, corrected=None, caveat=False):
    """Show the verdict on one statement of the paper: ``[name] verdict: finding``.

    name: its id in ``book/claims.yml``, such as "eq-24" or "thm-2.1". finding: what the cell found, in words that can
    be read alone, as Markdown: the coverage table repeats them. printed: whether the statement holds as it is printed,
    or as a line beside an evident slip shows that it is meant (the caveat is then that the printed form is off).
    corrected: whether our corrected statement holds, where there is one. caveat: whether what the reader should know
    besides is so (a hypothesis that is needed, a slip that nothing depends on): a measured condition, not a constant.

    Raises what ``verdict`` raises, with the name.
    """
    try:
        found = verdict(printed=printed, corrected=corrected, caveat=caveat)
    except (AssertionError, ValueError) as error:
        raise type(error)(f"{name}: {error} ({finding})") from None
    display(Shown(f"[{name}] {found}: {finding}", f"> **{SAID[found]}:** {label(name)}. {finding}"))


def verdict(*, printed, corrected=None, caveat=False):
    """The verdict that follows from what a cell found; the arguments are those of ``claim``.

    Holds; caveat; corrected (printed fails, ours holds); not-reproduced (printed fails and there is none to put in its
    place). Raises AssertionError where our own correction fails, and ValueError where a correction or a caveat stands
    beside a statement that does not call for it.
    """
    if corrected is not None and not bool(corrected):
        raise AssertionError("the corrected form does not hold")
    if printed and corrected is not None:
        raise ValueError("it holds as printed, so it takes no correction")
    if caveat and not printed:
        raise ValueError("it fails as printed, and a caveat belongs to a statement that holds")
    if printed:
        return "caveat" if caveat else "holds"
    return "not-reproduced" if corrected is None else "corrected"


# How a verdict is said to a reader; the pages colour what begins with these words.
SAID = {
    "holds": "Holds",
    "caveat": "Holds, with a caveat",
    "corrected": "Corrected",
    "not-reproduced": "Not reproduced",
}
