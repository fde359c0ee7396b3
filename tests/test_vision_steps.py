"""The algorithm of a run: gradients in parts, the noise of each method, SAM, and the order of the images, by hand."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from antipgd.vision.data import Images, normalised, synthetic
from antipgd.vision.settings import PRESETS, Settings
from antipgd.vision.steps import Batches, Totals, add_gradient, network, optimizer_and_noise, set_noise, step

TINY = replace(PRESETS["tiny"], method="gd")
IMAGES = synthetic(train=120, test=10).train


def vectors(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


# The start


def test_the_start_belongs_to_the_seed_and_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    first, again, other = (vectors(network(replace(TINY, seed=seed), "cpu")) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.rand(5)  # and does not depend on it
    assert torch.equal(first, vectors(network(replace(TINY, seed=3), "cpu")))
    torch.set_rng_state(before)
    network(TINY, "cpu")
    Batches(replace(TINY, augment=True), IMAGES, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_whole_step_leaves_the_global_random_state_alone():
    settings = replace(TINY, method="antipgd", sigma=0.01, augment=True)
    model = network(settings, "cpu")
    optimizer, _ = optimizer_and_noise(settings, model)
    set_noise(settings, optimizer, 0)
    before, start, batches = torch.get_rng_state(), vectors(model), Batches(settings, IMAGES, 0)
    step(settings, model, optimizer, partial(batches.parts, 0, 30), batches.count(0), Totals.zero("cpu"))
    assert torch.equal(torch.get_rng_state(), before) and not torch.equal(vectors(model), start)


# The order of the images


def numbered(n):
    """Images that hold their number, as does their label."""
    labels = torch.arange(n)
    return Images(labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32), labels)


def seen(batches, number, **ranks):
    """The labels of one batch, checked against its pixels."""
    labels = []
    for inputs, label in batches.parts(number, 7, **ranks):
        assert torch.equal(inputs[:, :, 16, 16], normalised(label.view(-1, 1, 1, 1).expand(-1, 3, 1, 1))[..., 0, 0])
        assert len(label) <= 7
        labels += label.tolist()
    return labels


@pytest.mark.parametrize("augment", [False, True])
def test_an_epoch_sees_every_image_once_and_keeps_the_smaller_last_batch(augment):
    settings = replace(TINY, method="sgd", small_batch=30, augment=augment)
    batches = Batches(settings, numbered(100), 0)
    found = [seen(batches, number) for number in range(len(batches))]
    assert [len(labels) for labels in found] == [batches.count(i) for i in range(4)] == [30, 30, 30, 10]
    assert sorted(sum(found, [])) == list(range(100)) != sum(found, [])


def test_ranks_share_a_batch():
    batches = Batches(replace(TINY, method="sgd", small_batch=30), numbered(100), 0)
    for number in range(4):
        shares = [seen(batches, number, rank=rank, ranks=3) for rank in range(3)]
        assert sorted(sum(shares, [])) == sorted(seen(batches, number))
        assert all(shares)


def test_the_order_is_another_in_each_epoch_and_under_each_seed_and_the_same_again():
    orders = [Batches(replace(TINY, seed=seed), IMAGES, epoch).order for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert torch.equal(orders[0], orders[3])
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


def test_methods_see_the_same_images_at_the_same_time():
    orders = [Batches(replace(TINY, method=method), IMAGES, 2).order for method in ("gd", "sgd", "antipgd")]
    assert torch.equal(orders[0], orders[1]) and torch.equal(orders[0], orders[2])


# The gradient


def in_double(parts):
    return ((inputs.double(), labels) for inputs, labels in parts)


def gradient_in(model, micro_batch):
    batches = Batches(replace(TINY, large_batch=50), IMAGES, 0)
    model.zero_grad()
    totals = Totals.zero("cpu")
    add_gradient(model, in_double(batches.parts(0, micro_batch)), batches.count(0), totals)
    return gradients(model), totals


def test_the_gradient_in_parts_is_the_gradient_at_once():
    model = network(TINY, "cpu").double()
    index = Batches(replace(TINY, large_batch=50), IMAGES, 0).order[:50]
    inputs, labels = normalised(IMAGES.pixels[index]).double(), IMAGES.labels[index]
    with torch.no_grad():
        model(inputs)  # other statistics of BatchNorm than those of the start
    model.eval()
    scores = model(inputs)
    loss = cross_entropy(scores.float(), labels)
    model.zero_grad()
    loss.backward()
    direct = gradients(model)
    for micro_batch in (1000, 50, 17, 5):
        found, totals = gradient_in(model, micro_batch)
        torch.testing.assert_close(found, direct, rtol=1e-4, atol=1e-5 * direct.abs().max())
        assert totals.images == 50
        torch.testing.assert_close(totals.loss / 50, loss.detach(), rtol=1e-5, atol=0)
        assert totals.correct == (scores.argmax(1) == labels).sum()
    model.train()  # with statistics of each part the cut matters
    assert not torch.allclose(gradient_in(model, 50)[0], gradient_in(model, 17)[0], rtol=1e-2)


class Line(nn.Linear):
    """A network without BatchNorm: the images' mean colours, and one linear map."""

    def __init__(self):
        super().__init__(3, 10)
        nn.init.normal_(self.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.bias)
        self.double()

    def forward(self, x):
        return super().forward(x.mean((2, 3)).double())


