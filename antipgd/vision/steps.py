"""The algorithm of a run: starting weights, order of the images, gradient, noise. All by the seed, on any device alike."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from antipgd.noise import CorrelatedNoise, keyed_seed
from antipgd.vision.data import Moves, layout, moved, normalised
from antipgd.vision.resnet import ResNet18
from antipgd.vision.settings import CANCEL

START, ORDER, MOVES, NOISE = range(4)  # what a stream of random numbers is for


def generator(settings, purpose, epoch=0):
    """Random numbers of a purpose and an epoch: on the CPU, so that all devices see the same."""
    return torch.Generator().manual_seed(keyed_seed(settings.seed, purpose, epoch))


def network(settings, device):
    """The ResNet18 with its starting weights. The global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(settings.seed, START))
        model = ResNet18(settings.width)
    return model.to(device, memory_format=layout(device))


def optimizer_and_noise(settings, model):
    """SGD with momentum, and on it the noise of the method; None for a method without."""
    options = {"lr": settings.lr, "momentum": settings.momentum, "weight_decay": settings.weight_decay}
    on_gpu = next(model.parameters()).is_cuda
    optimizer = torch.optim.SGD(noise_groups(settings, model), **options, fused=on_gpu)
    if settings.method not in CANCEL:
        return optimizer, None
    seed = keyed_seed(settings.seed, NOISE) // 2 - 2**62  # from 0 to 2**64 into the 64 bits with a sign that it takes
    noise = CorrelatedNoise(optimizer, 0.0, cancel=CANCEL[settings.method], law=settings.law, seed=seed)
    return optimizer, noise


def noise_groups(settings, model):
    """Groups of parameters, each with ``noise_scale``, by which sigma is multiplied there."""
    if settings.noise_on == "all":
        return [{"params": list(model.parameters()), "noise_scale": 1.0}]
    groups = []
    for p in model.parameters():
        scale = rms(p) if settings.noise_on == "scaled" else 1.0
        groups.append({"params": [p], "noise_scale": scale if p.dim() > 1 else 0.0})  # convolutions and the last layer
    return groups


def rms(p):
    return p.detach().double().square().mean().sqrt().item()


def set_noise(settings, optimizer, epoch):
    """The strength of the noise in this epoch. From a positive one to 0, the next step lands on z."""
    for group in optimizer.param_groups:
        group["sigma"] = settings.sigma_in(epoch) * group["noise_scale"]


@dataclass
class Totals:
    """Sums over the images that an epoch has seen, on the device: looking at them makes the device wait."""

    loss: torch.Tensor
    correct: torch.Tensor
    images: int = 0

    @classmethod
    def zero(cls, device):
        return cls(torch.zeros((), device=device), torch.zeros((), device=device))

    def add(self, scores, labels, summed_loss):
        self.loss += summed_loss.detach()
        self.correct += (scores.detach().argmax(1) == labels).sum()
        self.images += len(labels)


class Batches:
    """The batches of one epoch: the images in a random order, cut into batches, of which the last may be smaller."""

    def __init__(self, settings, images, epoch):
        device = images.labels.device
        self.images, self.size = images, settings.batch_size
        self.order = torch.randperm(len(images), generator=generator(settings, ORDER, epoch)).to(device)
        drawn = Moves.drawn(len(images), generator(settings, MOVES, epoch)) if settings.augment else None
        self.moves = drawn and drawn.to(device)

    def __len__(self):
        return -(-len(self.images) // self.size)

    def parts(self, number, micro_batch, rank=0, ranks=1):
        """Inputs and labels of one batch, in parts of at most ``micro_batch``; of several ranks, each has its share."""
        count = self.count(number)
        places = number * self.size + torch.arange(count, device=self.order.device)
        for part in places.tensor_split(-(-count // micro_batch)):
            part = part[rank::ranks]
            index = self.order[part]
            pixels = self.images.pixels[index]
            pixels = pixels if self.moves is None else moved(pixels, self.moves[part])
            yield normalised(pixels), self.images.labels[index]

    def count(self, number):
        """How many images the batch has."""
        return min(self.size, len(self.images) - number * self.size)


def add_gradient(model, parts, count, totals=None, precision=nullcontext):
    """Into ``.grad``: the gradient of the summed loss of the parts of a batch, divided by ``count``.

    precision: makes the context in which the network runs forward, such as autocast.
    """
    for inputs, labels in parts:
        with precision():
            scores = model(inputs)
            loss = cross_entropy(scores.float(), labels, reduction="sum")
        (loss / count).backward()
        if totals is not None:
            totals.add(scores, labels, loss)


def step(settings, model, optimizer, parts, count, totals, precision=nullcontext):
    """One step of the method. parts: makes the parts of the batch, anew at each call."""
    optimizer.zero_grad()
    add_gradient(model, parts(), count, totals, precision)
    if settings.method == "sam":
        gradient_ahead(settings.rho, model, optimizer, parts, count, precision)
    optimizer.step()


def gradient_ahead(rho, model, optimizer, parts, count, precision):
    """Replace ``.grad`` by the gradient a distance ``rho`` up the slope (sharpness-aware minimisation)."""
    weights = list(model.parameters())
    norm = torch.stack([p.grad.norm() for p in weights]).norm()
    kept = [p.detach().clone() for p in weights]
    with torch.no_grad():
        for p in weights:
            p.add_(p.grad * (rho / norm))
    optimizer.zero_grad()
    add_gradient(model, parts(), count, precision=precision)
    with torch.no_grad():
        torch._foreach_copy_(weights, kept)
