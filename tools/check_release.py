"""Say what does not fit a release of this tag: python tools/check_release.py v0.1.0 (any Python from 3.11, no library).

What a release of a version promises: each notebook installs that version in Colab, CITATION.cff cites it, and its stored
results are there.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = re.compile(r"git\+https://[^@\s\"]+@v([^\"\s]+)\"")


def troubles(tag, root=ROOT):
    """A sentence for each thing that does not fit the tag."""
    version = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    if tag != f"v{version}":
        yield f"The tag is {tag}, and pyproject.toml names version {version}: tag v{version}, or change the version."
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)[1]
    if cited != version:
        yield f"CITATION.cff names version {cited}, and pyproject.toml {version}."
    for path in sorted((root / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found = {each for cell in cells for each in INSTALLED.findall("".join(cell["source"]))}
        if found != {version}:
            yield f"book/{path.name} installs {sorted(found)} in Colab, and not {version}: change it, then make notebooks."
    if not list((root / "book" / "results").glob("*.json")):
        yield "book/results holds no stored result."


def main():
    if len(sys.argv) != 2:
        sys.exit("Give the tag of the release, such as v0.1.0.")
    sys.exit("\n".join(troubles(sys.argv[1])) or None)


if __name__ == "__main__":
    main()
