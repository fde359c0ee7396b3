"""Training runs in processes that are killed, or that work together: a script, since only a young process may fork.

    python tests/vision_runs.py kills FOLDER
    python tests/vision_runs.py ranks FOLDER

The forks cost no start of torch. What happened is left in FOLDER, for the tests to look at.
"""

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from antipgd.vision import data, distributed, files, measure, steps
from antipgd.vision import train as training
from antipgd.vision.settings import PRESETS
from antipgd.vision.train import Machine, train

SMALL = {"train_images": 40, "large_batch": 20, "small_batch": 10, "micro_batch": 10, "eval_images": 40}
TINY = replace(PRESETS["tiny"], **SMALL, eval_every=3, trace_every=0, trace_images=10)
KILLED = replace(
    TINY, method="antisgd", sigma=0.01, augment=True, train_images=20, epochs=30, noise_start=3, noise_stop=25, eval_every=10
)
KILLS = 20
# Batches of 15, 15 and 10, or 13, 13, 13 and 1.
SHARED = replace(TINY, method="antipgd", sigma=0.01, large_batch=15, augment=True, lr=1e-3)
SHARED_RUNS = {
    "noise": SHARED,
    "fewer images than ranks": replace(SHARED, method="sgd", sigma=0.0, small_batch=13, epochs=1),
    "sam": replace(SHARED, method="sam", sigma=0.0, rho=0.05, small_batch=15),
}
IMAGES = data.synthetic(train=60, test=40)


def machine(folder):
    return Machine("synthetic", folder, "cpu", "float32", False, deterministic=True, save_seconds=0.0, progress=False)


def fork(function, *arguments):
    """The id of a process that calls the function and ends, with 1 where that fails."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child, block=True):
    """How the process ended; None where it still runs."""
    found, status = os.waitpid(child, 0 if block else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


# --- Kills --------------------------------------------------------------------------------------------------------


def run(folder):
    train(KILLED, machine(folder))


def killed_after(steps, folder):
    """Whether a run was killed after so many of its steps, with a fraction; it may have ended before.

    The time of a step is measured, as other programs may slow it down; each writes a checkpoint.
    """
    child, path, seen, left = fork(run, folder), folder / "checkpoint.pt", [time.monotonic()], steps
    written = modified(path)
    while left > 0:
        if (code := ended(child, block=False)) is not None:
            assert code == 0
            return False
        if modified(path) not in (written, None):
            written, left = modified(path), left - 1
            seen.append(time.monotonic())
        if left < 1 and time.monotonic() - seen[-1] > left * (seen[-1] - seen[-2]):
            break
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return ended(child) != 0


def modified(path):
    """When the file was written; None where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def at_random_moments(folder):
    """Runs that are killed, ``KILLS`` times in all, and then end. Returns where their checkpoints stood after each."""
    assert ended(fork(run, folder / "undisturbed")) == 0
    moments, stood, number = random.Random(0), [], 0
    while len(stood) < KILLS:
        here = folder / f"killed {number}"
        if killed_after(moments.uniform(1, 4), here):
            stood.append([number, *standing(here)])
        else:
            number += 1
    assert ended(fork(run, folder / f"killed {number}")) == 0
    return stood


def standing(folder):
    """Epoch and batch of the checkpoint from which a run in this folder would go on."""
    paths = [folder / name for name in ("checkpoint.pt", "checkpoint.previous.pt")]
    path = next((path for path in paths if path.exists()), None)
    state = files.read(path) if path else {"epoch": 0, "batch": 0}
    return [state["epoch"], state["batch"]]


def killed_before(call, number, folder):
    """A run that is killed before the system call of this name and number."""
    original, count = getattr(os, call), 0

    def counted(*arguments):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(os, call, counted)
    run(folder)


def while_saving(folder):
    """One run, killed before each of the calls that save its second checkpoint. Returns what lay there after each."""
    lay = []
    for call, number in [("fsync", 1), ("replace", 1), ("replace", 2), *(("replace", n) for n in (3, 4, 5, 6))]:
        assert ended(fork(killed_before, call, number, folder)) == -signal.SIGKILL
        lay.append([f"{call} {number}", sorted(path.name for path in folder.iterdir()), standing(folder)])
    assert ended(fork(run, folder)) == 0
    return lay


