"""One symbol, one meaning: every symbol of every formula stands in the tables of the notation page, once."""

import re

import nbformat
import pytest

from notebooks import BOOK, listed

FORMULA = re.compile(r"\$\$(.*?)\$\$|\$([^$]+)\$", re.DOTALL)
WORDS = re.compile(r"\\(?:text|mathrm|operatorname|begin|end|tag)\s*\{[^{}]*\}")
GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho varrho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell nabla partial odot"
).split()
ACCENT = r"\\(?:tilde|bar|hat|mathcal|mathbb|mathbf|boldsymbol|dot|overline)(?![a-z])"
LETTER = rf"(?:\\(?:{'|'.join(sorted(GREEK, key=len, reverse=True))})(?![A-Za-z])|[A-Za-z])"
SYMBOL = re.compile(rf"({ACCENT})\s*(?:\{{\s*({LETTER})\s*\}}|({LETTER}))|({LETTER})|\\[A-Za-z]+")


def symbols(text):
    """The symbols in the formulas of a Markdown text: letters, with what stands over them or how they are written."""
    for display, inline in FORMULA.findall(text):
        for accent, braced, bare, plain in SYMBOL.findall(WORDS.sub(" ", display or inline)):
            if plain or accent:
                yield plain or f"{accent} {braced or bare}"


def markdown(name):
    cells = nbformat.read(BOOK / f"{name}.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def listed_symbols():
    """The symbols of the first column of the notation page's tables."""
    rows = re.findall(r"^\| (\$.*?) \|", markdown("notation"), re.MULTILINE)
    return [symbol for row in rows for symbol in dict.fromkeys(symbols(row))]


@pytest.mark.parametrize("name", listed())
def test_every_symbol_has_its_meaning(name):
    assert set(symbols(markdown(name))) - set(listed_symbols()) == set()


def test_a_symbol_is_in_one_row_only():
    rows = re.findall(r"^\| (\$.*?) \|", markdown("notation"), re.MULTILINE)
    where = [symbol for row in rows for symbol in set(symbols(row))]
    assert sorted(symbol for symbol in set(where) if where.count(symbol) > 1) == []


def test_symbols_are_found():
    text = r"$\tilde L(z) = \mathbb{E}\, \mathcal D_\alpha \dots$ and $$\begin{aligned} \text{left} \\ x^2 \tag{1.2} \end{aligned}$$"
    assert list(symbols(text)) == [r"\tilde L", "z", r"\mathbb E", r"\mathcal D", r"\alpha", "x"]
