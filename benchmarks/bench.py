"""Speed of the engine, both sides of each comparison in turn, in one process on one core: name, ratio, both times.

    python benchmarks/bench.py            # everything, about two minutes
    python benchmarks/bench.py --turns 50 # on a machine with other work: the best of more turns

Two problems of the paper at its size, float32: quadratically parametrised regression (d = 100, M = 40) and matrix
sensing (n = 20, M = 100). 3 learning rates x 3 sigmas x 4 methods x 10 seeds = 360 runs step together. Times are for
10,000 steps of all runs, timed on fewer; the best of the turns is kept, since what disturbs only ever adds.

plain way: one run as one would write it, with autograd and torch.optim, timed for one run of each method and scaled up.
products: the matrix products of a gradient and nothing else; what the engine takes besides is its cost.
JAX: the same runs and as many draws by jit, scan and vmap, see jax_side.py. Its rows are left out where it is missing.
"""

import argparse
import os
import time
from typing import Callable, NamedTuple

import torch

from antipgd.dynamics import anti_pgd, gd, pgd, run, sgd
from antipgd.landscapes import Landscape, MatrixSensing, QuadraticRegression

SEEDS, STEPS, TURNS = range(10), 10_000, 20


class Problem(NamedTuple):
    name: str
    train: Landscape
    w0: torch.Tensor
    methods: list
    data: tuple  # the matrices and the targets, one for each seed
    loss: Callable  # of one run, from its matrices, targets and weights
    products: Callable  # of a gradient of all runs
    steps: int  # of one turn


def four_methods(lrs, sigmas):
    return [m for lr in lrs for s in sigmas for m in (gd(lr), sgd(lr / 10), pgd(lr, s), anti_pgd(lr, s))]


def regression(d=100, repeat=1):
    train, _, _ = QuadraticRegression.sparse(SEEDS, d=d, dtype=torch.float32)
    sizes = (0.02, 0.05, 0.1)

    def products(w):
        return w @ train.X.mT @ train.X

    def loss(X, y, w):
        return (X @ w.square() - y).square().mean() / 4

    return Problem(
        "regression",
        train,
        torch.ones(len(SEEDS), 1, d),
        four_methods(sizes, sizes) * repeat,
        (train.X, train.y[:, 0]),
        loss,
        products,
        steps=640,
    )


def sensing(n=20):
    train, _, _ = MatrixSensing.low_rank(SEEDS, n=n, dtype=torch.float32)
    sizes = (0.01, 0.02, 0.05)

    def products(w):
        U = w.unflatten(-1, (n, n))
        return ((U @ U.mT).flatten(-2) @ train.A.mT @ train.A).unflatten(-1, (n, n)) @ U

    def loss(A, y, w):
        U = w.unflatten(-1, (n, n))
        return ((A * (U @ U.mT)).sum((-2, -1)) - y).square().mean() / 2

    return Problem(
        "matrix sensing",
        train,
        0.1 * torch.eye(n).flatten().expand(len(SEEDS), 1, n * n),
        four_methods(sizes, sizes),
        (train.A.unflatten(-1, (n, n)), train.y[:, 0]),
        loss,
        products,
        steps=128,
    )


def plain_run(problem, method, steps):
    """One run as one would write it: autograd, torch.optim.SGD, noise added by hand."""
    A, y, w0 = problem.data[0][0], problem.data[1][0], problem.w0[0, 0]
    w = w0.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=method.lr)
    xi = torch.zeros_like(w0)
    for _ in range(steps):
        rows = torch.randint(len(y), (method.batch_size,)) if method.batch_size else slice(None)
        optimizer.zero_grad()
        problem.loss(A[rows], y[rows], w).backward()
        optimizer.step()
        if method.sigma:
            with torch.no_grad():
                new = method.sigma * torch.randn_like(w0)
                w += new - method.cancel * xi
                xi = new


