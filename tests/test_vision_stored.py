"""The stored records of the ResNet18: they belong to the code, and their commands make them again."""

import os
from dataclasses import replace

import pytest

from antipgd import results
from antipgd.vision import records
from antipgd.vision.command import parsed
from antipgd.vision.train import train

STORED = sorted(path.stem for path in results.FOLDER.glob("resnet-*.json") if path.stem != "resnet-speed")
IMAGES = "ANTIPGD_IMAGES"


def test_the_record_that_the_book_shows_is_stored():
    assert "resnet-fig-2-small" in STORED and set(STORED) <= set(records.RECORDS)


@pytest.mark.parametrize("name", STORED)
def test_a_stored_record_belongs_to_the_code_and_is_small(name):
    assert records.stale(name) is None
    assert (results.FOLDER / f"{name}.json").stat().st_size < 100_000


@pytest.mark.parametrize("change", ["seeds", "variants"])
def test_a_record_with_other_settings_is_stale(change, monkeypatch):
    record = records.RECORDS[STORED[0]]
    monkeypatch.setitem(records.RECORDS, STORED[0], replace(record, **{change: getattr(record, change)[1:]}))
    assert f"{STORED[0]} is stale, other settings now" in records.stale(STORED[0])


def test_a_record_of_other_code_is_stale(monkeypatch):
    monkeypatch.setattr(records, "ALGORITHM", records.ALGORITHM[:-1])
    assert "its code has changed since" in records.stale(STORED[0])


@pytest.mark.parametrize("name", STORED)
def test_no_number_is_missing(name):
    stored, record = records.load(name), records.RECORDS[name]
    shape = (len(stored.steps), len(record.seeds), len(record.variants))
    for what, values in stored.values.items():
        assert values.shape[1:] == shape[1:]
        if not what.startswith(("trace", "validation")):
            assert values.isfinite().all()
        assert values[-1].isfinite().all()  # at the end everything is measured


@pytest.mark.skipif(IMAGES not in os.environ, reason=f"needs the images: {IMAGES}=cifar10 or a folder of them")
@pytest.mark.parametrize("name", [name for name in STORED if name.endswith("-small")])
def test_the_command_of_a_run_makes_its_first_epoch_again(name, tmp_path):
    stored, record = records.load(name), records.RECORDS[name]
    for variant in range(0, len(record.variants), 3):
        words = records.command(record, variant, seed=1).split()[3:]
        extra = f"--epochs 1 --trace-every 0 --data {os.environ[IMAGES]} --no-progress --folder {tmp_path / str(variant)}"
        run = train(*parsed(words + extra.split()))
        assert run.history[0]["batch_loss"] == pytest.approx(stored.values["batch_loss"][0, 1, variant].item(), rel=2e-3)
