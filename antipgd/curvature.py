"""Curvature of a network, with its standard error (paper, sections 2 and 4).

The trace of the loss's Hessian, and the rise of the loss under noise on the weights, to which it is the leading order.
"""

import contextlib
import math
import sys
import warnings
from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from antipgd.guards import is_sharded


class Estimate(NamedTuple):
    """A Monte Carlo estimate: its value, its standard error, and the samples (draws,) it is the mean of.

    Each batch has draws of its own: the standard error is that of a sum of independent means, one of each batch; with
    one batch it is that of the samples. by_parameter: the samples (draws,) of each parameter's part, by the parameter's
    name; they sum to the whole. None where an estimate has no such parts.
    """

    value: float
    stderr: float
    samples: torch.Tensor
    by_parameter: dict | None


def hessian_trace(model, loss, batches, *, probes=30, seed=0, weight=None, rel_error=None):
    """Hutchinson's estimate of the trace of the Hessian of the mean loss, over the parameters that want gradients.

    It averages v.T @ H @ v over random signs v, whose expectation is the trace; the Hessian-vector products are
    exact. The same seed gives the same signs at every call: differences between two points of a training run
    then have far less noise than either value. Memory does not grow with the number of probes.

    Each batch has signs of its own: a probe of the mean loss then holds as many independent ones as there are batches,
    at the cost of one. So the same data in smaller batches give a smaller error; the expectation is the same.

    model: a module, with parameters in float32 or float64. loss(outputs, targets): the mean loss of a batch; divide one
    that is a sum. batches: an iterable of (inputs, targets) on the model's device; inputs are a tensor, a tuple for
    several arguments or a dictionary for keywords; targets are whatever the loss takes. probes: at least 2.
    weight(inputs, targets): of how many terms the loss of this batch is the mean, by which batches count; without it,
    the number of samples, which is the length of the targets. A loss that ignores some of them needs it.
    rel_error: stop when the standard error is at most this share of the value; ``probes`` are then the most. Where they
    do not reach it, a RuntimeWarning says how many might, and the estimate comes with the error that it has.

    The model is evaluated in eval mode, since with BatchNorm in training mode the loss depends on how the data are
    cut into batches and has no Hessian of its own; modes and ``.grad`` come back as they were. Autocast, inference mode
    and compiled code around or in the model are left for the while, and attention takes its plain kernel: the others
    have no second derivative.

    Raises ValueError for fewer than two probes, no batches, no parameters that want gradients, parameters in half
    precision, made in inference mode or sharded, targets whose samples cannot be counted, and a rel_error that is not positive.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    batches = list(batches)
    if probes < 2 or not batches or not named:
        raise ValueError("A trace needs at least two probes, one batch and one parameter with requires_grad.")
    if rel_error is not None and not rel_error > 0:
        raise ValueError(f"rel_error is {rel_error!r}: it is a positive share of the value, such as 0.05, or None.")
    check_precision(named)
    parameters = [p for _, p in named]
    check_whole(parameters)
    shares = shares_of(batches, weight)
    generators = generators_for(batches, seed)

    def measured(count):
        """The next quadratic forms: (batches, count, parameters)."""
        return torch.stack(
            [
                share * quadratic_forms(loss(call(model, usable(x)), usable(y)), parameters, generator, count)
                for (x, y), share, generator in zip(batches, shares, generators)
            ]
        )

    with second_derivatives(model, parameters):
        forms = measured(probes if rel_error is None else first_probes(len(batches), probes))
        value, stderr = mean_and_error(forms.sum(2))
        while rel_error is not None and not stderr <= rel_error * abs(value) and forms.shape[1] < probes:
            wanted = wanted_probes(forms.shape[1], stderr, rel_error * abs(value))
            forms = torch.cat([forms, measured(int(min(wanted, probes)) - forms.shape[1])], 1)
            value, stderr = mean_and_error(forms.sum(2))
    if rel_error is not None and not stderr <= rel_error * abs(value):
        warnings.warn(
            f"The standard error {stderr:.2g} of the trace {value:.4g} is above {rel_error:.2g} of it after {probes} "
            f"probes. About {wanted_probes(probes, stderr, rel_error * abs(value)):.2g} would do, or smaller batches.",
            RuntimeWarning,
            stacklevel=2,
        )
    by_parameter = {name: part for (name, _), part in zip(named, forms.sum(0).unbind(1))}
    return Estimate(value, stderr, forms.sum((0, 2)), by_parameter)


def quadratic_forms(mean_loss, parameters, generator, count):
    """v.T @ H @ v by parameter, for fresh signs v: (count, parameters). One graph of the gradient serves all."""
    gradient = torch.autograd.grad(mean_loss, parameters, create_graph=True, materialize_grads=True)
    curved = [j for j, g in enumerate(gradient) if g.requires_grad]  # the others are constant
    forms = []
    for i in range(count):
        v = [random_signs(p, generator) for p in parameters]
        product = torch.autograd.grad(
            [gradient[j] for j in curved],
            parameters,
            [v[j] for j in curved],
            retain_graph=i < count - 1,
            materialize_grads=True,
        )
        forms.append(torch.stack([(a * b).sum() for a, b in zip(product, v)]))
    return torch.stack(forms).double().cpu()


def expected_sharpness(model, loss, batches, sigma, *, draws=30, seed=0, weight=None):
    """E[L(w + xi)] - L(w) for Gaussian xi with standard deviation sigma in each weight that wants a gradient.

    To leading order it is sigma**2 / 2 times the trace of the Hessian. Each draw is the mean of xi and -xi, in which
    the odd orders cancel, the slope first of all; each batch has draws of its own. A draw costs two passes, no gradients.

    model, loss, batches, seed, weight: as for ``hessian_trace``. The model is evaluated in eval mode, with BatchNorm's
    statistics as they stand; weights and modes come back as they were. The loss is rounded in its own precision, and
    in float32 a rise below a millionth of it is lost. draws: at least 2.

    Raises ValueError for fewer than two draws, no batches, no parameters that want gradients, sharded ones and a sigma
    that is not positive and finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    batches = list(batches)
    check_whole(parameters)
    if draws < 2 or not batches or not parameters:
        raise ValueError("A sharpness needs at least two draws, one batch and one parameter with requires_grad.")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma is {sigma!r}: the noise's standard deviation is a positive number.")
    shares = shares_of(batches, weight)
    rises = torch.zeros(len(batches), draws, dtype=torch.float64, device="cpu")
    with evaluating(model), torch.no_grad(), returning(parameters) as start:

        def loss_at(weights, batch):
            move(parameters, weights)
            inputs, targets = batch
            return loss(call(model, inputs), targets).item()

        def rise(batch, generator, here):
            xi = [sigma * torch.randn(p.shape, generator=generator, device="cpu").to(p) for p in parameters]
            pair = ([w + x for w, x in zip(start, xi)], [w - x for w, x in zip(start, xi)])
            return sum(loss_at(weights, batch) for weights in pair) / 2 - here

        for row, batch, generator, share in zip(rises, batches, generators_for(batches, seed), shares):
            here = loss_at(start, batch)
            for i in range(draws):
                row[i] = share * rise(batch, generator, here)
    value, stderr = mean_and_error(rises)
    return Estimate(value, stderr, rises.sum(0), None)