def loss_at(weights, bias, inputs, labels):
    return cross_entropy((inputs.mean((2, 3)).double() @ weights.T + bias).float(), labels)


def slope(weights, bias, inputs, labels):
    weights, bias = (x.detach().requires_grad_() for x in (weights, bias))
    return torch.autograd.grad(loss_at(weights, bias, inputs, labels), (weights, bias))


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_two_steps_of_sam_with_momentum_and_weight_decay_by_hand(rho):
    settings = replace(TINY, method="sam", rho=rho, small_batch=60, lr=0.1, momentum=0.9, weight_decay=0.01)
    model, batches = Line(), Batches(settings, IMAGES, 0)
    w, b = model.weight.detach().clone(), model.bias.detach().clone()
    velocity = [torch.zeros_like(w), torch.zeros_like(b)]
    optimizer, noise = optimizer_and_noise(settings, model)
    assert noise is None
    for number in range(2):
        parts = partial(batches.parts, number, 25)
        step(settings, model, optimizer, parts, batches.count(number), Totals.zero("cpu"))
        ((inputs, labels),) = batches.parts(number, 60)
        first = slope(w, b, inputs, labels)
        norm = (first[0].square().sum() + first[1].square().sum()).sqrt()
        second = slope(w + rho * first[0] / norm, b + rho * first[1] / norm, inputs, labels)
        velocity = [0.9 * v + g + 0.01 * x for v, g, x in zip(velocity, second, (w, b))]
        w, b = w - 0.1 * velocity[0], b - 0.1 * velocity[1]
        torch.testing.assert_close(model.weight.detach(), w, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model.bias.detach(), b, rtol=1e-5, atol=1e-6)


# The noise


def noise_steps(n, **settings):
    """The weights of a resting network (gradient 0) before and after each of n steps: its noise alone."""
    settings = replace(TINY, **{"method": "antipgd", "sigma": 0.1, "momentum": 0.0, **settings})
    model = network(settings, "cpu")
    optimizer, _ = optimizer_and_noise(settings, model)
    found = [[p.detach().clone() for p in model.parameters()]]
    for epoch in range(n):
        set_noise(settings, optimizer, epoch)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        found.append([p.detach().clone() for p in model.parameters()])
    return settings, model, optimizer, found


def spread(before, after):
    return (after - before).double().square().mean().sqrt().item()


