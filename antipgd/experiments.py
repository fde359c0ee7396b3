"""The toy figures of the paper at its scale: Figures 2 (left, middle) and 9 to 14, one command each.

    python -m antipgd.experiments fig-9          # runs it, minutes at most, and stores it in book/results/fig-9.json
    python -m antipgd.experiments fig-9 --help   # each setting, with its default and its source in the paper
    python -m antipgd.experiments all

A run that was stopped goes on where it was. The same computation, on fewer steps, in a chapter:

>>> compute(FIGURES["fig-9"], steps=10_000)["test_loss w"]    # a tensor (T, S, C): recorded steps, seeds, methods
"""

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Union

import torch

from antipgd import results
from antipgd.dynamics import anti_pgd, descend, gd, log_spaced, pgd, run, sgd
from antipgd.landscapes import MatrixSensing, QuadraticRegression
from antipgd.sweep import SweepError, described, sweep

PARTS = results.ROOT / "_build" / "sweeps"
SEEDS_PER_JOB = 2  # fewer would step slower, more would show less of the progress and lose more in a kill


@dataclass(frozen=True)
class Experiment:
    """What the figures have in common: GD, SGD, and for each sigma PGD, Anti-PGD and PGD of equal step variance."""

    lrs: tuple[float, ...]
    """Learning rates of all methods but SGD (D.1 states that of Figure 2; those of Figures 9 to 14 are chosen)."""
    sigmas: tuple[float, ...]
    """Standard deviations of the noise (D.1 states that of Figure 2; those of Figures 9 to 14 are chosen)."""
    batch_size: int
    """Data points in a minibatch of SGD (D.1)."""
    sgd_lr_factor: float
    """Learning rate of SGD as a multiple of the others' (D.1, D.2)."""
    steps: int
    """Number of updates (chosen: the text of the paper does not say)."""
    seeds: tuple[int, ...] = tuple(range(10))
    """Seeds of data, start and noise (their number: the captions; here 10, where Figures 2 and 12 to 14 have 5)."""
    start: float = 1.0
    """Standard deviation of the starting weights, drawn from a normal distribution (chosen: the paper does not say)."""
    descent: int = 10_000
    """Steps of noise-free gradient descent at the end, at the first learning rates, for the values "stop" (chosen)."""

    def __post_init__(self):
        if not self.lrs or not self.seeds:
            raise ValueError("An experiment needs at least one learning rate and one seed.")

    def methods(self):
        """A list of ``Method``, in the order of the results' last axis."""
        methods = []
        for lr in self.lrs:
            methods += [gd(lr), sgd(lr * self.sgd_lr_factor, self.batch_size)]
            for sigma in self.sigmas:
                equal_steps = replace(pgd(lr, 2**0.5 * sigma), name="PGD of equal step variance")
                methods += [pgd(lr, sigma), anti_pgd(lr, sigma), equal_steps]
        return methods

    def landscapes(self):
        """The training and the test loss."""
        raise NotImplementedError

    def starts(self, dim):
        """The starting weights, (S, 1, dim), as in the chapters."""
        normals = [torch.Generator().manual_seed(1000 + seed) for seed in self.seeds]
        return self.start * torch.stack([torch.randn(1, dim, generator=normal) for normal in normals])


@dataclass(frozen=True)
class Regression(Experiment):
    """Quadratically parametrised regression, paper (78)."""

    d: int = 100
    """Number of weights (D.2)."""
    M: int = 40
    """Number of training points (D.2)."""
    nonzero: int = 10
    """Number of true weights that are 1; the others are 0 (D.2)."""
    test_samples: int = 100
    """Number of test points (D.2)."""

    def landscapes(self):
        sizes = {"d": self.d, "M": self.M, "nonzero": self.nonzero, "test_samples": self.test_samples}
        return QuadraticRegression.sparse(self.seeds, **sizes, dtype=torch.float32)[:2]


