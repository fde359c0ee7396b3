"""Execute chapters: read book/NAME.md, run it, write book/NAME.ipynb.

    python tools/notebooks.py            # all chapters
    python tools/notebooks.py NAME ...   # these

On the way it numbers the equations: `$$ ... $$ (eq-name)` gets the number of its chapter and its own, "(8.3)", and a
place to jump to; `[](#eq-name)` becomes that number, `[words](#eq-name)` keeps its words. What the cells found on the
paper's statements goes to book/findings.json; the pages that show it are executed after that, or named.

A second run writes the same bytes. A chapter that fails, or that prints to stderr, is reported with the cell, and
its .ipynb stays as it was. With ANTIPGD_SCALE=full the notebooks go to _build/full/, because the ones in book/
are what the tests run again, at the quick scale.
"""

import argparse
import asyncio
import json
import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import yaml
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from surroundings import of_a_kernel

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
AT_ONCE = 2
PATIENCE = 300  # seconds for a kernel to start; a busy machine takes more than the usual 60
SHOW_FINDINGS = ("coverage", "differences")  # the pages that are made from what the other chapters found
EQUATION = re.compile(r"^([> ]*)\$\$\n((?:(?!\$\$).)*?)\n\1\$\$ \((eq-[\w-]+)\)$", re.MULTILINE | re.DOTALL)
REFERENCE = re.compile(r"\[\]\(((?:\w+\.ipynb)?)#(eq-[\w-]+)\)")
VERDICT = re.compile(r"\[([\w.-]+)\] ([\w-]+): (.+)", re.DOTALL)
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
# With what a chapter's text begins: that it is a notebook, and for which kernel.
HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
FOLDED = {
    "hide-input": {"cellView": "form", "jupyter": {"source_hidden": True}},
    "hide-cell": {"cellView": "form", "jupyter": {"source_hidden": True, "outputs_hidden": True}},
}


class ThisInterpreter(AsyncKernelManager):
    """Starts kernels with the interpreter that runs this program, whatever kernels are registered elsewhere."""

    @property
    def kernel_spec(self):
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


def listed():
    """The names of the book's chapters, in the order of _toc.yml."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [entry["file"] for part in toc.get("parts", [toc]) for entry in part.get("chapters", [])]
    return [Path(file).stem for file in [toc["root"], *chapters]]


def equation_numbers():
    """The number of each labelled equation of the book, such as "8.3", by its label: the chapter's and its own."""
    numbers = {}
    for chapter, name in enumerate(listed()):
        if not (BOOK / f"{name}.md").exists():
            continue
        text = (BOOK / f"{name}.md").read_text(encoding="utf-8")
        for number, found in enumerate(EQUATION.finditer(text), start=1):
            if found[3] in numbers:
                raise ValueError(f"book/{name}.md: two equations are called {found[3]}")
            numbers[found[3]] = f"{chapter}.{number}"
    return numbers


def numbered(text, numbers):
    """A Markdown cell's text with its equations numbered, and with the numbers where it refers to them.

    Raises ValueError for a reference to an equation that is not there.
    """

    def equation(found):
        lead, formula, label = found[1], found[2], found[3]
        if label not in numbers:
            raise ValueError(f"{label} has no number: its chapter is not in _toc.yml")
        start = lead.rstrip()
        return f'{lead}<a id="{label}"></a>\n{start}\n{lead}$$\n{formula}\n{lead}\\tag{{{numbers[label]}}}\n{lead}$$'

    def reference(found):
        if found[2] not in numbers:
            raise ValueError(f"there is no equation {found[2]}")
        return f"[({numbers[found[2]]})]({found[1]}#{found[2]})"

    return REFERENCE.sub(reference, EQUATION.sub(equation, text))


def read(path):
    """The chapter's text as a notebook without outputs; its cells have stable ids, and Jupyter and Colab fold them."""
    notebook, numbers = jupytext.read(path, fmt="md:myst"), equation_numbers()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = numbered(cell.source, numbers)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC})
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        for tag in cell.metadata.get("tags", ()):
            cell.metadata.update(nbformat.from_dict(FOLDED.get(tag, {})))
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def content(notebook):
    """What a text and its notebook have in common: type, source and metadata of all cells, captions among them."""
    return [(cell.cell_type, cell.source, cell.metadata) for cell in notebook.cells]


