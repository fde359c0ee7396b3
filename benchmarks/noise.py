"""What the noise costs on an optimizer, both sides of each comparison in turn, in one process: name, ratio, both times.

    OMP_NUM_THREADS=1 python benchmarks/noise.py            # on the CPU, one thread
    python benchmarks/noise.py --device cuda                # on a GPU

Whole iterations (forward, backward, step) of a ResNet18 and of a small transformer with and without noise; the step of an
optimizer alone; the draws alone, which are the floor; many small tensors. The best of the turns is kept.
"""

import argparse
import functools
import time

import torch
from bench import best_in_turn, report
from torch import nn
from torchvision.models import resnet18

from antipgd.noise import LAWS, AntiPGD, draw

TURNS = 5


def in_turn(device, turns, *actions):
    """``best_in_turn``; on a GPU by the wall clock, with each action until its work is done."""
    if device.type != "cuda":
        return best_in_turn(*actions, turns=turns)

    def until_done(action):
        return lambda: (action(), torch.cuda.synchronize(device))

    return best_in_turn(*map(until_done, actions), turns=turns, clock=time.perf_counter)


def compare(name, first, second):
    report(name, first / second, first, second)


def network(device):
    """The ResNet18 of CIFAR-10: a first layer of 3 by 3 and no pooling; 11.17 million weights."""
    model = resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model.to(device)


class Transformer(nn.Module):
    """Four layers of width 256, 128 tokens of a vocabulary of 1000."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(1000, 256), nn.Linear(256, 1000)
        layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

    def forward(self, x):
        return self.head(self.layers(self.embed(x)).mean(1))


def images(batch, device):
    return torch.randn(batch, 3, 32, 32, device=device), torch.randint(0, 10, (batch,), device=device)


def tokens(batch, device):
    return torch.randint(0, 1000, (batch, 128), device=device), torch.randint(0, 1000, (batch,), device=device)


def optimizer_for(model, cls=functools.partial(torch.optim.SGD, momentum=0.9), law=None):
    optimizer = cls(model.parameters(), lr=1e-4)
    if law:
        AntiPGD(optimizer, 1e-4, law=law)
    return optimizer


def iteration(model, optimizer, x, y, gradients=1):
    """One step with this many gradients: SAM takes two."""

    def act():
        for _ in range(gradients):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return act


def whole_iterations(device, turns):
    for name, make, data, batches in (
        ("ResNet18", network, images, (32, 128)),
        ("transformer", lambda device: Transformer().to(device), tokens, (32,)),
    ):
        for batch in batches:
            x, y = data(batch, device)
            model = make(device)
            act = {law: iteration(model, optimizer_for(model, law=law), x, y) for law in (None, "gaussian", "rademacher")}
            sam = iteration(model, optimizer_for(model), x, y, gradients=2)
            plain, gaussian, signs, twice = in_turn(device, turns, *act.values(), sam)
            compare(f"{name}, batch {batch}, iteration: Gaussian noise / none", gaussian, plain)
            compare(f"{name}, batch {batch}, iteration: random signs / none", signs, plain)
            compare(f"{name}, batch {batch}, iteration: two gradients, as SAM / none", twice, plain)


def steps_alone(device, turns):
    model = network(device)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    out = [torch.empty_like(p) for p in model.parameters()]
    generator = torch.Generator(device).manual_seed(0)
    for cls in (functools.partial(torch.optim.SGD, momentum=0.9), torch.optim.Adam):
        name = getattr(cls, "func", cls).__name__
        steps = [optimizer_for(model, cls, law).step for law in (None, "gaussian", "rademacher")]
        plain, *noisy = in_turn(device, turns, *steps)
        for law, each in zip(("gaussian", "rademacher"), noisy):
            compare(f"ResNet18, step of {name}: {law} noise / none", each, plain)
    draws = [lambda law=law: [draw(law, t, generator) for t in out] for law in LAWS]
    times = dict(zip(LAWS, in_turn(device, turns, *draws)))
    step = in_turn(device, turns, optimizer_for(model, law="gaussian").step)[0]
    compare("ResNet18, Gaussian: step of SGD with noise / draws alone", step, times["gaussian"])
    for law in ("rademacher", "uniform"):
        compare(f"ResNet18, draws: {law} / gaussian", times[law], times["gaussian"])


def small_tensors(device, turns, count=2000, size=64):
    parameters = nn.ParameterList([torch.zeros(size, device=device) for _ in range(count)])
    for p in parameters:
        p.grad = torch.ones_like(p)
    generator = torch.Generator(device)
    plain, noisy = in_turn(device, turns, *(optimizer_for(parameters, law=law).step for law in (None, "gaussian")))
    drawn = in_turn(device, turns, lambda: [torch.empty_like(p).normal_(generator=generator) for p in parameters])[0]
    compare(f"{count} tensors of {size}: step of SGD with noise / none", noisy, plain)
    compare(f"{count} tensors of {size}: what the noise adds / draws alone", noisy - plain, drawn)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--turns", type=int, default=TURNS, help="times that each side is timed (default: %(default)s)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    for part in (steps_alone, small_tensors, whole_iterations):
        part(device, arguments.turns)


if __name__ == "__main__":
    main()
