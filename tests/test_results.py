"""Stored results: written whole or not at all, refused when they are not what was written, stale when code changes."""

import ast
import errno
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from antipgd import experiments, pacbayes, results
from antipgd.results import Result, ResultError, digest, load, packed, save, unpacked, used_code

NUMBERS = [1.0, -0.5, 1 / 3, 1e-30, 123456789.0, math.inf, -math.inf, math.nan, 0.0]


def result(name="fig", scale=1.0):
    values = {"loss w": scale * torch.tensor(NUMBERS, dtype=torch.float64).reshape(3, 1, 3)}
    return Result(name, {"lr": 0.1}, [0], torch.tensor([0, 1, 2]), values, {"code": "none"})


@pytest.fixture
def stored(tmp_path):
    return save(result(), tmp_path)


def test_what_is_saved_is_loaded_with_six_digits(tmp_path):
    path = save(result(), tmp_path)
    back = load("fig", tmp_path)
    assert path == tmp_path / "fig.json"
    assert (back.name, back.configuration, back.seeds, back.provenance) == ("fig", {"lr": 0.1}, [0], {"code": "none"})
    assert back.steps.tolist() == [0, 1, 2]
    torch.testing.assert_close(
        back.values["loss w"], result().values["loss w"], rtol=5e-6, atol=0, equal_nan=True
    )


def test_saving_again_what_was_loaded_changes_nothing(tmp_path):
    before = save(result(), tmp_path).read_bytes()
    assert save(load("fig", tmp_path), tmp_path).read_bytes() == before


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (1, 2, 1)])
def test_tensors_keep_their_shape(shape):
    assert torch.equal(unpacked(packed(torch.ones(shape))), torch.ones(shape, dtype=torch.float64))


def test_the_file_is_strict_json(stored):
    def refuse(word):
        raise AssertionError(word)

    json.loads(stored.read_text(), parse_constant=refuse)  # NaN and Infinity are no JSON


# --- What is refused --------------------------------------------------------------------------------------------


