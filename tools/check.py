"""Run the tests of what was changed, and of nothing else.

    python tools/check.py NAME ...

A NAME is a chapter, book/NAME.md, or a file or folder of the module, antipgd/NAME.py. For a chapter: it is executed again
and its outputs compared, the guards that look at single chapters look at this one, and tests/test_NAME.py runs, if there
is one.
For a file of the module: its tests, tests/test_NAME*.py. What rests on it elsewhere, only `make test` sees.
"""

import argparse
import subprocess
import sys

from notebooks import BOOK, ROOT

OF_ONE_CHAPTER = ("notebooks", "notation", "jupyter_view")  # the tests of single chapters that take seconds


def of_chapter(name):
    """The files with the tests of a chapter, and what marks its own among them: two lists."""
    if not (BOOK / f"{name}.md").exists():
        return [], []
    files = [f"book/{name}.ipynb", *(f"tests/test_{each}.py" for each in OF_ONE_CHAPTER)]
    own = [file for file in [f"tests/test_{name}.py"] if (ROOT / file).exists()]
    return files + own, [f"{name}.ipynb", f"[{name}]", *(file.removeprefix("tests/") for file in own)]


def of_module(name):
    """The files with the tests of a file of the module, and what marks its own among them: two lists."""
    module = ROOT / "antipgd"
    if not any(path.exists() for path in (module / f"{name}.py", module / "book" / f"{name}.py", module / name)):
        return [], []
    files = sorted(path.name for path in (ROOT / "tests").glob(f"test_{name}*.py"))
    return [f"tests/{file}" for file in files], files


def selection(names):
    """The arguments by which pytest runs the tests of these chapters and files. ValueError for one that has none."""
    files, marks = {}, []
    for name in names:
        found = [of_chapter(name), of_module(name)]
        if not any(its_files for its_files, _ in found):
            raise ValueError(f"no chapter book/{name}.md, and no antipgd/{name}.py with a tests/test_{name}.py")
        for its_files, its_marks in found:
            files.update(dict.fromkeys(its_files))
            marks += its_marks
    return [*files, "-k", " or ".join(marks)]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a chapter, or a file of the module")
    names = parser.parse_args(arguments).names
    try:
        chosen = selection(names)
    except ValueError as error:
        parser.error(str(error))
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *chosen], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
