"""The stored results of the ResNet18 figures: Figures 2 (right), 6 and 15 to 17 of the paper, one command each.

    python -m antipgd.vision.records resnet-fig-2-small --data FOLDER   # on CPUs; hours, and resumable over days
    python -m antipgd.vision.records resnet-fig-2                       # the paper's own settings, on a GPU
    python -m antipgd.vision.records --help

A record is a list of runs, each with seeds of its own. One that was stopped goes on where it was.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from antipgd import results
from antipgd.sweep import SweepError, key, sweep
from antipgd.vision import data
from antipgd.vision.settings import PRESETS, Settings
from antipgd.vision.steps import Batches, network, optimizer_and_noise, set_noise, step
from antipgd.vision.train import Machine, train

PARTS = results.ROOT / "_build" / "vision"
RENEW = "python -m antipgd.vision.records {name}"
ALGORITHM = (Batches, network, optimizer_and_noise, set_noise, step)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Record:
    """Runs that differ from a preset, each in a few settings, under each of the seeds.

    preset: a name in ``PRESETS``. variants: for each run, pairs of a setting's name and its value.
    """

    preset: str
    variants: tuple
    seeds: tuple = SEEDS

    def settings(self):
        """One ``Settings`` for each seed and variant: all variants of the first seed come first."""
        base = PRESETS[self.preset]
        return [replace(base, seed=seed, **dict(variant)) for seed in self.seeds for variant in self.variants]


def variants(methods, sigmas, **others):
    return tuple(
        tuple({"method": method, "sigma": sigma, **others}.items()) for sigma in sigmas for method in methods
    )


def one(**settings):
    return (tuple(settings.items()),)


NOISY = ("pgd", "antipgd")
SMALL_SWEEP = variants(NOISY, (0.003, 0.01, 0.03))
SIGMAS = (0.001, 0.003, 0.01, 0.03)
BOTH = one(method="gd") + one(method="sgd")
RECORDS = {
    # On a CPU.
    "resnet-fig-2-small": Record("fig2-small", BOTH + SMALL_SWEEP),
    "resnet-sigma-small": Record("fig2-small", variants(NOISY, (0.001,))),
    "resnet-fig-6-small": Record("fig6-small", BOTH + variants(NOISY, SIGMAS)),
    "resnet-fig-17-small": Record(
        "fig2-small",
        one(method="sgd", small_batch=64)
        + variants(["antisgd"], (0.01,))
        + variants(["antisgd"], (0.01,), small_batch=64),
    ),
    "resnet-noise-on-small": Record(
        "fig2-small",
        variants(["antipgd"], (0.01,), noise_on="weights") + variants(["antipgd"], (0.3,), noise_on="scaled"),
    ),
    # The paper's settings, on a GPU.
    "resnet-fig-2": Record("fig2", BOTH + variants(NOISY, (0.01,))),
    "resnet-fig-6": Record("fig6", variants(NOISY, (0.01,))),
    "resnet-sigma": Record("fig2", variants(NOISY, SIGMAS)),
    "resnet-fig-17": Record(
        "fig2",
        one(method="sgd", small_batch=1024)
        + variants(["antisgd"], (0.003, 0.01))
        + variants(["antisgd"], (0.003, 0.01), small_batch=1024),
    ),
    "resnet-stopped": Record("fig6", variants(NOISY, (0.01,), noise_stop=250)),
    "resnet-peers": Record(
        "fig2",
        one(method="sam", rho=0.05, epochs=150) + one(method="sgd", weight_decay=5e-4) + one(method="gd", weight_decay=5e-4),
    ),
}


@dataclass(frozen=True)
class Job:
    """One run, the images that it is to have, and the code that is to compute it."""

    settings: Settings
    images: str
    code: str


class Work:
    """What a worker does with a job: a picklable function with the place of the images."""

    def __init__(self, source, machine):
        self.source, self.machine = source, machine

    def __call__(self, job):
        """The run's history as JSON has it. Raises RuntimeError where this process has other code than the job's."""
        if code() != job.code:
            raise RuntimeError("the code was changed while the sweep ran: call it again")
        folder = PARTS / "runs" / key(job)
        run = train(job.settings, replace(self.machine, data=self.source, folder=folder))
        device = torch.cuda.get_device_name() if self.machine.device == "cuda" else None
        return {
            "history": run.history, "seconds": run.seconds, "threads": torch.get_num_threads(), "device": device
        }


def code():
    """The digest of the code that decides where the weights go."""
    return results.digest(*ALGORITHM)


def produce(name, record, source, *, folder=results.FOLDER, machine=Machine(progress=False), **how):
    """Make a record and store it: its path.

    source: of the images, as ``data.load`` takes it. how: the executor or the number of workers, for ``sweep``.
    """
    images = data.load(source)
    jobs = [Job(settings, f"{images.name} {images.train.fingerprint}", code()) for settings in record.settings()]
    done = sweep(Work(source, machine), jobs, PARTS, **how)
    return results.save(assembled(name, record, images.name, done), folder)


def assembled(name, record, images, runs):
    """The result of a record. Its values have the shape (T, S, C): evaluations, seeds, variants; "batch_loss" and
    "batch_accuracy" have a row for every epoch. What was not measured at an epoch is not a number."""
    rows = runs[0]["history"]
    looked = [i for i, row in enumerate(rows) if "test_loss w" in row]
    names = dict.fromkeys(name for row in rows for name in row if name != "epoch")
    shape = (len(record.seeds), len(record.variants))

    def values(name, epochs):
        columns = [[run["history"][i].get(name, float("nan")) for i in epochs] for run in runs]
        return torch.tensor(columns, dtype=torch.float64).T.reshape(len(epochs), *shape)

    found = {name: values(name, range(len(rows)) if name.startswith("batch") else looked) for name in names}
    seconds, threads = sum(run["seconds"] for run in runs), max(run["threads"] for run in runs)
    origin = results.provenance(code(), threads, seconds)
    origin |= {"device": runs[0]["device"] or origin["device"]}
    steps = torch.tensor([rows[i]["epoch"] for i in looked])
    return results.Result(name, described(record, images), list(record.seeds), steps, found, origin)


def described(record, images):
    """A record as JSON has it: the settings that all its runs share, and those in which they differ."""
    return {
        "images": images,
        "preset": record.preset,
        "shared": {name: value for name, value in asdict(PRESETS[record.preset]).items() if name != "seed"},
        "variants": [dict(variant) for variant in record.variants],
    }


def load(name):
    """The stored record of this name, a ``Result``. Raises ResultError, with the command that makes it, if there is none."""
    return results.load(name, renew=RENEW)


def stale(name):
    """Why a stored record is not what its command would give now, with the command; None if it is."""
    stored, record = load(name), RECORDS[name]
    now = described(record, stored.configuration["images"])
    if stored.configuration != json.loads(json.dumps(now)) or stored.seeds != list(record.seeds):
        reason = "other settings now"
    elif stored.provenance["code"] != code():
        reason = "its code has changed since"
    else:
        return None
    return f"The stored record {name} is stale, {reason}. Make it anew: {RENEW.format(name=name)}"


def command(record, variant, seed):
    """The words that make one run of a record."""
    changes = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in record.variants[variant])
    return f"python -m antipgd.vision.train --preset {record.preset} {changes} --seed {seed}"


@dataclass(frozen=True)
class Options:
    """How to make a record."""

    data: str = "cifar10"
    """The images: cifar10 (downloaded), synthetic, or a folder with train/CLASS/FILE and test/CLASS/FILE."""
    workers: int = 1
    """Runs at once: on a CPU one for each core, each with one thread; on a GPU one."""
    folder: Path = results.FOLDER
    """Where NAME.json goes."""


def main(arguments=None):
    """The command of this module; see its head."""
    from typing import Literal

    import tyro

    def command(name: tyro.conf.Positional[Literal[tuple(RECORDS)]], options: Options = Options()):
        return name, options

    name, options = tyro.cli(command, args=arguments, config=(tyro.conf.OmitArgPrefixes,), description=__doc__)
    start = time.perf_counter()
    machine = Machine(progress=False, deterministic=Machine().device == "cpu")
    try:
        path = produce(
            name, RECORDS[name], options.data, folder=options.folder, machine=machine, workers=options.workers
        )
    except KeyboardInterrupt:
        sys.exit("Stopped. What is done is kept: the same command goes on from there.")
    except (SweepError, OSError, data.DataError) as error:
        sys.exit(str(error))
    print(path, f"in {time.perf_counter() - start:.0f} s", sep="\n")


if __name__ == "__main__":  # through the import, so that worker processes know the classes under the same name
    from antipgd.vision.records import main

    main()
