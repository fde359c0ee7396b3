"""Change what a statement says, and see whether its own check notices.

    python tools/mutants.py              # all chapters, two at a time
    python tools/mutants.py NAME ...     # these

tests/mutants/NAME.yml lists, for the chapter NAME, changes of a decisive constant, sign or term, in the chapter's code or
in a file of the module, each with the claim of the paper that it makes false. A mutant is noticed if, in the section of
that claim, a check fails, a cell fails, or the verdict comes out otherwise. One that is not noticed survives: then the
check would pass with its sentence false. Prints one line for each, and ends with 1 if any survived.

The chapter runs once. A mutant is a fork of that run, taken just before the first cell that it changes.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml

from notebooks import BOOK, ROOT, verdicts

LISTS = ROOT / "tests" / "mutants"
AT_ONCE = 2
NOT_A_PROGRAM = (SyntaxError, NameError, TypeError, AttributeError, ImportError)  # the change itself is wrong
PATIENCE = 300  # seconds for one mutant


class Mutant(NamedTuple):
    """One change: the claim that it makes false, the file it is in (None: the chapter), the text and what replaces it."""

    claim: str
    file: str | None
    old: str
    new: str


def read_list(path):
    """The mutants of a chapter, and the claims that need none, each with the reason: (list of Mutant, dictionary)."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    mutants = [Mutant(each["claim"], each.get("file"), each["old"], each["new"]) for each in content.get("mutants") or ()]
    return mutants, content.get("exact") or {}


class Chapter:
    """The code cells of an executed chapter, and where each claim of the paper gets its verdict."""

    def __init__(self, name, book=BOOK):
        notebook = nbformat.read(book / f"{name}.ipynb", as_version=4)
        self.name, self.cells = name, []
        section, section_of = 0, []
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                section += any(line.startswith("#") for line in cell.source.splitlines())
            section_of.append(section)
            if cell.cell_type == "code":
                self.cells.append((section, cell.source))
        found = verdicts(notebook)
        self.verdict = {claim: verdict for _, claim, verdict, _ in found}
        self.section = {claim: section_of[index] for index, claim, _, _ in found}

    def first_changed(self, mutant):
        """The index of the first code cell that the mutant changes. ValueError where its text does not occur once."""
        if mutant.file:
            occurrences, where = (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old), 0
        else:
            found = [i for i, (_, source) in enumerate(self.cells) if mutant.old in source]
            occurrences, where = sum(source.count(mutant.old) for _, source in self.cells), found[0] if found else 0
        if occurrences != 1:
            raise ValueError(f"{self.name}, {mutant.claim}: the text occurs {occurrences} times: {mutant.old!r}")
        return where

    def sources(self, mutant):
        """The sources of the code cells with the mutant's change made."""
        changed = (lambda text: text) if mutant.file else (lambda text: text.replace(mutant.old, mutant.new))
        return [changed(source) for _, source in self.cells]


def listen(heard):
    """Put in place of check and claim two that write down what they would say, and go on."""
    import antipgd.book.chapter as book

    def check(statement, condition):
        heard.append(("check", statement, bool(condition)))

    def claim(name, finding, **found):
        try:
            heard.append(("claim", name, book.verdict(**found)))
        except (AssertionError, ValueError) as error:
            heard.append(("claim", name, str(error)))

    book.check, book.claim = check, claim


def notices(chapter, mutant, start, space, heard):
    """Run the mutant from its first changed cell to the end of its claim's section, and say what noticed it, or ""."""
    section = chapter.section[mutant.claim]
    for i, source in enumerate(chapter.sources(mutant)[start:], start):
        if chapter.cells[i][0] > section:
            break
        before, inside = len(heard), chapter.cells[i][0] == section
        try:
            run(source, space)
        except Exception as error:
            if inside and not isinstance(error, NOT_A_PROGRAM):
                return f"the cell fails: {type(error).__name__}: {error}"
            raise RuntimeError(f"stopped before the section of its claim: {type(error).__name__}: {error}") from error
        for kind, name, said in heard[before:]:
            if kind == "check" and not said and inside:
                return f"does not hold: {name}"
            if kind == "claim" and name == mutant.claim and said != chapter.verdict[name]:
                return f"the verdict becomes: {said}"
    return ""


