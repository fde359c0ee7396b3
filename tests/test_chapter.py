"""What the chapters share: their scale, checks, tables, choices and verdicts."""

import math
from types import SimpleNamespace

import pytest
import torch

from antipgd.book.chapter import SAID, Choice, at_scale, check, choose, claim, origin, table, told, two_digits
from antipgd.book.claims import VERDICTS
from antipgd.results import Result
from book_markup import KINDS


@pytest.mark.parametrize("x, text", [(31_234.0, "31,000"), (112.0, "110"), (0.00361, "0.0036"), (0.0, "0"), (-2.51, "-2.5"),
                                     (3.2e8, "3.2e+08"), (1e-7, "1e-07"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_two_digits(x, text):
    assert two_digits(x) == text


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


class Display(list):
    """What was displayed, in place of IPython's display."""

    __call__ = list.append


@pytest.fixture
def displayed(monkeypatch):
    shown = Display()
    monkeypatch.setattr("antipgd.book.chapter.display", shown)
    return shown


def test_a_table_has_a_face_for_the_page_and_one_for_the_comparison(displayed):
    table(["method", "loss"], [["GD", 0.12345], ["$\\sigma$", 3]])
    (shown,) = displayed
    assert shown._repr_markdown_() == "| method | loss |\n| ---|--- |\n| GD | 0.123 |\n| $\\sigma$ | 3 |"
    assert repr(shown) == "method | loss\nGD | 0.123\n$\\sigma$ | 3"


def test_a_row_of_another_length_is_refused(displayed):
    with pytest.raises(ValueError, match="2 columns, and a row has 1"):
        table(["method", "loss"], [["GD"]])


def stored(name, changes=False):
    provenance = {
        "code": "c0de", "commit": "0123456789abcdef", "uncommitted changes of the module": changes, "python": "3.11.7",
        "torch": "2.14.1", "numpy": "2.4.6", "device": "CPU, a processor", "threads": 1,
        "date": "2026-11-26T17:54:17+00:00", "seconds": 399.2,
    }
    return Result(name, {}, [0, 1, 2], torch.tensor([0]), {}, provenance)


def test_the_origin_of_a_stored_result_is_folded_below_it(displayed):
    source = SimpleNamespace(RENEW="python -m made.by {name}", load=stored)
    origin("fig-1", "fig-2", source=source)
    (shown,) = displayed
    made = "seeds 0 1 2, CPU, a processor, threads: 1, python 3.11.7, torch 2.14.1, numpy 2.4.6, 2026-11-26, in 399 s"
    lines = [f"- `python -m made.by {name}`: {made}, from commit 0123456" for name in ("fig-1", "fig-2")]
    assert repr(shown).splitlines() == ["Stored results: how they were made", *lines]
    assert shown.markdown.splitlines()[0].startswith('<details class="origin"><summary>')
    assert [line for line in shown.markdown.splitlines() if line.startswith("- ")] == lines


def test_the_origin_says_where_code_had_changes_that_no_commit_holds():
    assert told(stored("fig-1", changes=True), "{name}").endswith("from commit 0123456 with changes")


def test_a_choice_inside_its_grid():
    scores = torch.tensor([[3.0, 3.0, 3.0], [3.0, 1.0, 3.0], [3.0, 2.0, 3.0]])
    choice = choose(scores, lr=[0.1, 0.2, 0.3], sigma=[1, 2, 4])
    assert choice == Choice({"lr": 0.2, "sigma": 2}, 1.0, ())


@pytest.mark.parametrize("at, edge", [((0, 1), "lr = 0.1"), ((2, 1), "lr = 0.3"), ((1, 2), "sigma = 4"), ((1, 0), "sigma = 1")])
def test_a_choice_on_an_edge_is_refused_by_the_name_of_the_grid(at, edge):
    scores = torch.ones(3, 3)
    scores[at] = 0
    with pytest.raises(ValueError, match=f"edge of its grid, or beside runs that failed: {edge}. Extend"):
        choose(scores, lr=[0.1, 0.2, 0.3], sigma=[1, 2, 4])
    assert choose(scores, edges="say", lr=[0.1, 0.2, 0.3], sigma=[1, 2, 4]).edges == (edge.split()[0],)


def test_what_lies_beside_failed_runs_is_an_edge_too():
    with pytest.raises(ValueError, match="beside runs that failed: lr = 2"):
        choose([3.0, 2.0, math.inf], lr=[1, 2, 3])
    assert choose([3.0, 2.0, math.inf], edges="say", lr=[1, 2, 3]).edges == ("lr",)
    assert choose([3.0, 2.0, 2.5, math.inf], lr=[1, 2, 3, 4]).setting == {"lr": 2}


def test_a_failed_run_is_not_chosen_and_a_missing_score_is_refused():
    assert choose([math.inf, 2.0, 3.0, 4.0], edges="say", lr=[1, 2, 3, 4]).setting == {"lr": 2}
    with pytest.raises(ValueError, match="score infinity"):
        choose([math.nan, 2.0, 3.0], lr=[1, 2, 3])
    with pytest.raises(ValueError, match=r"shape \(2,\), and the grids \[3\]"):
        choose([1.0, 2.0], lr=[1, 2, 3])


@pytest.mark.parametrize(
    "arguments, verdict, words",
    [
        ({"printed": True}, "holds", "> **Holds:** paper (1). Found."),
        ({"printed": True, "caveat": True}, "caveat", "> **Holds, with a caveat:** paper (1). Found."),
        ({"printed": False, "corrected": True}, "corrected", "> **Corrected:** paper (1). Found."),
        ({"printed": False}, "not-reproduced", "> **Not reproduced:** paper (1). Found."),
    ],
)
def test_a_verdict_follows_from_what_was_computed(displayed, arguments, verdict, words):
    claim("eq-1", "Found.", **arguments)
    assert repr(displayed[0]) == f"[eq-1] {verdict}: Found." and displayed[0].markdown == words


def test_every_verdict_has_its_words_by_which_the_pages_know_it():
    assert set(SAID) == set(VERDICTS) - {"not-attempted"}
    for said, words in SAID.items():
        assert [kind for kind, pattern in KINDS.items() if pattern.match(f"{words}:")] == [said]


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"printed": False, "corrected": False}, AssertionError),
        ({"printed": True, "corrected": True}, ValueError),
        ({"printed": False, "caveat": True}, ValueError),
    ],
)
def test_a_verdict_that_does_not_fit_is_refused(displayed, arguments, error):
    with pytest.raises(error, match="eq-1"):
        claim("eq-1", "Found.", **arguments)
    assert not displayed