@dataclass(frozen=True)
class Sensing(Experiment):
    """Matrix sensing, paper (80)."""

    n: int = 20
    """Rows and columns of the unknown matrix X* (D.3)."""
    rank: int = 5
    """Its rank (D.3)."""
    norm: float | None = 1.0
    """Its spectral norm (D.3); "None" leaves V V^T as it is drawn, which D.3 also says."""
    M: int = 100
    """Number of training measurements (D.3)."""
    test_samples: int = 100
    """Number of test measurements (D.3)."""
    label_noise: float = 0.01
    """Standard deviation of the noise on the training targets (D.3 says small; the number is chosen)."""

    def landscapes(self):
        sizes = {"n": self.n, "rank": self.rank, "M": self.M, "test_samples": self.test_samples}
        drawn = MatrixSensing.low_rank(
            self.seeds, **sizes, norm=self.norm, label_noise=self.label_noise, dtype=torch.float32
        )
        return drawn[:2]


def regression(lr, sigmas, steps):
    return Regression((lr,), sigmas, batch_size=1, sgd_lr_factor=0.1, steps=steps)


def sensing(lr, sigmas, steps):
    return Sensing((lr,), sigmas, batch_size=10, sgd_lr_factor=1.0, steps=steps)


FIGURES = {
    "fig-2-left": regression(0.1, (0.05,), 10_000),
    "fig-2-middle": sensing(0.001, (0.1,), 10_000),
    # From lr = 0.15 on, gradient descent is lost from some of these starts, so D.1's rate is the high one.
    "fig-9": regression(0.02, (0.02, 0.05, 0.1), 100_000),
    "fig-10": regression(0.05, (0.02, 0.05, 0.1), 100_000),
    "fig-11": regression(0.1, (0.02, 0.05, 0.1), 100_000),
    "fig-12": sensing(0.0005, (0.05, 0.1, 0.2), 100_000),
    "fig-13": sensing(0.001, (0.05, 0.1, 0.2), 100_000),
    "fig-14": sensing(0.002, (0.05, 0.1, 0.2), 100_000),
}


def recorded(experiment, steps=None):
    """The step numbers at which values are kept, up to ``steps``, which is one of them. Raises ValueError if not."""
    record = log_spaced(experiment.steps)
    steps = experiment.steps if steps is None else steps
    if steps not in record.tolist():
        raise ValueError(f"steps is {steps}: give one of the recorded steps, {record.tolist()}.")
    return record[record <= steps]


