"""Runs that are stopped, killed, or find their files damaged: they go on to the same end, bit for bit, or say why not."""

import errno
import json
import math
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from vision_runs import IMAGES, KILLED, KILLS, TINY

from antipgd.vision import data, files
from antipgd.vision import train as training
from antipgd.vision.data import synthetic
from antipgd.vision.files import FileError
from antipgd.vision.train import Machine, Run, Stopped, summary, train

SCRIPT = Path(__file__).with_name("vision_runs.py")
NOISY = replace(TINY, method="antipgd", sigma=0.01)


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr(data, "synthetic", lambda: IMAGES)


@pytest.fixture
def machine(tmp_path):
    return Machine("synthetic", tmp_path / "run", "cpu", "float32", False, True, save_seconds=0.0, progress=False)


def difference(a, b, place=""):
    """Where two checkpoints differ in a bit; the time that they took does not count."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [each for key in a if key != "seconds" for each in difference(a[key], b[key], f"{place}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [each for i in range(len(a)) for each in difference(a[i], b[i], f"{place}/{i}")]
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [place]
    return [] if a == b else [place]


# Kills


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    """A folder of runs that were killed, and what lay there after each kill."""
    folder = tmp_path_factory.mktemp("kills")
    subprocess.run([sys.executable, SCRIPT, "kills", folder], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder, json.loads((folder / "found.json").read_text())


def checkpoint(folder):
    return files.read(folder / "checkpoint.pt")


def test_a_run_that_was_killed_at_random_moments_ends_with_the_same_bits(kills):
    folder, found = kills
    undisturbed = checkpoint(folder / "undisturbed")
    assert undisturbed["epoch"] == KILLED.epochs and undisturbed["batch"] == 0
    assert {"momentum_buffer", "xi"} == undisturbed["optimizer"]["state"][0].keys()
    assert sum("test_loss z" in row for row in undisturbed["history"]) == 3
    runs = list(folder.glob("killed *"))
    assert runs and not any(difference(undisturbed, checkpoint(run)) for run in runs)
    assert len(found["random"]) == KILLS and len(set(map(tuple, found["random"]))) > KILLS / 2  # at many moments


def test_a_kill_while_a_checkpoint_is_written_leaves_one_that_is_whole(kills):
    folder, found = kills
    assert not difference(checkpoint(folder / "undisturbed"), checkpoint(folder / "saving"))
    lay = {call: (names, stood) for call, names, stood in found["saving"]}
    assert lay["fsync 1"][1] == lay["replace 1"][1] == lay["replace 2"][1] == [0, 0]  # nothing yet: a new start
    assert lay["replace 5"][1] > lay["replace 4"][1] > [0, 0]
    unfinished = [name for name in lay["fsync 1"][0] if name.endswith(".tmp")]
    assert len(unfinished) == 1 and not list((folder / "saving").glob(".*.tmp"))  # and is cleared away later


def test_a_kill_between_the_two_renames_leaves_the_checkpoint_before(kills):
    _, found = kills
    names = [names for _, names, _ in found["saving"] if "checkpoint.pt" not in names]
    assert ["checkpoint.new.pt", "checkpoint.previous.pt"] in names


def test_a_difference_of_one_bit_would_be_seen(kills):
    folder, _ = kills
    one, other = (checkpoint(folder / "undisturbed") for _ in range(2))
    assert not difference(one, other)
    other["seconds"] += 1
    assert not difference(one, other)
    xi = other["optimizer"]["state"][3]["momentum_buffer"].view(torch.int32)
    xi.view(-1)[5] ^= 1
    other["history"][2]["batch_loss"] = math.nextafter(other["history"][2]["batch_loss"], 9)
    assert difference(one, other) == ["/history/2/batch_loss", "/optimizer/state/3/momentum_buffer"]


# Stops


def stop_after(monkeypatch, steps):
    """As if Ctrl-C came during this step."""
    seen = []

    def agreed(self, ranks):
        seen.append(1)
        return len(seen) == steps

    monkeypatch.setattr(training.Stop, "agreed", agreed)


def stopped(monkeypatch, machine, settings=NOISY, steps=3):
    """A run that was stopped after as many steps."""
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Stopped):
            train(settings, machine)


@pytest.mark.parametrize("steps", [1, 2, 5, 6])
def test_a_run_that_was_stopped_says_where_and_goes_on_to_the_same_end(monkeypatch, tmp_path, machine, steps):
    undisturbed = replace(machine, folder=tmp_path / "undisturbed", save_seconds=1e9)
    train(NOISY, undisturbed)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Stopped, match=rf"in epoch {(steps + 1) // 2}, after {2 - steps % 2} of 2 steps"):
            train(NOISY, replace(machine, save_seconds=1e9))
    train(NOISY, machine)
    assert not difference(checkpoint(undisturbed.folder), checkpoint(machine.folder))


def test_no_checkpoint_is_written_before_its_time(monkeypatch, machine):
    saved = []
    original = Run.save
    monkeypatch.setattr(Run, "save", lambda run: (saved.append((run.epoch, run.batch)), original(run)))
    train(NOISY, replace(machine, save_seconds=1e9))
    assert saved == [(3, 0)]
    train(NOISY, replace(machine, folder=machine.folder / "other"))
    assert saved[1:] == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 0)]


def test_a_finished_run_is_not_computed_or_written_again(monkeypatch, machine):
    first = train(NOISY, machine)
    written = (machine.folder / "checkpoint.pt").stat().st_mtime_ns
    monkeypatch.setattr(training, "step", None)
    again = train(NOISY, machine)
    assert again.history == first.history and summary(again) == summary(first)
    assert (machine.folder / "checkpoint.pt").stat().st_mtime_ns == written


# Checkpoints that cannot be written or read


def test_a_full_disk_leaves_the_last_checkpoint(monkeypatch, machine):
    stopped(monkeypatch, machine)
    before = checkpoint(machine.folder)
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left.*no checkpoint can be written. The last one stands") as caught:
            train(NOISY, machine)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(machine.folder / "checkpoint.pt")
    assert not difference(before, checkpoint(machine.folder))
    assert train(NOISY, machine).epoch == 3


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def test_a_checkpoint_that_is_cut_off_is_refused_and_the_one_before_takes_its_place(monkeypatch, tmp_path, machine):
    stopped(monkeypatch, machine)
    last, previous = machine.folder / "checkpoint.pt", machine.folder / "checkpoint.previous.pt"
    cut(last)
    with pytest.raises(FileError, match="cut off.* Delete it, and the same command will go on from checkpoint.previous.pt"):
        train(NOISY, machine)
    last.unlink()
    run = Run.fresh(NOISY, machine, IMAGES.train.first(40))
    run.restore()
    assert (run.epoch, run.batch) == (0, 2)
    cut(previous)
    with pytest.raises(FileError, match="previous.pt is cut off.* Delete it, and the same command will begin anew"):
        train(NOISY, machine)
    previous.unlink()
    train(NOISY, machine)
    train(NOISY, undisturbed := replace(machine, folder=tmp_path / "undisturbed"))
    assert not difference(checkpoint(undisturbed.folder), checkpoint(machine.folder))


def test_a_checkpoint_that_is_cut_off_with_none_before_it(machine):
    train(NOISY, replace(machine, save_seconds=1e9))
    cut(machine.folder / "checkpoint.pt")
    with pytest.raises(FileError, match="cut off.* Delete it, and the same command will begin anew"):
        train(NOISY, machine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.02}, r"checkpoint.pt belongs to another run: sigma 0.01, now 0.02. Give this run a --folder of its own"),
        ({"seed": 5, "lr": 0.1}, "lr 0.05, now 0.1; seed 0, now 5"),
        ({"noise_stop": 2}, "noise_stop None, now 2"),
        ({"train_images": 30}, "train_images 40, now 30; images '.*', now '"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(monkeypatch, machine, changes, message):
    stopped(monkeypatch, machine, steps=1)
    with pytest.raises(FileError, match=message):
        train(replace(NOISY, **changes), machine)


def test_a_checkpoint_of_other_images_is_refused(monkeypatch, machine):
    stopped(monkeypatch, machine, steps=1)
    other = data.Images(IMAGES.train.pixels.flip(3), IMAGES.train.labels)
    monkeypatch.setattr(data, "synthetic", lambda: data.Dataset("other", other, IMAGES.test))
    with pytest.raises(FileError, match="another run: images '[0-9a-f]{16}', now '[0-9a-f]{16}'. Give"):
        train(NOISY, machine)


# What a run gives


def test_where_the_noise_has_ended_w_is_z(machine):
    settings = replace(NOISY, epochs=4, noise_stop=2, eval_every=1)
    run = train(settings, machine)
    apart = [row["test_loss w"] != row["test_loss z"] for row in run.history]
    assert apart == [True, True, False, False]
    assert not any(state["xi"].any() for state in run.optimizer.state.values())
    weights = [p.detach().clone() for p in run.model.parameters()]
    with run.noise.at_z():
        assert all(map(torch.equal, weights, run.model.parameters()))
    noisy = train(replace(settings, noise_stop=None), replace(machine, folder=machine.folder / "noisy"))
    assert all(state["xi"].any() for state in noisy.optimizer.state.values())


def test_what_is_evaluated_when(machine):
    settings = replace(TINY, method="gd", epochs=5, eval_every=2, trace_every=4)
    rows = train(settings, machine).history
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert ["test_loss w" in row for row in rows] == [False, True, False, True, True]
    assert ["trace w" in row for row in rows] == [False, False, False, True, True]
    assert ["validation_loss w" in row for row in rows] == 4 * [False] + [True]
    assert all(0 < row["batch_loss"] < 4 and 0 <= row["batch_accuracy"] <= 1 for row in rows)


def test_a_run_learns(monkeypatch, machine):
    monkeypatch.setattr(data, "synthetic", lambda: synthetic(train=200, test=50))
    settings = replace(TINY, method="sgd", train_images=200, epochs=10, eval_every=10, width=8)
    rows = train(settings, replace(machine, save_seconds=1e9)).history
    assert rows[0]["batch_accuracy"] < 0.5 < rows[-1]["batch_accuracy"] and rows[-1]["train_accuracy w"] > 0.8


def test_tensorboard_is_left_aside_where_it_is_not_installed(monkeypatch, machine):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert training.tensorboard(machine.folder) is None
    train(replace(TINY, method="gd", epochs=1), machine)


def test_tensorboard_gets_each_number_of_each_epoch(monkeypatch, machine):
    written, closed = {}, []

    class SummaryWriter:
        def __init__(self, folder):
            assert folder == machine.folder / "tensorboard"

        def add_scalar(self, name, value, epoch):
            written[name, epoch] = value

        def flush(self):
            pass

        def close(self):
            closed.append(True)

    module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    rows = train(NOISY, machine).history
    expected = {(name.replace(" ", "/"), row["epoch"]): row[name] for row in rows for name in row if name != "epoch"}
    assert written == expected and ("test_loss/z", 3) in written and closed == [True]


def test_the_deterministic_algorithms_are_asked_for_only_during_the_run(monkeypatch, machine):
    states = []
    monkeypatch.setattr(
        training.Run, "look", lambda *_: states.append(torch.are_deterministic_algorithms_enabled())
    )
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    train(replace(TINY, method="gd", epochs=1), machine)
    train(replace(TINY, method="gd", epochs=1), replace(machine, folder=machine.folder / "fast", deterministic=False))
    assert states == [True, before[0]]
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)


@pytest.mark.parametrize("there, computes", [(False, False), (True, False), (True, True)])
def test_bfloat16_is_for_gpus_that_compute_in_it(there, computes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or computes)
    assert training.has_bfloat16() == (there and computes)
