"""The whole book as one PDF, from its built pages: each printed by Chromium, joined, with links that stay inside.

    python tools/pdf.py    # _build/html/anticorrelated-noise.pdf, after make book; a minute or two

A link to another page of the book leads to the sheet where that page begins, a link within a page to its place; links to
the web stay, and those to the module's source go. The outline has the chapters' titles.
"""

import io
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject, NullObject, NumberObject

from browsers import chromium
from notebooks import ROOT, listed

HTML = ROOT / "_build" / "html"
PAPER = {"format": "A4", "margin": dict.fromkeys(("top", "bottom", "left", "right"), "18mm"), "print_background": True}
# Pictures load when one comes near them, and on paper nobody does; a page is typeset when its formulas are.
READY = """async () => {
    const pictures = [...document.images];
    for (const each of pictures) each.loading = "eager";
    await Promise.all(pictures.map(each => each.decode().catch(() => {})));
    await window.MathJax?.startup?.promise;
}"""


def printed(browser, file):
    """A page of the book on paper: its title, and the PDF as a reader."""
    page = browser.new_page()
    page.emulate_media(media="print", color_scheme="light")
    page.goto(file.as_uri())
    page.evaluate(READY)
    title = page.locator("article h1").first.inner_text().rstrip("#").strip()
    content = page.pdf(**PAPER)
    page.close()
    return title, PdfReader(io.BytesIO(content))


def joined(browser, folder, names):
    """The chapters of these names, printed from the folder of built pages, as one PDF: a ``PdfWriter``."""
    writer, first = PdfWriter(), {}
    for name in names:
        file = folder / "book" / f"{name}.html"
        title, reader = printed(browser, file)
        first[file] = len(writer.pages)
        writer.append(reader, outline_item=title)
    for sheet in writer.pages:
        links = [link for link in sheet.get("/Annots", ()) if lead_inside(writer, link.get_object(), first)]
        if links:
            sheet[NameObject("/Annots")] = ArrayObject(links)
        else:
            sheet.pop("/Annots", None)
    writer.add_metadata({"/Title": "Anticorrelated noise, executed"})
    return writer


def lead_inside(writer, link, first):
    """Let a link to a page of the book lead to the sheet where it begins. first: the number of that sheet, by file.

    Returns whether the link leads anywhere: the pages with the module's source are not on paper.
    """
    address = link["/A"].get("/URI") if "/A" in link else None
    if not (address and address.startswith("file:")):
        return True
    file = Path(unquote(urlsplit(urldefrag(address)[0]).path))
    if file not in first:
        return False
    place = [writer.pages[first[file]].indirect_reference, NameObject("/XYZ"), NullObject(), NullObject(), NumberObject(0)]
    del link["/A"]
    link[NameObject("/Dest")] = ArrayObject(place)
    return True


def main():
    if not (HTML / "index.html").exists():
        sys.exit("There are no pages to print: make book")
    path = HTML / "anticorrelated-noise.pdf"
    with sync_playwright() as playwright, chromium(playwright) as browser:
        joined(browser, HTML, listed()).write(path)
    print(path)


if __name__ == "__main__":
    main()
