"""Curvature of a network: the trace of its loss's Hessian, with its standard error (paper, sections 2 and 4)."""

import contextlib
import sys
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm


class Estimate(NamedTuple):
    """A Monte Carlo estimate: its value, its standard error, and the samples (probes,) it is the mean of.

    by_parameter: the samples (probes,) of each parameter's part of it, by the parameter's name; they sum to the whole.
    """

    value: float
    stderr: float
    samples: torch.Tensor
    by_parameter: dict


def hessian_trace(model, loss, batches, *, probes=30, seed=0, weight=None):
    """Hutchinson's estimate of the trace of the Hessian of the mean loss, over the parameters that want gradients.

    It averages v.T @ H @ v over random signs v, whose expectation is the trace; the Hessian-vector products are
    exact. The same seed gives the same signs at every call: differences between two points of a training run
    then have far less noise than either value. Memory does not grow with the number of probes.

    model: a module, with parameters in float32 or float64. loss(outputs, targets): the mean loss of a batch; divide one
    that is a sum. batches: an iterable of (inputs, targets) on the model's device; inputs are a tensor, a tuple for
    several arguments or a dictionary for keywords; targets are whatever the loss takes. probes: at least 2.
    weight(inputs, targets): of how many terms the loss of this batch is the mean, by which batches count; without it,
    the number of samples, which is the length of the targets. A loss that ignores some of them needs it.

    The model is evaluated in eval mode, since with BatchNorm in training mode the loss depends on how the data are
    cut into batches and has no Hessian of its own; modes and ``.grad`` come back as they were. Autocast, inference mode
    and compiled code around or in the model are left for the while, and attention takes its plain kernel: the others
    have no second derivative.

    Raises ValueError for fewer than two probes, no batches, no parameters that want gradients, parameters in half
    precision or made in inference mode, and targets whose samples cannot be counted.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    batches = list(batches)
    if probes < 2 or not batches or not named:
        raise ValueError("A trace needs at least two probes, one batch and one parameter with requires_grad.")
    check_precision(named)
    parameters = [p for _, p in named]
    weights = weights_of(batches, weight)
    generator, starts = torch.Generator().manual_seed(seed), []
    with second_derivatives(model, parameters):
        samples = torch.zeros(probes, len(parameters), dtype=torch.float64, device="cpu")
        for (inputs, targets), share in zip(batches, weights):
            outputs = call(model, usable(inputs))
            gradient = torch.autograd.grad(
                loss(outputs, usable(targets)), parameters, create_graph=True, materialize_grads=True
            )
            curved = [j for j, g in enumerate(gradient) if g.requires_grad]  # the others are constant
            for i in range(probes):  # one graph of the gradient serves all probes
                if len(starts) == i:
                    starts.append(generator.get_state())
                generator.set_state(starts[i])  # drawn again for each batch, not kept
                v = [random_signs(p, generator) for p in parameters]
                product = torch.autograd.grad(
                    [gradient[j] for j in curved],
                    parameters,
                    [v[j] for j in curved],
                    retain_graph=i < probes - 1,
                    materialize_grads=True,
                )
                forms = torch.stack([(a * b).sum() for a, b in zip(product, v)])
                samples[i] += forms.double().cpu() * share / sum(weights)
    total = samples.sum(1)
    by_parameter = {name: samples[:, j] for j, (name, _) in enumerate(named)}
    return Estimate(total.mean().item(), total.std().item() / probes**0.5, total, by_parameter)


def check_precision(named):
    for name, p in named:
        if p.element_size() < 4:
            raise ValueError(
                f"{name} is in {p.dtype}, whose rounding drowns second derivatives. Give a copy in full precision: "
                "copy.deepcopy(model).float()."
            )
        if p.is_inference():
            raise ValueError(f"{name} was made in inference mode and has no derivatives. Build the model outside of it.")


def weights_of(batches, weight=None):
    """By what each batch counts: what ``weight`` says, or the number of its samples."""
    return [float((samples_in if weight is None else weight)(*batch)) for batch in batches]


def samples_in(inputs, targets):
    """The number of samples of a batch: the length that all tensors of its targets share."""
    lengths = {len(t) if t.dim() else None for t in tensors_in(targets)}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            "The samples of a batch cannot be counted: its targets hold no tensor, or tensors of different lengths. "
            "Say of how many terms the loss is the mean: weight=lambda inputs, targets: ..."
        )
    return lengths.pop()


def tensors_in(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    branches = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else []
    return [tensor for branch in branches for tensor in tensors_in(branch)]


def usable(tree):
    """The same with tensors that derivatives may use: those made in inference mode are copied."""
    if isinstance(tree, torch.Tensor):
        return tree.clone() if tree.is_inference() else tree
    if isinstance(tree, dict):
        return {key: usable(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return tuple(map(usable, tree))
    return tree


def call(model, inputs):
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (list, tuple)) else model(inputs)


def random_signs(p, generator):
    """Independent +1 and -1, in the shape of p and on its device, drawn on the CPU: the same on every device."""
    return torch.randint(0, 2, p.shape, generator=generator, device="cpu").mul_(2).sub_(1).to(p)


@contextlib.contextmanager
def second_derivatives(model, parameters):
    """What stands in the way of a second derivative, set aside; afterwards everything is as it was."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for device in {p.device.type for p in parameters}:
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(uncompiled())
        yield


def uncompiled():
    """Compiled code is left aside inside the block."""
    if "torch._dynamo" in sys.modules:  # otherwise nothing is compiled, and loading it takes seconds
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


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


@contextlib.contextmanager
def recomputed_statistics(model, batches):
    """Inside the block, BatchNorm's running statistics are those of these inputs at the present weights.

    Training keeps an average over the weights of many steps, which with noise on the weights are far apart. A number
    that is compared between weights, a loss or a trace, is measured in here. Afterwards the statistics are as they were.

    batches: an iterable of inputs, such as the model takes, without targets. In the pass each layer normalises by the
    batch, as in training, and keeps the means over the batches of their mean and of their unbiased variance; a batch
    counts by its size. So let them be large and random. All other layers, dropout among them, are in eval mode; so
    are those BatchNorms which their owner keeps in eval mode in a model that trains, and their statistics stay.

    Raises ValueError where there are statistics to recompute and no batches.
    """
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats and (layer.training or not model.training)
    ]
    kept = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers()]
    try:
        if layers:
            recompute(model, layers, batches)
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def recompute(model, layers, batches):
    seen = dict.fromkeys(layers, 0)

    def weigh(layer, inputs):
        """With this momentum the running average is the mean over all values so far; a layer may be used twice."""
        seen[layer] += inputs[0].numel()
        layer.momentum = inputs[0].numel() / seen[layer]

    momenta = [layer.momentum for layer in layers]
    handles = [layer.register_forward_pre_hook(weigh) for layer in layers]
    try:
        with evaluating(model), torch.no_grad(), uncompiled():
            for layer in layers:
                layer.reset_running_stats()
                layer.train()
            for inputs in batches:
                call(model, inputs)
    finally:
        for layer, momentum, handle in zip(layers, momenta, handles):
            handle.remove()
            layer.momentum = momentum
    if not any(seen.values()):
        raise ValueError("BatchNorm's statistics need at least one batch: was an iterator used up before?")
