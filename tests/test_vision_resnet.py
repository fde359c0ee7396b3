"""The network: against torchvision's ResNet18 with another stem, which somebody else has written."""

import pytest
import torch
from torch import nn
from torchvision import models

from antipgd.vision.resnet import Block, ResNet18


def images(n=3, side=32):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def ours():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResNet18()


@pytest.fixture(scope="module")
def theirs(ours):
    """torchvision's, with one 3 x 3 convolution for the first one and the pooling, and the same weights."""
    network = models.resnet18(num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    network.load_state_dict(dict(zip(network.state_dict(), ours.state_dict().values(), strict=True)))
    return network


def test_the_number_of_parameters():
    with torch.device("meta"):
        count = {width: sum(p.numel() for p in ResNet18(width).parameters()) for width in (8, 32, 64)}
    assert count[64] == 11_173_962
    assert 3.9 < count[64] / count[32] < 4.1 > count[32] / count[8] / 4 > 3.9


@pytest.mark.parametrize("training", [True, False])
def test_scores_gradients_and_statistics_are_torchvisions(ours, theirs, training):
    found = []
    for network in (ours, theirs):
        network.train(training).zero_grad()
        scores = network(images())
        scores.square().sum().backward()
        found.append([scores, *(p.grad for p in network.parameters()), *network.buffers()])
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-4 * float(expected.detach().abs().max()))
    assert found[0][1].abs().max() > 0


def test_the_shape_after_each_stage():
    network = ResNet18(width=4)
    shapes, x = [], network.conv(images())
    for block in network.stages:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == 2 * [(4, 32, 32)] + 2 * [(8, 16, 16)] + 2 * [(16, 8, 8)] + 2 * [(32, 4, 4)]
    assert network(images()).shape == (3, 10)
    assert ResNet18(width=4, classes=7)(images()).shape == (3, 7)


def test_a_block_adds_its_input():
    block = Block(4, 4, 1).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize("options", [{"width": 0}, {"width": -8}, {"classes": 1}])
def test_networks_that_there_are_not(options):
    with pytest.raises(ValueError, match="at least 1 channel and 2 classes"):
        ResNet18(**options)
