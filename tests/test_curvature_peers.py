"""The trace of a network's Hessian as PyHessian and curvlinops find it, on batches of uneven sizes."""

import math

import pytest
import torch
from pyhessian import hessian as PyHessian
from torch import nn

from antipgd import hessian_trace
from antipgd.curvature import generators_for, random_signs
from antipgd.vision.data import normalised, synthetic
from antipgd.vision.resnet import ResNet18
from test_curvature import normal

SIZES = (20, 11, 1)
cross_entropy = nn.CrossEntropyLoss()  # curvlinops wants a module, which says that it is a mean
# PyHessian takes its gradients with backward, which torch remarks upon; curvlinops has parts compiled by the older way.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using backward:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning"),
]


@pytest.fixture
def case():
    """A network with BatchNorm in eval mode, in which its Hessian is that of the mean loss, and uneven batches."""
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    for i, p in enumerate(model.parameters()):
        p.data = normal(*p.shape, seed=i)
    labels = torch.randint(3, (sum(SIZES),), generator=torch.Generator().manual_seed(9))
    return model, list(zip(normal(sum(SIZES), 5, seed=8).split(SIZES), labels.split(SIZES)))


def form_by_pyhessian(model, batches, v):
    return PyHessian(model, cross_entropy, dataloader=batches, cuda=False).dataloader_hv_product(v)[0]


def form_by_curvlinops(model, batches, v):
    from curvlinops import HessianLinearOperator  # here, where its warning is let through

    flat = torch.cat([each.flatten() for each in v])
    return (flat @ (HessianLinearOperator(model, cross_entropy, list(model.parameters()), batches) @ flat)).item()


@pytest.mark.parametrize("form", [form_by_pyhessian, form_by_curvlinops])
def test_samples_are_the_quadratic_forms_of_the_peer(case, form):
    """Ours have signs of their own for each batch; by what a batch counts, the peer says on all batches together."""
    model, batches = case
    parameters, shares = list(model.parameters()), [size / sum(SIZES) for size in SIZES]
    estimate = hessian_trace(model, cross_entropy, batches, probes=3, seed=5)
    generators = generators_for(batches, 5)
    for sample in estimate.samples:
        signs = [[random_signs(p, generator) for p in parameters] for generator in generators]
        forms = [form(model, [batch], v) for batch, v in zip(batches, signs)]
        assert sample.item() == pytest.approx(sum(share * each for share, each in zip(shares, forms)), rel=1e-10)
    together = form(model, batches, signs[0])
    parts = [form(model, [batch], signs[0]) for batch in batches]
    assert together == pytest.approx(sum(share * each for share, each in zip(shares, parts)), rel=1e-10)
    assert together != pytest.approx(sum(parts) / len(parts), rel=0.01)


def test_pyhessian_samples_a_resnet_about_the_same_trace():
    images = synthetic(train=30).train
    batches = list(zip(normalised(images.pixels).split((20, 10)), images.labels.split((20, 10))))
    torch.manual_seed(0)
    model = ResNet18(width=2).eval()
    ours = hessian_trace(model, cross_entropy, batches, probes=10)
    samples = torch.tensor(PyHessian(model, cross_entropy, dataloader=batches, cuda=False).trace(maxIter=10, tol=0))
    assert samples.shape == (10,)
    both = math.hypot(ours.stderr, samples.std().item() / 10**0.5)
    assert ours.value == pytest.approx(samples.mean().item(), abs=4 * both)
    assert both < 0.3 * ours.value
