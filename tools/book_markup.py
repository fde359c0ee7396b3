"""What Sphinx has to be told about the chapters' Markdown, which is written so that plain Jupyter shows it too.

- An equation with a number of its own (a TeX tag) is set as it stands, without Sphinx's wrapping, which admits no tag.
- The places in front of equations can be jumped to by `[words](#eq-name)`.
- In an output that is HTML, links to chapters lead to their pages.
- A quotation says by its first words, in bold, what it is: what the paper says, a verdict, or else a theorem of ours.
  It gets a class of style.
"""

import re

from docutils import nodes
from sphinx.transforms import SphinxTransform

PLACE = re.compile(r'<a id="([\w-]+)">')
KINDS = {
    "paper": re.compile(r"The paper says"),
    "holds": re.compile(r"Holds:"),
    "caveat": re.compile(r"Holds, with a caveat:"),
    "corrected": re.compile(r"Corrected:"),
    "not-reproduced": re.compile(r"Not reproduced:"),
}


class Places(SphinxTransform):
    default_priority = 870  # before MyST looks for what links point to, at 879

    def apply(self):
        slugs = getattr(self.document, "myst_slugs", {})
        for raw in list(self.document.findall(nodes.raw)):
            place = PLACE.fullmatch(raw.astext())
            if place:
                slugs[place[1]] = (raw.line or 0, place[1], place[1])
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


def setup(app):
    for transform in (Places, Numbers, Kinds, Pages):
        app.add_transform(transform)
    return {"parallel_read_safe": True}
