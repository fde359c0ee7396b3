"""What Sphinx has to be told about the chapters' Markdown, which is written so that plain Jupyter shows it too.

- An equation with a number of its own (a TeX tag) is set as it stands, without Sphinx's wrapping, which admits no tag.
- The places in front of equations, and those of the rows of a table, can be jumped to by `[words](#eq-name)`.
- In an output that is HTML, links to chapters lead to their pages.
- A quotation says by its first words, in bold, what it is: what the paper says, a verdict, or else a theorem of ours.
  It gets a class of style.
- A verdict becomes a card, whose head names the statement of the paper and leads to its row in the coverage table.
- A link that has a statement's id as its title leads to that card, and not only to the section in which it stands.
- Below the title of a chapter stands what it shows and takes.
- In each chapter the first use of a word that the notation page explains leads to its row there.
- A figure of several panels gets a class of style: on a phone it keeps its width, and scrolls.
"""

import functools
import re
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms import SphinxTransform

import cards
from notebooks import BOOK

PLACE = re.compile(r'<a id="([\w.-]+)">')
KINDS = {
    "paper": re.compile(r"The paper says"),
    "holds": re.compile(r"Holds:"),
    "caveat": re.compile(r"Holds, with a caveat:"),
    "corrected": re.compile(r"Corrected:"),
    "not-reproduced": re.compile(r"Not reproduced:"),
}
VERDICT = re.compile(r"\[([\w.-]+)\] [\w-]+: ")  # how a verdict begins in its plain text: with the statement's id
LABEL = re.compile(r" (.+?)\. ")  # what follows the verdict in its Markdown: the statement as a reader would say it
COVERAGE, NOTATION = "book/coverage", "book/notation"
PLAIN = ("coverage", "differences", "notation", "bibliography")  # pages to look things up in
ROW_OF_WORDS = re.compile(r'^\| <a id="(word-[\w-]+)"></a>(.+?) \|', re.MULTILINE)  # on the notation page: its place, its words
# Where a word is no link: in a heading, a link, a caption, a quotation, a table, code or a formula, and in what a cell puts out.
NO_LINKS = (nodes.title, nodes.reference, pending_xref, nodes.caption, nodes.block_quote, nodes.table, nodes.literal, nodes.math)
NO_LINKS += (nodes.field_list,)
PANELS = re.compile(r"figure of (?!1 )\d+ axes")  # how the summary of a figure with several begins


def card(name):
    """The place of the card with the verdict on the statement of this id, on the page of its chapter."""
    return f"verdict-{name}"


class Places(SphinxTransform):
    default_priority = 870  # before MyST looks for what links point to, at 879

    def apply(self):
        for raw in list(self.document.findall(nodes.raw)):
            place = PLACE.fullmatch(raw.astext())
            if place:
                self.document.myst_slugs[place[1]] = (raw.line or 0, place[1], place[1])
                row = next((node for node in ancestors(raw) if isinstance(node, nodes.row)), None)
                if row:
                    row["ids"].append(place[1])
                    for tag in (raw, raw.next_node(siblings=True, descend=False)):  # its beginning and its end
                        tag.parent.remove(tag)
                else:
                    raw.parent.replace_self(nodes.target("", "", ids=[place[1]]))  # the paragraph, which shows nothing


class Pages(SphinxTransform):
    default_priority = 873

    def apply(self):
        for raw in self.document.findall(nodes.raw):
            if raw.get("format") == "html" and "<svg" in raw.astext():
                raw.children = [nodes.Text(re.sub(r'href="(\w+)\.ipynb#', r'href="\1.html#', raw.astext()))]


class Numbers(SphinxTransform):
    default_priority = 871

    def apply(self):
        for formula in self.document.findall(nodes.math_block):
            if r"\tag{" in formula.astext():
                formula.children = [nodes.Text(r"\[" + formula.astext() + r"\]")]
                formula["nowrap"] = True


class Kinds(SphinxTransform):
    default_priority = 872

    def apply(self):
        for quotation in self.document.findall(nodes.block_quote):
            first = next((part for part in quotation[0] if part.astext().strip()), None)
            if isinstance(first, nodes.strong):  # otherwise nobody is named, which the tests of the pages refuse
                kinds = [kind for kind, pattern in KINDS.items() if pattern.match(first.astext())]
                quotation["classes"] += kinds or ["theorem"]


