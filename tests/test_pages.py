"""The finished pages in a browser, from disk and without a network: at two widths, light and dark."""

import functools
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import networkx
import pytest
from bs4 import BeautifulSoup

from antipgd import claims
from build_book import build
from notebooks import BOOK, listed
from set_repository import address

CHAPTERS = listed()
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
# sphinx-thebe, which the theme loads on every page, declares a name twice; the theme reports an unset preference; and
# that of Python 3.10 asks for its fonts a second time, in a way that browsers refuse from disk.
KNOWN_COMPLAINTS = re.compile(
    "Identifier 'THEBE_JS_URL' has already been declared"
    "|Got invalid theme mode: . Resetting to auto."
    "|Access to font at 'file:.*/fontawesome/.*|Failed to load resource: net::ERR_FAILED"
)

chapters = pytest.mark.parametrize("name", CHAPTERS)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the built book."""
    return build(tmp_path_factory.mktemp("book")).parent


class Visit:
    """One page, opened without a network; it remembers what it asked for and what it complained about."""

    def __init__(self, browser, url):
        self.asked, self.complaints = [], []
        self.page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        self.page.route("**/*", self.only_from_disk)
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)

    def only_from_disk(self, route):
        if re.match("(file|data|blob):", route.request.url):
            route.continue_()
        else:
            self.asked.append(route.request.url)
            route.abort()

    def look(self, width, scheme):
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme=scheme)
        self.page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)


@pytest.fixture(scope="module")
def visit(browser, html):
    """A function that gives the visit of a chapter, made once."""
    visits = {}

    def of(name):
        if name not in visits:
            visits[name] = Visit(browser, (html / "book" / f"{name}.html").as_uri())
            visits[name].page.wait_for_function("window.MathJax?.startup?.promise")
            visits[name].page.evaluate("MathJax.startup.promise")
        return visits[name]

    return of


@chapters
def test_it_asks_nothing_of_the_network_and_complains_of_nothing(visit, name):
    seen = visit(name)
    assert seen.asked == []
    assert [text for text in seen.complaints if not KNOWN_COMPLAINTS.fullmatch(text)] == []


@chapters
def test_all_formulas_are_typeset(visit, name):
    page = visit(name).page
    assert (
        page.evaluate("""[...document.querySelectorAll(".math")]
        .filter(e => !e.querySelector("mjx-container")).map(e => e.textContent)""")
        == []
    )
    assert page.evaluate("[...document.querySelectorAll('mjx-merror')].map(e => e.title || e.textContent)") == []
    text = page.evaluate("""() => {
        const article = document.querySelector("article").cloneNode(true);
        article.querySelectorAll("pre, code, script, mjx-container").forEach(e => e.remove());
        return article.textContent;
    }""")
    assert "$" not in text and "\\(" not in text and "\\[" not in text


@chapters
def test_figures_are_there_with_caption_and_alternative_text(visit, name):
    page = visit(name).page
    images = page.evaluate("""[...document.querySelectorAll("article img")].map(image => ({
        loaded: image.complete && image.naturalWidth > 0,
        alt: image.alt,
        caption: image.closest("figure")?.querySelector("figcaption")?.innerText ?? "",
    }))""")
    for image in images:
        assert image["loaded"], image
        assert len(image["alt"].split()) > 5, image
        assert re.match(r"Fig\. \d+", image["caption"]), image


@pytest.mark.parametrize("width, scheme", VIEWS)
@chapters
def test_it_fits_the_window_and_can_be_read(visit, name, width, scheme):
    seen = visit(name)
    seen.look(width, scheme)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.page.evaluate(STRETCHED) == []
    assert seen.page.evaluate(FAINT) == []


@chapters
def test_its_code_is_not_cut(visit, name):
    seen = visit(name)
    seen.look(1280, "light")
    seen.page.evaluate("document.querySelectorAll('article details').forEach(details => { details.open = true; })")
    cut = seen.page.evaluate("""[...document.querySelectorAll("article .cell_input pre")]
        .filter(code => code.scrollWidth > code.clientWidth + 1).map(code => code.innerText)""")
    assert cut == []


@chapters
def test_no_formula_begins_outside_the_window(visit, name):
    """What is wider than a phone scrolls from its beginning: nothing lies left of the text, where no scrolling leads."""
    seen = visit(name)
    seen.look(390, "light")
    cut = seen.page.evaluate("""[...document.querySelectorAll("article mjx-container[display=true] mjx-math")]
        .filter(e => e.getBoundingClientRect().width && e.getBoundingClientRect().left < 0).map(e => e.textContent)""")
    assert cut == []


STRETCHED = """() => {
    const shape = (width, height) => width / height;
    const stretch = image => shape(image.width, image.height) / shape(image.naturalWidth, image.naturalHeight);
    const images = [...document.querySelectorAll("article img")];
    return images.filter(image => Math.abs(stretch(image) - 1) > 0.02).map(image => image.alt);
}"""

# The texts of a page that stand out from their ground by less than 4.5 to 1 (WCAG 2, level AA).
FAINT = """() => {
    const channels = color => (color.match(/[\\d.]+/g) ?? []).map(Number);
    const luminance = color => {
        const [r, g, b] = channels(color).slice(0, 3)
            .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = element => {
        for (let e = element; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if ((channels(color)[3] ?? 1) > 0) return color;
        }
        return "rgb(255, 255, 255)";
    };
    const faint = element => {
        const [a, b] = [getComputedStyle(element).color, ground(element)].map(luminance).sort((x, y) => x - y);
        return (b + 0.05) / (a + 0.05) < 4.5;
    };
    const texts = document.querySelectorAll("article :is(p, li, td, th, h1, h2, h3, figcaption span, summary, pre)");
    return [...texts].filter(element => element.innerText.trim() && faint(element)).map(e => e.innerText.slice(0, 80));
}"""


@functools.cache
def parsed(file):
    """The links of a page, and the names that links can jump to."""
    soup = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    return {link["href"] for link in soup.select("a[href]")}, {element["id"] for element in soup.select("[id]")}


@pytest.mark.parametrize("name", [*(f"book/{name}" for name in CHAPTERS), "index", "search", "genindex"])
def test_links_and_anchors_lead_somewhere(html, name):
    page = html / f"{name}.html"
    links, _ = parsed(page)
    for link in links:
        target, anchor = urldefrag(urljoin(page.as_uri(), link))
        if target.startswith("file:"):
            file = Path(unquote(target.removeprefix("file://")))
            assert file.exists(), link
            if anchor and file.suffix == ".html":
                assert unquote(anchor) in parsed(file)[1], link
        else:
            assert re.match("https://|mailto:", target), link


@chapters
def test_the_rocket_opens_the_notebook_in_colab(visit, name):
    owner = address().removeprefix("https://github.com/")
    links = visit(name).page.locator("a[href*='colab.research.google.com']").all()
    assert {link.get_attribute("href") for link in links} == {
        f"https://colab.research.google.com/github/{owner}/blob/main/book/{name}.ipynb"
    }


def test_the_first_page_leads_into_the_book(browser, html):
    seen = Visit(browser, (html / "index.html").as_uri())
    seen.page.wait_for_url(f"**/book/{CHAPTERS[0]}.html")


def test_search_finds_a_word(browser, html):
    seen = Visit(browser, (html / "search.html").as_uri() + "?q=anticorrelated")
    results = seen.page.locator("#search-results li a")
    results.first.wait_for()
    assert any(f"book/{CHAPTERS[0]}.html" in link.get_attribute("href") for link in results.all())
    assert seen.asked == []


def test_it_carries_only_what_pages_load(html):
    assert not list(html.rglob("*.map"))
    assert sum(path.stat().st_size for path in (html / "_static" / "mathjax").rglob("*") if path.is_file()) < 3e6


def test_the_coverage_table_sorts_by_a_click_and_by_a_key(browser, html):
    page = Visit(browser, (html / "book" / "coverage.html").as_uri()).page
    column = """[...[...document.querySelectorAll("article table")].at(-1).tBodies[0].rows]
        .map(row => row.cells[1].textContent.trim())"""
    header = page.locator("article table").last.locator("thead th").nth(1)
    header.and_(page.locator("[aria-sort]")).wait_for()
    before = page.evaluate(column)
    header.click()
    assert page.evaluate(column) == sorted(before) != before
    assert header.get_attribute("aria-sort") == "ascending"
    header.press("Enter")
    assert page.evaluate(column) == sorted(before, reverse=True)
    assert header.get_attribute("aria-sort") == "descending"


def test_the_graph_answers_the_keyboard_and_scrolls_in_its_own_box(browser, html):
    page = Visit(browser, (html / "book" / "coverage.html").as_uri()).page
    page.set_viewport_size({"width": 390, "height": 900})
    near = "[...document.querySelectorAll('svg.claims a.near')].map(box => box.dataset.name)"
    graph = claims.rests_on(claims.load())
    conclusion = next(name for name in graph if graph.in_degree(name) > 1)
    page.locator(f"svg.claims a[data-name='{conclusion}']").focus()
    expected = {conclusion} | networkx.ancestors(graph, conclusion) | networkx.descendants(graph, conclusion)
    assert set(page.evaluate(near)) == expected
    assert ".html#" in page.evaluate("document.activeElement.getAttribute('href')")
    page.keyboard.press("Tab")
    assert set(page.evaluate(near)) != expected
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    grounds = """[...document.querySelectorAll("svg.claims")].map(svg => getComputedStyle(svg.parentElement).backgroundColor)"""
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert page.evaluate(grounds) == ["rgba(0, 0, 0, 0)"]  # the page's own, dark where the page is
    assert page.evaluate("(box => box.scrollWidth > box.clientWidth)(document.querySelector('svg.claims').parentElement)")


def test_links_with_words_keep_them(html):
    """A link to an equation shows the words that were written, or its number, and jumps to a place that is there."""
    for name in CHAPTERS:
        soup = BeautifulSoup((html / "book" / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for link in soup.select("article a[href*='#eq-']"):
            assert link.text.strip() and not link.text.startswith("eq-"), link
    text = (BOOK / "valley_theorem.md").read_text(encoding="utf-8")
    words = re.findall(r"\[([^\]$]+)\]\(#eq-", text)
    page = BeautifulSoup((html / "book" / "valley_theorem.html").read_text(encoding="utf-8"), "html.parser")
    assert set(words) <= {link.text for link in page.select("article a[href*='#eq-']")}


@chapters
def test_numbers_of_equations_are_shown(visit, name):
    """Each numbered equation shows its number, at the edge of the text."""
    page = visit(name).page
    shown = page.evaluate("[...document.querySelectorAll('article mjx-container mjx-labels')].map(e => e.textContent)")
    assert len(shown) == len(re.findall(r"\$\$ \(eq-", (BOOK / f"{name}.md").read_text(encoding="utf-8")))


@chapters
def test_quotations_say_who_speaks(visit, name):
    """What the paper says, a theorem and a verdict are told apart by their style, and none is a plain quotation."""
    plain = visit(name).page.evaluate("""[...document.querySelectorAll("article blockquote")]
        .filter(e => !/paper|theorem|holds|caveat|corrected|not-reproduced/.test(e.className))
        .filter(e => !e.parentElement.closest("blockquote")).map(e => e.textContent.slice(0, 80))""")
    assert plain == []
