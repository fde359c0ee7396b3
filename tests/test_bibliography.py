"""The chapters' lists of references against the one file of all works, and the page that is made from it."""

import pytest

from bibliography import BOOK, cited, citing, faults, links, page, references, works

WORKS = works()
LINE = (
    "- S. S. Du, W. Hu, J. D. Lee. *Algorithmic Regularization in Learning Deep Homogeneous Models: Layers are "
    "Automatically Balanced.* NeurIPS 2018. [arXiv 1806.00900](https://arxiv.org/abs/1806.00900)"
)
WRONG = [
    ("Balanced", "Unbalanced", "not in references.bib"),
    ("W. Hu", "W. Hua", "other authors"),
    ("2018", "2019", "another year: 2019"),
    ("abs/1806.00900", "abs/1806.00901", "a link that is not in references.bib"),
    (" [arXiv 1806.00900](https://arxiv.org/abs/1806.00900)", "", "without a link"),
]


@pytest.mark.parametrize("name", citing())
def test_what_a_chapter_cites_is_in_the_file_as_it_stands_there(name):
    assert [(line, fault) for line in references(name) for fault in faults(line, WORKS)] == []


def test_every_work_of_the_file_is_cited():
    assert set(WORKS) == {work for name in citing() for line in references(name) for work in cited(line)}


@pytest.mark.parametrize("work", WORKS.values(), ids=lambda work: work.key)
def test_a_work_that_is_no_book_can_be_opened_by_its_number_or_its_page(work):
    assert work.type == "book" or list(links(work))


def test_the_page_is_what_the_file_and_the_chapters_say():
    assert (BOOK / "bibliography.md").read_text(encoding="utf-8") == page(), "python tools/bibliography.py"


@pytest.mark.parametrize("right, wrong, words", WRONG)
def test_a_line_that_parts_from_the_file_is_found(right, wrong, words):
    assert right in LINE and list(faults(LINE, WORKS)) == []
    assert any(fault.startswith(words) for fault in faults(LINE.replace(right, wrong), WORKS))
