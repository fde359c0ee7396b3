"""The command that executes chapters, and the one that builds the pages, on small chapters of their own."""

import json
import shutil
import subprocess
import sys

import nbformat
import pytest

import notebooks
from notebooks import HEADER

CHAPTER = (
    HEADER
    + """
# A small chapter

```{code-cell} ipython3
import os, sys, time
import matplotlib.pyplot as plt

print("one")
time.sleep(0.2)
print("two", os.environ["OMP_NUM_THREADS"], os.path.basename(os.getcwd()))
plt.plot([1, 2])
plt.show()
print(sys.prefix == PREFIX, sys.warnoptions, sys.flags.optimize)
```

```{code-cell} ipython3
:tags: [hide-cell]

from tqdm import trange
value = 1
```
""".replace("PREFIX", repr(sys.prefix))
)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """An empty book folder, in place of the project's."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "BOOK", tmp_path / "book")
    monkeypatch.delenv("ANTIPGD_SCALE", raising=False)
    notebooks.BOOK.mkdir()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/small.ipynb\n")
    return notebooks.BOOK


def test_two_runs_write_the_same_bytes(book):
    (book / "small.md").write_text(CHAPTER)
    assert notebooks.main(["small"]) == 0
    first = (book / "small.ipynb").read_bytes()
    assert notebooks.main([]) == 0
    assert (book / "small.ipynb").read_bytes() == first
    assert notebooks.in_sync("small")

    code = [cell for cell in nbformat.reads(first.decode(), as_version=4).cells if cell.cell_type == "code"]
    before, figure, after = code[0].outputs
    assert before.text == "one\ntwo 1 book\n"  # one piece, one thread, the chapter's folder
    assert set(figure.data) == {"image/png", "text/plain"}
    assert after.text == "True [] 0\n"  # the kernel is this environment's
    assert code[1].metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}
    assert code[1].metadata.cellView == "form"
    assert [path.name for path in sorted(book.iterdir())] == ["findings.json", "small.ipynb", "small.md"]


SETTINGS = """
c = get_config()
c.InlineBackend.rc = {"figure.figsize": (2, 2)}
"""


def test_the_shell_and_the_users_settings_change_nothing(book, tmp_path, monkeypatch):
    (book / "small.md").write_text(CHAPTER, encoding="utf-8")
    assert notebooks.main(["small"]) == 0
    before = (book / "small.ipynb").read_bytes()

    profile = tmp_path / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "mine.py").write_text("import sys; sys.prefix = 'elsewhere'\n")
    (profile / "ipython_kernel_config.py").write_text(SETTINGS)
    (tmp_path / "mine.py").write_text("import sys; sys.prefix = 'elsewhere'\n")
    (tmp_path / "matplotlibrc").write_text("lines.color: red\nfigure.figsize: 2, 2\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "mine.py"))
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    monkeypatch.setenv("MATPLOTLIBRC", str(tmp_path / "matplotlibrc"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    if sys.prefix.isascii():  # Python itself does not start in this locale from another folder
        monkeypatch.setenv("LC_ALL", "C")
    assert notebooks.main(["small"]) == 0
    assert (book / "small.ipynb").read_bytes() == before


def test_a_progress_bar_is_left_out_and_a_warning_beside_it_is_refused(book, capfd):
    (book / "small.md").write_text(CHAPTER.replace("value = 1", "for _ in trange(3, leave=False):\n    pass"))
    assert notebooks.main(["small"]) == 0
    *_, last = nbformat.read(book / "small.ipynb", as_version=4).cells
    assert "trange(3" in last.source and last.outputs == []
    (book / "small.md").write_text(CHAPTER.replace("value = 1", "for _ in trange(3):\n    print('beware', file=sys.stderr)"))
    assert notebooks.main(["small"]) == 1
    assert "beware" in capfd.readouterr().err


@pytest.mark.parametrize("line, words", [("1 / 0", "ZeroDivisionError"), ("print('oh', file=sys.stderr)", "stderr")])
def test_a_chapter_that_fails_is_named_with_its_cell_and_keeps_its_notebook(book, capfd, line, words):
    (book / "small.md").write_text(CHAPTER.replace("value = 1", line))
    (book / "small.ipynb").write_text("as it was")
    assert notebooks.main(["small"]) == 1
    assert (book / "small.ipynb").read_text() == "as it was"
    told = capfd.readouterr().err
    assert "small: cell 3" in told and words in told and line in told


def test_the_full_scale_does_not_touch_what_the_tests_run_again(book, monkeypatch):
    monkeypatch.setenv("ANTIPGD_SCALE", "full")
    (book / "small.md").write_text(HEADER + "\n# Small\n\n```{code-cell} ipython3\nprint(1)\n```\n")
    assert notebooks.main(["small"]) == 0
    assert [path.name for path in book.iterdir()] == ["small.md"]
    assert (book.parent / "_build" / "full" / "small.ipynb").exists()


def test_an_unknown_chapter_is_refused(book, capsys):
    with pytest.raises(SystemExit):
        notebooks.main(["absent"])
    assert "there is no book/absent.md" in capsys.readouterr().err


def test_a_text_that_changed_is_not_in_sync(book):
    (book / "small.md").write_text(HEADER + "\n# Small\n")
    notebooks.write(notebooks.read(book / "small.md"), book / "small.ipynb")
    assert notebooks.in_sync("small")
    (book / "small.md").write_text(HEADER + "\n# Smaller\n")
    assert not notebooks.in_sync("small")


DRAWN = """
# Small

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-small
    caption: 'Two lines.'
  image:
    alt: 'They cross.'
