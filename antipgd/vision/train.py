"""A training run that can be stopped at any moment and goes on from there.

    python -m antipgd.vision.train --preset fig2 --method antipgd --sigma 0.01
    python -m antipgd.vision.train --help                          # every setting, with its default and its source
    torchrun --nproc-per-node=4 -m antipgd.vision.train --preset fig2 --method sgd       # on several GPUs

Stopped or killed, the same command goes on from its last checkpoint. With ``--deterministic`` on a CPU it then ends
with the same weights, bit for bit.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from antipgd.vision import data, distributed, files
from antipgd.vision.measure import measured
from antipgd.vision.settings import CANCEL, Settings
from antipgd.vision.steps import Batches, Totals, network, optimizer_and_noise, set_noise, step

VALIDATION = 2000  # images, at most, on which choices are made: of the training images those that are not trained on


class Stopped(RuntimeError):
    """The run was asked to stop, and has left a checkpoint."""


def has_bfloat16():
    """Whether there is a GPU that computes in bfloat16: older ones, among them Colab's free T4, only imitate it, slowly."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass(frozen=True)
class Machine:
    """How to run: what decides speed and rounding, and where things lie."""

    data: str = "cifar10"
    """The images: cifar10 (downloaded), synthetic, or a folder with train/CLASS/FILE and test/CLASS/FILE."""
    folder: Path = Path("runs")
    """Where the run's checkpoint lies; each other setting needs another folder."""
    device: Literal["cuda", "cpu"] = "cuda" if torch.cuda.is_available() else "cpu"
    """cuda or cpu. By default the GPU where there is one."""
    precision: Literal["bfloat16", "float32"] = "bfloat16" if has_bfloat16() else "float32"
    """Of the forward and backward pass; weights and noise are float32. By default bfloat16 on a GPU that computes in it. So do
    some CPUs: there it is, compiled, the fastest, see benchmarks/vision.py, and gives up float32's reproducible digits."""
    compiled: bool = torch.cuda.is_available()
    """Whether the network is compiled. By default on a GPU: on a CPU it takes most of a minute and gains little."""
    deterministic: bool = False
    """Only algorithms that give the same bits again; slower on a GPU."""
    save_seconds: float = 60.0
    """Time between two checkpoints."""
    progress: bool = True
    """A bar with loss, accuracy, images per second and the time that is left."""

    def __post_init__(self):
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, and torch finds no GPU here: leave it out, or give cpu.")


