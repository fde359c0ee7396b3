"""The paper's toy figures: their settings, what they compute, and what is stored of them."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
import torch

from antipgd import experiments, results
from antipgd.dynamics import descend, log_spaced, run
from antipgd.experiments import FIGURES, assembled, code, compute, jobs, main, produce, recorded, stale, work
from antipgd.landscapes import MatrixSensing, QuadraticRegression
from antipgd.sweep import key
from project import ROOT

SMALL = {
    "regression": replace(FIGURES["fig-9"], d=12, M=6, nonzero=2, test_samples=5),
    "sensing": replace(FIGURES["fig-12"], n=4, rank=2, M=12, test_samples=5),
}
SMALL = {name: replace(each, seeds=(3, 4, 5), steps=100, descent=20) for name, each in SMALL.items()}


@pytest.fixture
def threads():
    with ThreadPoolExecutor(1) as executor:
        yield executor


# --- Settings ---------------------------------------------------------------------------------------------------


def test_figure_2_has_the_settings_of_d_1():
    left, middle = FIGURES["fig-2-left"], FIGURES["fig-2-middle"]
    assert (left.lrs, left.sigmas, left.batch_size, left.d, left.M, left.nonzero) == ((0.1,), (0.05,), 1, 100, 40, 10)
    assert (middle.lrs, middle.sigmas, middle.batch_size) == ((0.001,), (0.1,), 10)
    assert (middle.n, middle.rank, middle.M, middle.norm) == (20, 5, 100, 1)
    assert [method.lr for method in left.methods() if method.batch_size] == [pytest.approx(0.01)]
    assert [method.lr for method in middle.methods() if method.batch_size] == [0.001]


@pytest.mark.parametrize("names", [("fig-9", "fig-10", "fig-11"), ("fig-12", "fig-13", "fig-14")])
def test_the_grids_are_three_rates_by_three_sigmas_with_ten_seeds(names):
    low, moderate, high = (FIGURES[name] for name in names)
    assert low.lrs < moderate.lrs < high.lrs
    assert replace(low, lrs=high.lrs) == high and replace(moderate, lrs=high.lrs) == high
    assert len(low.sigmas) == 3 and len(set(low.seeds)) == 10


def test_the_methods_of_a_grid_in_their_order():
    names = [method.name for method in FIGURES["fig-9"].methods()]
    assert names == ["GD", "SGD", *3 * ["PGD", "Anti-PGD", "PGD of equal step variance"]]
    _, _, pgd, anti, control, *_ = FIGURES["fig-9"].methods()
    assert (pgd.sigma, pgd.cancel) == (0.02, 0) and (anti.sigma, anti.cancel) == (0.02, 1) and control.cancel == 0
    assert control.sigma**2 == pytest.approx(2 * anti.sigma**2)  # as large as the variance of xi_new - xi_old


@pytest.mark.parametrize("setting", ["lrs", "seeds"])
def test_an_experiment_without_rates_or_seeds_is_refused(setting):
    with pytest.raises(ValueError, match="at least one learning rate and one seed"):
        replace(FIGURES["fig-9"], **{setting: ()})


# --- What is computed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_the_values_are_those_of_the_runs_at_w_at_z_and_after_descent(name):
    experiment = SMALL[name]
    if name == "regression":
        train, test, _ = QuadraticRegression.sparse(
            [3, 4, 5], d=12, M=6, nonzero=2, test_samples=5, dtype=torch.float32
        )
    else:
        train, test, _ = MatrixSensing.low_rank(
            [3, 4, 5], n=4, rank=2, M=12, test_samples=5, label_noise=0.01, dtype=torch.float32
        )
    normals = [torch.Generator().manual_seed(1000 + seed) for seed in (3, 4, 5)]
    w0 = torch.stack([torch.randn(1, train.dim, generator=normal) for normal in normals])
    runs = run(train, w0, experiment.methods(), 100, seeds=[3, 4, 5])
    stop = descend(train, runs.w[-1], experiment.lrs[0], 20)

    values = compute(experiment)
    assert {value.dtype for value in values.values()} == {torch.float64}
    for at, w in {"w": runs.w, "z": runs.z, "stop": stop}.items():
        assert torch.equal(values[f"test_loss {at}"], test.loss(w).double())
        assert torch.equal(values[f"trace {at}"], train.hessian_trace(w).double())
    for at, w in {"w": runs.w, "stop": stop}.items():
        assert torch.equal(values[f"train_loss {at}"], train.loss(w).double())
    assert values["test_loss w"].shape == (len(log_spaced(100)), 3, 11)
    assert torch.equal(values["diverged_at"], runs.diverged_at.double())
    assert not torch.equal(values["test_loss w"][-1, :, 3], values["test_loss z"][-1, :, 3])  # Anti-PGD
    assert torch.equal(values["test_loss w"][:, :, 2], values["test_loss z"][:, :, 2])  # PGD


def test_a_run_that_is_lost_is_kept_as_lost(tmp_path, threads):
    wild = replace(SMALL["regression"], lrs=(5.0,))
    values = compute(wild)
    assert (values["diverged_at"] >= 0).all() and not values["test_loss w"][-1].isfinite().any()
    produce({"wild": wild}, executor=threads, folder=tmp_path, parts=tmp_path / "parts")
    stored = results.load("wild", tmp_path).values
    assert torch.equal(stored["diverged_at"], values["diverged_at"])
    assert torch.equal(stored["test_loss w"].isfinite(), values["test_loss w"].isfinite())


@pytest.mark.parametrize("name", SMALL)
def test_fewer_steps_are_the_beginning_of_all(name):
    short, long = compute(SMALL[name], steps=32), compute(SMALL[name])
    record = recorded(SMALL[name], 32)
    assert record[-1] == 32 and torch.equal(record, recorded(SMALL[name])[: len(record)])
    for each in ("test_loss w", "test_loss z", "trace w", "trace z", "train_loss w"):
        assert torch.equal(short[each], long[each][: len(record)])


def test_steps_that_are_not_recorded_are_refused():
    with pytest.raises(ValueError, match=r"steps is 33: give one of the recorded steps, \[0, 1, 2,"):
        compute(SMALL["regression"], steps=33)


def test_ten_thousand_steps_are_recorded_in_every_figure():
    assert all(10_000 in recorded(experiment).tolist() for experiment in FIGURES.values())


# --- What is stored ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_the_stored_result_is_what_is_computed(name, tmp_path, threads):
    experiment = SMALL[name]
    (path,) = produce({name: experiment}, executor=threads, folder=tmp_path, parts=tmp_path / "parts")
    stored, values = results.load(name, tmp_path), compute(experiment)
    assert path == tmp_path / f"{name}.json"
    assert stored.seeds == [3, 4, 5] and torch.equal(stored.steps, log_spaced(100))
    assert stored.configuration["type"] == type(experiment).__name__ and stored.configuration["steps"] == 100
    assert set(stored.values) == set(values)
    for each, value in values.items():  # to six digits, and the rounding of other batches of seeds
        torch.testing.assert_close(stored.values[each], value, rtol=1e-4, atol=1e-7)


def test_jobs_are_a_few_seeds_each_and_kept_one_by_one(tmp_path, threads):
    experiment = replace(SMALL["regression"], seeds=tuple(range(5)))
    assert [job.experiment.seeds for job in jobs(experiment)] == [(0, 1), (2, 3), (4,)]
    how = {"executor": threads, "folder": tmp_path, "parts": tmp_path / "parts"}
    produce({"five": experiment}, **how)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    produce({"five": experiment, "six": replace(experiment, seeds=tuple(range(4)))}, **how)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").iterdir()}
    assert before == after and len(after) == 3  # both are in the parts that were there


def test_a_worker_with_other_code_refuses_the_job():
    with pytest.raises(RuntimeError, match="the code was changed while the sweep ran"):
        work(replace(jobs(SMALL["regression"])[0], code="other"))


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """The folder of a result that has just been made, of a figure named "fig"."""
    experiment = SMALL["regression"]
    monkeypatch.setitem(FIGURES, "fig", experiment)
    part = {"values": {"loss": results.packed(torch.ones(2, 3, 11))}, "threads": 1, "seconds": 1.0}
    results.save(assembled("fig", experiment, [part]), tmp_path)
    return tmp_path


def test_a_fresh_result_is_not_stale(fresh):
    assert stale("fig", fresh) is None


def test_a_result_of_other_settings_is_stale(fresh, monkeypatch):
    monkeypatch.setitem(FIGURES, "fig", replace(SMALL["regression"], sigmas=(0.3,), start=0.5))
    words = stale("fig", fresh)
    assert "stale, other settings now: sigmas, start. " in words and "python -m antipgd.experiments fig" in words


def test_a_result_of_another_problem_is_stale(fresh, monkeypatch):
    monkeypatch.setitem(FIGURES, "fig", SMALL["sensing"])
    assert "type" in stale("fig", fresh)


def test_a_result_of_other_code_is_stale(fresh, monkeypatch):
    now = results.source
    monkeypatch.setattr(results, "source", lambda module: now(module).replace("BLOCK = 64", "BLOCK = 9"))
    results.top_level.cache_clear()
    words = stale("fig", fresh)
    results.top_level.cache_clear()
    assert "its code has changed since" in words and "python -m antipgd.experiments fig" in words


def test_a_result_that_is_missing_or_damaged_is_stale(fresh):
    (fresh / "fig.json").write_text("{")
    assert "is cut off" in stale("fig", fresh)
    (fresh / "fig.json").unlink()
    assert "There is no" in stale("fig", fresh) and "python -m antipgd.experiments fig" in stale("fig", fresh)


@pytest.mark.parametrize("name", FIGURES)
def test_the_result_in_the_book_is_of_this_code_and_these_settings(name):
    reason = stale(name)
    assert reason is None, reason


@pytest.mark.parametrize("name", FIGURES)
def test_the_result_in_the_book_is_small_and_says_where_it_comes_from(name):
    stored = results.load(name)
    assert (results.FOLDER / f"{name}.json").stat().st_size < 300_000
    assert len(stored.seeds) == 10
    assert len(stored.provenance["commit"]) == 40
    assert stored.provenance["seconds"] > 0 and stored.provenance["device"].startswith("CPU")


@pytest.mark.parametrize("name", FIGURES)
def test_the_first_steps_of_the_result_in_the_book_come_out_again(name):
    stored = results.load(name)
    live = compute(replace(FIGURES[name], seeds=(0, 9), descent=1), steps=100)
    for each in ("test_loss w", "test_loss z", "trace w", "trace z", "train_loss w"):
        beginning = stored.values[each][: len(live[each]), [0, 9]]
        torch.testing.assert_close(live[each], beginning, rtol=1e-3, atol=1e-3, equal_nan=True)


# --- The command ------------------------------------------------------------------------------------------------


def told(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_lists_every_figure(capsys):
    words = told(["--help"], capsys)
    assert all(f"• {name} " in words for name in [*FIGURES, "all"])


@pytest.mark.parametrize("name", ["fig-9", "fig-2-middle"])
def test_help_of_a_figure_explains_each_setting_with_its_default_and_its_source(name, capsys):
    words = told([name, "--help"], capsys)
    for field in fields(FIGURES[name]):
        value = getattr(FIGURES[name], field.name)
        default = " ".join(map(str, value)) if isinstance(value, tuple) else value
        _, option, rest = words.partition(f"--{field.name.replace('_', '-')} ")
        assert option, f"no option for {field.name}"
        explanation, found, _ = rest.partition(f"(default: {default})")
        assert found and "--" not in explanation, f"the default of {field.name}"
        assert any(word in explanation for word in ("D.", "chosen", "captions")), f"the source of {field.name}"
    assert "--workers" in words and "--folder" in words


def test_the_command_runs_other_settings_into_another_folder(tmp_path, monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(experiments, "produce", lambda chosen, **how: seen.update(chosen=chosen, **how) or [])
    main(["fig-9", "--steps", "10", "--seeds", "1", "2", "--workers", "1"])
    assert seen["chosen"] == {"fig-9": replace(FIGURES["fig-9"], steps=10, seeds=(1, 2))} and seen["workers"] == 1
    assert seen["folder"] == results.ROOT / "_build" / "results"
    main(["fig-9"])
    assert seen["folder"] == results.FOLDER and seen["chosen"] == {"fig-9": FIGURES["fig-9"]}
    main(["all", "--folder", str(tmp_path)])
    assert seen["folder"] == tmp_path and seen["chosen"] == FIGURES
    assert "s" in capsys.readouterr().out


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left"), experiments.SweepError("2 of 9")])
def test_the_command_ends_with_words_and_no_traceback(error, monkeypatch):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(experiments, "produce", broken)
    with pytest.raises(SystemExit, match="goes on from there|No space left|2 of 9"):
        main(["fig-9"])


def test_the_command_as_it_is_typed(tmp_path):
    settings = {"steps": 20, "descent": 5, "d": 12, "M": 6, "nonzero": 2, "test_samples": 5}
    experiment = replace(FIGURES["fig-9"], seeds=(0, 1, 2), **settings)
    for job in jobs(experiment):  # what an earlier run has kept
        (experiments.PARTS / f"{key(job)}.json").unlink(missing_ok=True)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    words += ["--seeds", "0", "1", "2", "--workers=1", f"--folder={tmp_path}"]
    command = [sys.executable, "-m", "antipgd.experiments", "fig-9", *words]
    shell = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}  # set for the chapters
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=shell)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "fig-9.json") in done.stdout
    assert "100%" in done.stderr and "/job" in done.stderr  # a bar with the time left
    stored = results.load("fig-9", tmp_path).values["trace w"]
    torch.testing.assert_close(stored, compute(experiment)["trace w"], rtol=1e-4, atol=1e-6)


def test_another_process_has_the_same_digest_and_needs_no_tyro():
    script = """if True:
        import sys
        sys.modules["tyro"] = None
        from antipgd import experiments
        print(experiments.code(experiments.FIGURES["fig-9"]))"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert printed.strip() == code(FIGURES["fig-9"])
