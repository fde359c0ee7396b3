"""Pages with the module's source, one for each file, and links to them from where the chapters name what is in it.

A name leads to its source where a chapter writes it as its own code does, `AntiPGD`, `figures.use_style()`, or
`noise.at_z()` after `noise = AntiPGD(...)`, or in full: `antipgd.noise.AntiPGD`.
"""

import ast
import functools
import re
from contextlib import suppress

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms import SphinxTransform

from notebooks import ROOT

NAME = re.compile(r"([A-Za-z_]\w*)((?:\.\w+)*)(?:\(.*\))?", re.DOTALL)


@functools.cache
def modules():
    """The files of the module, by its dotted name."""
    files = sorted((ROOT / "antipgd").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return dict(zip(names, files))


@functools.cache
def places():
    """The page and the line, as the end of an address, of each class, function and method, by its dotted name."""
    found = {}
    for module, file in modules().items():
        tags = ModuleAnalyzer.for_file(str(file), module).find_tags()
        found |= {f"{module}.{name}": (module, f"#line-{line}") for name, (_, line, _) in tags.items()}
        found[module] = (module, "")
    return found


def imported(code):
    """What a piece of Python imports from the module, or makes with it: dotted names, by the names that they get."""
    names = {}
    with suppress(SyntaxError):  # it is an output, or a piece of something else
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "antipgd":
                names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                maker = names.get(getattr(node.value.func, "id", ""), "")
                if maker.rpartition(".")[2][:1].isupper():  # a class
                    names |= {each.id: maker for each in node.targets if isinstance(each, ast.Name)}
    return names


@functools.cache
def exported():
    """Where what `antipgd` itself offers is defined, by its dotted name."""
    names = imported(modules()["antipgd"].read_text(encoding="utf-8"))
    return {f"antipgd.{name}": where for name, where in names.items()}


def place(text, names):
    """The page and the line of what this text names; None for anything that is not of the module.

    names: what was imported, as ``imported`` has it. A method that a class inherits is found by its name, in its file.
    """
    found = NAME.fullmatch(text)
    if not found:
        return None
    first, rest = names.get(found[1], found[1]), found[2]
    if not rest and not first.endswith(found[1]):  # a variable, which the module does not have
        return None
    owner, _, last = (exported().get(first, first) + rest).rpartition(".")
    whole = exported().get(f"{owner}.{last}", f"{owner}.{last}") if owner else last
    if whole not in places() and places().get(owner, ("", ""))[1]:
        alike = [name for name in places() if name.startswith(places()[owner][0] + ".") and name.endswith("." + last)]
        whole = alike[0] if len(alike) == 1 else whole
    return places().get(whole)


class Links(SphinxTransform):
    default_priority = 878

    def apply(self):
        names = {}
        for block in self.document.findall(nodes.literal_block):
            names |= imported(block.astext())
        for literal in list(self.document.findall(nodes.literal)):
            found = place(literal.astext(), names)
            if found and isinstance(literal.parent, (nodes.paragraph, nodes.strong, nodes.emphasis)):  # not in a link
                page, line = found
                address = self.env.app.builder.get_relative_uri(self.env.docname, f"source/{page}")
                link = nodes.reference("", "", refuri=address + line, internal=True)
                literal.replace_self(link)
                link += literal


def pages(app):
    """The pages with the source: a name, what a page needs, and its template."""
    style = HtmlFormatter(linenos="inline", lineanchors="line")
    for module, file in modules().items():
        code = highlight(file.read_text(encoding="utf-8"), PythonLexer(), style)
        body = f'<section class="source"><h1>{module}</h1>{code}</section>'
        yield f"source/{module}", {"title": module, "body": body}, "page.html"


def setup(app):
    app.add_transform(Links)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True}
