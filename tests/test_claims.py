"""The coverage table says what the executed chapters say: every row is found again in the output of its cell."""

import graphlib
import json
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from myst_parser.mdit_to_docutils.base import default_slugify

import notebooks
from antipgd.book import claims

BOOK = Path(__file__).resolve().parents[1] / "book"
FIELDS = ["id", "kind", "chapter", "cell", "criterion", "uses", "paper", "verdict", "reason", "finding"]
KINDS = {
    "eq": "equation",
    "thm": "theorem",
    "lem": "lemma",
    "prop": "proposition",
    "cor": "corollary",
    "rem": "remark",
    "fig": "figure",
    "set": "setting",
}
NUMBERED = [
    *(f"eq-{n}" for n in range(1, 81)),
    *(f"fig-{n}" for n in range(1, 18)),
    *["thm-2.1", "thm-2.2", "thm-3.1", "cor-3.1"],
    *["lem-C.1", "cor-C.2", "rem-C.3", "prop-C.4", "cor-C.5", "rem-C.6", "prop-C.7", "rem-C.8", "cor-C.9"],
]
CLAIMS = claims.load()
ATTEMPTED = [claim for claim in CLAIMS if claim["verdict"] != "not-attempted"]


def printed(path):
    """The verdicts in a notebook's outputs: (section, id, verdict) for each, where section is its heading's anchor."""
    section, sections, notebook = "", [], nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)
            section = default_slugify(headings[-1]) if headings else section
        sections.append(section)
    return [(sections[index], name, verdict) for index, name, verdict, _ in notebooks.verdicts(notebook)]


def disagreements(claim, found):
    """What is wrong with a row, given the (section, id, verdict) that its chapter printed."""
    mine = [(section, verdict) for section, name, verdict in found if name == claim["id"]]
    if len(mine) != 1:
        return [f"{claim['id']}: its chapter {claim['chapter']} prints {len(mine)} verdicts on it"]
    section, verdict = mine[0]
    wrong = []
    if section != claim["cell"]:
        wrong.append(f"{claim['id']}: stands in section {section!r} and not in {claim['cell']!r}")
    if verdict != claim["verdict"]:
        wrong.append(f"{claim['id']}: its cell says {verdict!r} and the table {claim['verdict']!r}")
    return wrong


PRINTED = {path.stem: printed(path) for path in sorted(BOOK.glob("*.ipynb"))}


def test_every_verdict_is_what_its_cell_printed():
    wrong = [line for claim in ATTEMPTED for line in disagreements(claim, PRINTED.get(claim["chapter"], []))]
    assert wrong == []


def test_every_printed_verdict_has_its_row():
    rows = {(claim["chapter"], claim["id"]) for claim in ATTEMPTED}
    missing = [(chapter, name) for chapter, found in PRINTED.items() for _, name, _ in found if (chapter, name) not in rows]
    assert missing == []


def test_every_numbered_element_of_the_paper_has_one_row():
    count = Counter(claim["id"] for claim in CLAIMS)
    assert [name for name in NUMBERED if count[name] != 1] == []
    assert [name for name, times in count.items() if times > 1] == []


def test_every_finding_is_what_its_cell_put_out():
    stored = json.loads((BOOK / "findings.json").read_text(encoding="utf-8"))
    assert stored == notebooks.findings(), "make notebooks writes book/findings.json"
    assert [claim["id"] for claim in ATTEMPTED if claim["id"] not in stored] == []


def test_a_statement_rests_on_statements_of_the_paper_and_not_on_itself():
    uses = {claim["id"]: claim["uses"] for claim in CLAIMS}
    assert [(name, used) for name in uses for used in uses[name] if used not in uses] == []
    list(graphlib.TopologicalSorter(uses).static_order())  # raises CycleError where one rests on itself


def test_nothing_holds_that_rests_on_something_false_without_saying_so():
    """What a corrected statement was used for is either not affected, which its reason says, or does not hold."""
    verdict = {claim["id"]: claim["verdict"] for claim in CLAIMS}
    unsaid = [
        (claim["id"], used)
        for claim in CLAIMS
        if claim["verdict"] in ("holds", "caveat")
        for used in claim["uses"]
        if verdict[used] in ("corrected", "not-reproduced") and claims.label(used) not in claim["reason"]
    ]
    assert unsaid == []


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_row_is_complete(claim):
    assert list(claim) == FIELDS
    assert all(isinstance(value, list if field == "uses" else str) for field, value in claim.items())
    assert claim["kind"] == KINDS[claim["id"].split("-")[0]]
    assert claim["verdict"] in claims.VERDICTS and claim["paper"]
    assert not any("|" in claim[field] for field in ("paper", "finding", "reason")), "a bar would end the table's cell"
    if claim["verdict"] == "not-attempted":
        assert claim["reason"] and not (claim["chapter"] or claim["cell"] or claim["finding"])
    else:
        assert claim["chapter"] and claim["cell"] and claim["criterion"] and claim["finding"]


