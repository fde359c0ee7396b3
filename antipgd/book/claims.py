"""The coverage table: every element of the paper, where the book executes it, and what came out."""

import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import networkx
import yaml

VERDICTS = {
    "holds": "true as printed",
    "caveat": "true, with something the reader should know; or an evident slip, which a line beside it sets right and on "
    "which nothing depends",
    "corrected": "false as printed; the book gives the true form",
    "not-reproduced": "did not come out here, and there is nothing to put in its place",
    "not-attempted": "cannot be told at the scale that was run; its row names the command that decides it",
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
    packaged, in_the_tree = Path(__file__).parent / name, Path(__file__).parents[2] / "book" / name
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
    """A link to the section whose cell shows the claim, as Markdown; the words alone where there is none.

    Its title is the claim's id, by which the book's pages lead to the very output of that cell.
    """
    return f"[{words}]({claim['chapter']}.ipynb#{claim['cell']} \"{claim['id']}\")" if claim["cell"] else words


def table(claims):
    """All claims as a Markdown table, one row each, with a place of the claim's id to which links can jump."""
    rows = [
        f"| <a id=\"{claim['id']}\"></a>{evidence(claim, label(claim['id']))} | {claim['verdict']} | {claim['paper']} "
        f"| {claim['finding'] or claim['reason']} |"
        for claim in claims
    ]
    return "\n".join(["| element | verdict | what the paper says | what we find |", "|---|---|---|---|", *rows])


# The differences on which most depends, and what each is about: the two theorems, what their proofs and their discussion
# rest on, and the two experiments of which most is said.
FIRST = {
    "thm-2.1": "The theorem on convergence lacks a hypothesis, and its bound is not the best",
    "thm-3.1": "The widening valley theorem, read as a statement on where the runs leave",
    "eq-71": "A factor of two in the proof for uncorrelated noise",
    "prop-C.7": "A bound for uncorrelated noise that needs more than is said",
    "set-A-larger-variance": "Whose steps vary more",
    "set-4-sensing": "The start, which the paper does not state, decides who is ahead",
    "set-4-resnet": "The network: flatter in a small copy, test accuracy not told apart",
}


def differs(claim):
    """Whether what we find is something else than what is printed, or something more that a reader should know."""
    return claim["verdict"] in ("caveat", "corrected", "not-reproduced")


def first_differences(claims):
    """The differences on which most depends, as Markdown: each with what it is about, in the order of ``FIRST``."""
    by_name = {claim["id"]: claim for claim in claims}
    return "\n".join(f"1. **{about}.** {difference(by_name[name])}" for name, about in FIRST.items())


def differences(claims, verdict):
    """All with this verdict that are not among the first, as Markdown: a list for each chapter that shows them."""
    lines, chapter = [], None
    for claim in sorted(claims, key=lambda claim: claim["chapter"]):  # in the order of the paper within each
        if claim["verdict"] == verdict and claim["id"] not in FIRST:
            if claim["chapter"] != chapter:
                chapter = claim["chapter"]
                lines.append(f"\n**In [{chapter.replace('_', ' ')}]({chapter}.ipynb)**\n")
            lines.append(f"- {difference(claim)}")
    return "\n".join(lines)


def difference(claim):
    """What the paper says and what we find, as Markdown, with a link to the cell that shows it."""
    return f"{evidence(claim, label(claim['id']))}, {claim['verdict']}. *In the paper:* {claim['paper']} *Here:* {claim['finding']}"


# How the graph shows a verdict: a sign, so that nothing depends on colour, and a colour with enough contrast on light
# and on dark ground.
SIGNS = {
    "holds": ("✓", "#2e8b57"),
    "caveat": ("≈", "#a87900"),
    "corrected": ("✎", "#c0562f"),
    "not-reproduced": ("✗", "#9a5cb0"),
    "not-attempted": ("…", "#7f7f7f"),
}
SHORT = {"Theorem": "Thm", "Proposition": "Prop", "Corollary": "Cor", "Lemma": "Lem", "Remark": "Rem", "Figure": "Fig"}
BOX, GAP = (104, 26), (40, 8)  # pixels: width and height of a statement's box, and what lies between two


def rests_on(claims):
    """The directed graph from premises to conclusions, without the statements that neither rest on one nor carry one."""
    return networkx.DiGraph((used, claim["id"]) for claim in claims for used in claim["uses"])


def places(graph, order):
    """Where each statement stands, as (column, row): right of all on which it rests, and in the order of the paper.

    Parts of the graph that do not hang together stand below each other.
    """
    at, top = {}, 0
    for part in sorted(networkx.weakly_connected_components(graph), key=lambda part: min(map(order.index, part))):
        columns = [sorted(names, key=order.index) for names in networkx.topological_generations(graph.subgraph(part))]
        at |= {name: (i, top + j) for i, names in enumerate(columns) for j, name in enumerate(names)}
        top += max(map(len, columns))
    return at


def graph(claims):
    """What rests on what in the paper, as an SVG element (a string): boxes that link to the cells, coloured by verdict."""
    edges, by_name = rests_on(claims), {claim["id"]: claim for claim in claims}
    at = places(edges, list(by_name))
    corner = {name: (column * (BOX[0] + GAP[0]) + 4, row * (BOX[1] + GAP[1]) + 4) for name, (column, row) in at.items()}
    width, height = (max(xy[i] for xy in corner.values()) + BOX[i] + 4 for i in (0, 1))
    svg = ElementTree.Element(
        "svg", {"class": "claims", "viewBox": f"0 0 {width} {height}", "width": str(width), "role": "group"}
    )
    svg.set("aria-label", "Statements of the paper as boxes, with a line from each to those that rest on it.")
    for used, name in edges.edges:
        (x0, y0), (x1, y1) = corner[used], corner[name]
        start, end, bend = (x0 + BOX[0], y0 + BOX[1] / 2), (x1, y1 + BOX[1] / 2), GAP[0] * 0.8
        path = "M{:g} {:g} C{:g} {:g} {:g} {:g} {:g} {:g}".format(*start, start[0] + bend, start[1], end[0] - bend, end[1], *end)
        look = {"d": path, "fill": "none", "stroke": "currentColor", "stroke-opacity": "0.4"}
        ElementTree.SubElement(svg, "path", {**look, "data-from": used, "data-to": name})
    for name, (x, y) in corner.items():
        box(svg, by_name[name], x, y)
    return ElementTree.tostring(svg, encoding="unicode")


def box(svg, claim, x, y):
    """Add the box of one statement to the SVG element, with its corner at (x, y)."""
    sign, color = SIGNS[claim["verdict"]]
    words = label(claim["id"]).removeprefix("paper ")
    for long, short in SHORT.items():
        words = words.replace(long, short)
    words = words.replace("Section ", "§ ").replace(": setting ", ", ").split(":")[0]
    link = ElementTree.SubElement(svg, "a", {"data-name": claim["id"]})
    if claim["cell"]:
        link.set("href", f"{claim['chapter']}.ipynb#{claim['cell']}")
    ElementTree.SubElement(link, "title").text = f"{label(claim['id'])}: {VERDICTS[claim['verdict']]}"
    size = {"x": str(x), "y": str(y), "width": str(BOX[0]), "height": str(BOX[1]), "rx": "5"}
    ElementTree.SubElement(link, "rect", {**size, "class": "ground", "fill": "white"})  # hides the lines behind the words
    ElementTree.SubElement(link, "rect", {**size, "fill": color, "fill-opacity": "0.15", "stroke": color, "stroke-width": "2"})
    middle = {"x": f"{x + BOX[0] / 2:g}", "y": f"{y + BOX[1] / 2 + 5:g}", "text-anchor": "middle"}
    ElementTree.SubElement(link, "text", {**middle, "fill": "currentColor", "font-size": "14"}).text = f"{sign} {words}"
