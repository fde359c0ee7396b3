"""Each notebook as plain Jupyter shows it, which knows nothing of the book: formulas typeset, no markup left raw."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

from notebooks import BOOK, listed

MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-chtml.js"
# The delimiters that Jupyter and Colab know. An unknown command is an error here, as in the book.
PAGE = """<!doctype html><meta charset="utf-8"><script>
MathJax = {{tex: {{inlineMath: [["$", "$"]], displayMath: [["$$", "$$"]], packages: {{"[-]": ["noundefined"]}}}}}};
</script><script src="{mathjax}"></script>{body}"""

chapters = pytest.mark.parametrize("name", listed())


@pytest.fixture(scope="module")
def shown(browser, tmp_path_factory):
    """A function that gives the page of a notebook, typeset, in the browser; made once."""
    folder, pages = tmp_path_factory.mktemp("jupyter"), {}

    def of(name):
        if name not in pages:
            body, _ = HTMLExporter(template_name="basic").from_filename(BOOK / f"{name}.ipynb")
            file = folder / f"{name}.html"
            file.write_text(PAGE.format(mathjax=MATHJAX.as_uri(), body=body), encoding="utf-8")
            pages[name] = browser.new_page()
            pages[name].goto(file.as_uri())
            pages[name].evaluate("MathJax.startup.promise")
        return pages[name]

    return of


@chapters
def test_formulas_are_typeset(shown, name):
    page = shown(name)
    written = [cell.source for cell in nbformat.read(BOOK / f"{name}.ipynb", 4).cells if cell.cell_type == "markdown"]
    displayed = sum(text.count("$$") // 2 for text in written)
    assert page.locator("mjx-container[display=true]").count() >= displayed
    assert page.evaluate("[...document.querySelectorAll('mjx-merror')].map(e => e.textContent)") == []


@chapters
def test_no_markup_is_left_raw(shown, name):
    text = shown(name).evaluate("""() => {
        const body = document.body.cloneNode(true);
        body.querySelectorAll("pre, code, script, style, mjx-container").forEach(e => e.remove());
        return body.textContent;
    }""")
    for raw in (r"\$", r"\{[\w:.+-]+\}`", r":::", r"^\([^)\s]+\)=", r"\\begin", r"^#+ ", r"<details", r"\]\("):
        assert not re.search(raw, text, re.MULTILINE), raw
