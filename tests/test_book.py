"""The scale of the chapters, and their checks."""

import pytest

from antipgd.book import at_scale, check


def test_quick_is_the_default(monkeypatch):
    monkeypatch.delenv("ANTIPGD_SCALE", raising=False)
    assert at_scale(quick=1, full=2) == 1


@pytest.mark.parametrize("scale, value", [("quick", 1), ("full", 2)])
def test_the_variable_chooses_the_scale(monkeypatch, scale, value):
    monkeypatch.setenv("ANTIPGD_SCALE", scale)
    assert at_scale(quick=1, full=2) == value


def test_an_unknown_scale_is_refused_by_the_name_of_the_variable(monkeypatch):
    monkeypatch.setenv("ANTIPGD_SCALE", "slow")
    with pytest.raises(ValueError, match="ANTIPGD_SCALE is 'slow'"):
        at_scale(quick=1, full=2)


def test_a_check_that_holds_says_so(capsys):
    check("one is one", 1 == 1)
    assert capsys.readouterr().out == "holds: one is one\n"


def test_a_check_that_fails_raises_with_its_sentence():
    with pytest.raises(AssertionError, match="does not hold: one is two"):
        check("one is two", 1 == 2)
