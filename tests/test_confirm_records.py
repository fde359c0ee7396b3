"""The command that says of stored records that the present code computes them: it does not where it computes something else."""

from dataclasses import replace

import pytest

import confirm_records
from antipgd import results
from antipgd.vision import records
from project import ROOT, copy_tree


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What the present code computes, and what it does where the draws are others, or z is."""
    found = {"present": confirm_records.runs(ROOT)}
    draws = "draws", 'group["noise_step"], *place', 'group["noise_step"] + 1, *place'
    for name, old, new in (draws, ("z", "p.sub_(xi * cancel)", "p.add_(xi * cancel)")):
        tree = copy_tree(tmp_path_factory.mktemp(name) / "tree")
        text = (tree / "antipgd" / "noise.py").read_text(encoding="utf-8")
        assert old in text
        (tree / "antipgd" / "noise.py").write_text(text.replace(old, new), encoding="utf-8")
        found[name] = confirm_records.runs(tree)
    return found


@pytest.fixture
def stored(runs):
    """A record that was not confirmed before."""
    found = records.load("resnet-sigma-small")
    return replace(found, provenance={key: value for key, value in found.provenance.items() if key != "confirmed"})


def test_code_that_computes_the_same_is_confirmed(runs, stored):
    before = {**runs["present"], "code": stored.provenance["code"]}
    now = {**runs["present"], "code": "another"}
    confirmed = confirm_records.confirmed(stored, before, now, "a commit")
    assert confirmed.provenance["code"] == "another" and confirmed.values is stored.values
    assert confirmed.provenance["confirmed"]["made by code"] == stored.provenance["code"]
    again = confirm_records.confirmed(confirmed, now, {**now, "code": "a third"}, "a later commit")
    assert again.provenance["code"] == "a third"
    told = {"made by code": stored.provenance["code"], "same bits as the code of": ["a commit", "a later commit"]}
    assert again.provenance["confirmed"] == told


@pytest.mark.parametrize("change", ["draws", "z"])
def test_code_that_computes_something_else_is_not(change, runs, stored):
    assert runs[change]["code"] != runs["present"]["code"]
    before = {**runs["present"], "code": stored.provenance["code"]}
    with pytest.raises(results.ResultError, match="computes something else"):
        confirm_records.confirmed(stored, before, runs[change], "a commit")


def test_the_code_of_another_commit_confirms_nothing(runs, stored):
    with pytest.raises(results.ResultError, match="was not made by the code of a commit"):
        confirm_records.confirmed(stored, {**runs["present"], "code": "another"}, runs["present"], "a commit")
