"""Stored results of runs of the network, made on the tiny preset: their shapes, order, provenance, and going on."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from vision_runs import IMAGES, SMALL

from antipgd import results
from antipgd.sweep import SweepError
from antipgd.vision import data, records
from antipgd.vision import train as training
from antipgd.vision.command import parsed
from antipgd.vision.records import Record, produce, variants
from antipgd.vision.settings import PRESETS
from antipgd.vision.train import Machine, Stopped, train

CHANGES = {**SMALL, "epochs": 2, "eval_every": 2, "trace_every": 0}
RECORD = Record("tiny", variants(["pgd", "antipgd"], (0.02,), **CHANGES), seeds=(3, 5))
MACHINE = Machine(device="cpu", precision="float32", compiled=False, deterministic=True, progress=False)


@pytest.fixture(autouse=True, scope="module")
def few_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "synthetic", lambda: IMAGES)
        yield


def made(folder):
    """The record, made in this process: its runs one after the other."""
    with ThreadPoolExecutor(1) as executor:
        path = produce("tiny-record", RECORD, "synthetic", folder=folder, machine=MACHINE, executor=executor)
    return results.load("tiny-record", path.parent)


def runs_under(monkeypatch, folder):
    """Make records keep their runs here. Returns a list that gets the settings of each run that starts."""
    started = []

    def counted(settings, machine):
        started.append(settings)
        return train(settings, machine)

    monkeypatch.setattr(records, "PARTS", folder)
    monkeypatch.setattr(records, "train", counted)
    return started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The record, and the runs that were started for it."""
    with pytest.MonkeyPatch.context() as patch:
        started = runs_under(patch, tmp_path_factory.mktemp("parts"))
        return made(tmp_path_factory.mktemp("results")), started


def test_the_shapes_and_the_steps(undisturbed):
    record, _ = undisturbed
    assert record.steps.tolist() == [2] and record.seeds == [3, 5]
    assert record.values["batch_loss"].shape == record.values["batch_accuracy"].shape == (2, 2, 2)
    names = {f"{name} {place}" for name in ("train_loss", "test_accuracy", "validation_loss") for place in "wz"}
    assert names < record.values.keys()
    assert all(record.values[name].shape == (1, 2, 2) and record.values[name].isfinite().all() for name in names)


def test_the_runs_and_the_order_of_the_axes(undisturbed, tmp_path):
    record, started = undisturbed
    expected = [(seed, method) for seed in (3, 5) for method in ("pgd", "antipgd")]
    assert [(settings.seed, settings.method) for settings in started] == expected
    for (s, seed), (c, method) in itertools.product(enumerate((3, 5)), enumerate(("pgd", "antipgd"))):
        settings = replace(PRESETS["tiny"], method=method, sigma=0.02, **CHANGES, seed=seed)
        assert settings in started
        apart = record.values["test_loss w"][0, s, c] != record.values["test_loss z"][0, s, c]
        assert apart == (method == "antipgd")  # z of PGD is w
    run = train(started[2], replace(MACHINE, data="synthetic", folder=tmp_path))  # the first variant of the second seed
    stored = record.values["batch_loss"][:, 1, 0]
    assert stored.tolist() == pytest.approx([row["batch_loss"] for row in run.history], rel=1e-5)
    assert len(record.values["batch_loss"].unique()) == 6  # the methods part after the second step


def test_the_command_of_a_run_makes_it_again(undisturbed, tmp_path):
    record, started = undisturbed
    words = records.command(RECORD, 1, 5)
    assert words.startswith("python -m antipgd.vision.train --preset tiny --method antipgd --sigma 0.02")
    settings, machine = parsed([*words.split()[3:], "--data", "synthetic", "--folder", str(tmp_path), "--no-progress"])
    assert settings == started[3]
    run = train(settings, replace(machine, device="cpu", precision="float32", compiled=False))
    assert run.history[0]["batch_loss"] == pytest.approx(record.values["batch_loss"][0, 1, 1].item(), rel=1e-5)


@pytest.mark.parametrize("name", records.RECORDS)
def test_the_commands_of_all_records_are_commands(name):
    record = records.RECORDS[name]
    settings = record.settings()
    assert len(set(settings)) == len(record.seeds) * len(record.variants)
    for v in range(len(record.variants)):
        assert parsed(records.command(record, v, 2).split()[3:])[0] == settings[2 * len(record.variants) + v]


def test_where_it_comes_from(undisturbed):
    record, _ = undisturbed
    assert record.provenance["code"] == records.code() and record.provenance["device"].startswith("CPU")
    assert record.provenance["threads"] == torch.get_num_threads() and record.provenance["seconds"] > 0
    assert record.configuration["images"] == "synthetic stripes" and record.configuration["preset"] == "tiny"
    assert record.configuration["shared"]["width"] == 4 and "seed" not in record.configuration["shared"]
    assert [variant["method"] for variant in record.configuration["variants"]] == ["pgd", "antipgd"]


def test_a_record_that_was_stopped_goes_on_from_its_checkpoint(undisturbed, monkeypatch, tmp_path):
    record, _ = undisturbed
    started, steps = runs_under(monkeypatch, tmp_path / "parts"), []
    original = training.step

    def counted(*arguments):
        steps.append(1)
        original(*arguments)

    monkeypatch.setattr(training, "step", counted)
    with monkeypatch.context() as patch:
        patch.setattr(training.Stop, "agreed", lambda self, ranks: len(steps) >= 7)  # in the second of four runs
        with pytest.raises(SweepError, match="3 of 4 configurations have no result"):
            made(tmp_path)
    assert not list(tmp_path.glob("*.json")) and len(started) == 4
    taken = len(steps)
    again = made(tmp_path)
    assert len(steps) == 4 * 2 * 2 and taken == 4 + 3 + 1 + 1  # the last two stopped at once
    assert len(started) == 4 + 3
    assert again.values.keys() == record.values.keys()
    assert all(torch.equal(again.values[name], record.values[name]) for name in record.values)


def test_code_that_changes_meanwhile_makes_no_result(monkeypatch, tmp_path):
    runs_under(monkeypatch, tmp_path / "parts")
    digests = itertools.chain(4 * ["one"], itertools.repeat("other"))
    monkeypatch.setattr(records, "code", lambda: next(digests))
    with pytest.raises(SweepError, match="the code was changed while the sweep ran: call it again"):
        made(tmp_path)


def test_a_run_that_was_stopped_is_no_result(monkeypatch, tmp_path):
    runs_under(monkeypatch, tmp_path / "parts")
    monkeypatch.setattr(training.Stop, "agreed", lambda self, ranks: True)
    with pytest.raises(SweepError, match="Stopped in epoch 1") as caught:
        made(tmp_path)
    assert isinstance(caught.value.__cause__, Stopped)
