"""Every check of a statement has a negative twin, and the command that tries them tells a good check from a bad one."""

import nbformat
import pytest

import antipgd.book.chapter
import mutants
from antipgd.book import claims
from project import ROOT

SAMPLE = ("label_noise", "intro")  # quick ones; `make mutants` tries all
EXECUTED = [claim for claim in claims.load() if claim["verdict"] in ("holds", "caveat", "corrected")]
LISTS = {path.stem: mutants.read_list(path) for path in sorted(mutants.LISTS.glob("*.yml"))}


@pytest.mark.parametrize("claim", EXECUTED, ids=lambda claim: claim["id"])
def test_a_claim_has_a_mutant_or_is_an_exact_identity(claim):
    listed, exact = LISTS.get(claim["chapter"], ([], {}))
    assert any(mutant.claim == claim["id"] for mutant in listed) or exact.get(claim["id"])


@pytest.mark.parametrize("name", LISTS)
def test_the_mutants_belong_to_the_chapter_as_it_is(name):
    chapter, (listed, exact) = mutants.Chapter(name), LISTS[name]
    for mutant in listed:
        assert mutant.claim in chapter.verdict and mutant.old != mutant.new, mutant
        chapter.first_changed(mutant)  # raises where its text does not occur once
    assert set(exact) <= set(chapter.verdict)


@pytest.mark.parametrize("name", SAMPLE)
def test_checks_notice_when_their_sentence_is_false(name):
    assert mutants.main([name]) == 0


CELLS = [
    "## Setting",
    "from antipgd.book.chapter import check, claim\nfrom antipgd.theory import pgd_drift\nslope, noise = 2.0, 1.0",
    "## Claims",
    "check('the slope is two', slope == 2)",
    "claim('eq-1', 'found', printed=pgd_drift(3, noise) > 1.6)",
    "claim('eq-2', 'found', printed=True)",
]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A function that tries one mutant of a small chapter, and gives what noticed it."""
    cells = [
        (nbformat.v4.new_markdown_cell if text.startswith("#") else nbformat.v4.new_code_cell)(text) for text in CELLS
    ]
    for number in (4, 5):
        words = {"text/plain": f"[eq-{number - 3}] holds: found", "text/markdown": "found"}
        cells[number].outputs = [nbformat.v4.new_output("display_data", words)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "small.ipynb")

    for name in ("check", "claim"):  # which the trial replaces, until the end of this test
        monkeypatch.setattr(antipgd.book.chapter, name, getattr(antipgd.book.chapter, name))

    def trial(claim, old, new, file=None):
        chapter, mutant = mutants.Chapter("small", tmp_path), mutants.Mutant(claim, file, old, new)
        start = chapter.first_changed(mutant)
        space, heard = {"__name__": "__main__"}, []
        if not file:
            mutants.listen(heard)
            mutants.run("\n".join(source for _, source in chapter.cells[:start]), space)
        return mutants.in_a_fork(chapter, mutant, start, space, heard)

    return trial


def test_a_claim_that_depends_on_the_change_notices_it(small):
    assert small("eq-1", "noise = 2.0, 1.0", "noise = 2.0, 0.1") == "the verdict becomes: not-reproduced"


def test_a_change_of_the_module_is_noticed(small):
    assert "not-reproduced" in small("eq-1", "(d - 4 / 3) * sigma**2", "(d - 2) * sigma**2", "antipgd/theory.py")


def test_a_check_of_the_section_notices(small):
    assert small("eq-2", "slope, noise = 2.0", "slope, noise = 3.0") == "does not hold: the slope is two"


def test_a_claim_that_cannot_fail_lets_its_mutant_survive(small):
    assert small("eq-2", "noise = 2.0, 1.0", "noise = 2.0, 0.1") == ""


def test_a_change_that_is_no_program_is_an_error_and_not_noticed(small):
    assert isinstance(small("eq-1", "pgd_drift(3, noise)", "unknown(3, noise)"), RuntimeError)


def test_a_text_that_does_not_occur_once_is_refused(small):
    with pytest.raises(ValueError, match="occurs 2 times"):
        small("eq-1", "'found'", "'lost'")


def test_the_lists_are_of_chapters():
    assert {path.stem for path in mutants.LISTS.iterdir()} <= {path.stem for path in (ROOT / "book").glob("*.md")}
