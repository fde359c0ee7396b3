"""The finished pages in a browser, from disk and without a network: at two widths, light and dark."""

import functools
import gzip
import io
import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import nbformat
import networkx
import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from pypdf import PdfReader

import cards
import pdf
from antipgd.book import claims
from book_markup import PLAIN, explained
from build_book import build
from notebooks import BOOK, listed
from set_repository import address
from sources import modules

CHAPTERS = listed()
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
chapters = pytest.mark.parametrize("name", CHAPTERS)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The folder of the built book."""
    return build(tmp_path_factory.mktemp("book")).parent


class Visit:
    """One page, opened without a network; it remembers what it asked for and what it complained about."""

    def __init__(self, browser, url):
        self.asked, self.loaded, self.complaints = [], [], []
        self.page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        self.page.route("**/*", self.only_from_disk)
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)

    def only_from_disk(self, route):
        if re.match("(file|data|blob):", route.request.url):
            self.loaded.append(route.request.url)
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
    assert seen.complaints == []


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
    page.evaluate("""Promise.all([...document.querySelectorAll("article img")].map(image => {
        image.loading = "eager";
        return image.decode();
    }))""")
    images = page.evaluate("""[...document.querySelectorAll("article img")].map(image => ({
        loaded: image.complete && image.naturalWidth > 0,
        alt: image.alt,
        caption: image.closest("figure")?.querySelector("figcaption")?.innerText ?? "",
    }))""")
    for image in images:
        assert image["loaded"], image
        assert len(image["alt"].split()) > 5, image
        assert re.match(r"Fig\. \d+", image["caption"]), image


RULES = {"color-contrast": {"enabled": False}}  # slow on much code; FAINT looks at the contrast of words, in all views


@chapters
def test_axe_finds_nothing_serious(visit, name):
    seen = visit(name)
    seen.look(1280, "light")
    found = Axe().run(seen.page, options={"resultTypes": ["violations"], "rules": RULES}).response["violations"]
    assert [violation for violation in found if violation["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_enough_contrast_on_all_of_the_first_page(visit, scheme):
    seen = visit(CHAPTERS[0])
    seen.look(1280, scheme)
    seen.page.evaluate("Promise.all(document.getAnimations().map(change => change.finished))")  # colours fade over
    assert Axe().run(seen.page).response["violations"] == []


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


@chapters
def test_figures_of_several_panels_can_be_read_on_a_phone(visit, name):
    """They keep their width, say that they scroll, and do it in their own box, which the keyboard reaches."""
    cells = nbformat.read(BOOK / f"{name}.ipynb", as_version=4).cells
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    several = [data for data in shown if "image/png" in data and re.match(r"figure of (?!1 )", data["text/plain"])]
    seen = visit(name)
    seen.look(390, "light")
    found = seen.page.evaluate("""[...document.querySelectorAll("article figure img.panels")].map(image => ({
        width: image.getBoundingClientRect().width,
        scrolls: image.parentElement.scrollWidth > image.parentElement.clientWidth,
        reached: image.parentElement.matches("a[href]"),
        hint: getComputedStyle(image.closest("figure"), "::before").content,
    }))""")
    assert found == [{"width": 640, "scrolls": True, "reached": True, "hint": '"↔ scrolls sideways"'}] * len(several)


@chapters
def test_formulas_in_boxes_are_as_dark_as_the_words(visit, name):
    seen = visit(name)
    for scheme in ("light", "dark"):
        seen.look(1280, scheme)
        assert seen.page.evaluate("""[...document.querySelectorAll("article blockquote mjx-container:not(a *)")]
            .filter(e => getComputedStyle(e).color !== getComputedStyle(document.querySelector("article p")).color)
            .map(e => e.textContent)""") == []


@chapters
def test_on_paper_nothing_is_cut_and_what_was_folded_is_open_or_gone(visit, name):
    """At the width of a sheet: no box scrolls, solutions are open, and folded code is left out."""
    seen = visit(name)
    seen.look(720, "light")
    seen.page.emulate_media(media="print")
    cut = seen.page.evaluate("""[...document.querySelectorAll("article :is(pre, table, figure, a, .cell_output)")]
        .filter(e => e.checkVisibility() && getComputedStyle(e).overflowX !== "visible")
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 80))""")
    folded = seen.page.evaluate("""[...document.querySelectorAll("article details:not([open])")]
        .filter(e => e.checkVisibility() && !e.lastElementChild.checkVisibility({ contentVisibilityAuto: true }))
        .map(e => e.textContent.slice(0, 80))""")
    wide = seen.page.evaluate("""[...document.querySelectorAll("article img")]
        .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.alt)""")
    seen.page.emulate_media(media="screen")
    assert cut == folded == wide == []


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
    const texts = document.querySelectorAll("article :is(p, li, td, th, h1, h2, h3, figcaption span, summary, pre, dt, dd)");
    return [...texts].filter(element => element.innerText.trim() && faint(element)).map(e => e.innerText.slice(0, 80));
}"""


