"""Guards of the chapters: what a reader meets in the book, in Jupyter and in Colab is whole, current and honest."""

import json
import re

import nbformat
import pytest
from matplotlib.colors import to_hex

import notebooks
from antipgd import results
from antipgd.book import figures
from antipgd.book.exercises import EXERCISES, LEVELS
from antipgd.vision import records
from book_markup import PLAIN
from project import PROJECT, ROOT
from set_repository import address

CHAPTERS = notebooks.listed()
# These teach no section of the paper, and have no exercises.
PAGES = {"intro", *PLAIN}
# Cells that show runs in which rounding grows until printed digits differ on another processor: trained networks, PGD
# near the edge of stability. Their outputs are not compared, their checks are. So many of them a chapter has at most.
ROUNDING_GROWS = {
    "your_optimizer": 11, "frameworks": 2, "widening_valley": 3, "linear_networks": 1, "quadratic_regression": 2, "peers": 3
}
SECTIONS = ["Where it stops holding", "Exercises", "Differs from the paper", "References"]

COLAB = """\
# Colab: installs the module that this book shares, unless it is there.
import importlib.util, subprocess, sys
if importlib.util.find_spec("antipgd") is None:
    source = "git+{address}@v{version}"
    assert "/OWNER/" not in source, "not published yet: `pip install .` in a checkout"
    subprocess.check_call([sys.executable, *"-m pip install -q --no-deps".split(), source])"""

FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]+\$", re.DOTALL)
CODE = re.compile(r"`[^`]+`")
# What looks like a decimal number and is an address, or the name of something in the paper.
NAMES = re.compile(
    r"\[\(\d+\.\d+\)\]\(#|\]\([^)]*\)|<[^>]*>|arXiv[: ]*[\d.]+"
    r"|\b(?:Theorem|Lemma|Corollary|Proposition|Remark|Section|Sec\.|Appendix|Figure|Fig\.)s?\s+[A-Z]?\.?\d[\d.]*"
    r"(?:(?:,| and|,? or| to|–)\s+[A-Z]?\.?\d[\d.]*)*",
    re.IGNORECASE,
)
NUMBER = re.compile(r"\d+\.\d+")


