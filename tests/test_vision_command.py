"""The command: its help, its presets, its errors, and one run from end to end that is interrupted on the way."""

import ast
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace

import pytest
import torch

from antipgd.vision import data, files
from antipgd.vision import settings as settings_module
from antipgd.vision import train as training
from antipgd.vision.command import parsed
from antipgd.vision.settings import PRESETS, Settings
from antipgd.vision.train import Machine, main

PATIENCE = 240  # seconds: the machine may be busy


def described(cls):
    """What stands below each field of a dataclass."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(cls)).body)
    pairs = [(a.target.id, b.value.value) for a, b in zip(body, body[1:]) if isinstance(a, ast.AnnAssign)]
    return {name: plain(text) for name, text in pairs}


def plain(text):
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


def help_text(capsys, monkeypatch, *words):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        parsed([*words, "--help"])
    assert ended.value.code == 0
    return plain(capsys.readouterr().out)


def test_the_help_names_every_setting_with_its_default_and_source(capsys, monkeypatch):
    text = help_text(capsys, monkeypatch)
    for cls, start in ((Settings, PRESETS["fig2"]), (Machine, Machine())):
        meanings = described(cls)
        assert meanings.keys() == {field.name for field in fields(cls)}
        for name, meaning in meanings.items():
            option = name.replace("_", "-")
            assert f"--{option}" in text and f"{meaning} (default: {getattr(start, name)})" in text, name
    assert "--preset {" not in text and "tiny: seconds, to try the program. (default: fig2)" in text


def test_a_preset_changes_the_defaults(capsys, monkeypatch):
    assert "Channels of the first stage (D.4: the usual ResNet18). (default: 4)" in help_text(
        capsys, monkeypatch, "--preset", "tiny"
    )
    for name, preset in PRESETS.items():
        assert parsed(["--preset", name]) == (preset, Machine())
    assert parsed([])[0] == PRESETS["fig2"]
    assert parsed(["--preset=tiny"])[0] == PRESETS["tiny"]


def test_what_is_given_beats_the_preset_wherever_it_stands():
    words = "--sigma 0.02 --noise-on scaled --augment --preset tiny --noise-stop 2 --data somewhere --folder there"
    settings, machine = parsed([*words.split(), "--device", "cpu", "--no-progress", "--save-seconds", "5"])
    assert settings == replace(PRESETS["tiny"], sigma=0.02, noise_on="scaled", augment=True, noise_stop=2)
    assert (machine.data, str(machine.folder), machine.progress, machine.save_seconds) == ("somewhere", "there", False, 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--preset fig3", "invalid choice: 'fig3'"),
        ("--sigma much", "sigma"),
        ("--sigma -1", "sigma is -1.0: it is a finite number, at least 0"),
        ("--method adam", "method"),
        ("--method sgd --sigma 0.1", "sgd takes no noise: leave sigma at 0, or choose one of"),
        ("--preset tiny --train-images 10", "has more images than the 10 to train on"),
        ("--train-images 7525", "train_images is 7525: there are ten classes"),
        ("--trace-probes 1", "trace_probes is 1: a standard error takes at least 2"),
        ("--lr -1", "lr is -1.0: it is a finite number, at least 0"),
        ("--law cauchy", "Unknown noise law 'cauchy'"),
        ("--no-such-setting 3", "no-such-setting"),
        ("--device tpu", "device"),
        pytest.param(
            "--device cuda",
            "torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_words_that_make_no_run_end_with_a_message(capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        parsed(words.split())
    said = plain(f"{capsys.readouterr().err} {ended.value.code if isinstance(ended.value.code, str) else ''}")
    assert ended.value.code not in (0, None) and message in said and "Traceback" not in said


def ending(arguments):
    """With what the command ends the program."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments.split(), "--no-progress"])
    return ended.value.code


