"""What is measured of a network: against direct computations, and the network is afterwards as it was."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from antipgd.curvature import hessian_trace
from antipgd.vision import measure
from antipgd.vision.data import Images, normalised, synthetic
from antipgd.vision.measure import chunks, loss_and_accuracy, measured
from antipgd.vision.settings import PRESETS
from antipgd.vision.steps import Batches, Totals, network, optimizer_and_noise, set_noise, step

DATA = synthetic(train=120, test=60)
TRAIN, TEST = DATA.train, DATA.test


def trained(method="antipgd", sigma=0.02):
    """A network after a few steps, and its noise."""
    settings = replace(PRESETS["tiny"], method=method, sigma=sigma)
    model = network(settings, "cpu")
    optimizer, noise = optimizer_and_noise(settings, model)
    set_noise(settings, optimizer, 0)
    batches = Batches(settings, TRAIN, 0)
    for number in range(2):
        step(settings, model, optimizer, partial(batches.parts, number, 30), batches.count(number), Totals.zero("cpu"))
    return model, optimizer, noise


def with_statistics(model, images):
    """A copy in eval mode, its BatchNorms with the statistics of these images in one batch."""
    model = copy.deepcopy(model).train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model(normalised(images.pixels))
    return model.eval()


def at_z(model, optimizer):
    """A copy with the weights that the noise is taken from."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p, w in zip(moved.parameters(), model.parameters()):
            p.copy_(w - optimizer.state[w]["xi"])
    return moved


def direct(model, images):
    """Mean loss and accuracy in eval mode."""
    scores = model(normalised(images.pixels))
    return cross_entropy(scores, images.labels).item(), (scores.argmax(1) == images.labels).double().mean().item()


def near(value):
    return pytest.approx(value, rel=1e-4)


def test_losses_accuracies_and_traces_at_w_and_at_z_are_the_direct_ones():
    model, optimizer, noise = trained()
    traced = TRAIN.first(20)
    found = measured(model, noise, TRAIN, {"test": TEST, "validation": TEST.first(30)}, traced, 2)
    for place, there in {"w": model, "z": at_z(model, optimizer)}.items():
        there = with_statistics(there, TRAIN)
        for name, images in {"train": TRAIN, "test": TEST, "validation": TEST.first(30)}.items():
            expected = direct(there, images)
            assert found[f"{name}_loss {place}"] == near(expected[0])
            assert found[f"{name}_accuracy {place}"] == pytest.approx(expected[1])
        batch = normalised(traced.pixels), traced.labels
        trace = hessian_trace(there, cross_entropy, [batch], probes=2)
        assert found[f"trace {place}"] == pytest.approx(trace.value, rel=1e-2)
        assert found[f"trace_stderr {place}"] == pytest.approx(trace.stderr, rel=1e-2)
    assert found["train_loss w"] != near(found["train_loss z"]) and found["trace w"] != near(found["trace z"])
    assert len(found) == 1 + 2 * (2 * 3 + 2)


def test_without_noise_w_is_z_and_no_trace_is_taken_where_none_is_due():
    model, _, _ = trained("gd", 0.0)
    found = measured(model, None, TRAIN, {"test": TEST})
    places = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    assert list(found) == ["test_accuracy as is", *(f"{name} w" for name in places), *(f"{name} z" for name in places)]
    assert all(found[f"{name} w"] == found[f"{name} z"] for name in places)


def test_accuracy_as_is_has_the_statistics_that_training_kept():
    model, _, noise = trained()
    expected = direct(copy.deepcopy(model).eval(), TEST)
    found = measured(model, noise, TRAIN, {"test": TEST})
    assert found["test_accuracy as is"] == expected[1]
    assert expected[0] != near(found["test_loss w"])
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.fill_(100.0)  # then only the accuracy as it is suffers
    spoilt = measured(model, noise, TRAIN, {"test": TEST})
    assert spoilt.pop("test_accuracy as is") == pytest.approx(0.1)
    found.pop("test_accuracy as is")
    assert spoilt == found


@pytest.mark.parametrize("training", [True, False])
def test_afterwards_the_network_is_as_it_was(training):
    model, _, noise = trained()
    model.train(training)
    model.stages[0].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    measured(model, noise, TRAIN, {"test": TEST}, TRAIN.first(10), 2)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_afterwards_the_network_is_as_it_was_also_where_measuring_fails():
    model, _, noise = trained()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="at least two probes"):
        measured(model, noise, TRAIN, {"test": TEST}, TRAIN.first(10), 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


# In parts


def test_the_parts_do_not_change_losses_and_accuracies(monkeypatch):
    model, _, _ = trained()
    model.eval()
    whole = loss_and_accuracy(model, TEST)
    assert whole == pytest.approx(direct(model, TEST), rel=1e-5)
    monkeypatch.setattr(measure, "CHUNK", 7)
    assert loss_and_accuracy(model, TEST) == pytest.approx(whole, rel=1e-5)


def by_class(images):
    order = images.labels.argsort(stable=True)
    return Images(images.pixels[order], images.labels[order])


def test_the_parts_hold_all_images_once_and_all_classes_each():
    parts = list(chunks(by_class(DATA.train), 50))
    assert [len(labels) for _, labels in parts] == [40, 40, 40]
    assert all(len(labels.unique()) > 7 for _, labels in parts)
    found = torch.cat([inputs for inputs, _ in parts])
    expected = normalised(TRAIN.pixels)
    assert torch.cdist(found.flatten(1), expected.flatten(1)).argmin(1).unique().numel() == 120


def test_statistics_of_images_that_are_sorted_by_their_classes_are_those_of_all(monkeypatch):
    """In parts of one class each, the spread between the classes would be missing from the variance."""
    bright = (TRAIN.pixels // 4 + 19 * TRAIN.labels.view(-1, 1, 1, 1)).to(torch.uint8)
    images = by_class(Images(bright, TRAIN.labels))
    model = network(PRESETS["tiny"], "cpu")
    whole = measured(model, None, images, {"test": images})
    monkeypatch.setattr(measure, "CHUNK", 40)
    found = measured(model, None, images, {"test": images})
    assert found["train_loss w"] == pytest.approx(whole["train_loss w"], rel=0.03)
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))
    sorted_parts = measured(model, None, images, {"test": images})
    assert sorted_parts["train_loss w"] != pytest.approx(whole["train_loss w"], rel=0.03)