def run(source, space):
    """Execute one cell without its prints and pictures."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(source, "cell", "exec"), space)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def in_a_fork(chapter, mutant, start, space, heard):
    """What noticed the mutant, found in a fork of this process, which stays as it is."""

    def work(channel):
        with tempfile.TemporaryDirectory() as folder:
            try:
                if mutant.file:
                    shutil.copytree(ROOT / "antipgd", Path(folder) / "antipgd")
                    (Path(folder) / "book").symlink_to(BOOK)  # where the module finds stored results
                    file = Path(folder) / mutant.file
                    file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
                    sys.path.insert(0, folder)
                    for name in [name for name in sys.modules if name.partition(".")[0] == "antipgd"]:
                        del sys.modules[name]
                    listen(heard)
                channel.send(notices(chapter, mutant, start, space, heard))
            except Exception as error:
                channel.send(RuntimeError(f"{mutant.claim}: {error}"))

    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=work, args=(theirs,))
    process.start()
    said = ours.recv() if ours.poll(PATIENCE) else RuntimeError(f"{mutant.claim}: takes more than {PATIENCE} s")
    process.kill()
    process.join()
    return said


def examine(name):
    """Try all mutants of a chapter: yields (mutant, what noticed it, "" or the error, seconds) for each."""
    import matplotlib
    import torch

    matplotlib.use("agg")
    import matplotlib.pyplot  # noqa: F401  what most chapters import, once for all forks
    import scipy.stats  # noqa: F401

    torch.set_num_threads(1)
    os.chdir(BOOK)
    chapter, (mutants, _) = Chapter(name), read_list(LISTS / f"{name}.yml")
    starts = [chapter.first_changed(mutant) for mutant in mutants]
    heard, space = [], {"__name__": "__main__"}

    def due(i, of_the_module):
        for mutant, start in zip(mutants, starts):
            if start == i and bool(mutant.file) == of_the_module:
                began = time.monotonic()
                said = in_a_fork(chapter, mutant, start, space, heard)
                yield mutant, said, time.monotonic() - began

    yield from due(0, True)  # before the module is imported
    listen(heard)
    last = max((start for mutant, start in zip(mutants, starts) if not mutant.file), default=-1)
    for i, (_, source) in enumerate(chapter.cells[: last + 1]):
        yield from due(i, False)
        if i < last:
            run(source, space)
    failed = [statement for kind, statement, said in heard if kind == "check" and not said]
    if failed:
        raise RuntimeError(f"{name}: unchanged, this does not hold: {failed}")


def report(name):
    """Print a line for each mutant of the chapter as it is done; the number that survived, and how many there were."""
    survived = count = 0
    for mutant, said, seconds in examine(name):
        noticed = isinstance(said, str) and said != ""
        count += 1
        survived += not noticed
        mark = "noticed " if noticed else "SURVIVED"
        print(f"{mark} {name} {mutant.claim} ({seconds:.0f} s): {mutant.old!r} -> {mutant.new!r}: {said}", flush=True)
    return survived, count


def report_in_a_process(name):
    """``report`` in a fresh interpreter, since each chapter needs one; it passes on what is printed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(report, name).result()


def main(arguments=None):
    known = sorted(path.stem for path in LISTS.glob("*.yml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"a chapter: {', '.join(known)}; all by default")
    names = parser.parse_args(arguments).names or known
    for name in names:
        if name not in known:
            parser.error(f"there is no tests/mutants/{name}.yml")
    os.environ.update({"ANTIPGD_SCALE": "quick", "OMP_NUM_THREADS": "1"})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(report_in_a_process, names))
    survived, count = (sum(each) for each in zip(*results))
    print(f"{count} mutants, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