class Side(NamedTuple):
    """One side of a comparison: an action, and what it does, counted in steps of all runs."""

    action: Callable
    steps: float


def engine(problem, steps=None):
    steps = steps or problem.steps
    return Side(lambda: run(problem.train, problem.w0, problem.methods, steps, seeds=SEEDS, record=[0, steps]), steps)


def products(problem):
    w = problem.w0.expand(-1, len(problem.methods), -1).contiguous()

    def multiply():
        for _ in range(problem.steps):
            problem.products(w)

    return Side(multiply, problem.steps)


def plain(problem, steps=100):
    four = problem.methods[:4]

    def each_method_once():
        for method in four:
            plain_run(problem, method, steps)

    return Side(each_method_once, steps * len(four) / (len(SEEDS) * len(problem.methods)))


def seconds(action, clock):
    start = clock()
    action()
    return clock() - start


def best_in_turn(*actions, turns=TURNS, clock=time.process_time):
    """The shortest time of each action, taken in turns, so that a slow moment of the machine hits them alike.

    clock: of the processor, so that what other programs take does not count; a GPU's work needs that of the wall.
    """
    for action in actions:
        action()  # once before: what is compiled or loaded at the first time does not count
    times = [[seconds(action, clock) for action in actions] for _ in range(turns)]
    return [min(column) for column in zip(*times)]


def timed(sides, turns):
    """Seconds for STEPS steps of all runs, by name."""
    best = best_in_turn(*(side.action for side in sides.values()), turns=turns)
    return {name: time * STEPS / side.steps for (name, side), time in zip(sides.items(), best)}


def report(name, ratio, first, second):
    print(f"{name:66s} ratio {ratio:8.3f}   {first:9.4f} s   {second:9.4f} s", flush=True)


def compare(problem, turns, jax_side):
    sides = {"plain way": plain(problem), "engine": engine(problem), "products": products(problem)}
    if jax_side:
        for name, action in jax_side.runs(problem, len(SEEDS)).items():
            sides[name] = Side(action, problem.steps)
    best = timed(sides, turns)
    engines = best.pop("engine")
    alone = best.pop("products")
    report(f"{problem.name}: engine / its matrix products alone", engines / alone, engines, alone)
    for name, other in best.items():
        report(f"{problem.name}: {name} / engine", other / engines, other, engines)


def growth(turns):
    """How the engine's time grows; 1 is in proportion, and below 1 more is cheaper."""
    problem, more = regression(), sensing_work(40) / sensing_work(20)
    best = timed(
        {
            "once": engine(problem),
            "long": engine(problem, 4 * problem.steps),
            "many": engine(regression(repeat=2)),
            "wide": engine(regression(d=200)),
            "sensing": engine(sensing()),
            "wide sensing": engine(sensing(n=40)),
        },
        turns,
    )
    for name, first, second, factor in [
        ("steps: time per step, four times as many / once", "long", "once", 1),
        ("runs: time per run, twice as many / once", "many", "once", 2),
        ("regression: time per coordinate, d = 200 / 100", "wide", "once", 2),
        ("sensing: time per multiplication, n = 40 / 20", "wide sensing", "sensing", more),
    ]:
        report(name, best[first] / best[second] / factor, best[first], best[second])


def sensing_work(n, M=100):
    """Multiplications of a gradient: U U^T and the last product, n^3 each; the measurements and back, M n^2 each."""
    return 2 * n**3 + 2 * M * n**2


def on_one_core():
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=TURNS)
    turns = parser.parse_args().turns
    on_one_core()
    try:
        import jax_side
    except ModuleNotFoundError as missing:
        if missing.name != "jax":
            raise
        jax_side = None
        print("JAX is not installed, and its rows are left out. To have them: .venv/bin/uv pip install -e '.[bench]'")
    for problem in (regression(), sensing()):
        compare(problem, turns, jax_side)
    growth(max(turns // 4, 3))


if __name__ == "__main__":
    main()
