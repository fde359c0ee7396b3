"""Configurations -> stored results, over any executor: what is stored is skipped, what fails costs only itself.

``sweep`` needs of an executor a method ``submit(function, configuration)``, and of what that returns the methods
``done()`` and ``result()``. By default it is ``Processes``, on this machine. Others:

    sweep(function, configurations, folder, executor=dask.distributed.Client(...))       # a Dask cluster

    executor = submitit.AutoExecutor("logs")                                             # Slurm
    executor.update_parameters(timeout_min=30, cpus_per_task=1)
    sweep(function, configurations, folder, executor=executor)

    class OnRay:                                                                         # Ray
        def submit(self, function, configuration):
            return ray.remote(function).remote(configuration).future()

    sweep(function, configurations, folder, executor=OnRay())

Only the process that calls ``sweep`` writes, so the machines of a cluster need no common file system.
"""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from tqdm import tqdm

from antipgd import results

POLL = 0.05  # seconds between two looks at the executor's jobs


class SweepError(RuntimeError):
    """Some configurations have no result; those of all others are stored."""


def sweep(function, configurations, folder, *, executor=None, workers=None):
    """Apply the function to each configuration, and store what it returns: a list of results, in the order given.

    function: importable by name, from a configuration to what JSON can hold. configurations: dataclasses, or what JSON
    can hold, with all that decides the result, such as the digest of the code; one that occurs twice runs once. folder:
    where results are stored, one file each; what is there already is not computed again. executor: anything with
    ``submit``, see above; None for ``workers`` processes on this machine, by default as many as it has cores.

    A second call, after a kill or an error, computes only what is missing. Two calls at once are safe: the files are
    written whole, and both would write the same.

    Raises SweepError, after all others have been tried, for configurations that failed or whose worker died; OSError,
    at once, where results cannot be written.
    """
    paths = [Path(folder) / f"{key(configuration)}.json" for configuration in configurations]
    jobs = dict(zip(paths, configurations))
    found = {path: content for path in jobs if (content := stored(path)) is not None}
    missing = {path: configuration for path, configuration in jobs.items() if path not in found}
    if missing:
        with executor_or_processes(executor, min(workers or os.cpu_count(), len(missing))) as executor:
            found |= collect(executor, function, missing, len(jobs))
    return [found[path]["result"] for path in paths]


def collect(executor, function, missing, total):
    """Run what is missing, and store each result when it comes: a dictionary from paths to contents.

    Dask holds the death of a worker against all jobs that the worker had, and gives up a job after a few deaths
    (``KilledWorker``), be it the one that kills or one that only stood beside it. Those are tried once more at the end,
    one at a time: what dies alone is to blame.
    """
    found, failures, suspects, alone = {}, {}, [], set()
    futures = {path: executor.submit(function, configuration) for path, configuration in missing.items()}
    with tqdm(total=total, initial=total - len(missing), unit="job", desc="sweep") as bar:
        while futures or suspects:
            if not futures:
                path = suspects.pop(0)
                alone.add(path)
                del failures[path]
                futures[path] = executor.submit(function, missing[path])
            for path in [path for path, future in futures.items() if future.done()]:
                try:
                    content = {"configuration": described(missing[path]), "result": futures.pop(path).result()}
                    results.checksum(content)  # fails where JSON cannot hold it
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a cancelled job and one that ended its process are not Exceptions
                    # Without its traceback, whose frames hold the future: Dask keeps a failed job as long as
                    # anybody does, and hands it out again to the next call. The worker's own is the error's cause.
                    failures[path] = error.with_traceback(None)
                    if type(error).__name__ == "KilledWorker" and path not in alone:
                        suspects.append(path)
                        continue
                else:
                    found[path] = keep(path, content, futures)
                bar.update()
            time.sleep(POLL)
    if failures:
        lines = [f"{described(missing[path])}: {type(error).__name__}: {error}" for path, error in failures.items()]
        raise SweepError(
            f"{len(failures)} of {total} configurations have no result. The others are stored, and another call tries "
            "only these:\n" + "\n".join(lines)
        ) from next(iter(failures.values()))
    return found


def keep(path, content, futures):
    """Write one result; where that fails, end the sweep, since the others could not be kept either."""
    try:
        results.write(path, content)
    except OSError as error:
        for future in futures.values():
            getattr(future, "cancel", lambda: None)()
        raise OSError(
            error.errno,
            f"{error.strerror}: the sweep ends, as it cannot write into {path.parent}. What is stored there is whole; "
            "make room, and another call goes on from it",
            str(path),
        ) from error
    return content


def stored(path):
    """What is stored there; None where nothing is, or nothing that can be trusted: it is then computed anew."""
    try:
        return results.read(path)
    except results.ResultError:
        return None


def key(configuration):
    content = json.dumps(described(configuration), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def described(configuration):
    """A configuration as JSON has it; a dataclass says which it is."""
    if not dataclasses.is_dataclass(configuration):
        return configuration
    content = {"type": type(configuration).__name__, **dataclasses.asdict(configuration)}
    return json.loads(json.dumps(content))  # tuples become lists


def executor_or_processes(executor, workers):
    """A context with the caller's executor, which stays open, or with processes of our own, which end with it."""
    return contextlib.nullcontext(executor) if executor is not None else Processes(workers)


class Processes:
    """An executor with worker processes, in which the death of a worker fails the job that it had and no other.

    Each worker is a process pool of size one: in a common pool, the death of one worker fails all jobs.
    """

    def __init__(self, workers):
        self._threads = ThreadPoolExecutor(workers)  # each has a worker process of its own
        self._mine = threading.local()
        self._pools = {}  # by their worker's process id

    def submit(self, function, configuration):
        return self._threads.submit(self._run, function, configuration)

    def _run(self, function, configuration):
        if not hasattr(self._mine, "pid"):
            spawn = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in an unknown state
            pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=start_worker)
            self._mine.pid = pool.submit(os.getpid).result()
            self._pools[self._mine.pid] = pool
        try:
            return self._pools[self._mine.pid].submit(function, configuration).result()
        except BrokenProcessPool:
            del self._pools[self._mine.pid], self._mine.pid
            raise

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pid in list(self._pools) if error else ():  # nobody waits for their jobs any more
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self._threads.shutdown()
        for pool in self._pools.values():
            pool.shutdown()


def start_worker():
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """A worker whose parent was killed would wait for its next job for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