class Cards(SphinxTransform):
    default_priority = 874

    def apply(self):
        for quotation in self.document.findall(nodes.block_quote):
            name = statement(quotation)
            if name:
                self.document.myst_slugs[card(name)] = (quotation.line or 0, card(name), card(name))
                quotation["ids"].append(card(name))
                quotation["classes"].append("verdict")
                finding = quotation[0]
                said, words, *rest = [part for part in finding if part.astext()]
                label = LABEL.match(words.astext())
                finding.children = []
                finding += [nodes.Text(words.astext()[label.end() :]), *rest]
                head = nodes.paragraph("", "", nodes.strong("", said.astext().rstrip(":")), nodes.Text(" "))
                head += link(self.env.docname, COVERAGE, name, label[1])
                quotation.insert(0, head)


class Rows(SphinxTransform):
    default_priority = 875

    def apply(self):
        for row in self.document.findall(nodes.row):
            if row["ids"] and self.env.docname == COVERAGE:
                row["classes"].append(row[1].astext())
                table = next(node for node in ancestors(row) if isinstance(node, nodes.table))
                table["classes"] = ["claims"]


class Evidence(SphinxTransform):
    default_priority = 876

    def apply(self):
        for reference in self.document.findall(pending_xref):
            name = reference.attributes.pop("title", None)
            if name:
                reference["reftargetid"] = card(name)


class Briefs(SphinxTransform):
    default_priority = 877

    def apply(self):
        lines = [
            nodes.field("", nodes.field_name("", head), nodes.field_body("", nodes.paragraph("", words)))
            for head, words in cards.card(Path(self.env.docname).name)
        ]
        if lines:
            title = next(self.document.findall(nodes.title))
            title.parent.insert(1, nodes.field_list("", *lines, classes=["brief"]))


class Words(SphinxTransform):
    default_priority = 878

    def apply(self):
        folder, _, name = self.env.docname.partition("/")
        if folder != "book" or name in PLAIN or NOTATION not in self.env.found_docs:
            return
        for place, pattern in explained():
            for text in self.document.findall(nodes.Text):
                found = pattern.search(text.astext())
                if found and any(isinstance(node, nodes.paragraph) for node in ancestors(text)) and links_allowed(text):
                    before, after = text.astext()[: found.start()], text.astext()[found.end() :]
                    word = link(self.env.docname, NOTATION, place, found[0])
                    text.parent.replace(text, [nodes.Text(before), word, nodes.Text(after)])
                    break


@functools.cache
def explained():
    """The words that the notation page explains: a list of (place of the row, pattern of its words)."""
    rows = ROW_OF_WORDS.findall((BOOK / "notation.md").read_text(encoding="utf-8"))
    patterns = ("|".join(map(re.escape, words.split(", "))) for _, words in rows)
    return [(place, re.compile(rf"\b({pattern})\b", re.IGNORECASE)) for (place, _), pattern in zip(rows, patterns)]


def links_allowed(text):
    around = list(ancestors(text))
    cited = any("references" in node["ids"] for node in around if isinstance(node, nodes.section))
    return not cited and not any(isinstance(node, NO_LINKS) or node.get("mime_type") for node in around)


class Panels(SphinxTransform):
    default_priority = 879

    def apply(self):
        for image in self.document.findall(nodes.image):
            shown = next((node for node in ancestors(image) if node.get("mime_type")), None)
            if shown and PANELS.match(plain_text(shown)):
                image["classes"].append("panels")


def ancestors(node):
    """What the node lies in, from the nearest on."""
    while node.parent:
        node = node.parent
        yield node


def statement(quotation):
    """The id of the statement on which a cell's output, shown as this quotation, is a verdict; None for another one."""
    shown = quotation.parent
    if shown.get("mime_type") == "text/markdown":
        found = VERDICT.match(plain_text(shown))
        return found and found[1]


def plain_text(shown):
    """The text that a cell put out beside what is shown of the same output."""
    return "".join(other.astext() for other in shown.parent if other.get("mime_type") == "text/plain")


def link(here, page, place, words):
    """A link with these words to a place on a page, which is looked for when all pages are read."""
    target = {"refdoc": here, "refdomain": "doc", "reftype": "myst", "refexplicit": True}
    return pending_xref("", nodes.inline("", words), reftarget=page, reftargetid=place, **target)


def setup(app):
    for transform in (Places, Numbers, Kinds, Pages, Cards, Rows, Evidence, Briefs, Words, Panels):
        app.add_transform(transform)
    return {"parallel_read_safe": True}
