"""Speed of the engine against the plain way, measured in one process on one thread: name, ratio, both times.

The problem: quadratically parametrised regression, d = 100, M = 40; 3 learning rates x 3 sigmas x 4 methods x
10 seeds = 360 runs of 10,000 steps, float32. The plain way is timed on fewer steps of one run of each method and
scaled up, since its runs do not know of each other; the two sides take turns and the best of each is kept.
"""

import time

import torch

from antipgd.dynamics import anti_pgd, gd, pgd, run, sgd
from antipgd.landscapes import QuadraticRegression

SEEDS, LRS, SIGMAS, STEPS = range(10), (0.02, 0.05, 0.1), (0.02, 0.05, 0.1), 10_000
PLAIN_STEPS, TURNS = 500, 5


def problem():
    train, _, _ = QuadraticRegression.sparse(SEEDS, dtype=torch.float32)
    w0 = torch.ones(len(SEEDS), 1, train.dim)
    methods = [
        method for lr in LRS for s in SIGMAS for method in (gd(lr), sgd(lr / 10), pgd(lr, s), anti_pgd(lr, s))
    ]
    return train, w0, methods


def plain_run(X, y, w0, method, steps):
    """One run as one would write it: autograd, torch.optim.SGD, noise added by hand."""
    w = w0.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=method.lr)
    xi = torch.zeros_like(w0)
    for _ in range(steps):
        rows = torch.randint(len(y), (method.batch_size,)) if method.batch_size else slice(None)
        optimizer.zero_grad()
        loss = (X[rows] @ w.square() - y[rows]).square().mean() / 4
        loss.backward()
        optimizer.step()
        if method.sigma:
            with torch.no_grad():
                new = method.sigma * torch.randn_like(w0)
                w += new - method.cancel * xi
                xi = new


def seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def best_in_turn(*actions, turns=TURNS):
    """The shortest time of each action, taken in turns, so that a slow moment of the machine hits them alike."""
    times = [[seconds(action) for action in actions] for _ in range(turns)]
    return [min(column) for column in zip(*times)]


def report(name, ratio, first, second):
    print(f"{name:58s} ratio {ratio:8.2f}   {first:9.3f} s   {second:9.3f} s", flush=True)


def engine(train, w0, methods, steps=STEPS, seeds=SEEDS):
    return lambda: run(train, w0, methods, steps, seeds=seeds, record=[0, steps])


def two_products(train, w0, methods):
    w = w0.expand(-1, len(methods), -1).contiguous()
    XT = train.X.mT

    def multiply():
        for _ in range(STEPS):
            torch.matmul(torch.matmul(w, XT), train.X)

    return multiply


def main():
    torch.set_num_threads(1)
    train, w0, methods = problem()
    four = methods[:4]
    runs = len(SEEDS) * len(methods)

    def plain():
        for method in four:
            plain_run(train.X[0], train.y[0, 0], w0[0, 0], method, PLAIN_STEPS)

    fast, products, slow = best_in_turn(engine(train, w0, methods), two_products(train, w0, methods), plain)
    slow_in_all = slow * runs / len(four) * STEPS / PLAIN_STEPS
    report(f"{runs} runs x {STEPS} steps: plain way / engine", slow_in_all / fast, slow_in_all, fast)
    report("engine / its two matrix products alone", fast / products, fast, products)

    long, short = best_in_turn(engine(train, w0, methods, STEPS), engine(train, w0, methods, STEPS // 4))
    report("steps: time per step at 1x / at a quarter", long / short / 4, long, short)
    doubled = methods + methods
    wide, narrow = best_in_turn(engine(train, w0, doubled, STEPS // 4), engine(train, w0, methods, STEPS // 4))
    report("runs: time per run at twice as many / at 1x", wide / narrow / 2, wide, narrow)


if __name__ == "__main__":
    main()
