"""The coverage table: every element of the paper, where the book executes it, and what came out."""

import json
from collections import Counter
from pathlib import Path

import yaml

VERDICTS = {
    "holds": "true as printed",
    "caveat": "true, with something the reader should know",
    "corrected": "false as printed; the book gives the true form",
    "not-reproduced": "did not come out here, and there is nothing to put in its place",
    "not-attempted": "not treated yet",
}
WORDS = {
    "thm": "Theorem",
    "lem": "Lemma",
    "prop": "Proposition",
    "cor": "Corollary",
    "rem": "Remark",
    "fig": "Figure",
}


def load():
    """The entries of ``book/claims.yml``, in the reading order of the paper: a list of dictionaries.

    Each has, as "finding", the words that its cell put out ("" where nothing is executed): ``book/findings.json``.
    """
    found = json.loads(read("findings.json"))
    return [{**claim, "finding": found.get(claim["id"], {}).get("finding", "")} for claim in yaml.safe_load(read("claims.yml"))]


def read(name):
    """The text of a file of the book that an installed package carries, too."""
    packaged, in_the_tree = Path(__file__).parent / name, Path(__file__).parents[1] / "book" / name
    return (packaged if packaged.exists() else in_the_tree).read_text(encoding="utf-8")


def counts(claims):
    """The number of claims for each verdict, in the order of ``VERDICTS``."""
    found = Counter(claim["verdict"] for claim in claims)
    return {verdict: found[verdict] for verdict in VERDICTS}


def label(name):
    """An id as a reader would say it: "eq-24" is "paper (24)", "set-4-resnet" is "Section 4: resnet"."""
    kind, number = name.split("-", 1)
    if kind == "eq":
        return f"paper ({number})"
    if kind == "set":
        section, _, rest = number.partition("-")
        what = f"setting {rest}" if rest.isdigit() else rest.replace("-", " ")
        return f"Section {section}: {what}".removesuffix(": ")
    return f"{WORDS[kind]} {number}"


def evidence(claim, words):
    """A link to the section whose cell shows the claim, as Markdown; the words alone where there is none."""
    return f"[{words}]({claim['chapter']}.ipynb#{claim['cell']})" if claim["cell"] else words


def table(claims):
    """All claims as a Markdown table, one row each."""
    rows = [
        f"| {evidence(claim, label(claim['id']))} | {claim['verdict']} | {claim['paper']} "
        f"| {claim['finding'] or claim['reason']} |"
        for claim in claims
    ]
    return "\n".join(["| element | verdict | what the paper says | what we find |", "|---|---|---|---|", *rows])


def differences(claims):
    """Everything that differs from the paper, in reading order, as a Markdown list with its evidence."""
    return "\n".join(
        f"- **{label(claim['id'])}**, {claim['verdict']}. *In the paper:* {claim['paper']} "
        f"*Here:* {claim['finding']} ({evidence(claim, 'the cell that shows it')})"
        for claim in claims
        if claim["verdict"] in ("caveat", "corrected", "not-reproduced")
    )