def test_noise_on_all_is_the_same_everywhere():
    _, _, _, (before, after) = noise_steps(1, noise_on="all")
    for w, moved in zip(before, after):
        assert spread(w, moved) == pytest.approx(0.1, rel=5 / w.numel() ** 0.5)
    assert spread(torch.cat([w.flatten() for w in before]), torch.cat([w.flatten() for w in after])) == pytest.approx(
        0.1, rel=0.01
    )


@pytest.mark.parametrize("noise_on", ["weights", "scaled"])
def test_noise_on_weights_spares_batchnorm_and_biases(noise_on):
    _, _, _, (before, after) = noise_steps(1, noise_on=noise_on)
    spared = 0
    for w, moved in zip(before, after):
        if w.dim() == 1:
            assert torch.equal(w, moved)
            spared += 1
        else:
            size = w.double().square().mean().sqrt().item() if noise_on == "scaled" else 1.0
            assert spread(w, moved) == pytest.approx(0.1 * size, rel=5 / w.numel() ** 0.5)
    assert spared == 2 * 20 + 1  # twenty BatchNorms and the bias of the last layer


@pytest.mark.parametrize(("method", "growth"), [("antipgd", 1), ("antisgd", 1), ("pgd", 3)])
def test_pgds_noise_adds_up_and_that_of_antipgd_does_not(method, growth):
    _, _, _, found = noise_steps(9, method=method, epochs=9)
    before, after = (torch.cat([w.flatten() for w in each]) for each in (found[0], found[-1]))
    assert spread(before, after) == pytest.approx(0.1 * growth, rel=0.03)


def test_where_the_noise_ends_the_next_step_lands_on_z_and_later_ones_stay_there():
    _, _, optimizer, found = noise_steps(6, noise_start=1, noise_stop=4, epochs=6)
    apart = [max(float((w - z).abs().max()) for w, z in zip(each, found[0])) for each in found]
    assert apart[0] == apart[1] == 0 and min(apart[2:5]) > 0.1
    assert max(apart[5:]) < 1e-6 and all(torch.equal(a, b) for a, b in zip(found[5], found[6]))
    assert not any(state["xi"].any() for state in optimizer.state.values())


def test_the_noise_belongs_to_the_seed():
    first, again, other = (noise_steps(2, seed=seed)[3][-1] for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    noise = [noise_steps(1, seed=seed)[3] for seed in (0, 1)]
    xi = [torch.cat([(b - a).flatten() for a, b in zip(*each)]).double() for each in noise]
    assert abs(torch.corrcoef(torch.stack(xi))[0, 1]) < 5 / len(xi[0]) ** 0.5
    assert not torch.equal(first[0], other[0])


def test_the_strength_in_each_epoch():
    def strengths(**settings):
        settings = replace(TINY, method="antipgd", sigma=0.1, epochs=5, **settings)
        return [settings.sigma_in(epoch) for epoch in range(5)]

    assert strengths() == 5 * [0.1]
    assert strengths(noise_start=2) == [0, 0, 0.1, 0.1, 0.1]
    assert strengths(noise_stop=2) == [0.1, 0.1, 0, 0, 0]
    assert strengths(noise_start=1, noise_stop=4) == [0, 0.1, 0.1, 0.1, 0]
    assert strengths(noise_start=3, noise_stop=2) == strengths(noise_stop=0) == 5 * [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -0.1}, "sigma is -0.1"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"method": "sgd", "sigma": 0.1}, "sgd takes no noise: leave sigma at 0, or choose one of pgd, antipgd, antisgd"),
        ({"rho": 0.1}, "rho belongs to sam, and the method is antipgd"),
        ({"law": "cauchy"}, "Unknown noise law"),
        ({"epochs": 0}, "epochs is 0: it is at least 1"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"train_images": 100}, "A batch of 7500 has more images than the 100"),
    ],
)
def test_settings_that_make_no_run(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**options)
