"""Cost of a network's Hessian trace, beside PyHessian, and what other estimators would bring.

    python benchmarks/curvature.py    # a small ResNet18 that has learned its images; some minutes on a CPU

The cost of an estimator is the time of a probe times the variance of a probe: the time in which it reaches a standard
error of one. The ratio of two costs is how much longer the one takes to the same standard error, whatever error that
is. Probes of both sides are made in turn, in one process; a ratio comes with the standard error of its logarithm.

PyHessian gives all batches the same signs, and makes the graph of the gradient anew for each probe.

The second table has no times: the standard deviation of one estimate, for as many products with the Hessian of all
images, among estimators that draw the same signs for all batches; ours with its own signs stands beside them.
"""

import argparse
import math
import time
import warnings

import torch
from pyhessian import hessian as PyHessian
from torch import nn

from antipgd.curvature import hessian_trace, recomputed_statistics
from antipgd.vision.data import normalised, synthetic
from antipgd.vision.resnet import ResNet18

mean_loss = nn.CrossEntropyLoss()
IMAGES, BATCH = 200, 40


def in_batches(images):
    return list(zip(normalised(images.pixels).split(BATCH), images.labels.split(BATCH)))


def trained(width, images, steps=40):
    """A network that has learned these images."""
    batches = in_batches(images)
    torch.manual_seed(0)
    model = ResNet18(width=width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for i in range(steps):
        inputs, labels = batches[i % len(batches)]
        optimizer.zero_grad()
        mean_loss(model(inputs), labels).backward()
        optimizer.step()
    return model


def in_turn(sides, rounds, clock):
    """For each side (a function from a seed to samples): all its samples, and the time of one of them."""
    samples, times = {name: [] for name in sides}, dict.fromkeys(sides, 0.0)
    for seed in range(rounds):
        for name, side in sides.items():
            start = clock()
            samples[name].append(side(seed))
            times[name] += clock() - start
    samples = {name: torch.cat(parts) for name, parts in samples.items()}
    return samples, {name: times[name] / len(samples[name]) for name in sides}


def against_pyhessian(model, batches, probes, rounds, clock):
    def ours(seed):
        return hessian_trace(model, mean_loss, batches, probes=probes, seed=seed).samples

    def theirs(seed):
        torch.manual_seed(seed)
        estimator = PyHessian(model, mean_loss, dataloader=batches, cuda=False)
        return torch.tensor(estimator.trace(maxIter=probes, tol=0), dtype=torch.float64)

    samples, times = in_turn({"PyHessian": theirs, "ours": ours}, rounds, clock)
    costs = {name: times[name] * each.var().item() for name, each in samples.items()}
    for name, each in samples.items():
        error = each.std().item() / len(each) ** 0.5
        print(f"{name:<10} {each.mean():9.2f} ± {error:.2f} from {len(each)} probes, {times[name]:.3f} s a probe")
    # A sample variance of n values has a relative standard error of sqrt((kurtosis - 1) / n).
    spread = math.sqrt(sum((kurtosis(each) - 1) / len(each) for each in samples.values()))
    ratio = costs["PyHessian"] / costs["ours"]
    print(f"time to an equal standard error: PyHessian / ours {ratio:.2f}, by a factor of {math.exp(spread):.2f} unsure")
    print(f"    of it {times['PyHessian'] / times['ours']:.2f} from the time of a probe, the rest from its variance")


def kurtosis(samples):
    centred = samples - samples.mean()
    return (centred**4).mean().item() / (centred**2).mean().item() ** 2


def estimators(model, batches, products, rounds):
    """Print, for each estimator, mean and standard deviation of estimates that took as many products."""
    from curvlinops import HessianLinearOperator, hutchinson_trace, hutchpp_trace, xtrace  # it warns, see main

    operator = HessianLinearOperator(model, mean_loss, list(model.parameters()), batches, check_deterministic=False)
    sides = {
        "same signs for all batches": lambda seed: hutchinson_trace(operator, products).item(),
        "Hutch++, the same": lambda seed: hutchpp_trace(operator, products).item(),
        "XTrace, the same": lambda seed: xtrace(operator, products).item(),
        "ours": lambda seed: hessian_trace(model, mean_loss, batches, probes=products, seed=seed).value,
    }
    print(f"{products} products with the Hessian, {rounds} estimates each:")
    for name, side in sides.items():
        torch.manual_seed(0)
        values = torch.tensor([side(seed) for seed in range(rounds)], dtype=torch.float64)
        deviation = values.std().item()
        print(f"    {name:<28} {values.mean():9.2f}, standard deviation {deviation:.2f} "
              f"± {deviation / math.sqrt(2 * (rounds - 1)):.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--probes", type=int, default=12, help="of each turn, and products of each estimate; a multiple of 6")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "Using backward")  # in PyHessian
    warnings.filterwarnings("ignore", ".torch.jit.script. is deprecated")  # below curvlinops
    images = synthetic(train=IMAGES, test=IMAGES)
    model = trained(arguments.width, images.train).eval()
    for name, batches in (("learned", in_batches(images.train)), ("not seen before", in_batches(images.test))):
        print(f"ResNet18, width {arguments.width}, {IMAGES} images {name}, in batches of {BATCH}:")
        with recomputed_statistics(model, [inputs for inputs, _ in in_batches(images.train)]):
            against_pyhessian(model, batches, arguments.probes, arguments.rounds, time.process_time)
            estimators(model, batches, arguments.probes, arguments.rounds)


if __name__ == "__main__":
    main()