def edited(text):
    return text.replace("0.333333", "0.333334")


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda text: text[: len(text) // 2], "is cut off"),
        (lambda text: "", "is cut off"),
        (lambda text: "[1, 2]", "was not written by"),
        (lambda text: '{"values": {}}', "was not written by"),
        (lambda text: text.replace('"format": 1', '"format": 99'), "was not written by"),
        (edited, "was changed after it was written"),
        (lambda text: text.replace('"lr":0.1', '"lr":0.2'), "was changed after it was written"),
        (lambda text: text.replace('"code":"none"', '"code":"other"'), "was changed after it was written"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_refused(stored, change, reason):
    text = stored.read_text()
    assert change(text) != text
    stored.write_text(change(text))
    with pytest.raises(ResultError, match=reason) as refused:
        load("fig", stored.parent)
    assert "python -m antipgd.experiments fig" in str(refused.value)
    assert str(stored) in str(refused.value)


def test_bytes_that_are_no_text_are_refused(stored):
    stored.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match="is cut off, or is no JSON"):
        load("fig", stored.parent)


def test_something_else_that_the_module_wrote_is_no_result(tmp_path):
    results.write(tmp_path / "part.json", {"result": 1})
    save(result(), tmp_path).rename(tmp_path / "other.json")
    for name in ("part", "other"):
        with pytest.raises(ResultError, match=f"is not the result {name}. Make it anew"):
            load(name, tmp_path)


def test_a_missing_result_is_said_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(ResultError, match="There is no .*other.json. Make it anew: make other"):
        load("other", tmp_path, renew="make {name}")


# --- Written whole or not at all --------------------------------------------------------------------------------


def only_the_old(folder):
    """Whether the folder holds the old result and nothing else."""
    names = [path.name for path in folder.iterdir()]
    return names == ["fig.json"] and load("fig", folder).values["loss w"][0, 0, 0] == 1


def test_a_full_disk_leaves_the_old_result(stored, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(result(scale=2.0), stored.parent)
    assert only_the_old(stored.parent)


WRITE_MUCH = """
import os, resource, signal, sys
from pathlib import Path
from antipgd import results
{before}
results.write(Path(sys.argv[1]), {{"format": 1, "values": list(range(100_000))}})
"""


def write_much(path, before):
    """In a process of its own, after these lines, write a large file to the path: its exit status and last words."""
    command = [sys.executable, "-c", WRITE_MUCH.format(before=before), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr.strip().splitlines()[-1:]


def test_a_write_that_stops_half_way_leaves_the_old_result(stored):
    # A real one: the system lets the process write this many bytes into a file, and no more.
    status, words = write_much(stored, "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))")
    assert status == 1 and "File too large" in words[0]
    assert only_the_old(stored.parent)


def test_a_kill_before_the_last_byte_leaves_the_old_result(stored):
    status, _ = write_much(stored, "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)")
    assert status == -signal.SIGKILL
    assert load("fig", stored.parent).values["loss w"][0, 0, 0] == 1
    assert [path.suffix for path in stored.parent.iterdir() if path != stored] == [".tmp"]


# --- Where it is looked for -------------------------------------------------------------------------------------


def test_an_installed_module_finds_the_results_that_it_carries(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "nothing")
    monkeypatch.setattr(results, "PACKAGED", tmp_path)
    save(result(), tmp_path)
    assert load("fig").name == "fig"
    with pytest.raises(ResultError, match="There is no .*nothing"):
        load("another")


def test_the_checkout_comes_before_what_is_carried(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "tree")
    monkeypatch.setattr(results, "PACKAGED", tmp_path / "carried")
    save(result(scale=2.0), tmp_path / "tree")
    save(result(), tmp_path / "carried")
    assert load("fig").values["loss w"][0, 0, 0] == 2


def test_the_provenance_says_where_and_with_what():
    origin = results.provenance("abc", 3, 12.34)
    assert origin["code"] == "abc" and origin["seconds"] == 12.3 and origin["threads"] == 3
    assert origin["torch"] == torch.__version__
    assert len(origin["commit"]) == (40 if (results.CHECKOUT / ".git").exists() else 0)  # none in a downloaded tree
    assert all(value != "" for name, value in origin.items() if name != "commit")


def test_without_git_the_commit_is_empty(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "CHECKOUT", tmp_path)
    assert results.git("log", "-1") == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert results.git("log", "-1") == ""


# --- The digest of the code -------------------------------------------------------------------------------------


@pytest.fixture
def edit(monkeypatch):
    """Change the source of a module as the digest sees it: edit(module, old, new)."""
    texts, original = {}, results.source
    monkeypatch.setattr(results, "source", lambda module: texts.get(module, original(module)))

    def change(module, old, new):
        text = texts.get(module, original(module))
        assert old in text, f"{module} has no {old!r} any more"
        texts[module] = text.replace(old, new)
        ast.parse(texts[module])
        results.top_level.cache_clear()

    yield change
    results.top_level.cache_clear()


def regression():
    return digest(experiments.Regression, experiments.compute)


def sensing():
    return digest(experiments.Sensing, experiments.compute)


@pytest.mark.parametrize(
    "module, old, new",
    [
        ("dynamics", "BLOCK = 64", "BLOCK = 65"),
        ("dynamics", "self.minus_lr = -column", "self.minus_lr = +column"),
        ("dynamics", "np.geomspace(1,", "np.geomspace(2,"),
        ("noise", 'digest_size=8', 'digest_size=7'),
        ("noise", "out.normal_(", "out.uniform_("),
        ("landscapes", "(4 * self.samples)", "(2 * self.samples)"),
        ("landscapes", "torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(seed + 1)"),
        ("experiments", "manual_seed(1000 + seed)", "manual_seed(2000 + seed)"),
        ("experiments", "2**0.5 * sigma", "2 * sigma"),
    ],
)
def test_code_that_changes_in_meaning_has_another_digest(edit, module, old, new):
    before = regression()
    edit(f"antipgd.{module}", old, new)
    assert regression() != before


@pytest.mark.parametrize(
    "module, old, new",
    [
        ("dynamics", "BLOCK = 64  # steps", "# first\nBLOCK  =  64  # the steps"),
        ("dynamics", '"""One step of all runs.', '"""A single step of all runs.'),
        ("dynamics", "A run needs at least", "Each run needs at least"),
        ("noise", "class PGD(CorrelatedNoise)", "class PGD(CorrelatedNoise, object)"),
        ("noise", "import torch\n", "import sys\nimport torch\n"),
        ("landscapes", "class LinearNetwork(LeastSquares)", "class LinearNetwork(LeastSquares, object)"),
        ("landscapes", "class MatrixSensing(LeastSquares)", "class MatrixSensing(LeastSquares, object)"),
        ("experiments", "SEEDS_PER_JOB = 2", "SEEDS_PER_JOB = 5"),
        ("experiments", "class Sensing(Experiment)", "class Sensing(Experiment, object)"),
    ],
)
def test_comments_words_layout_and_what_is_not_used_do_not_count(edit, module, old, new):
    before = regression()
    edit(f"antipgd.{module}", old, new)
    assert regression() == before


def test_each_problem_depends_on_its_own_landscape(edit):
    before = regression(), sensing()
    edit("antipgd.landscapes", "2 * self.columns * (self.residuals", "3 * self.columns * (self.residuals")
    assert regression() == before[0] and sensing() != before[1]


def test_the_digest_covers_the_engine_the_landscape_and_the_noise_law_and_no_more():
    names = {name.removeprefix("antipgd.") for name in used_code(experiments.Regression, experiments.compute)}
    assert {"dynamics.run", "dynamics.Stepper", "dynamics.descend", "dynamics.log_spaced", "noise.draw", "noise.LAWS",
            "noise.keyed_seed", "landscapes.QuadraticRegression", "landscapes.LeastSquares",
            "landscapes.standard_rows", "experiments.Experiment", "experiments.recorded"} <= names  # fmt: skip
    assert not {"noise.CorrelatedNoise", "landscapes.MatrixSensing", "landscapes.LinearNetwork", "experiments.work",
                "experiments.FIGURES", "dynamics.over_seeds"} & names  # fmt: skip


@pytest.mark.parametrize(
    "line, call", [("from antipgd.noise import draw as law", "law("), ("from antipgd import noise", "noise.draw(")]
)
def test_it_follows_names_of_other_modules_and_attributes_of_modules(edit, line, call):
    assert "antipgd.noise.draw" not in used_code(pacbayes.seeger_bound)
    edit("antipgd.pacbayes", "import math", f"import math\n{line}")
    edit("antipgd.pacbayes", "math.sqrt(", call)
    assert {"antipgd.noise.draw", "antipgd.noise.LAWS"} <= set(used_code(pacbayes.seeger_bound))


def test_empty_fields_in_which_versions_of_python_differ_do_not_count():
    old, new = ast.parse("def f(x): return x").body[0], ast.parse("def f(x): return x").body[0]
    old.__dict__.pop("type_params", None)
    new.type_params = []
    assert results.as_lists(old) == results.as_lists(new)


def test_a_result_of_another_name_is_another_file(tmp_path):
    save(result(), tmp_path)
    save(replace(result(), name="other"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"fig.json", "other.json"}