def read(name):
    return nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    """The Markdown cells' text, without blocks of code."""
    return [FENCED.sub("", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    """All text that the cells put out."""
    texts = [output.get("text", "") for output in outputs(notebook)]
    data = [output.get("data", {}) for output in outputs(notebook)]
    return texts + [text for each in data for kind, text in each.items() if kind.startswith("text/")]


def printed_by(cells):
    """What these cells print."""
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", ()))


def headings(notebook):
    return [line for text in prose(notebook) for line in text.splitlines() if re.match(r"#{1,6} ", line)]


chapters = pytest.mark.parametrize("name", CHAPTERS)


@chapters
def test_the_notebook_was_made_from_the_text_as_it_is(name):
    assert notebooks.in_sync(name), f"book/{name}.md was changed: make notebooks"


@chapters
def test_it_was_executed_from_top_to_bottom(name):
    counts = [cell.execution_count for cell in code_cells(read(name))]
    assert counts == list(range(1, len(counts) + 1))


@chapters
def test_no_cell_failed_or_complained(name):
    for output in outputs(read(name)):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text


@chapters
def test_its_outputs_are_compared_but_where_rounding_grows(name):
    ignored = [cell for cell in code_cells(read(name)) if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert len(ignored) <= ROUNDING_GROWS.get(name, 0)


@chapters
def test_it_says_where_each_stored_result_comes_from(name):
    notebook = read(name)
    used = re.findall(r'"((?:fig|resnet)-[\w-]+)"', "\n".join(cell.source for cell in code_cells(notebook)))
    said = [text for text in printed(notebook) if text.startswith('<details class="origin">')]
    for stored in {each for each in used if (results.FOLDER / f"{each}.json").exists()}:
        provenance = results.load(stored).provenance
        renew = records.RENEW if stored in records.RECORDS else results.RENEW
        command = f"`{renew.format(name=stored)}`"
        line = next(line for text in said for line in text.splitlines() if command in line)
        assert provenance["device"] in line and provenance["date"][:10] in line and provenance["commit"][:7] in line


@chapters
def test_no_words_are_left_to_be_filled_in(name):
    text = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall("‹[^›]*›", text) == []


@chapters
def test_it_names_no_folder_of_a_machine(name):
    notebook = read(name)
    for text in [cell.source for cell in notebook.cells] + printed(notebook):
        assert not re.search(r"(?<![\w.:/~])/(home|root|tmp|usr|opt|var|Users|work|mnt|private)/", text), text


@chapters
def test_its_markdown_reads_well_without_sphinx(name):
    for cell in read(name).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"^\s*```\s*\{", cell.source, re.MULTILINE), f"a directive:\n{cell.source}"
    for text in prose(read(name)):
        assert not re.search(r"\{[\w:.+-]+\}`", text), f"a role:\n{text}"
        assert not re.search(r"^\s*:::", text, re.MULTILINE), f"a colon fence:\n{text}"
        assert not re.search(r"^\([^)\s]+\)=\s*$", text, re.MULTILINE), f"a target:\n{text}"
        assert not re.search(r"\\(left|right)\s*\\(lVert|rVert|\|)|\\bm\b|\\(label|ref|eqref)\{", text), text


CHAPTER_LINK = re.compile(r"\]\((\w+)\.ipynb(?:#([\w-]+))?\)|\]\(#(eq-[\w-]+)\)")


@chapters
def test_its_links_lead_to_chapters_and_equations(name):
    """What can be told in no time; the build follows all links."""
    labels = notebooks.equation_numbers()
    for chapter, anchor, equation in CHAPTER_LINK.findall("\n".join(prose(read(name)))):
        assert not chapter or chapter in CHAPTERS, chapter
        for label in (anchor, equation):
            assert not label.startswith("eq-") or label in labels, label


@chapters
def test_its_equations_are_numbered_by_the_command_and_not_by_hand(name):
    text = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
    assert "\\tag{" not in text, "write $$ ... $$ (eq-name): make notebooks gives the number"
    numbers = re.findall(r"\\tag\{([\d.]+)\}", "\n".join(prose(read(name))))
    assert numbers == [f"{CHAPTERS.index(name)}.{n}" for n in range(1, len(numbers) + 1)]
    assert len(numbers) == len(re.findall(r"\$\$ \(eq-", text)), "an equation's label is written behind its $$"


PAPERS = re.compile(r"\b[Pp]aper \(\d+\)(?:(?:,| and|, and| or| to|–|-) ?\(\d+\))*")


@chapters
def test_the_papers_equations_are_told_from_its_own(name):
    """A bare "(74)" could be either: the paper's are "paper (74)", the book's have their chapter's number, "(8.3)"."""
    for text in prose(read(name)):
        words = PAPERS.sub(" ", CODE.sub(" ", FORMULA.sub(" ", text)))
        assert not re.findall(r"\(\d{1,2}\)", words), text
        assert not re.findall(r"\b(?:[Ee]q(?:uation|s)?\.?|[Ff]ormulas?) ?\(?\d{1,2}\b(?!\.)", words), text


@chapters
def test_each_claim_is_preceded_by_what_the_paper_says(name):
    said, notebook = False, read(name)
    claimed = {index for index, *_ in notebooks.verdicts(notebook)}
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if re.match(r"##+ ", line):
                    said = False
                said |= line.startswith("> **The paper says")
        assert said or index not in claimed, f"no box says what the paper says before this:\n{cell.source}"


@chapters
def test_its_code_fits_the_page(name):
    """The page's column holds 88 characters; what is wider is cut, and that is often the condition of a check."""
    shown = [cell for cell in code_cells(read(name)) if "remove-cell" not in cell.metadata.get("tags", [])]
    wide = [line for cell in shown for line in cell.source.splitlines() if len(line) > 88]
    assert wide == []


@chapters
def test_no_table_is_aligned_text(name):
    """What is a table is shown by ``table``: columns of text fall apart on a phone."""
    for output in outputs(read(name)):
        lines = [line for line in output.get("text", "").splitlines() if re.search(r"\S {3,}\S", line)]
        assert len(lines) < 2, "\n".join(lines)


@chapters
def test_nothing_hides_a_sign_or_a_failure(name):
    hiding = re.compile(r"\bclamp\(min=0|\bnan_to_num|\bnanmean|\bnanquantile|\bmaximum\([^)]*, 0\)|\bmax\(0[,.]")
    for cell in code_cells(read(name)):
        assert not hiding.search(cell.source), cell.source


@chapters
def test_its_first_code_is_the_installation_for_colab(name):
    first = code_cells(read(name))[0]
    assert first.source == COLAB.format(address=address(), version=PROJECT["version"])
    assert first.metadata.tags == ["remove-cell"]
    assert first.outputs == []


@chapters
def test_its_cells_are_short(name):
    for cell in code_cells(read(name)):
        assert len(cell.source.splitlines()) <= 30, cell.source


@chapters
def test_every_figure_has_a_name_a_caption_and_an_alternative_text(name):
    for cell in code_cells(read(name)):
        images = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        if images:
            assert len(images) == 1, f"one figure a cell:\n{cell.source}"
            displayed = [output for output in cell.outputs if output.output_type != "stream"]
            assert displayed == images, f"a cell with a figure displays nothing else:\n{cell.source}"
            described = cell.metadata.get("mystnb", {})
            figure, image = described.get("figure", {}), described.get("image", {})
            assert figure.get("name", "").startswith("fig-"), cell.source
            assert len(figure.get("caption", "").split()) > 3, cell.source
            assert len(image.get("alt", "").split()) > 5 and image["alt"].endswith("."), cell.source


METHOD_COLORS = {to_hex(color): name for name, (color, _, _) in figures.METHODS.items() if name != "GD"}
DRAWN = re.compile(r"  (\w+) '(.*)' (#\w+); ")


@chapters
def test_the_methods_colours_mean_the_methods(name):
    """A line in a method's colour names the method, in its label or its axes; labelled lines of one axes differ."""
    for output in outputs(read(name)):
        text = output.get("data", {}).get("text/plain", "")
        for axes in re.split(r"^axes \d+: ", text, flags=re.MULTILINE)[1:] if text.startswith("figure of ") else []:
            titles, *artists = axes.splitlines()
            found = [DRAWN.match(artist).groups() for artist in artists if DRAWN.match(artist)]
            for kind, label, color in found:
                if color in METHOD_COLORS and kind == "Line2D":
                    assert METHOD_COLORS[color] in (label if not label.startswith("_") else text), f"{label} in {text}"
            lines = [(label, color) for kind, label, color in found if kind == "Line2D" and not label.startswith("_")]
            assert len({color for _, color in lines}) == len({label for label, _ in lines}), f"one colour twice:\n{axes}"


@chapters
def test_every_figure_comes_with_the_summary_that_is_compared(name):
    for output in outputs(read(name)):
        if "image/png" in output.get("data", {}):
            assert output.data["text/plain"].startswith("figure of "), "figures.use_style() is missing"


@chapters
def test_folded_cells_are_folded_in_jupyter_and_colab(name):
    for cell in code_cells(read(name)):
        folded = {"hide-cell", "hide-input"} & set(cell.metadata.get("tags", []))
        assert bool(folded) == (cell.metadata.get("cellView") == "form")
        assert bool(folded) == cell.metadata.get("jupyter", {}).get("source_hidden", False)


@chapters
def test_it_has_one_title_and_the_sections_of_a_chapter(name):
    found = headings(read(name))
    assert [line.startswith("# ") for line in found] == [True] + [False] * (len(found) - 1)
    if name not in PAGES:
        assert [line.removeprefix("## ") for line in found][-1:] == SECTIONS[-1:]
        positions = [found.index(f"## {section}") for section in SECTIONS]
        assert positions == sorted(positions)


def exercises(notebook):
    """The cells below each heading of an exercise, as (heading, cells)."""
    found, inside = [], False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in FENCED.sub("", cell.source).splitlines():
                if re.match(r"#{1,3} ", line):
                    inside = line.startswith("### Exercise ")
                    if inside:
                        found.append((line, []))
        if inside:
            found[-1][1].append(cell)
    return found


def of_chapter(name):
    """The registered exercises of a chapter, in their order."""
    return [asked for asked in EXERCISES.values() if asked.chapter == name]


@pytest.mark.parametrize("name", [name for name in CHAPTERS if name not in PAGES])
def test_its_exercises_have_a_level_a_hint_a_cell_for_the_answer_and_a_solution_that_is_right(name):
    found = exercises(read(name))
    assert [int(re.match(r"### Exercise (\d+)\.", heading)[1]) for heading, _ in found] == [*range(1, len(found) + 1)]
    asked = of_chapter(name) or of_chapter("chapter")  # those of the skeleton, in a chapter that was just begun
    assert {each.level for each in asked} == set(LEVELS)
    for (heading, cells), each in zip(found, asked, strict=True):
        question, blank, explained, *solutions = cells
        place = question.source.index(heading)
        assert question.source[place + len(heading) :].startswith(f"\n\n**{each.level.capitalize()}.** "), heading
        assert re.findall("<summary>.*</summary>", question.source[place:]) == ["<summary>Hint</summary>"], heading
        assert f'exercise("{each.name}", answer)' in blank.source and "..." in blank.source, heading
        assert printed_by([blank]) == f"{each.name} ({each.level}): not answered yet. Wanted: {each.wanted}.\n", heading
        assert explained.source.startswith("<details><summary>Solution</summary>"), heading
        solutions = [cell for cell in solutions if cell.cell_type == "code"]
        assert all("hide-cell" in cell.metadata.get("tags", []) for cell in solutions), heading
        assert f"{each.name} ({each.level}): right.\n" in printed_by(solutions), heading


@chapters
def test_its_prose_types_no_number_that_no_cell_shows(name):
    notebook = read(name)
    shown = "\n".join([cell.source for cell in code_cells(notebook)] + printed(notebook))
    for text in "\n".join(prose(notebook)).split("## References")[:1]:
        for pattern in (FORMULA, CODE, NAMES):
            text = pattern.sub(" ", text)
        typed = [number for number in NUMBER.findall(text) if number not in NUMBER.findall(shown)]
        assert not typed


def test_all_chapters_that_are_there_are_listed():
    assert {path.stem for path in (ROOT / "book").glob("*.md")} == set(CHAPTERS)
    assert {path.stem for path in (ROOT / "book").glob("*.ipynb")} == set(CHAPTERS)


@chapters
def test_it_has_stable_bytes(name):
    """What would change without a change of the chapter: times, versions, the order of keys."""
    path = ROOT / "book" / f"{name}.ipynb"
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["metadata"] == {"kernelspec": notebooks.KERNELSPEC}
    assert [cell["id"] for cell in stored["cells"]] == [f"cell-{n + 1}" for n in range(len(stored["cells"]))]
    assert path.read_text(encoding="utf-8") == nbformat.writes(read(name)) + "\n"