@contextlib.contextmanager
def returning(parameters):
    """Inside the block the parameters may be moved; afterwards they are where they were. It gives their values there."""
    start = [p.detach().clone() for p in parameters]
    try:
        yield start
    finally:
        with torch.no_grad():
            move(parameters, start)


def move(parameters, values):
    """Write these values into the parameters."""
    for p, value in zip(parameters, values):
        p.copy_(value)
    torch.clear_autocast_cache()  # it holds casts of the weights that stood here before


def mean_and_error(parts):
    """The sum over the batches of the means of their draws, and its standard error: parts are (batches, draws)."""
    return parts.mean(1).sum().item(), math.sqrt(parts.var(1).sum().item() / parts.shape[1])


def first_probes(batches, most):
    """As many as give the standard error twenty degrees of freedom: one from fewer is small too often by chance."""
    return min(1 + math.ceil(20 / batches), most)


def wanted_probes(so_far, stderr, wished):
    """How many would bring the standard error down to the wished one; a tenth more, and inf where none would."""
    return so_far + math.ceil(1.1 * so_far * ((stderr / wished) ** 2 - 1)) if 0 < wished < stderr else math.inf


def generators_for(batches, seed):
    """One for each batch. The first has the seed itself, so that one batch alone has the draws of the seed."""
    more = torch.randint(2**32, (len(batches) - 1,), generator=torch.Generator().manual_seed(seed), device="cpu")
    return [torch.Generator().manual_seed(each) for each in (seed, *more.tolist())]


def check_precision(named):
    for name, p in named:
        if p.element_size() < 4:
            raise ValueError(
                f"{name} is in {p.dtype}, whose rounding drowns second derivatives. Give a copy in full precision: "
                "copy.deepcopy(model).float()."
            )
        if p.is_inference():
            raise ValueError(f"{name} was made in inference mode and has no derivatives. Build the model outside.")


def check_whole(parameters):
    """Raise ValueError for sharded weights: the loss is evaluated here, by this process, at weights that it moves itself."""
    if any(map(is_sharded, parameters)):
        raise ValueError(
            "The model is sharded. Give a copy that is not: load torch.distributed.checkpoint.state_dict.get_model_state_dict("
            "model, options=StateDictOptions(full_state_dict=True)) into a plain model."
        )


def weights_of(batches, weight=None):
    """By what each batch counts: what ``weight`` says, or the number of its samples."""
    return [float((samples_in if weight is None else weight)(*batch)) for batch in batches]


def shares_of(batches, weight=None):
    """The same, as shares that sum to one."""
    weights = weights_of(batches, weight)
    return [each / sum(weights) for each in weights]


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
    signs = torch.randint(0, 2, p.shape, generator=generator, device="cpu", dtype=torch.int8).mul_(2).sub_(1)
    return signs.to(p.device).to(p.dtype)


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
    that is compared between weights, a loss or a trace, is measured in here. Afterwards they are as they were.

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