tags: [hide-input]
---
1
```
"""


@pytest.mark.parametrize("change", [("Two", "Three"), ("cross", "touch"), ("fig-small", "fig-large"), ("input", "cell")])
def test_a_caption_or_another_description_that_changed_is_not_in_sync(book, change):
    (book / "small.md").write_text(HEADER + DRAWN)
    notebooks.write(notebooks.read(book / "small.md"), book / "small.ipynb")
    assert notebooks.in_sync("small")
    (book / "small.md").write_text(HEADER + DRAWN.replace(*change))
    assert not notebooks.in_sync("small")


def build(folder):
    command = [sys.executable, str(folder / "tools" / "build_book.py")]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def one_page(folder, text):
    """Leave of the book one page with this text, unexecuted."""
    shutil.rmtree(folder / "book")
    (folder / "book").mkdir()
    (folder / "_toc.yml").write_text("format: jb-book\nroot: book/intro.ipynb\n")
    (folder / "book" / "intro.md").write_text(HEADER + text)
    subprocess.run(
        [sys.executable, "-c", "import notebooks as n; n.write(n.read(n.BOOK / 'intro.md'), n.BOOK / 'intro.ipynb')"],
        cwd=folder / "tools",
        check=True,
    )


def test_a_broken_link_stops_the_build(working_copy):
    one_page(working_copy, "\n# Page\n\n[Nowhere](#eq-nowhere)\n")
    told = build(working_copy)
    assert told.returncode != 0 and "eq-nowhere" in told.stdout


def test_a_chapter_that_changed_since_it_was_executed_stops_the_build(working_copy):
    one_page(working_copy, "\n# Page\n")
    (working_copy / "book" / "intro.md").write_text(HEADER + "\n# Another page\n")
    told = build(working_copy)
    assert told.returncode != 0 and "make notebooks" in told.stdout


EQUATIONS = """
# Small

$$
a = b
$$ (eq-first)

> **Theorem.** With
>
> $$
> c = d
> $$ (eq-second)
>
> it holds.

By [](#eq-second), [the first](#eq-first) and [](other.ipynb#eq-elsewhere).
"""


@pytest.fixture
def two_chapters(book):
    """A book of two chapters with equations."""
    (book.parent / "_toc.yml").write_text(
        "format: jb-book\nroot: book/small.ipynb\nchapters:\n  - file: book/other.ipynb\n"
    )
    (book / "small.md").write_text(HEADER + EQUATIONS)
    (book / "other.md").write_text(HEADER + "\n# Other\n\n$$\ne\n$$ (eq-elsewhere)\n")
    return book


def test_equations_get_the_numbers_of_their_chapter_and_references_find_them(two_chapters):
    (cell,) = notebooks.read(two_chapters / "small.md").cells
    assert '<a id="eq-first"></a>\n\n$$\na = b\n\\tag{0.1}\n$$' in cell.source
    assert '> <a id="eq-second"></a>\n>\n> $$\n> c = d\n> \\tag{0.2}\n> $$\n>\n> it holds.' in cell.source
    assert "By [(0.2)](#eq-second), [the first](#eq-first) and [(1.1)](other.ipynb#eq-elsewhere)." in cell.source
    assert "(eq-" not in cell.source


@pytest.mark.parametrize(
    "text, words",
    [
        ("\n[](#eq-absent)\n", "no equation eq-absent"),
        ("\n$$\nx\n$$ (eq-elsewhere)\n", "two equations are called eq-elsewhere"),
    ],
)
def test_a_reference_without_an_equation_and_an_equation_twice_are_refused(two_chapters, text, words):
    (two_chapters / "small.md").write_text(HEADER + text)
    with pytest.raises(ValueError, match=words):
        notebooks.read(two_chapters / "small.md")


def test_an_equation_of_a_chapter_that_is_not_listed_is_refused_with_the_reason(two_chapters):
    (two_chapters / "new.md").write_text(HEADER + "\n$$\nx\n$$ (eq-new)\n")
    with pytest.raises(ValueError, match="eq-new has no number.*_toc.yml"):
        notebooks.read(two_chapters / "new.md")


def test_what_the_cells_found_is_written_for_the_table(book, capsys):
    cell = "from antipgd.book.chapter import claim\nclaim('eq-1', 'It is $x$.', printed=True)"
    (book / "small.md").write_text(HEADER + f"\n# Small\n\n```{{code-cell}} ipython3\n{cell}\n```\n")
    assert notebooks.main(["small"]) == 0
    written = json.loads((book / "findings.json").read_text())
    assert written == {"eq-1": {"verdict": "holds", "finding": "It is $x$."}}
    assert "NAMES='coverage differences'" in capsys.readouterr().out
    assert notebooks.main(["small"]) == 0
    assert "coverage" not in capsys.readouterr().out  # nothing has changed
