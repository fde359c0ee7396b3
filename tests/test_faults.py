"""The tests of the chapters at work: in a small book of chapters with faults, each fault is found, by its test.

The chapters are the skeleton of a new one with its words filled in, which has none. Other faults are tried where their
tests are: stored results that are stale in test_experiments.py, links within the built pages in test_execution.py,
statements that are false in test_mutants.py.
"""

import asyncio
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

import new_chapter
import notebooks
from project import copy_tree, pytest_in

CHECK = "Anti-PGD ends where the trace is lower"
WORDS = "The argument."
EXERCISE = "test_its_exercises_have_a_level_a_hint_a_cell_for_the_answer_and_a_solution_that_is_right"
# Faults that a cell shows when it is executed again, all in one chapter: the change, and the cell.
IN_OUTPUTS = {
    "changed array": (("(51) 0.00000 to 500.000", "(51) 0.00000 to 501.000"), "Cell 3"),
    "changed result": ((f"holds: {CHECK}", "holds: Anti-PGD ends where the trace is higher"), "Cell 4"),
}
IN_CODE = {
    "wrong answer": (("sigma: 2 * sigma**2", "sigma: 3 * sigma**2"), "Cell 7"),
    "wrong solution": (("runs.z) >= 0", "runs.z) <= 0"), "Cell 9"),
}
# Faults of the text, a chapter each: the change, and the test that finds it.
IN_TEXT = {
    "no_level": (("**Standard.** ", ""), EXERCISE),
    "no_hint": (("Hint</summary>\n\nA first step, or", "More</summary>\n\nA first step, or"), EXERCISE),
    "no_checker": (('exercise("skeleton-3", answer)', "answer"), EXERCISE),
    "typed_number": ((WORDS, "It falls to 0.1234."), "test_its_prose_types_no_number_that_no_cell_shows"),
    "bad_tex": ((WORDS, r"So $\unheardof{w} = 1$."), "test_formulas_are_typeset"),
    "broken_link": ((WORDS, "See [elsewhere](elsewhere.ipynb)."), "test_its_links_lead_to_chapters_and_equations"),
    "unfilled": ((WORDS, "‹Words.›"), "test_no_words_are_left_to_be_filled_in"),
}
# What is edited in the text alone, after the chapter was executed.
EDITED = {
    "edited_words": (WORDS, "Another argument."),
    "edited_caption": ("What is drawn,", "What is shown,"),
    "edited_description": ("What can be seen,", "What is to be seen,"),
}
IN_SYNC = "test_the_notebook_was_made_from_the_text_as_it_is"
CHAPTERS = ["sound", "cells", *IN_TEXT, *EDITED]


def filled_in(name):
    """The text of a new chapter of this name, with words. The book of faults has another first page than ours."""
    return re.sub("‹([^›]*)›", r"\1", new_chapter.text(name)).replace("(intro.ipynb)", "(sound.ipynb)")


def changed(text, *changes):
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def texts():
    """The text of each chapter, when it is executed."""
    code = [change for change, _ in IN_CODE.values()]
    changes = {"cells": code, **{name: [change] for name, (change, _) in IN_TEXT.items()}}
    return {name: changed(filled_in(name), *changes.get(name, ())) for name in CHAPTERS}


def list_chapters(folder, names):
    root, *others = (f"file: book/{name}.ipynb" for name in names)
    lines = [f"root: {root.removeprefix('file: ')}", "chapters:", *(f"  - {other}" for other in others)]
    (folder / "_toc.yml").write_text("\n".join(["format: jb-book", *lines]) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the tests find in the book of faults: a set of (chapter, name of the test that fails)."""
    folder = copy_tree(tmp_path_factory.mktemp("faults") / "copy")
    shutil.rmtree(folder / "book")
    (folder / "book").mkdir()
    list_chapters(folder, CHAPTERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebooks, "ROOT", folder)
        patch.setattr(notebooks, "BOOK", folder / "book")
        written = texts()
        for name, text in written.items():
            (folder / "book" / f"{name}.md").write_text(text, encoding="utf-8")
        chapters = {name: notebooks.read(folder / "book" / f"{name}.md") for name in CHAPTERS}
        asyncio.run(notebooks.execute(chapters["sound"], folder / "book"))
        chapters["sound"].metadata = nbformat.from_dict({"kernelspec": notebooks.KERNELSPEC})
    for name, chapter in chapters.items():
        for cell, first in zip(chapter.cells, chapters["sound"].cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = first.outputs, first.execution_count
        outputs = [change for change, _ in IN_OUTPUTS.values()] if name == "cells" else []
        text = changed(nbformat.writes(chapter) + "\n", *outputs)
        (folder / "book" / f"{name}.ipynb").write_text(text, encoding="utf-8")
    for name, change in EDITED.items():
        (folder / "book" / f"{name}.md").write_text(changed(written[name], change), encoding="utf-8")
    executed = ("book/sound.ipynb", "book/cells.ipynb")  # the others' cells are those of the first
    told = pytest_in(folder, "-rfE", "tests/test_notebooks.py", "tests/test_jupyter_view.py", *executed)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)::(Cell \d+|\w+)(?:\[(\w+)\])?", told, re.MULTILINE)
    return {(chapter or file.removeprefix("book/").removesuffix(".ipynb"), test) for file, test, chapter in failed}


def failing(found, name):
    return {test for chapter, test in found if chapter == name}


def test_a_cell_that_does_something_else_is_found_and_no_other(found):
    assert failing(found, "cells") == {cell for _, cell in [*IN_OUTPUTS.values(), *IN_CODE.values()]}


@pytest.mark.parametrize("name", IN_TEXT)
def test_a_fault_of_the_text_is_found_by_its_test_and_by_no_other(found, name):
    assert failing(found, name) == {IN_TEXT[name][1]}


@pytest.mark.parametrize("name", EDITED)
def test_what_is_edited_in_the_text_alone_is_found(found, name):
    assert failing(found, name) == {IN_SYNC}


def test_a_new_chapter_with_its_words_filled_in_has_no_fault(found):
    assert failing(found, "sound") == set()
    assert {chapter for chapter, _ in found} == set(CHAPTERS) - {"sound"}


def test_a_new_chapter_is_written_and_listed(working_copy):
    command = [sys.executable, working_copy / "tools" / "new_chapter.py"]
    toc = (working_copy / "_toc.yml").read_text(encoding="utf-8")
    assert subprocess.run([*command, "my_chapter"], check=True, stdout=subprocess.PIPE).returncode == 0
    assert (working_copy / "book" / "my_chapter.md").read_text(encoding="utf-8") == new_chapter.text("my_chapter")
    added = set((working_copy / "_toc.yml").read_text(encoding="utf-8").splitlines()) - set(toc.splitlines())
    assert added == {"      - file: book/my_chapter.ipynb"}
    for name, words in (("my_chapter", "exists already"), ("My chapter", "is no name of a chapter")):
        told = subprocess.run([*command, name], check=False, stderr=subprocess.PIPE, text=True)
        assert told.returncode == 1 and words in told.stderr
