"""What is measured of a network in a run: losses and accuracies, and the trace of the Hessian, at w and at z."""

import contextlib

import torch
from torch.nn.functional import cross_entropy

from antipgd.curvature import evaluating, hessian_trace, recomputed_statistics
from antipgd.vision.data import normalised

CHUNK = 1000  # images that are evaluated at once
TRACE_CHUNK = 250


def loss_and_accuracy(model, images):
    """Mean loss and share of right answers over images, with the network in eval mode as it stands."""
    loss = correct = 0.0
    with torch.no_grad():
        for inputs, labels in chunks(images, CHUNK):
            scores = model(inputs)
            loss += cross_entropy(scores, labels, reduction="sum").double()
            correct += (scores.argmax(1) == labels).sum()
    return float(loss) / len(images), float(correct) / len(images)


def chunks(images, size):
    """Inputs and labels, in random parts of nearly equal length.

    Random, since BatchNorm's statistics are means over the parts, and a folder's images are sorted by their classes.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    for part in order.tensor_split(-(-len(images) // size)):
        part = part.sort().values.to(images.labels.device)
        yield normalised(images.pixels[part]), images.labels[part]


def measured(model, noise, train, held_out, traced=None, probes=0):
    """Everything at w and at z: a dictionary of floats by name, such as "test_loss w" and "trace z".

    The statistics of BatchNorm are recomputed at each, on the training images without crops. "accuracy as is" is at w
    with those that training has kept. train: images to evaluate and to take the statistics on. held_out: dictionary of
    images by name. traced: images for the trace of the Hessian, which has ``probes`` probes; None for no trace.
    """
    with evaluating(model), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = {"test_accuracy as is": loss_and_accuracy(model, held_out["test"])[1]}
        for place, there in {"w": contextlib.nullcontext, "z": noise.at_z if noise else None}.items():
            if there is None:  # without noise, w is z
                found |= {name.replace(" w", " z"): value for name, value in found.items()}
                continue
            with there(), recomputed_statistics(model, (inputs for inputs, _ in chunks(train, CHUNK))):
                for name, images in {"train": train, **held_out}.items():
                    loss, accuracy = loss_and_accuracy(model, images)
                    found |= {f"{name}_loss {place}": loss, f"{name}_accuracy {place}": accuracy}
                if traced is not None:
                    batches = chunks(traced, TRACE_CHUNK)
                    trace = hessian_trace(model, cross_entropy, batches, probes=probes)
                    found |= {f"trace {place}": trace.value, f"trace_stderr {place}": trace.stderr}
    return found
