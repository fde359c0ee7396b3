"""Sweeps on real executors, whose workers are killed meanwhile; full disks, half-written files, two sweeps at once."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jobs
import pytest
from distributed import Client, LocalCluster

from antipgd import results
from antipgd.sweep import Processes, SweepError, described, sweep

PATIENCE = 120  # seconds: the machine may be busy


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def configurations(log, xs=range(6)):
    return [{"x": x, "log": str(log)} for x in xs]


def calls(log):
    """The x of each call so far, sorted."""
    return sorted(int(path.name.split("-")[0]) for path in log.glob("*-*"))


def workers(log):
    """The process ids that calls have had."""
    return {int(path.name.split("-")[1]) for path in log.glob("*-*")}


def whole(folder):
    """The stored results, each of which has to be readable."""
    return sorted(results.read(path)["result"] for path in folder.glob("*.json"))


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- What a sweep does ------------------------------------------------------------------------------------------


def test_results_come_in_the_order_given_and_are_not_computed_again(tmp_path, log, threads):
    folder = tmp_path / "sweep"
    assert sweep(jobs.square, configurations(log, [2, 0, 1]), folder, executor=threads) == [4, 0, 1]
    assert sweep(jobs.square, configurations(log, [1, 3, 2]), folder, executor=threads) == [1, 9, 4]
    assert calls(log) == [0, 1, 2, 3]
    assert whole(folder) == [0, 1, 4, 9]


def test_a_duplicate_runs_once_and_has_its_result_in_each_place(tmp_path, log, threads):
    assert sweep(jobs.square, configurations(log, [2, 3, 2, 2]), tmp_path / "sweep", executor=threads) == [4, 9, 4, 4]
    assert calls(log) == [2, 3]


def test_nothing_to_do_is_no_error(tmp_path):
    assert sweep(jobs.square, [], tmp_path) == []


@dataclass(frozen=True)
class Setting:
    lrs: tuple


@dataclass(frozen=True)
class OtherSetting:
    lrs: tuple


def test_a_dataclass_is_known_by_its_name_and_fields(tmp_path, threads):
    assert described(Setting((0.1, 0.2))) == {"type": "Setting", "lrs": [0.1, 0.2]}
    settings = [Setting((1,)), Setting((2,)), OtherSetting((1,)), Setting((1,))]
    names = sweep(lambda setting: type(setting).__name__, settings, tmp_path, executor=threads)
    assert names == ["Setting", "Setting", "OtherSetting", "Setting"]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_stored_part_says_its_configuration(tmp_path, log, threads):
    sweep(jobs.square, configurations(log, [2]), tmp_path / "sweep", executor=threads)
    (path,) = (tmp_path / "sweep").iterdir()
    assert results.read(path)["configuration"] == {"x": 2, "log": str(log)}


# --- What fails -------------------------------------------------------------------------------------------------


def test_failures_are_told_at_the_end_by_configuration(tmp_path, log, threads):
    folder = tmp_path / "sweep"
    with pytest.raises(SweepError) as failed:
        sweep(jobs.fails, configurations(log), folder, executor=threads)
    words = str(failed.value)
    assert words.startswith("4 of 6 configurations have no result.")
    assert "'x': 1" in words and "ValueError: one is too small" in words
    assert "'x': 2" in words and "SystemExit: 2" in words
    assert "'x': 3" in words and "TypeError" in words
    assert "'x': 4" in words and "not JSON compliant" in words
    assert "'x': 0" not in words and "'x': 5" not in words
    assert whole(folder) == [0, 25]


def test_the_death_of_a_worker_costs_only_its_own_job(tmp_path, log):
    folder = tmp_path / "sweep"
    with pytest.raises(SweepError, match="1 of 6 configurations have no result") as failed:
        sweep(jobs.fatal_for_three, configurations(log), folder, workers=2)
    assert "'x': 3" in str(failed.value) and "BrokenProcessPool" in str(failed.value)
    assert whole(folder) == [0, 1, 4, 16, 25]
    assert calls(log) == [0, 1, 2, 3, 4, 5]

    (log / "cured").touch()
    assert sweep(jobs.fatal_for_three, configurations(log), folder, workers=2) == [0, 1, 4, 9, 16, 25]
    assert calls(log) == [0, 1, 2, 3, 3, 4, 5]


def kill_the_first(log, seen):
    """Once a job runs, kill the process that runs it."""

    def kill():
        wait_for(lambda: workers(log), "a worker to kill")
        seen.append(workers(log).pop())
        os.kill(seen[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_a_worker_killed_from_outside_is_replaced(tmp_path, log):
    folder, killed = tmp_path / "sweep", []
    thread = kill_the_first(log, killed)
    with pytest.raises(SweepError, match="1 of 6 configurations"):
        sweep(jobs.slow_square, configurations(log), folder, workers=1)
    thread.join()
    assert len(whole(folder)) == 5 and killed[0] in workers(log) and len(workers(log)) == 2
    assert sweep(jobs.slow_square, configurations(log), folder, workers=1) == [0, 1, 4, 9, 16, 25]


SWEEP = """
import sys
sys.path[:0] = {path!r}
from concurrent.futures import ThreadPoolExecutor
import jobs
from antipgd.sweep import sweep
if __name__ == "__main__":
    configurations = [{{"x": x, "log": {log!r}}} for x in range(6)]
    print(sweep(jobs.slow_square, configurations, {folder!r}, {how}))
