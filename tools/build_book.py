"""Build the pages from the executed notebooks, into _build/html (or FOLDER/_build/html).

    python tools/build_book.py [FOLDER]

Always from nothing, which takes seconds: what is left of an earlier build repeats warnings that were cured, and keeps
pages that are gone. Any warning stops it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from finish_pages import finish
from notebooks import BOOK, ROOT, in_sync, listed


def stale():
    """A sentence for each chapter whose notebook is missing or not made from its text as it is now."""
    for name in listed():
        if not (BOOK / f"{name}.ipynb").exists() or not in_sync(name):
            yield f"book/{name}.ipynb is not what book/{name}.md says now. Way out: make notebooks"


def build(folder=ROOT):
    """Build the book below the folder, and return its first page. RuntimeError with Sphinx's words where it warns."""
    made = folder / "_build"
    for old in (made / "html", made / ".doctrees"):
        shutil.rmtree(old, ignore_errors=True)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    command = [jupyter_book, "build", ROOT, "--path-output", folder, "-W", "-n", "--keep-going", "-q"]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if said.returncode:
        raise RuntimeError(f"the book was not built:\n{said.stdout}")
    finish(made / "html", ROOT / "_build" / "pictures")
    return made / "html" / "index.html"


def main():
    troubles = list(stale())
    if troubles:
        sys.exit("\n".join(troubles))
    build(*(Path(folder).resolve() for folder in sys.argv[1:]))


if __name__ == "__main__":
    main()
