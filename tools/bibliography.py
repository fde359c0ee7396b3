"""Write book/bibliography.md, the page with every work that the chapters cite, out of book/references.bib.

    python tools/bibliography.py

The chapters' own lists of references are Markdown, which Jupyter and Colab show as it is. ``faults`` says where such a
list and the file part.
"""

import re

import jupytext
from pybtex.database import parse_file

from new_chapter import colab_cell
from notebooks import BOOK, HEADER, listed
from set_repository import address

TITLE = re.compile(r"\*([^*]+)\*")
LINK = re.compile(r"\[[^\]]*\]\((https://[^)\s]+)\)")
VENUES = ("booktitle", "journal", "publisher", "institution", "series", "volume", "pages")
YEAR = re.compile(r"\b(?:19|20)\d\d\b")
HEAD = """\
{header}
# Bibliography

Every work that the chapters cite, with the chapters that do. [The file behind this list]({file}) is BibTeX, to be taken into your own.

```{{code-cell}} ipython3
:tags: [remove-cell]

{colab}
```

## References

"""


def works():
    """The entries of book/references.bib, in its order, by the letters and digits of their titles."""
    entries = parse_file(BOOK / "references.bib").entries.values()
    return {key(entry.fields["title"]): entry for entry in entries}


def key(title):
    """A title without what its spellings differ in: capitals, signs and formulas' dollars."""
    return re.sub(r"\W", "", title).casefold()


def authors(entry):
    """The authors in a row, as the chapters write them."""
    names = [
        " ".join(person.first_names + person.middle_names + person.prelast_names + person.last_names)
        for person in entry.persons["author"]
    ]
    return ", ".join(names).replace(", others", " et al.")


def links(entry):
    """Where the work can be found: pairs of words and an address."""
    fields = entry.fields
    if "eprint" in fields:
        yield f"arXiv {fields['eprint']}", f"https://arxiv.org/abs/{fields['eprint']}"
    if "doi" in fields:
        yield f"doi {fields['doi']}", f"https://doi.org/{fields['doi']}"
    if "url" in fields:
        yield "page", fields["url"]


def references(name):
    """The lines of a chapter's list of references."""
    _, _, text = (BOOK / f"{name}.md").read_text(encoding="utf-8").partition("\n## References\n")
    return [line for line in text.splitlines() if line.startswith("- ")]


def cited(line):
    """What stands for a title in a line of references, as ``key`` makes it."""
    return [key(title) for title in TITLE.findall(line)]


def faults(line, known):
    """Where a line of references and the file part, in words. known: the file's works."""
    found = cited(line)
    yield from (f"not in references.bib: {title}" for title in found if title not in known)
    entries = [known[title] for title in found if title in known]
    addresses = {address for entry in entries for _, address in links(entry)}
    there, years = set(LINK.findall(line)), set(YEAR.findall(LINK.sub("", line)))
    for entry in entries:
        own = {address for _, address in links(entry)}
        if authors(entry) not in line:
            yield f"other authors than {authors(entry)}"
        if own and not own & there:
            yield f"without a link, such as {min(own)}"
    if entries:
        yield from (f"a link that is not in references.bib: {link}" for link in sorted(there - addresses))
        yield from (f"another year: {year}" for year in sorted(years - {entry.fields.get("year") for entry in entries}))


def citing():
    """The chapters that have a list of references."""
    return [name for name in listed() if name != "bibliography" and references(name)]


def page():
    """The text of book/bibliography.md."""
    places = {}
    for name in citing():
        title = re.search("^# (.+)", (BOOK / f"{name}.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
        for work in {work for line in references(name) for work in cited(line)}:
            places.setdefault(work, []).append(f"[{title}]({name}.ipynb)")
    file = f"{address()}/blob/main/book/references.bib"
    lines = [f"- {described(entry)} In: {', '.join(places.get(work, []))}" for work, entry in works().items()]
    return HEAD.format(header=HEADER, file=file, colab=colab_cell()) + "\n".join(lines) + "\n"


def described(entry):
    """A work in one line of Markdown."""
    where = [entry.fields[field] for field in VENUES if field in entry.fields]
    when = [entry.fields["year"]] if "year" in entry.fields else []
    found = "".join(f" [{words}]({link})." for words, link in links(entry))
    place = f" {', '.join(where + when)}." if where + when else ""
    return f"{authors(entry)}. *{entry.fields['title']}.*{place}{found}"


if __name__ == "__main__":
    (BOOK / "bibliography.md").write_text(page(), encoding="utf-8")
