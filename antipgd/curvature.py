"""Curvature of a network: the trace of its loss's Hessian, with its standard error (paper, sections 2 and 4)."""

import contextlib
from typing import NamedTuple

import torch


class Estimate(NamedTuple):
    """A Monte Carlo estimate: its value, its standard error, and the samples (probes,) it is the mean of."""

    value: float
    stderr: float
    samples: torch.Tensor


def hessian_trace(model, loss, batches, *, probes=30, seed=0):
    """Hutchinson's estimate of the trace of the Hessian of the mean loss, over the parameters that want gradients.

    It averages v.T @ H @ v over random signs v, whose expectation is the trace; the Hessian-vector products are
    exact. The same seed gives the same signs at every call: differences between two points of a training run
    then have far less noise than either value.

    model: a module. loss(outputs, targets): the mean loss of a batch. batches: an iterable of (inputs, targets)
    on the model's device; batches of unequal size count by their size. probes: at least 2.
    The model is evaluated in eval mode, since with BatchNorm in training mode the loss depends on how the data are
    cut into batches and has no Hessian of its own; modes and ``.grad`` come back as they were.

    Raises ValueError for fewer than two probes, no batches, or no parameters that want gradients.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    batches = list(batches)
    if probes < 2 or not batches or not parameters:
        raise ValueError("A trace needs at least two probes, one batch and one parameter with requires_grad.")
    generator = torch.Generator().manual_seed(seed)
    signs = [[random_signs(p, generator) for p in parameters] for _ in range(probes)]
    samples = torch.zeros(probes, dtype=torch.float64)
    total = sum(len(targets) for _, targets in batches)
    with evaluating(model), torch.enable_grad():
        for inputs, targets in batches:
            gradient = torch.autograd.grad(
                loss(model(inputs), targets), parameters, create_graph=True, materialize_grads=True
            )
            curved = [j for j, g in enumerate(gradient) if g.requires_grad]  # the others are constant
            for i, v in enumerate(signs):  # one graph of the gradient serves all probes
                product = torch.autograd.grad(
                    [gradient[j] for j in curved],
                    parameters,
                    [v[j] for j in curved],
                    retain_graph=i < probes - 1,
                    materialize_grads=True,
                )
                samples[i] += sum((a * b).sum().item() for a, b in zip(product, v)) * len(targets) / total
    return Estimate(samples.mean().item(), samples.std().item() / probes**0.5, samples)


def random_signs(p, generator):
    """Independent +1 and -1, in the shape of p and on its device, drawn on the CPU: the same on every device."""
    return torch.randint(0, 2, p.shape, generator=generator).mul_(2).sub_(1).to(p)


@contextlib.contextmanager
def evaluating(model):
    """Eval mode inside the block; afterwards every submodule is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
