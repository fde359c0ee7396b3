"""The pages with the module's source, and what in the chapters leads to them."""

import pytest

from sources import imported, modules, place, places

CODE = """
from antipgd import AntiPGD
from antipgd.book import figures
from antipgd.dynamics import run as go, gd
noise = AntiPGD(optimizer, sigma=0.1)
runs = gd(0.1)
"""
NAMED = {
    "AntiPGD": "class AntiPGD(",
    "AntiPGD(optimizer, sigma=0.1)": "class AntiPGD(",
    "noise.at_z()": "    def at_z(",  # which it inherits
    "figures.use_style()": "def use_style(",
    "gd": "def gd(",
    "antipgd.AntiPGD": "class AntiPGD(",
    "antipgd.noise.AntiPGD": "class AntiPGD(",
    "antipgd.results.load": "def load(",
}
NOTHING = ["load", "noise", "runs", "w", "optimizer.step()", "figures.absent", "noise.absent()", "make book", "x = 1"]


@pytest.mark.parametrize("text", NAMED)
def test_a_name_leads_to_the_line_that_defines_it(text):
    module, line = place(text, imported(CODE))
    lines = modules()[module].read_text(encoding="utf-8").splitlines()
    number = int(line.removeprefix("#line-"))
    assert any(each.startswith(NAMED[text]) for each in lines[number - 1 : number + 2])  # decorators stand before it


@pytest.mark.parametrize("text", NOTHING)
def test_what_is_not_of_the_module_leads_nowhere(text):
    assert place(text, imported(CODE)) is None


def test_a_file_of_the_module_has_a_page_without_a_line():
    assert place("antipgd.vision.train", {}) == ("antipgd.vision.train", "")
    assert {module for module, line in places().values() if not line} == set(modules())


def test_what_is_no_python_imports_nothing():
    assert imported("holds: from antipgd import AntiPGD, as written") == {}