def test_a_wrong_row_is_noticed():
    claim = {"id": "eq-24", "chapter": "smoothed_loss", "cell": "the-variance", "verdict": "corrected"}
    right = [("the-variance", "eq-24", "corrected")]
    assert disagreements(claim, right) == []
    assert disagreements(claim, [("the-variance", "eq-24", "holds")])
    assert disagreements(claim, [("elsewhere", "eq-24", "corrected")])
    assert disagreements(claim, [])
    assert disagreements(claim, right * 2)


def test_the_pages_show_every_row():
    table = claims.table(CLAIMS)
    assert table.count("\n") == len(CLAIMS) + 1
    for claim in CLAIMS:
        assert f'<a id="{claim["id"]}"></a>' in table and claims.label(claim["id"]) in table
    assert sum(claims.counts(CLAIMS).values()) == len(CLAIMS)


def test_every_difference_is_listed_once_with_a_link_to_its_cell():
    """Among the first or in the list of its verdict; a verdict that the page does not list has no claims."""
    lists = [claims.first_differences(CLAIMS), *(claims.differences(CLAIMS, name) for name in ("corrected", "caveat"))]
    page = "\n".join(lists)
    for claim in CLAIMS:
        link = claims.evidence(claim, claims.label(claim["id"]))
        assert page.count(f"{link}, {claim['verdict']}.") == claims.differs(claim), claim["id"]
    assert lists[0].count("\n") + 1 == len(claims.FIRST)
    for text in lists[1:]:
        groups = re.findall(r"^\*\*In \[", text, re.MULTILINE)
        assert len(groups) == len(set(re.findall(r"\((\w+)\.ipynb#", text)))


@pytest.mark.parametrize(
    "name, words",
    [
        ("eq-24", "paper (24)"),
        ("thm-2.1", "Theorem 2.1"),
        ("set-3.2", "Section 3.2"),
        ("set-D.1-2", "Section D.1: setting 2"),
        ("set-2.3-label-noise-loss", "Section 2.3: label noise loss"),
    ],
)
def test_label(name, words):
    assert claims.label(name) == words


FEW = [
    {"id": "eq-71", "uses": [], "verdict": "corrected", "chapter": "valley_theorem", "cell": "the-trace"},
    {"id": "eq-72", "uses": ["eq-71"], "verdict": "corrected", "chapter": "valley_theorem", "cell": "the-trace"},
    {"id": "eq-1", "uses": [], "verdict": "holds", "chapter": "smoothed_loss", "cell": "methods"},
    {"id": "thm-3.1", "uses": ["eq-72", "eq-71"], "verdict": "holds", "chapter": "valley_theorem", "cell": "the-end"},
    {"id": "fig-6", "uses": ["fig-2"], "verdict": "not-attempted", "chapter": "", "cell": ""},
    {"id": "fig-2", "uses": [], "verdict": "not-attempted", "chapter": "", "cell": ""},
]


def test_a_statement_stands_right_of_all_on_which_it_rests_and_shares_its_place_with_none():
    for elements in (FEW, CLAIMS):
        at = claims.places(claims.rests_on(elements), [claim["id"] for claim in elements])
        assert len(set(at.values())) == len(at)
        for claim in elements:
            assert all(at[used][0] < at[claim["id"]][0] for used in claim["uses"])


def test_the_graph_has_a_linked_box_for_each_statement_with_a_line_for_each_use():
    svg = ElementTree.fromstring(claims.graph(FEW))
    boxes = {box.get("data-name"): box for box in svg.iter("a")}
    assert set(boxes) == {"eq-71", "eq-72", "thm-3.1", "fig-6", "fig-2"}  # eq-1 stands alone
    assert boxes["thm-3.1"].get("href") == "valley_theorem.ipynb#the-end" and boxes["fig-6"].get("href") is None
    assert [boxes[name].find("text").text for name in ("eq-72", "thm-3.1")] == ["✎ (72)", "✓ Thm 3.1"]
    assert boxes["eq-71"].findall("rect")[-1].get("stroke") == claims.SIGNS["corrected"][1]
    lines = {(line.get("data-from"), line.get("data-to")) for line in svg.iter("path")}
    assert lines == {("eq-71", "eq-72"), ("eq-72", "thm-3.1"), ("eq-71", "thm-3.1"), ("fig-2", "fig-6")}


def test_every_verdict_has_a_sign_of_its_own():
    assert list(claims.SIGNS) == list(claims.VERDICTS)
    assert len(set(claims.SIGNS.values())) == len({color for _, color in claims.SIGNS.values()}) == len(claims.SIGNS)