@dataclass
class Run:
    """Where a run stands. ``epoch`` and ``batch`` count what is done; ``history`` has a row for each epoch."""

    settings: Settings
    machine: Machine
    images: data.Images
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    noise: object
    totals: Totals
    epoch: int = 0
    batch: int = 0
    history: list = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def fresh(cls, settings, machine, images):
        model = network(settings, machine.device)
        optimizer, noise = optimizer_and_noise(settings, model)
        return cls(settings, machine, images, model, optimizer, noise, Totals.zero(machine.device))

    # Checkpoints.

    @property
    def paths(self):
        """The last checkpoint, and the one before it."""
        return self.machine.folder / "checkpoint.pt", self.machine.folder / "checkpoint.previous.pt"

    def identity(self):
        """What a checkpoint must agree in with the run that it is loaded into."""
        return {**asdict(self.settings), "images": self.images.fingerprint}

    def save(self):
        """Write a checkpoint; the one before is kept. Raises OSError where it cannot be written."""
        last, previous = self.paths
        new = last.with_suffix(".new.pt")
        state = {name: getattr(self, name) for name in ("epoch", "batch", "history", "seconds")}
        totals = {"loss": self.totals.loss, "correct": self.totals.correct, "images": self.totals.images}
        modules = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        try:
            for left in files.leftovers(new):
                left.unlink()
            files.write(new, {"run": self.identity(), "totals": totals, **state, **modules})
            if last.exists():
                os.replace(last, previous)
            os.replace(new, last)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: no checkpoint can be written. The last one stands, if there is one: make room, and "
                "the same command goes on from it",
                str(last),
            ) from error

    def restore(self):
        """Go on from the last checkpoint, if there is one. Raises FileError for one that is damaged or of another run."""
        last, previous = self.paths
        path = last if last.exists() else previous
        if not path.exists():
            return
        try:
            state = files.read(path)
        except files.FileError as error:
            other = f"go on from {previous.name}" if path == last and previous.exists() else "begin anew"
            raise files.FileError(f"{error} Delete it, and the same command will {other}.") from None
        ours, theirs = self.identity(), state.pop("run")
        different = [f"{name} {theirs.get(name)!r}, now {ours[name]!r}" for name in ours if theirs.get(name) != ours[name]]
        if different:
            raise files.FileError(
                f"{path} belongs to another run: {'; '.join(different)}. Give this run a --folder of its own."
            )
        self.model.load_state_dict(state.pop("model"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        totals = state.pop("totals")
        self.totals = Totals(totals["loss"].to(self.machine.device), totals["correct"].to(self.machine.device), totals["images"])
        for name, value in state.items():
            setattr(self, name, value)

    # The loop.

    def finish(self, dataset, forward, reporter, stop, ranks):
        """All that is still to do. Raises Stopped, after a checkpoint, where ``stop`` says so."""
        precision = partial(
            torch.autocast, self.machine.device, torch.bfloat16, enabled=self.machine.precision == "bfloat16"
        )
        micro, saved = self.settings.micro_batch, time.monotonic()
        for epoch in range(self.epoch, self.settings.epochs):
            set_noise(self.settings, self.optimizer, epoch)
            batches = Batches(self.settings, self.images, epoch)
            for number in range(self.batch, len(batches)):
                start = time.monotonic()
                parts = partial(batches.parts, number, micro, ranks.rank, ranks.number)
                count = batches.count(number) / ranks.number  # the average over ranks is then over all images
                step(self.settings, forward, self.optimizer, parts, count, self.totals, precision)
                self.batch += 1
                self.seconds += time.monotonic() - start
                reporter.images(batches.count(number), self)
                stopping = stop.agreed(ranks)
                if stopping or (ranks.first and time.monotonic() - saved > self.machine.save_seconds):
                    self.checkpoint(ranks)
                    saved = time.monotonic()
                if stopping:
                    raise Stopped(f"Stopped in epoch {epoch + 1}, after {self.batch} of {len(batches)} steps.")
            self.epoch, self.batch = epoch + 1, 0
            self.look(dataset, reporter, ranks)
            self.totals = Totals.zero(self.machine.device)
        self.checkpoint(ranks)
        return self

    def checkpoint(self, ranks):
        if ranks.first:
            self.save()

    def look(self, dataset, reporter, ranks):
        """At the end of an epoch: what its batches gave, and an evaluation where one is due."""
        settings, last = self.settings, self.epoch == self.settings.epochs
        row = {"epoch": self.epoch, **ranks.means(self.totals)}
        if last or self.epoch % settings.eval_every == 0:
            row |= self.evaluated(dataset, last)
        self.history.append(row)
        reporter.epoch(row)

    def evaluated(self, dataset, last):
        settings = self.settings
        traced = settings.trace_every and (last or self.epoch % settings.trace_every == 0)
        noisy = settings.sigma_in(self.epoch - 1) > 0 and CANCEL[settings.method] > 0
        with distributed.alone(self.model):
            return measured(
                self.model,
                self.noise if noisy else None,
                self.images if last else first(self.images, settings.eval_images),
                held_out(dataset, settings, last),
                first(self.images, settings.trace_images) if traced else None,
                settings.trace_probes,
            )


def first(images, n):
    """The first n images, as many of each class; all where there are not so many."""
    return images.first(min(n, images.balanced))


def held_out(dataset, settings, last):
    """Images that are not trained on: for the curves some of the test images; at the end all, and those for choices."""
    if not last:
        return {"test": first(dataset.test, settings.eval_images)}
    remaining = dataset.train.balanced - settings.train_images
    choices = {"validation": dataset.train.first(min(VALIDATION, remaining), settings.train_images)} if remaining else {}
    return {"test": dataset.test, **choices}


class Stop:
    """Ctrl-C, or a polite kill, is noted while the run is inside this context, and heeded after the step."""

    def __init__(self):
        self.asked = False

    def __enter__(self):
        self._former = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.asked and number == signal.SIGINT:  # the second time the user means it
            raise KeyboardInterrupt
        self.asked = True

    def agreed(self, ranks):
        """Whether any rank was asked to stop: all stop after the same step."""
        return ranks.any(self.asked)


class Reporter:
    """A progress bar, and TensorBoard's logs where it is installed; only on the first of several ranks."""

    def __init__(self, run, machine, shown):
        settings = run.settings
        total, done = (epochs * settings.train_images for epochs in (settings.epochs, run.epoch))
        done += run.batch * settings.batch_size
        label = f"{settings.name}, sigma {settings.sigma:g}, seed {settings.seed}"
        self._bar = tqdm(
            total=total, initial=done, unit=" images", unit_scale=True, desc=label, disable=not (shown and machine.progress)
        )
        self._writer = tensorboard(machine.folder) if shown else None
        self._looked = time.monotonic()

    def images(self, n, run):
        self._bar.update(n)
        if not self._bar.disable and time.monotonic() - self._looked > 1:  # looking makes a GPU wait
            self._looked = time.monotonic()
            seen = run.totals
            loss, accuracy = seen.loss.item() / seen.images, seen.correct.item() / seen.images
            self._bar.set_postfix(epoch=run.epoch + 1, loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}")

    def epoch(self, row):
        if self._writer:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name.replace(" ", "/"), value, row["epoch"])
            self._writer.flush()

    def close(self):
        self._bar.close()
        if self._writer:
            self._writer.close()


def tensorboard(folder):
    """A writer of TensorBoard's logs into the folder; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "tensorboard")


def train(settings, machine=Machine()):
    """Train, from the start or from the checkpoint in the machine's folder, and return the finished ``Run``.

    Raises what ``data.load`` raises; FileError for a checkpoint that is damaged or belongs to another run; Stopped on
    Ctrl-C or SIGTERM, and OSError where no checkpoint can be written: the last one then stands.
    """
    with distributed.ranks(machine.device) as ranks, algorithms(machine.deterministic):
        with ranks.first_alone():
            dataset = data.load(machine.data)
        images = dataset.train.first(settings.train_images).to(machine.device)
        dataset = data.Dataset(dataset.name, dataset.train.to(machine.device), dataset.test.to(machine.device))
        run = Run.fresh(settings, machine, images)
        run.restore()
        if run.epoch == settings.epochs:
            return run
        forward = ranks.wrapped(run.model)
        forward = torch.compile(forward) if machine.compiled else forward
        reporter = Reporter(run, machine, ranks.first)
        try:
            with Stop() as stop:
                return run.finish(dataset, forward, reporter, stop, ranks)
        finally:
            reporter.close()


@contextlib.contextmanager
def algorithms(deterministic):
    """Torch's deterministic algorithms inside the block, or the fastest."""
    former = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it, before the first use of a GPU
    torch.use_deterministic_algorithms(deterministic or former[0])
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(former[0])
        torch.backends.cudnn.benchmark = former[1]


def main(arguments=None):
    """The command of this module; see its head."""
    from antipgd.vision.command import parsed  # here, since chapters import this module in Colab, which lacks tyro

    settings, machine = parsed(arguments)
    try:
        run = train(settings, machine)
    except Stopped as stopped:
        sys.exit(f"{stopped} The same command goes on from {machine.folder / 'checkpoint.pt'}.")
    except KeyboardInterrupt:
        sys.exit("Stopped at once. The same command goes on from the last checkpoint, if there is one.")
    except (OSError, data.DataError, files.FileError) as error:
        sys.exit(str(error))
    if run.history and int(os.environ.get("RANK", 0)) == 0:
        print(summary(run))


def summary(run):
    """The last evaluation as a table, at w and at z."""
    row = run.history[-1]
    names = dict.fromkeys(name.rsplit(" ", 1)[0] for name in row if name[-2:] in (" w", " z"))
    lines = [f"{run.settings.name}, after {row['epoch']} epochs, {run.seconds:.0f} s of training"]
    lines += [f"{'':20}{'at w':>12}{'at z':>12}"]
    return "\n".join([*lines, *(f"{name:20}{row[name + ' w']:12.4g}{row[name + ' z']:12.4g}" for name in names)])


if __name__ == "__main__":
    main()