def kills(folder):
    found = {"random": at_random_moments(folder), "saving": while_saving(folder / "saving")}
    (folder / "found.json").write_text(json.dumps(found))


# --- Ranks --------------------------------------------------------------------------------------------------------


def on_ranks(number, function, *arguments):
    """Call the function in as many processes as torchrun would, and wait for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank(i):
        os.environ |= {"RANK": str(i), "WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        function(*arguments)

    children = [fork(rank, i) for i in range(number)]
    assert [ended(child) for child in children] == number * [0]


def trained(settings, folder):
    """Train in double precision, and leave the weights and all else of this rank.

    In single precision an untrained network makes a rounding error hundreds of times larger in a few steps, and two
    ranks, which add in another order, could not be told from a wrong algorithm.
    """
    steps.normalised = measure.normalised = lambda pixels: data.normalised(pixels).double()
    training.network = lambda settings, device: steps.network(settings, device).double()
    found = train(settings, machine(folder))
    state = {"model": found.model.state_dict(), "optimizer": found.optimizer.state_dict(), "history": found.history}
    files.write(folder / f"rank {os.environ.get('RANK', 'alone')}.pt", state)


def batchnorm(folder):
    """BatchNorm of a batch of 7 on 2 ranks: outputs, gradients and statistics of each rank's images."""
    with distributed.ranks("cpu") as ranks:
        x, weights = batch_and_weights()
        x, weights = x[ranks.rank :: 2].requires_grad_(), weights[ranks.rank :: 2]
        layer = nn.Sequential(norm())
        distributed.share_statistics(layer)
        with distributed.alone(layer):
            before = type(layer[0])
        (layer(x) * weights).sum().backward()
        p = layer[0]
        state = {"out": layer(x).detach(), "x": x.grad, "weight": p.weight.grad, "bias": p.bias.grad}
        state |= {"buffers": list(p.buffers()), "alone": before is nn.BatchNorm2d, "eval": layer.eval()(x).detach()}
        files.write(folder / f"rank {ranks.rank}.pt", state)


def batch_and_weights():
    generator = torch.Generator().manual_seed(0)
    return 3 + 2 * torch.randn(7, 4, 5, 5, generator=generator), torch.randn(7, 4, 5, 5, generator=generator)


def norm():
    layer = nn.BatchNorm2d(4)
    nn.init.uniform_(layer.weight, generator=torch.Generator().manual_seed(1))
    nn.init.uniform_(layer.bias, generator=torch.Generator().manual_seed(2))
    return layer


def waiting(folder):
    """The second rank finds what the first one leaves, however long that takes."""
    folder.mkdir(exist_ok=True)
    with distributed.ranks("cpu") as ranks, ranks.first_alone():
        if ranks.first:
            time.sleep(0.5)
            (folder / "left").touch()
        assert (folder / "left").exists()
    (folder / f"done {ranks.rank}").touch()


def stopping(folder):
    """One of two ranks is asked to stop, and both do, after the same step."""
    with distributed.ranks("cpu") as ranks:
        flags = [ranks.any(flag) for flag in (False, ranks.rank == 1, True)]
    files.write(folder / f"rank {ranks.rank}.pt", {"flags": flags})


def ranks(folder):
    for name, settings in SHARED_RUNS.items():
        assert ended(fork(trained, settings, folder / name / "alone")) == 0
        on_ranks(2, trained, settings, folder / name / "together")
    on_ranks(2, batchnorm, folder / "batchnorm")
    on_ranks(2, waiting, folder / "waiting")
    on_ranks(2, stopping, folder / "stopping")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)  # its first call imports the compiler, for seconds: here, once for all forks
    data.synthetic = lambda: IMAGES
    {"kills": kills, "ranks": ranks}[sys.argv[1]](Path(sys.argv[2]))
