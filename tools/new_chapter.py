"""Begin a chapter: write book/NAME.md from tools/chapter.md, and list it in _toc.yml as the last of its third part.

    python tools/new_chapter.py NAME

The words to fill in stand between ‹ and ›; the cells run as they are, to be replaced by the chapter's own.
"""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[a-z][a-z0-9_]*")
COLAB = re.compile(r"^# Colab: .*?(?=\n```)", re.MULTILINE | re.DOTALL)
NEXT_PART = "  - caption: IV. Check it\n"


def colab_cell():
    """The cell for Colab, as all chapters have it."""
    first = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["root"]
    return COLAB.search((ROOT / first).with_suffix(".md").read_text(encoding="utf-8"))[0]


def text(name):
    """A chapter whose words are to be filled in."""
    skeleton = (ROOT / "tools" / "chapter.md").read_text(encoding="utf-8")
    return skeleton.replace("{colab}", colab_cell()).replace("{label}", name.replace("_", "-"))


def begin(name):
    """Write the chapter and list it. Returns its path. Raises ValueError for a name that is taken or cannot be one."""
    path, toc = ROOT / "book" / f"{name}.md", ROOT / "_toc.yml"
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a chapter: take small letters, digits and _, such as label_noise.")
    if path.exists():
        raise ValueError(f"{path} exists already.")
    listed = toc.read_text(encoding="utf-8")
    path.write_text(text(name), encoding="utf-8")
    entry = f"      - file: book/{name}.ipynb\n"
    toc.write_text(listed.replace(NEXT_PART, entry + NEXT_PART), encoding="utf-8")
    return path


def main():
    if len(sys.argv) != 2:
        sys.exit("Give the chapter's name: make chapter NAME=my_chapter")
    try:
        print(f"{begin(sys.argv[1])}: fill in what stands between ‹ and ›, then make notebooks NAMES={sys.argv[1]}")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
