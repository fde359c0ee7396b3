"""The card at the head of a chapter's page: what its reader will have seen, what it takes, and whether a GPU helps.

What it shows and what a GPU does stand in the head of book/NAME.md, under `card`; what it takes was measured, by
tools/runtimes.py. A chapter without these has no card.
"""

import json

import yaml

from notebooks import BOOK

RUNTIMES = BOOK / "results" / "runtimes.json"


def card(name):
    """The lines of a chapter's card, as pairs of a heading and words; none for a page that has none."""
    _, head, _ = (BOOK / f"{name}.md").read_text(encoding="utf-8").split("---\n", 2)
    told = yaml.safe_load(head).get("card")
    cost = told and json.loads(RUNTIMES.read_text(encoding="utf-8"))["chapters"].get(name)
    if cost:
        gigabytes = cost["megabytes"] / 1000
        yield "You will have seen", told["shows"]
        yield "It takes", f"{spent(cost['seconds'])} of one core and {gigabytes:.1f} GB, at the quick scale"
        yield "A GPU", told["gpu"]
        yield "Measured", f"{cost['date'][:10]}, {cost['device']}, Python {cost['python']}, torch {cost['torch']}"


def spent(seconds):
    """A time in words, with two digits."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