"""


def start(folder, log, how):
    """A sweep in a process of its own."""
    script = log.parent / "script.py"
    script.write_text(SWEEP.format(path=[str(Path(__file__).parent)], log=str(log), folder=str(folder), how=how))
    return subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_sweep_leaves_no_process_behind_and_a_second_call_finishes_it(tmp_path, log, number):
    folder = tmp_path / "sweep"
    process = start(folder, log, "workers=1")
    wait_for(lambda: len(list(folder.glob("*.json"))) >= 2, "two results")
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    wait_for(lambda: not any(map(alive, workers(log))), "the end of the workers")
    stored = whole(folder)
    assert 2 <= len(stored) < 6

    done = {x * x for x in calls(log)} & set(stored)
    before = len(calls(log))
    with ThreadPoolExecutor(2) as executor:
        assert sweep(jobs.square, configurations(log), folder, executor=executor) == [0, 1, 4, 9, 16, 25]
    assert len(calls(log)) == before + 6 - len(done)


def test_two_sweeps_at_once_lose_nothing(tmp_path, log):
    folder = tmp_path / "sweep"
    processes = [start(folder, log, "executor=ThreadPoolExecutor(1)") for _ in range(2)]
    for process in processes:
        out, error = process.communicate(timeout=2 * PATIENCE)
        assert out.strip() == "[0, 1, 4, 9, 16, 25]", error
    assert whole(folder) == [0, 1, 4, 9, 16, 25]
    assert len(list(folder.iterdir())) == 6  # nothing half-written is left


# --- The disk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda text: text[:-30], lambda text: "", lambda text: text.replace("4", "5")])
def test_a_half_written_or_changed_file_is_computed_anew(tmp_path, log, threads, damage):
    folder = tmp_path / "sweep"
    sweep(jobs.square, configurations(log, [1, 2]), folder, executor=threads)
    path = next(path for path in folder.iterdir() if results.read(path)["result"] == 4)
    path.write_text(damage(path.read_text()))
    (folder / ".0.json.abc.tmp").write_text("{")  # what a kill leaves
    assert sweep(jobs.square, configurations(log, [1, 2]), folder, executor=threads) == [1, 4]
    assert calls(log) == [1, 2, 2]
    assert whole(folder) == [1, 4]


def test_a_full_disk_ends_the_sweep_and_a_second_call_finishes_it(tmp_path, log, monkeypatch):
    folder, real, written = tmp_path / "sweep", os.fsync, []

    def fsync(descriptor):
        written.append(descriptor)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(results.os, "fsync", fsync)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(OSError, match="No space left.*make room, and another call goes on from it") as full:
            sweep(jobs.slow_square, configurations(log), folder, executor=executor)
    assert full.value.errno == errno.ENOSPC and str(folder) in str(full.value)
    assert len(whole(folder)) == 2 and len(list(folder.iterdir())) == 2
    assert len(calls(log)) < 6  # what could not be kept was not computed

    monkeypatch.setattr(results.os, "fsync", real)
    with ThreadPoolExecutor(1) as executor:
        assert sweep(jobs.square, configurations(log), folder, executor=executor) == [0, 1, 4, 9, 16, 25]


# --- Executors --------------------------------------------------------------------------------------------------


def test_processes_compute_with_one_thread_and_end_with_the_sweep(tmp_path):
    with Processes(2) as executor:
        assert executor.submit(torch_threads, None).result() == 1
        pids = list(executor._pools)
        assert pids and all(map(alive, pids))
    assert not any(map(alive, pids))


def torch_threads(_):
    import torch

    return torch.get_num_threads()


class OnlyWhatIsNeeded:
    """The least that an executor has to offer, as submitit's and Ray's do: done() and result(), no cancel()."""

    class Job:
        def __init__(self, future):
            self.done, self.result = future.done, future.result

    def __init__(self, executor):
        self.executor = executor

    def submit(self, function, configuration):
        return self.Job(self.executor.submit(function, configuration))


def test_an_executor_needs_submit_and_its_jobs_done_and_result(tmp_path, log, threads, monkeypatch):
    assert sweep(jobs.square, configurations(log), tmp_path / "a", executor=OnlyWhatIsNeeded(threads))[2] == 4

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        sweep(jobs.square, configurations(log), tmp_path / "b", executor=OnlyWhatIsNeeded(threads))


@contextlib.contextmanager
def dask_of(workers, threads, folder):
    """A Dask cluster on this machine, of so many worker processes with so many threads each, and a client to it."""
    settings = {"n_workers": workers, "threads_per_worker": threads, "dashboard_address": ":0", "local_directory": str(folder)}
    with LocalCluster(**settings) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def dask(tmp_path):
    with dask_of(2, 1, tmp_path) as client:
        yield client


def test_dask_replaces_a_killed_worker_and_nothing_is_lost(tmp_path, log, dask):
    folder, killed = tmp_path / "sweep", []
    thread = kill_the_first(log, killed)
    assert sweep(jobs.slow_square, configurations(log), folder, executor=dask) == [0, 1, 4, 9, 16, 25]
    thread.join()
    assert len(calls(log)) > 6 and killed[0] in workers(log)  # the killed worker's jobs ran again elsewhere


def test_dask_gives_up_a_job_that_kills_its_workers_and_the_rest_goes_on(tmp_path, log, dask):
    folder = tmp_path / "sweep"
    with pytest.raises(SweepError, match="1 of 6 configurations have no result") as failed:
        sweep(jobs.fatal_for_three, configurations(log), folder, executor=dask)
    assert "'x': 3" in str(failed.value) and "KilledWorker" in str(failed.value)
    assert whole(folder) == [0, 1, 4, 16, 25]

    (log / "cured").touch()
    assert sweep(jobs.fatal_for_three, configurations(log), folder, executor=dask) == [0, 1, 4, 9, 16, 25]


def test_dask_blames_only_the_job_that_kills_and_not_those_beside_it(tmp_path, log):
    """All six jobs lie on the one worker whenever it dies, so that Dask gives up all that have not ended."""
    with dask_of(1, 6, tmp_path) as client:
        with pytest.raises(SweepError, match="1 of 6 configurations have no result") as failed:
            sweep(jobs.fatal_for_three_among_slow_ones, configurations(log), tmp_path / "sweep", executor=client)
    assert "'x': 3" in str(failed.value) and "KilledWorker" in str(failed.value)
    assert whole(tmp_path / "sweep") == [0, 1, 4, 16, 25]


def test_dask_without_nannies_goes_on_with_the_workers_that_are_left(tmp_path, log):
    folder, killed = tmp_path / "sweep", []
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with LocalCluster(n_workers=0, dashboard_address=":0", local_directory=str(tmp_path)) as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, "--no-nanny"]
        options = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)]
        started = [subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL) for _ in range(2)]
        try:
            with Client(cluster) as client:
                client.wait_for_workers(2, timeout=PATIENCE)
                thread = kill_the_first(log, killed)
                assert sweep(jobs.slow_square, configurations(log), folder, executor=client) == [0, 1, 4, 9, 16, 25]
                thread.join()
                assert killed[0] in [process.pid for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()
    assert whole(folder) == [0, 1, 4, 9, 16, 25]
