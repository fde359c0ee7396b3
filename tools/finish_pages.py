"""What is done to the pages after Sphinx, so that they load fast and can be used by everybody.

- Only what a page uses is loaded: of the theme's thousands of icons those that appear, of MathJax the parts that
  typeset, and nothing of the extensions that Jupyter Book adds and this book has no use for.
- Pictures are small, wait until they are near, and keep their room meanwhile.
- What the theme leaves out for screen readers and for the browser's console is put right.
"""

import re
import shutil
from urllib.parse import quote

from pictures import convert

# Of MathJax, which the package brings whole: what typesets. Its menu weighs as much as the rest, and makes every
# formula a stop of the tabulator key. _config.yml says what the first of these files loads.
MATHJAX = (
    *("startup.js", "core.js", "input/tex.js", "input/tex/extensions", "a11y/assistive-mml.js"),
    *("output/chtml.js", "output/chtml/fonts/tex.js", "output/chtml/fonts/woff-v2"),
)
UNUSED = ("sphinx-thebe.js", "sphinx-thebe.css", "design-tabs.js", "sphinx-design.min.css")
ICON_FONT = "fontawesome.js"  # as the theme calls the script that holds all icons
ICON = re.compile(r"\bfa-([a-z][a-z-]*)")
ICONS = "<!-- icons -->"  # where the style sheet with the icons goes
LICENCE = "/* Icons of Font Awesome Free, https://fontawesome.com, under CC BY 4.0. */\n"
# Words by which a figure is described and that are false where dark mode turns light and dark round.
SHADES = re.compile(r"\b(black|white|dark|darker|bright|brighter)\b", re.IGNORECASE)
CHANGES = [
    # What is not used, or stands there twice.
    (rf'<(?:script|link)\b[^>]*(?:{"|".join(map(re.escape, UNUSED))})[^>]*>(?:</script>)?', ""),
    (r"<script>const THEBE_JS_URL.*?</script>", ""),
    (r'<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName.*?</script>', ""),
    (r"<(?:script|link)\b[^>]*fontawesome[^>]*>(?:</script>)?", ICONS),
    (r"mathjax/tex-chtml\.js", "mathjax/startup.js"),
    # The theme reports a preference that was never set, and shows a light page for a moment before a dark one.
    (r'(dataset\.mode = localStorage\.getItem\("mode"\) \|\| )""', r'\1"auto"'),
    (
        r'(dataset\.theme = localStorage\.getItem\("theme"\) \|\| )""',
        r'\1(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")',
    ),
    # Names that say something else than what is read on the element.
    (r'<summary aria-label="[^"]*">', "<summary>"),
    (r'(<button class="[^"]*search-button-field[^"]*"[^>]*) aria-label="[^"]*"', r"\1"),
    # Everything lies in a named region; a heading that says nothing is none.
    (r'<div id="pst-primary-sidebar"', r'<div id="pst-primary-sidebar" role="region" aria-label="This book"'),
    (r'<th class="head">\s*(?:<p>\s*</p>)?\s*</th>', "<td></td>"),
    # Pictures.
    (r'(_images/[0-9a-f]+)\.png"', r'\1.webp"'),
    (
        r'(<img [^>]*_images/[^>]*?)style="width: (\d+)px; height: (\d+)px;"',
        r'\1loading="lazy" decoding="async" width="\2" height="\3"',
    ),
]


def changed(page):
    """The text of a page with all changes."""
    for pattern, replacement in CHANGES:
        page = re.sub(pattern, replacement, page, flags=re.DOTALL)
    return re.sub(r"<figure\b.*?</figure>", as_drawn, page, flags=re.DOTALL)


def as_drawn(figure):
    """A figure, with a class where its own words would be false of its picture turned dark."""
    return figure[0].replace('class="', 'class="as-drawn ', 1) if SHADES.search(figure[0]) else figure[0]


def icons(names, script):
    """A style sheet with the pictures of the icons, out of the script of the icon font. ValueError for an unknown one."""
    rules = []
    for name in sorted(names):
        found = re.search(rf'[{{,]"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"\w+",\[?"([^"]+)"', script)
        if not found:
            raise ValueError(f"there is no icon {name} in the theme's icon font")
        width, height, path = found.groups()
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><path d="{path}"/></svg>'
        rules.append(f'.fa-{name} {{ --icon: url("data:image/svg+xml,{quote(svg, safe=" =:/")}"); }}\n')
    return LICENCE + "".join(rules)


def used_icons(pages, script):
    """The names of the icons on these pages; other classes of the icon font are no icons."""
    names = {name for page in pages for name in ICON.findall(page)}
    return {name for name in names if re.search(rf'[{{,]"?{name}"?:\[\d+,\d+,', script)}


def keep_of_mathjax(static):
    """Delete what no page loads of MathJax."""
    mathjax, kept = static / "mathjax", static / "kept"
    for part in MATHJAX:
        (kept / part).parent.mkdir(parents=True, exist_ok=True)
        (mathjax / part).rename(kept / part)
    shutil.rmtree(mathjax)
    kept.rename(mathjax)


def without_fonts(style):
    """A style sheet that asks for no icon font: browsers fetch it even where nothing is written in it."""
    return re.sub(r"@font-face\s*\{[^}]*fontawesome[^}]*\}", "", style)


def finish(html, work):
    """Change the pages below the folder html, and what they load. work: a folder that keeps pictures between builds."""
    static = html / "_static"
    keep_of_mathjax(static)
    convert(html / "_images", work)
    files = list(html.rglob("*.html"))
    pages = {file: file.read_text(encoding="utf-8") for file in files if static not in file.parents}
    font = next(static.rglob(ICON_FONT))
    script = font.read_text(encoding="utf-8")
    scripts = [file.read_text(encoding="utf-8") for file in (static / "scripts").glob("*theme.js")]  # they add icons
    (static / "icons.css").write_text(icons(used_icons([*pages.values(), *scripts], script), script), encoding="utf-8")
    for file, page in pages.items():
        root = "../" * (len(file.relative_to(html).parts) - 1)
        style = f'<link rel="stylesheet" href="{root}_static/icons.css" />'
        first, *others = changed(page).split(ICONS)
        file.write_text(first + style * bool(others) + "".join(others), encoding="utf-8")
    for file in (static / "styles").glob("*.css"):
        file.write_text(without_fonts(file.read_text(encoding="utf-8")), encoding="utf-8")
    for file in [font, *html.rglob("*.map"), *(static / name for name in UNUSED)]:
        file.unlink(missing_ok=True)
    shutil.rmtree(static / "vendor" / "fontawesome", ignore_errors=True)
