"""The rule by which outputs are compared, alone and at work in nbval."""

import asyncio
import re
import shutil

import nbformat
import pytest

import notebooks
from compare import same
from project import ROOT, pytest_in


@pytest.mark.parametrize(
    "a, b",
    [
        ("loss 0.123456", "loss 0.123457"),  # rounding
        ("1.5e-3 and 20", "1.50001e-03 and 20"),
        ("nothing", "nothing"),
        ("error 0.0", "error 1e-17"),  # zero up to the rounding of a computation
        ("error 0", "error -3.2e-12"),
        ("from 2.1e-16 to 1.0", "from 4.5e-16 to 1.0"),
    ],
)
def test_rounding_passes(a, b):
    assert same(a, b)


@pytest.mark.parametrize(
    "a, b",
    [
        ("loss 0.123", "loss 0.124"),  # a digit
        ("loss 0.123", "loss -0.123"),  # a sign
        ("loss 1.5e-3", "loss 1.5e-4"),  # a power
        ("10000 steps", "10001 steps"),  # an integer, near as it is
        ("2 steps", "2.0 steps"),  # an integer against a float
        ("1 failure", "0 failures"),
        ("0 steps", "1 steps"),
        ("error 1e-9", "error 2e-9"),  # small, but above the absolute tolerance
        ("error 0", "error 1e-9"),
        ("loss 0.5", "gain 0.5"),  # a word
        ("loss 0.5", "loss 0.5 0.5"),  # one more number
        ("loss 0.5", "loss 0.5\n"),  # a line
    ],
)
def test_everything_else_fails(a, b):
    assert not same(a, b)


@pytest.fixture
def project(tmp_path):
    """A project with nothing but what compares the outputs of its notebooks."""
    for folder in ("tools", "book"):
        (tmp_path / folder).mkdir()
    for name in ("conftest.py", "pyproject.toml", "tools/compare.py", "tools/surroundings.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_nbval_compares_by_this_rule(project):
    cases = [("x 0.333334", "x 0.333333"), ("x 0.334333", "x 0.333333"), ("3 of 4", "3 of 3"), ("one", "two")]
    cells = []
    for stored, printed in cases:
        stream = nbformat.v4.new_output("stream", name="stdout", text=stored + "\n")
        cells.append(nbformat.v4.new_code_cell(f"print({printed!r})", outputs=[stream], execution_count=1))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), project / "book" / "cases.ipynb")
    told = pytest_in(project, "-rA", "book")
    verdicts = re.findall(r"^(PASSED|FAILED) book/cases.ipynb::Cell (\d)", told, re.MULTILINE)
    assert sorted(verdicts) == [("FAILED", "1"), ("FAILED", "2"), ("FAILED", "3"), ("PASSED", "0")], told


FIGURE = """\
import matplotlib.pyplot as plt
from antipgd.book import figures
figures.use_style()
plt.plot([0, 1, 2, 3], VALUES)
plt.show()"""


def test_a_figure_that_draws_something_else_fails(project):
    """The picture itself is not compared; its summary is, and one value inside an array is enough.

    The shell chooses another backend, which would show no figure: then both would fail.
    """
    for name, values in (("same", "[1, 5, 2, 9]"), ("other", "[1, 5, 3, 9]")):
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FIGURE.replace("VALUES", "[1, 5, 2, 9]"))])
        asyncio.run(notebooks.execute(made, project))
        assert set(made.cells[0].outputs[0].data) == {"image/png", "text/plain"}
        made.cells[0].source = FIGURE.replace("VALUES", values)
        nbformat.write(made, project / "book" / f"{name}.ipynb")
    told = pytest_in(project, "-rA", "book", MPLBACKEND="Agg")
    verdicts = re.findall(r"^(PASSED|FAILED) book/(\w+).ipynb::Cell 0", told, re.MULTILINE)
    assert sorted(verdicts) == [("FAILED", "other"), ("PASSED", "same")], told