def compute(experiment, steps=None):
    """Run an experiment, or its first ``steps`` updates: a dictionary of float64 tensors by name.

    "test_loss w", "test_loss z", "train_loss w", "trace w", "trace z": (T, S, C), at the steps ``recorded(experiment,
    steps)``. "test_loss stop", "train_loss stop", "trace stop": (S, C), after noise-free descent from the last w.
    "diverged_at": (S, C), the step at which a run stopped being finite, -1 for the others.
    """
    record, methods = recorded(experiment, steps), experiment.methods()
    train, test = experiment.landscapes()
    runs = run(train, experiment.starts(train.dim), methods, record[-1].item(), seeds=experiment.seeds, record=record)
    lr = torch.tensor(experiment.lrs).repeat_interleave(len(methods) // len(experiment.lrs))  # for SGD, too
    stop = descend(train, runs.w[-1], lr.unsqueeze(-1), experiment.descent)
    losses = {"test_loss": test.loss, "trace": train.hessian_trace, "train_loss": train.loss}
    points = {"w": runs.w, "z": runs.z, "stop": stop}
    values = {f"{name} {at}": loss(w).double() for name, loss in losses.items() for at, w in points.items()}
    del values["train_loss z"]
    return {**values, "diverged_at": runs.diverged_at.double()}


def code(experiment):
    """The digest of the code from which the experiment's values come."""
    return results.digest(type(experiment), compute)


@dataclass(frozen=True)
class Job:
    """A part of an experiment, of a few of its seeds, and the code that is to compute it."""

    experiment: Experiment
    code: str


def work(job):
    """What a job stores. Raises RuntimeError where this process has other code than the one that made the job."""
    if code(job.experiment) != job.code:
        raise RuntimeError("the code was changed while the sweep ran: call it again")
    start = time.perf_counter()
    values = {name: results.packed(value) for name, value in compute(job.experiment).items()}
    return {"values": values, "threads": torch.get_num_threads(), "seconds": time.perf_counter() - start}


def jobs(experiment):
    """The experiment's jobs, a list."""
    blocks = [experiment.seeds[i : i + SEEDS_PER_JOB] for i in range(0, len(experiment.seeds), SEEDS_PER_JOB)]
    return [Job(replace(experiment, seeds=block), code(experiment)) for block in blocks]


def produce(experiments, *, folder=results.FOLDER, parts=PARTS, **how):
    """Run experiments, a dictionary by name, and store their results in the folder: a list of paths.

    parts: where what is done is kept meanwhile. how: the executor or the number of workers, for ``sweep``.
    """
    lists = {name: jobs(experiment) for name, experiment in experiments.items()}
    done = iter(sweep(work, [job for each in lists.values() for job in each], parts, **how))
    return [
        results.save(assembled(name, experiment, [next(done) for _ in lists[name]]), folder)
        for name, experiment in experiments.items()
    ]


def assembled(name, experiment, parts):
    """The result of an experiment from those of its jobs."""
    names = parts[0]["values"]
    values = {key: torch.cat([results.unpacked(part["values"][key]) for part in parts], dim=-2) for key in names}
    threads, seconds = max(part["threads"] for part in parts), sum(part["seconds"] for part in parts)
    origin = results.provenance(code(experiment), threads, seconds)
    steps, seeds = recorded(experiment), list(experiment.seeds)
    return results.Result(name, described(experiment), seeds, steps, values, origin)


def stale(name, folder=None):
    """Why the stored result of a figure is not what its command would give now, with the command; None if it is."""
    try:
        stored = results.load(name, folder)
    except results.ResultError as error:
        return str(error)
    now, experiment = described(FIGURES[name]), FIGURES[name]
    changed = [setting for setting in now if now[setting] != stored.configuration.get(setting)]
    if changed:
        reason = f"other settings now: {', '.join(changed)}"
    elif stored.provenance["code"] != code(experiment):
        reason = "its code has changed since"
    else:
        return None
    return f"The stored result {name} is stale, {reason}. Make it anew: {results.RENEW.format(name=name)}"


@dataclass(frozen=True)
class All:
    """All of these figures, each with its own settings."""


@dataclass(frozen=True)
class Options:
    """How to run."""

    workers: int = os.cpu_count() or 1
    """Processes at work at once, of one thread each. By default one for each core of this machine."""
    folder: Path | None = None
    """Where NAME.json goes. By default to book/results; with other settings than the figure's own to _build/results."""


def main(arguments=None):
    """The command of this module; see its head."""
    import tyro  # here, since chapters import this module in Colab, which does not have it

    def subcommand(name, default):
        settings = Annotated[type(default), tyro.conf.arg(name="")]
        how = tyro.conf.subcommand(name, default=(name, default), description=type(default).__doc__, prefix_name=False)
        return Annotated[tuple[tyro.conf.Suppress[str], settings], how]

    choices = Union[tuple(subcommand(name, each) for name, each in {**FIGURES, "all": All()}.items())]

    def command(what: choices, options: Annotated[Options, tyro.conf.arg(name="")] = Options()):
        return *what, options

    flat = (tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitArgPrefixes)
    name, what, options = tyro.cli(command, args=arguments, config=flat, description=__doc__)
    own = name == "all" or what == FIGURES[name]
    folder = options.folder or (results.FOLDER if own else results.ROOT / "_build" / "results")
    start = time.perf_counter()
    try:
        paths = produce(FIGURES if name == "all" else {name: what}, folder=folder, workers=options.workers)
    except KeyboardInterrupt:
        sys.exit("Stopped. What is done is kept: the same command goes on from there.")
    except (SweepError, OSError) as error:
        sys.exit(str(error))
    print(*paths, f"in {time.perf_counter() - start:.0f} s", sep="\n")


if __name__ == "__main__":  # through the import, so that worker processes know the classes under the same name
    from antipgd.experiments import main

    main()
