"""The command that tests what was changed: it finds the tests of a chapter and of a file, and no others."""

import pytest

import check
from project import ROOT, pytest_in


def collected(names):
    """The ids of the tests that the command would run."""
    told = pytest_in(ROOT, "--collect-only", *check.selection(names))
    return [line for line in told.splitlines() if "::" in line]


def test_the_tests_of_a_chapter_and_of_a_file():
    ids = collected(["notation", "pacbayes"])
    files = {each.partition("::")[0] for each in ids}
    chapter = {"book/notation.ipynb", "tests/test_notebooks.py", "tests/test_notation.py", "tests/test_jupyter_view.py"}
    assert files == chapter | {"tests/test_pacbayes.py"}
    assert all("[notation]" in each for each in ids if "test_notebooks" in each or "test_jupyter_view" in each)
    assert "tests/test_notebooks.py::test_the_notebook_was_made_from_the_text_as_it_is[notation]" in ids


def test_a_file_of_the_module_has_all_tests_with_its_name():
    files, marks = check.of_module("noise")
    assert {"tests/test_noise.py", "tests/test_noise_sequences.py"} <= set(files) and "test_noise.py" in marks


def test_a_chapter_has_the_tests_of_its_name():
    files, marks = check.of_chapter("frameworks")
    assert "tests/test_frameworks.py" in files and "test_frameworks.py" in marks


def test_a_name_without_tests_is_refused(capsys):
    with pytest.raises(SystemExit):
        check.main(["absent"])
    assert "no chapter book/absent.md" in capsys.readouterr().err
