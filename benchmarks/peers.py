"""What a step of each peer costs in seconds, over a step of gradient descent: problem, method, ratio, both times.

Three places: the quadratically parametrised regression and matrix sensing with their closed-form derivatives, 16 settings
for each of 10 seeds in one batch, and a network with one hidden layer, differentiated by PyTorch. Measured in one process
on one thread; a method and gradient descent take turns, and the best of each is kept. Run it as
``OMP_NUM_THREADS=1 python benchmarks/peers.py``.
"""

import torch
from bench import best_in_turn, report

from antipgd.dynamics import anti_pgd, gd, label_noise, pgd, run, sgd, trace_regularised
from antipgd.landscapes import MatrixSensing, QuadraticRegression

SEEDS, COPIES, STEPS = range(10), 16, 320
ENGINE = {
    "SGD, a quarter of the data": None,  # needs the problem's size
    "PGD": pgd(1e-3, 0.01),
    "Anti-PGD": anti_pgd(1e-3, 0.01),
    "label noise": label_noise(1e-3, 0.1),
    "trace regularisation": trace_regularised(1e-3, 0.01),
}


def engine(landscape, w0, method):
    """STEPS steps of one method in COPIES equal settings."""
    return lambda: run(landscape, w0, [method] * COPIES, STEPS, seeds=SEEDS, record=[STEPS])


def loop(landscape, w0, direction):
    """The same number of steps along a direction, as the book's chapter on peers writes them."""

    def go():
        w = w0.expand(-1, COPIES, -1).clone()
        for _ in range(STEPS):
            w = w - 1e-3 * direction(landscape, w)

    return go


def sam(landscape, w):
    up = landscape.gradient(w)
    return landscape.gradient(w + 0.1 * up / up.norm(dim=-1, keepdim=True))


def decayed(landscape, w):
    return landscape.gradient(w) + 0.01 * w


def smoothed(landscape, w, K=4):
    xi = torch.randn(K, len(w), 1, landscape.dim).to(w)
    return landscape.gradient(w + 0.01 * xi).mean(0)


def toys():
    for problem, drawn in (
        ("regression", QuadraticRegression.sparse(SEEDS)),
        ("sensing", MatrixSensing.low_rank(SEEDS)),
    ):
        train = drawn[0]
        w0 = 0.1 * torch.randn(len(SEEDS), 1, train.dim, generator=torch.Generator().manual_seed(0)).double()
        methods = {**ENGINE, "SGD, a quarter of the data": sgd(1e-3, train.samples // 4)}
        for name, method in methods.items():
            mine, plain = best_in_turn(engine(train, w0, method), engine(train, w0, gd(1e-3)))
            report(f"{problem}: {name} / GD, engine", mine / plain, mine, plain)
        for name, direction in {"SAM": sam, "smoothing, K = 4": smoothed, "weight decay": decayed}.items():
            plain_loop = loop(train, w0, lambda landscape, w: landscape.gradient(w))
            mine, plain = best_in_turn(loop(train, w0, direction), plain_loop)
            report(f"{problem}: {name} / GD, loop", mine / plain, mine, plain)


def network():
    normal = torch.Generator().manual_seed(0)
    x = torch.randn(500, 64, generator=normal)
    weights = [torch.randn(64, 256, generator=normal) / 8, torch.randn(256, 10, generator=normal) / 16]
    weights = [W.requires_grad_() for W in weights]
    signs = [torch.randint(2, W.shape, generator=normal) * 2.0 - 1 for W in weights]

    def gradient(at=weights, **how):
        loss = (torch.tanh(x @ at[0]) @ at[1]).square().mean()
        return torch.autograd.grad(loss, at, **how)

    def moved(direction, length):
        return [(W.detach() + length * v).requires_grad_() for W, v in zip(weights, direction)]

    def noise():
        return [torch.randn_like(W) for W in weights]

    def inner(vectors, others):
        return sum((v * other).sum() for v, other in zip(vectors, others))

    def penalty():
        slope = gradient(create_graph=True)
        curved = torch.autograd.grad(inner(slope, signs), weights, create_graph=True)
        return torch.autograd.grad(inner(curved, signs), weights)

    def anti():
        return gradient(), moved(noise(), 0.01)

    def climb():
        return gradient(moved(gradient(), 0.1))

    def smooth():
        return [gradient(moved(noise(), 0.01)) for _ in range(4)]

    def decay():
        return [g + 0.01 * W.detach() for g, W in zip(gradient(), weights)]

    def often(step):
        return lambda: [step() for _ in range(50)]

    for name, step in {
        "Anti-PGD": anti,
        "weight decay": decay,
        "SAM": climb,
        "smoothing, K = 4": smooth,
        "trace penalty, one vector of signs": penalty,
    }.items():
        mine, plain = best_in_turn(often(step), often(gradient))
        report(f"network: {name} / GD", mine / plain, mine, plain)


def main():
    torch.set_num_threads(1)
    toys()
    network()


if __name__ == "__main__":
    main()