@functools.cache
def parsed(file):
    """The links of a page, and the names that links can jump to."""
    soup = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    return {link["href"] for link in soup.select("a[href]")}, {element["id"] for element in soup.select("[id]")}


PAGES = [*(f"book/{name}" for name in CHAPTERS), *(f"source/{module}" for module in modules()), "index", "search"]


@pytest.mark.parametrize("name", PAGES)
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


def test_names_of_the_module_lead_to_their_lines_of_its_source(html):
    """Wherever a chapter's words name a class or function of the module, by the name that its code gives it."""
    led = {}
    for name in CHAPTERS:
        page = BeautifulSoup((html / "book" / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        led |= {(name, link.get_text()): link["href"] for link in page.select("article a[href*='source/']")}
    for (_, text), link in led.items():
        file, line = urldefrag(link)
        source = html / "source" / Path(file).name
        assert line in parsed(source)[1] if line else source.exists()
    assert {("your_optimizer", "hessian_trace"), ("frameworks", "sigma_for"), ("intro", "antipgd")} <= set(led)
    lines = BeautifulSoup((html / "source" / "antipgd.curvature.html").read_text(encoding="utf-8"), "html.parser")
    place = lines.find(id=urldefrag(led["your_optimizer", "hessian_trace"])[1])
    assert "def hessian_trace" in place.parent.get_text().splitlines()[int(place["id"].removeprefix("line-")) - 1]


@chapters
def test_the_rocket_opens_the_notebook_in_colab(visit, name):
    owner = address().removeprefix("https://github.com/")
    links = visit(name).page.locator("a[href*='colab.research.google.com']").all()
    assert {link.get_attribute("href") for link in links} == {
        f"https://colab.research.google.com/github/{owner}/blob/main/book/{name}.ipynb"
    }


def test_the_sidebar_shows_the_parts_and_the_chapters_with_the_numbers_of_their_equations(browser, html):
    page = Visit(browser, (html / "book" / f"{CHAPTERS[0]}.html").as_uri()).page
    captions = page.locator(".bd-docs-nav .caption-text").all_inner_texts()
    assert captions == ["I. Use it", "II. See it", "III. Understand it", "IV. Check it"]
    links = page.locator(".bd-docs-nav li.toctree-l1 > a")
    shown = [(link.get_attribute("href"), link.inner_text().partition(". ")[0]) for link in links.all()]
    assert [entry for entry in shown if entry[0] != "#"] == [
        (f"{name}.html", str(number)) for number, name in enumerate(CHAPTERS) if number
    ]


def test_the_first_page_names_the_parts_and_their_chapters_in_the_order_of_the_sidebar(html):
    page = BeautifulSoup((html / "book" / f"{CHAPTERS[0]}.html").read_text(encoding="utf-8"), "html.parser")
    table = page.select_one("#how-to-read-this-book table")
    parts = [row.td.get_text() for row in table.select("tbody tr")]
    assert list(filter(None, parts)) == [caption.get_text() for caption in page.select(".bd-docs-nav .caption-text")]
    assert [link["href"] for link in table.select("a")] == [f"{name}.html" for name in CHAPTERS[1:]]


def test_the_first_page_leads_into_the_book(browser, html):
    seen = Visit(browser, (html / "index.html").as_uri())
    seen.page.wait_for_url(f"**/book/{CHAPTERS[0]}.html")


@pytest.mark.parametrize("width, height", [(390, 844), (1280, 900)])
def test_the_first_screen_of_the_book_holds_the_one_picture(browser, html, width, height):
    seen = Visit(browser, (html / "book" / f"{CHAPTERS[0]}.html").as_uri())
    seen.page.set_viewport_size({"width": width, "height": height})
    seen.page.wait_for_load_state("load")
    place = seen.page.locator("article figure img").first.bounding_box()
    assert place["y"] + place["height"] <= height


def test_the_book_on_paper_has_an_outline_and_links_that_stay_inside(browser, html):
    content = io.BytesIO()
    pdf.joined(browser, html, [CHAPTERS[0], "notation"]).write(content)
    reader = PdfReader(content)
    titles = [entry.title.rpartition(". ")[2] for entry in reader.outline]
    begins = [reader.get_destination_page_number(entry) for entry in reader.outline]
    assert titles == ["Anticorrelated noise, executed", "Notation"] and begins[0] == 0 < begins[1]
    for title, sheet in zip(titles, begins):
        assert title in " ".join(reader.pages[sheet].extract_text().split())
    links = [link.get_object() for sheet in reader.pages for link in sheet.get("/Annots", ())]
    addresses = [link["/A"]["/URI"] for link in links if "/URI" in link.get("/A", ())]
    assert addresses and all(address.startswith("https://") for address in addresses)
    places = [link["/Dest"][0] for link in links if isinstance(link.get("/Dest"), list)]
    assert reader.pages[begins[1]].indirect_reference in places  # the first page names the page on notation


def test_search_finds_a_word(browser, html):
    seen = Visit(browser, (html / "search.html").as_uri() + "?q=anticorrelated")
    results = seen.page.locator("#search-results li a")
    results.first.wait_for()
    assert any(f"book/{CHAPTERS[0]}.html" in link.get_attribute("href") for link in results.all())
    assert seen.asked == []


def weight(url):
    """The bytes of a file as a web server sends it: compressed, where it is text."""
    file = Path(unquote(urldefrag(url)[0].partition("?")[0].removeprefix("file://")))
    compact = file.suffix in {".webp", ".png", ".woff", ".woff2"}
    return file.stat().st_size if compact else len(gzip.compress(file.read_bytes()))


@chapters
def test_its_first_load_is_light(visit, name):
    assert sum(weight(url) for url in set(visit(name).loaded) if url.startswith("file:")) < 1e6


@chapters
def test_its_pictures_are_light_and_keep_their_room_while_they_wait(html, name):
    page = (html / "book" / f"{name}.html").read_text(encoding="utf-8")
    images = re.findall(r"<img [^>]*_images/[^>]*>", page)
    files = {html / "_images" / file for file in re.findall(r"_images/([0-9a-f]+\.webp)", page)}
    assert sum(file.stat().st_size for file in files) < 400e3
    assert all(re.search(r'loading="lazy".* width="\d+" height="\d+"', image) for image in images)


@chapters
def test_formulas_and_tables_are_stops_of_the_tabulator_key_where_they_scroll_and_nowhere_else(visit, name):
    seen = visit(name)
    for width in (1280, 390):
        seen.look(width, "light")
        seen.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert seen.page.evaluate("""[...document.querySelectorAll("article :is(table, div.math, mjx-container)")]
            .map(box => [box, getComputedStyle(box).overflowX === "auto" && box.scrollWidth > box.clientWidth])
            .filter(([box, scrolls]) => scrolls !== (box.tabIndex === 0)).map(([box]) => box.textContent)""") == []
        wide = seen.page.evaluate("""[...document.querySelectorAll("article mjx-container[tabindex]")]
            .map(box => box.querySelector("mjx-math").scrollWidth - box.clientWidth)""")
        assert all(beyond > 0 for beyond in wide)  # what is seen of it is too wide, not what is there for screen readers


@chapters
def test_buttons_have_names(visit, name):
    names = visit(name).page.evaluate("""[...document.querySelectorAll("article th button")].map(button => {
        const seen = button.cloneNode(true);
        seen.querySelectorAll("mjx-container").forEach(formula => formula.remove());
        return button.ariaLabel ?? seen.textContent.trim();
    })""")
    assert all(re.search(r"\w", name) for name in names)


@chapters
def test_names_for_screen_readers_say_what_is_seen(html, name):
    page = (html / "book" / f"{name}.html").read_text(encoding="utf-8")
    assert "<summary aria-label" not in page
    assert not re.search(r"<th[^>]*>\s*(<p>\s*</p>)?\s*</th>", page)
    soup = BeautifulSoup(page[: page.index("<article")], "html.parser")
    assert soup.select_one(".navbar-brand").find_parent(attrs={"role": "region"})["aria-label"]
    for button in soup.select("button[aria-label]"):
        assert button.get_text(" ", strip=True) in ("", button["aria-label"])


def test_icons_are_there_without_their_font(browser, html):
    page = Visit(browser, (html / "index.html").as_uri()).page
    page.wait_for_url(f"**/book/{CHAPTERS[0]}.html")
    masks = page.evaluate("""[...document.querySelectorAll("i[class*=fa-], span[class*=fa-]")]
        .map(icon => getComputedStyle(icon, "::before").maskImage)""")
    assert masks and all(mask.startswith("url(") for mask in masks)
    assert not list(html.rglob("fontawesome.js")) and not list(html.rglob("fa-*.woff2"))


def test_figures_turn_dark_with_the_page_unless_their_words_speak_of_black_and_white(visit):
    seen = visit(CHAPTERS[0])
    seen.look(1280, "dark")
    looks = seen.page.evaluate("""[...document.querySelectorAll("article figure:has(img)")].map(figure => {
        const { filter, padding, backgroundColor } = getComputedStyle(figure.querySelector("img"));
        const said = figure.textContent + figure.querySelector("img").alt;
        return { filter, padding, backgroundColor, drawn: /\\b(black|white|dark|darker|bright|brighter)\\b/i.test(said) };
    })""")
    for look in looks:
        assert (look["filter"] == "none") == look["drawn"]
        assert look["padding"] == "0px" and look["backgroundColor"] == "rgba(0, 0, 0, 0)"


def test_a_link_leads_below_the_bar(browser, html):
    """To a heading and to a card, once the formulas are typeset and have moved them."""
    for place in ("the-variance-of-a-step", "verdict-eq-24"):
        page = Visit(browser, (html / "book" / "smoothed_loss.html").as_uri() + f"#{place}").page
        page.evaluate("MathJax.startup.promise.then(() => true)")
        bar = page.locator(".bd-header-article").bounding_box()
        top = page.evaluate("place => document.getElementById(place).getBoundingClientRect().top", place)
        assert bar["y"] + bar["height"] <= top < 300


# Where the first formula that is typeset stands among all: 0 is the first of the page.
WATCH = """new MutationObserver((_, watcher) => {
    if (document.querySelector("article mjx-container")) {
        watcher.disconnect();
        const formulas = [...document.querySelectorAll("article .math")];
        window.first = formulas.findIndex(box => box.querySelector("mjx-container"));
        window.waiting = formulas.filter(box => !box.querySelector("mjx-container")).length;
    }
}).observe(document, { childList: true, subtree: true });"""


def test_formulas_are_typeset_first_where_the_reader_is(browser, html):
    """And a few at a time: on a phone all take seconds."""
    firsts = []
    for place in ("", "#verdict-eq-24"):
        page = browser.new_page()
        page.add_init_script(WATCH)
        page.goto((html / "book" / "smoothed_loss.html").as_uri() + place)
        page.wait_for_function("window.first !== undefined")
        firsts.append(page.evaluate("first"))
        assert page.evaluate("waiting") > 100
        page.close()
    assert firsts[0] == 0 and firsts[1] > 50


def test_a_reader_who_has_moved_on_is_not_called_back(browser, html):
    page = Visit(browser, (html / "book" / "smoothed_loss.html").as_uri() + "#verdict-eq-24").page
    page.keyboard.press("Home")
    page.evaluate("MathJax.startup.promise.then(() => true)")
    assert page.evaluate("document.getElementById('verdict-eq-24').getBoundingClientRect().top") > 900


def test_it_carries_only_what_pages_load(html):
    assert not list(html.rglob("*.map"))
    assert sum(path.stat().st_size for path in (html / "_static" / "mathjax").rglob("*") if path.is_file()) < 3e6


@pytest.fixture
def coverage(browser, html):
    """The page with the table of the paper's statements, its scripts run."""
    page = Visit(browser, (html / "book" / "coverage.html").as_uri()).page
    page.locator("form.filter output").wait_for()
    return page


SHOWN = """[...document.querySelectorAll("table.claims tbody tr")].filter(row => row.getBoundingClientRect().height)
    .map(row => row.id)"""


def test_the_coverage_table_sorts_by_a_click_and_by_a_key(coverage):
    column = "[...document.querySelector('table.claims').tBodies[0].rows].map(row => row.cells[1].textContent.trim())"
    header = coverage.locator("table.claims thead th").nth(1)
    before = coverage.evaluate(column)
    header.locator("button").click()
    assert coverage.evaluate(column) == sorted(before) != before
    assert header.get_attribute("aria-sort") == "ascending"
    header.locator("button").press("Enter")
    assert coverage.evaluate(column) == sorted(before, reverse=True)
    assert header.get_attribute("aria-sort") == "descending"


def test_the_coverage_table_shows_what_is_asked_for_and_says_how_many(coverage):
    """By verdict, by chapter and by words, from the keyboard; a link to a row finds it all the same."""
    entries, said = claims.load(), coverage.locator("form.filter output")
    assert coverage.evaluate(SHOWN) == [claim["id"] for claim in entries]
    for verdict, number in claims.counts(entries).items():
        if number:
            assert coverage.locator(f"form.filter label.{verdict} .count").inner_text() == str(number)
    coverage.get_by_label("corrected").press("Space")
    corrected = [claim["id"] for claim in entries if claim["verdict"] == "corrected"]
    assert coverage.evaluate(SHOWN) == corrected
    assert said.inner_text() == f"{len(corrected)} of {len(entries)} rows"
    coverage.get_by_label("Chapter").select_option(value="smoothed_loss.html")
    there = [claim["id"] for claim in entries if claim["chapter"] == "smoothed_loss" and claim["verdict"] == "corrected"]
    assert coverage.evaluate(SHOWN) == there != corrected
    coverage.get_by_label("With the words").fill("conditional variance")
    assert set(coverage.evaluate(SHOWN)) < set(there)
    hidden = next(claim["id"] for claim in entries if claim["verdict"] == "holds")
    coverage.evaluate("name => { location.hash = name; }", hidden)
    coverage.wait_for_function("name => document.getElementById(name).getBoundingClientRect().height", arg=hidden)
    assert len(coverage.evaluate(SHOWN)) == len(entries)


def test_the_coverage_table_keeps_its_head_in_sight_and_stacks_its_rows_on_a_phone(coverage):
    coverage.set_viewport_size({"width": 1280, "height": 900})
    coverage.evaluate("document.querySelector('table.claims tr[id=eq-35]').scrollIntoView()")
    box = coverage.locator("table.claims thead th").last.bounding_box()
    bar = coverage.locator(".bd-header-article").bounding_box()
    assert abs(box["y"] - (bar["y"] + bar["height"])) < 3
    beyond = """[...document.querySelectorAll("table.claims td")]
        .filter(cell => cell.getBoundingClientRect().right > document.querySelector("article").getBoundingClientRect().right + 1)
        .map(cell => cell.textContent)"""
    assert coverage.evaluate(beyond) == []
    coverage.set_viewport_size({"width": 390, "height": 900})
    assert coverage.evaluate(beyond) == []
    cells = coverage.locator("table.claims tr[id=eq-35] td")
    assert cells.nth(3).bounding_box()["y"] > cells.nth(2).bounding_box()["y"]
    assert coverage.locator("table.claims").get_attribute("role") == "table"
    heads = coverage.evaluate("[...document.querySelectorAll('table.claims th')].map(head => head.textContent)")
    assert [named.lower() for named in coverage.evaluate("""[2, 3].map(i => getComputedStyle(
        document.querySelector("table.claims tbody tr").cells[i], "::before").content.replaceAll('"', ""))""")] == heads[2:]


def test_the_coverage_table_is_whole_without_scripts(browser, html):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((html / "book" / "coverage.html").as_uri())
    rows = page.locator("table.claims tbody tr:visible")
    assert rows.count() == len(claims.load())
    assert page.locator("form.filter").count() == 0


CARD = re.compile(r'''<blockquote[ ]class="([\w-]+)[ ]verdict"[ ]id="verdict-([\w.-]+)">\s*<div><p><strong>[\w ,]+</strong>
    [ ]<a[ ]class="reference[ ]internal"[ ]href="coverage\.html\#([\w.-]+)"><span[^>]*>([^<]+)</span></a></p>\s*<p>.''', re.VERBOSE)
ROW = re.compile(r'<tr class="([\w-]+) row-\w+" id="([\w.-]+)"><td><p><a [^>]*href="(\w+)\.html#verdict-([\w.-]+)">')


def test_each_verdict_is_a_card_that_leads_to_its_row_and_back(html):
    pages = {name: (html / "book" / f"{name}.html").read_text(encoding="utf-8") for name in CHAPTERS}
    shown = [claim for claim in claims.load() if claim["cell"]]
    cards = [(name, *card) for name, page in pages.items() for card in CARD.findall(page)]
    assert sorted(cards) == sorted(
        (claim["chapter"], claim["verdict"], claim["id"], claim["id"], claims.label(claim["id"])) for claim in shown
    )
    assert ROW.findall(pages["coverage"]) == [
        (claim["verdict"], claim["id"], claim["chapter"], claim["id"]) for claim in shown
    ]


def test_each_verdict_has_its_sign_and_its_colour(coverage):
    for verdict, (sign, _) in claims.SIGNS.items():
        shown = coverage.evaluate("""verdict => {
            const element = document.body.appendChild(Object.assign(document.createElement("p"), { className: verdict }));
            return getComputedStyle(element).getPropertyValue("--sign");
        }""", verdict)
        assert shown == f'"{sign}"'


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
def test_the_first_use_of_a_word_leads_to_its_meaning(html, name):
    """Of each word that the notation page explains, in the running text of a chapter; and no later one."""
    soup = BeautifulSoup((html / "book" / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    article, links = soup.select_one("article"), soup.select("article a[href*='notation.html#word-']")
    led = [urldefrag(link["href"])[1] for link in links]
    assert len(led) == len(set(led)) and bool(led) == (name not in PLAIN)
    elsewhere = "h1, h2, h3, h4, a, blockquote, table, code, pre, .math, figcaption, dl.brief, .cell_output, #references"
    for other in article.select(elsewhere):
        other.replace_with(" ")  # in these a word is no link
    rest = " ".join(part.get_text() for part in article.select("p"))
    for place, pattern in explained():
        used = pattern.search(rest)
        assert place in led or name in PLAIN or not used, used[0]


@chapters
def test_numbers_of_equations_are_shown(visit, name):
    """Each numbered equation shows its number, at the edge of the text."""
    page = visit(name).page
    shown = page.evaluate("[...document.querySelectorAll('article mjx-container mjx-labels')].map(e => e.textContent)")
    assert len(shown) == len(re.findall(r"\$\$ \(eq-", (BOOK / f"{name}.md").read_text(encoding="utf-8")))


@chapters
def test_its_card_stands_below_the_title(visit, name):
    page = visit(name).page
    shown = page.evaluate("""[...document.querySelectorAll("article h1 + dl.brief > dt")]
        .map(head => [head.innerText.replace(/:$/, ""), head.nextElementSibling.innerText.trim()])""")
    assert [tuple(line) for line in shown] == list(cards.card(name))


@chapters
def test_quotations_say_who_speaks(visit, name):
    """What the paper says, a theorem and a verdict are told apart by their style, and none is a plain quotation."""
    plain = visit(name).page.evaluate("""[...document.querySelectorAll("article blockquote")]
        .filter(e => !/paper|theorem|holds|caveat|corrected|not-reproduced/.test(e.className))
        .filter(e => !e.parentElement.closest("blockquote")).map(e => e.textContent.slice(0, 80))""")
    assert plain == []
