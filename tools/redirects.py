"""Put a page at each old address of the book, which leads to the new one: redirects.yml lists them.

    python tools/redirects.py HTML   # the folder of the built pages

Relative, so that it works below any address; the place within the page, #..., is kept.
"""

import html
import os
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>This page has moved</title>
<link rel="canonical" href="{new}">
<script>location.replace("{new}" + location.search + location.hash)</script>
<noscript><meta http-equiv="refresh" content="0; url={new}"></noscript>
<p>This page has moved: <a href="{new}">here it is</a>.</p>
</html>
"""


def redirect(folder, moved):
    """Write a page for each old address. moved: new addresses by old ones, relative to the folder.

    Raises ValueError for an old address at which a page is, and for a new one at which there is none.
    """
    for old, new in moved.items():
        if (folder / old).exists():
            raise ValueError(f"redirects.yml: there is a page at the old address {old}.")
        if not (folder / new).exists():
            raise ValueError(f"redirects.yml: there is no page at the new address {new} of {old}.")
    for old, new in moved.items():
        page = folder / old
        page.parent.mkdir(parents=True, exist_ok=True)
        target = html.escape(Path(os.path.relpath(folder / new, page.parent)).as_posix())
        page.write_text(PAGE.format(new=target), encoding="utf-8")


def main():
    if len(sys.argv) != 2:
        sys.exit("Give the folder of the built pages: python tools/redirects.py _build/html")
    try:
        redirect(Path(sys.argv[1]), yaml.safe_load((ROOT / "redirects.yml").read_text(encoding="utf-8")))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
