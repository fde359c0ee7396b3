"""The cards of the chapters: what stands on them, and the command that measures what a chapter takes."""

import subprocess
import sys

import pytest

import cards
import notebooks
import runtimes
from antipgd import results
from notebooks import HEADER
from test_notebooks import PAGES

CHAPTERS = [name for name in notebooks.listed() if name not in PAGES]
GREEDY = """
# Greedy

```{code-cell} ipython3
import subprocess, sys, time

held = bytearray(300_000_000)
held[::1000] = b"x" * len(held[::1000])
work = "import time; held = b'x' * 200_000_000\\nwhile time.process_time() < 1: pass"
time.sleep(subprocess.run([sys.executable, "-c", work]).returncode + 0.5)
```
"""


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_has_a_card_with_one_line_on_what_it_shows(name):
    lines = dict(cards.card(name))
    assert list(lines) == ["You will have seen", "It takes", "A GPU", "Measured"], "in its head: card; make runtimes"
    assert 60 < len(lines["You will have seen"]) <= 140
    assert lines["You will have seen"].endswith(".") and "$" not in lines["You will have seen"]


def test_what_is_stored_of_the_run_times_was_written_by_the_command_and_is_of_chapters_that_there_are():
    stored = results.read(cards.RUNTIMES)["chapters"]
    assert set(stored) <= set(notebooks.listed())
    for cost in stored.values():
        assert set(cost) == {"seconds", "megabytes", *runtimes.KEPT}
        assert cost["threads"] == 1


@pytest.fixture
def greedy(tmp_path, monkeypatch):
    """A book of one chapter, which takes a second and half a gigabyte together with a process that it starts."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    for module in (notebooks, runtimes, cards):
        monkeypatch.setattr(module, "BOOK", tmp_path)
    for module in (runtimes, cards):
        monkeypatch.setattr(module, "RUNTIMES", tmp_path / "runtimes.json")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/greedy.ipynb\n")
    head = HEADER.removesuffix("---\n") + "card:\n  shows: Greed.\n  gpu: helps\n---\n"
    (tmp_path / "greedy.md").write_text(head + GREEDY)
    return tmp_path


@pytest.fixture
def another():
    """A process of this one that has nothing to do with the chapter, and is as greedy."""
    held = "held = b'x' * 500_000_000; print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        process.kill()


def test_what_a_chapter_takes_is_measured_with_the_processes_it_starts_and_stands_on_its_card(greedy, another):
    runtimes.main(["greedy"])
    cost = results.read(greedy / "runtimes.json")["chapters"]["greedy"]
    assert 1 < cost["seconds"] < 10 and 500 < cost["megabytes"] < 900
    lines = dict(cards.card("greedy"))
    assert (lines["You will have seen"], lines["A GPU"]) == ("Greed.", "helps")
    assert lines["It takes"].startswith(f"{cost['seconds']:.0f} s of one core and 0.{cost['megabytes'] / 100:.0f} GB")


def test_an_unknown_chapter_is_refused_and_one_without_a_measurement_has_no_card(greedy, capsys):
    with pytest.raises(SystemExit):
        runtimes.main(["absent"])
    assert "no chapters: absent" in capsys.readouterr().err
    results.write(greedy / "runtimes.json", {"chapters": {}})
    assert list(cards.card("greedy")) == []


def test_long_times_are_told_in_minutes():
    assert (cards.spent(12.3), cards.spent(150)) == ("12 s", "2.5 min")