def in_sync(name):
    """Whether book/NAME.ipynb was made from book/NAME.md as it is now."""
    notebook = nbformat.read(BOOK / f"{name}.ipynb", as_version=4)
    return content(notebook) == content(read(BOOK / f"{name}.md"))


def merged(outputs):
    """The outputs with each run of text on one stream in one piece; how it arrives cut up depends on the clock."""
    whole = []
    for output in outputs:
        before = whole[-1] if whole else {}
        if output.output_type == "stream" and output.name == before.get("name"):
            before.text += output.text
        else:
            whole.append(output)
    return whole


async def execute(notebook, folder):
    """Run all cells in a fresh kernel, in the folder. Raises CellExecutionError for one that fails."""
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisInterpreter,
        resources={"metadata": {"path": str(folder)}},
        startup_timeout=PATIENCE,
        record_timing=False,
        store_widget_state=False,
    )
    await client.async_execute(env=of_a_kernel())
    notebook.metadata.pop("language_info")  # holds the version of Python
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)


def write(notebook, path):
    """Write the notebook in one step, so that nobody ever reads half of it."""
    nbformat.validate(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    half.replace(path)


def complaint(notebook, error):
    """What went wrong in which cell, in words; None where all is well.

    error: what ended the execution, if anything did.
    """
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                return f"cell {number}: {error}"
            if output.get("name") == "stderr":
                return f"cell {number} printed to stderr:\n\n{cell.source}\n\n{output.text}"
    return None


async def make(source, target, turns):
    """Execute one chapter and write its notebook; the complaint where that fails, else None."""
    notebook, error = read(source), None
    async with turns:
        try:
            await execute(notebook, source.parent)
        except CellExecutionError as failure:
            error = failure
    found = complaint(notebook, error)
    if found is None:
        write(notebook, target)
        print(f"{source.stem}: executed")
    else:
        print(f"{source.stem}: {found}", file=sys.stderr)
    return found


async def make_all(sources, folder):
    """Execute the chapters, two at a time, into the folder. Returns whether all went well."""
    turns = asyncio.Semaphore(AT_ONCE)
    found = await asyncio.gather(*(make(source, folder / f"{source.stem}.ipynb", turns) for source in sources))
    return not any(found)


def verdicts(notebook):
    """The verdicts that a notebook's cells put out: (index of the cell, id, verdict, finding) for each."""
    return [
        (index, *VERDICT.fullmatch(output["data"]["text/plain"]).groups())
        for index, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", ())
        if "text/markdown" in output.get("data", {}) and VERDICT.fullmatch(output["data"]["text/plain"])
    ]


def findings():
    """What the executed chapters found: for each id its verdict and the finding in words, as their cells put them out."""
    found = {}
    for name in listed():
        if name not in SHOW_FINDINGS and (BOOK / f"{name}.ipynb").exists():
            for _, claim, verdict, finding in verdicts(nbformat.read(BOOK / f"{name}.ipynb", as_version=4)):
                found[claim] = {"verdict": verdict, "finding": finding}
    return found


def write_findings():
    """Write book/findings.json, from which the coverage table takes its words. Returns whether it changed."""
    path = BOOK / "findings.json"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = json.dumps(findings(), indent=1, ensure_ascii=False) + "\n"
    path.write_text(after, encoding="utf-8")
    return after != before


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a chapter: book/NAME.md; all of them by default")
    names = parser.parse_args(arguments).names
    sources = [BOOK / f"{name}.md" for name in names] or sorted(BOOK.glob("*.md"))
    for source in sources:
        if not source.exists():
            parser.error(f"there is no book/{source.name}")
    full = os.environ.get("ANTIPGD_SCALE", "quick") == "full"
    folder = ROOT / "_build" / "full" if full else BOOK
    last = [source for source in sources if source.stem in SHOW_FINDINGS]
    well = asyncio.run(make_all([source for source in sources if source not in last], folder))
    if well and folder == BOOK and write_findings() and not last:
        print("book/findings.json has changed: execute the pages that show it, NAMES='" + " ".join(SHOW_FINDINGS) + "'")
    return 0 if asyncio.run(make_all(last, folder)) and well else 1


if __name__ == "__main__":
    sys.exit(main())