def test_images_that_are_not_there_end_with_a_message(tmp_path):
    assert "There are no folders" in ending(f"--preset tiny --data {tmp_path}/nowhere --folder {tmp_path}/run")


def test_more_images_than_there_are_end_with_a_message(tmp_path):
    run = f"--preset tiny --data synthetic --folder {tmp_path}"
    assert "2000 images were asked for, as many of each class, and there are 1000" in ending(f"{run} --train-images 2000")


def test_a_folder_that_cannot_be_written_ends_with_a_message(tmp_path):
    (tmp_path / "file").touch()
    message = ending(f"--preset tiny --data synthetic --trace-every 0 --epochs 1 --folder {tmp_path}/file")
    assert "no checkpoint can be written" in message and f"{tmp_path}/file/checkpoint.pt" in message


def test_a_damaged_checkpoint_ends_with_a_message(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"something else")
    message = ending(f"--preset tiny --data synthetic --folder {tmp_path}")
    assert "was not written by this version" in message and "Delete it, and the same command will begin anew" in message


def test_ctrl_c_outside_the_steps_ends_with_a_message(monkeypatch, tmp_path):
    def interrupted(source):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", interrupted)
    assert "goes on from the last checkpoint, if there is one" in ending(f"--preset tiny --folder {tmp_path}")


def test_the_second_ctrl_c_is_heeded_at_once():
    before = signal.getsignal(signal.SIGINT)
    with training.Stop() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_settings_of_the_figures_are_the_papers():
    for name in ("fig2", "fig6"):
        preset = PRESETS[name]
        assert (preset.lr, preset.momentum, preset.large_batch, preset.small_batch) == (0.05, 0.9, 7500, 128)
        assert (preset.train_images, preset.width, preset.epochs) == (50_000, 64, 300)
    assert (PRESETS["fig2"].noise_start, PRESETS["fig2"].noise_stop) == (0, 250)
    assert (PRESETS["fig6"].noise_start, PRESETS["fig6"].noise_stop) == (75, None)
    assert settings_module.NAMES.keys() >= settings_module.CANCEL.keys()


# From end to end

WORDS = (
    "--preset tiny --data synthetic --method antisgd --sigma 0.01 --epochs 12 --eval-every 12 --trace-every 0 "
    "--save-seconds 0 --deterministic --device cpu"
)


def command(folder, **options):
    words = [sys.executable, "-m", "antipgd.vision.train", *WORDS.split(), "--folder", folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    running, end = command(path.parent), time.monotonic() + PATIENCE
    while not path.exists():
        assert running.poll() is None and time.monotonic() < end, running.communicate()
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    said, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 1 and not said and "Traceback" not in errors
    assert re.search(rf"Stopped in epoch \d+, after \d of 6 steps. The same command goes on from {path}", errors)
    stopped = files.read(path)
    assert 0 < 6 * stopped["epoch"] + stopped["batch"] < 72

    running = command(path.parent)
    said, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0 and "Traceback" not in errors and "Anti-SGD, sigma 0.01, seed 0" in errors
    assert files.read(path)["epoch"] == 12 and files.read(path)["history"][: stopped["epoch"]] == stopped["history"]
    lines = said.splitlines()
    assert lines[0].startswith("Anti-SGD, after 12 epochs") and lines[1].split() == ["at", "w", "at", "z"]
    assert [line.split()[0] for line in lines[2:]] == [
        f"{images}_{what}" for images in ("train", "test", "validation") for what in ("loss", "accuracy")
    ]
    row = files.read(path)["history"][-1]
    assert float(lines[3].split()[1]) == pytest.approx(row["train_accuracy w"], rel=1e-3)


def test_a_finished_run_prints_its_table_again(capsys, tmp_path):
    words = f"--preset tiny --data synthetic --device cpu --no-progress --folder {tmp_path}".split()
    main(words)
    first = capsys.readouterr().out
    main(words)
    assert capsys.readouterr().out == first and "trace" in first
