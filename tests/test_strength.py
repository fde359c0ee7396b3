"""The sigma for a wished rise of the loss, against exact rises; and schedules, against the groups' entries."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD

from antipgd.noise import AntiPGD
from antipgd.strength import NoiseSchedule, sigma_for

DATA = [(torch.zeros(3, 1), torch.zeros(3))]


class Bowl(nn.Module):
    """The loss sum_i c_i w_i^2 / 2 with c = 1, ..., n: noise raises it by sigma^2 / 2 * sum c, exactly in the mean."""

    def __init__(self, n=200, at=0.0):
        super().__init__()
        self.w = nn.Parameter(torch.full((n,), at, dtype=torch.float64))
        self.c = torch.arange(1, n + 1, dtype=torch.float64)

    def forward(self, x):
        return (self.c * self.w**2).sum() / 2


def value(outputs, targets):
    return outputs


@pytest.mark.parametrize("rise", [1e-6, 0.3, 1e5])
@pytest.mark.parametrize("at", [0.0, 2.0])
@pytest.mark.parametrize("law", ["gaussian", "rademacher"])
def test_sigma_of_a_quadratic(rise, at, law):
    model = Bowl(at=at)
    found = sigma_for(model, value, DATA, rise=rise, law=law, draws=32)
    assert found.rise == pytest.approx(rise, rel=0.05)
    exact = math.sqrt(2 * rise / model.c.sum().item())
    assert found.sigma == pytest.approx(exact, rel=0.06)
    if law == "rademacher":  # the rise is the same for all signs
        assert found.stderr < 1e-5 * rise


def test_weights_modes_and_random_state_come_back():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    before, state = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    data = [(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 1))]
    sigma_for(model, nn.functional.mse_loss, data, rise=0.01)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert torch.get_rng_state().equal(state) and model.training and model[1].training


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_modes_around_it_do_not_matter(mode):
    model = nn.Linear(8, 8)
    data = [(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(64, 8))]
    expected = sigma_for(model, nn.functional.mse_loss, data, rise=1.0)
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(data[0][0])  # autocast keeps the casts of these weights
        within = sigma_for(model, lambda out, targets: nn.functional.mse_loss(out.float(), targets), data, rise=1.0)
        after = model(data[0][0])
    assert within.sigma == pytest.approx(expected.sigma, rel=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(after, model(data[0][0]))


def test_loss_that_noise_lowers_or_cannot_raise_says_why():
    top = Bowl()
    top.c = -top.c
    with pytest.raises(RuntimeError, match="not near a minimum: train further"):
        sigma_for(top, value, DATA, rise=0.1)
    with pytest.raises(RuntimeError, match="the loss is bounded: wish for less"):
        sigma_for(Bowl(), lambda out, targets: torch.tanh(out), DATA, rise=1.5)


@pytest.mark.parametrize("change", [{"rise": 0.0}, {"rise": -1.0}, {"rise": math.nan}, {"draws": 1}])
def test_bad_wishes_are_refused(change):
    with pytest.raises(ValueError, match="positive number"):
        sigma_for(Bowl(), value, DATA, **{"rise": 0.1, **change})


def noised(sigma=0.5):
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    p.grad, q.grad = torch.zeros(3), torch.zeros(3)
    optimizer = SGD([{"params": [p]}, {"params": [q], "sigma": 0.1}], lr=0.1)
    return optimizer, AntiPGD(optimizer, sigma)


FACTORS = {
    "constant": lambda step, group: 1.0,
    "warm-up": lambda step, group: min(1.0, step / 4),
    "stop": lambda step, group: float(step < 3),
    "cosine": lambda step, group: (1 + math.cos(math.pi * min(step, 5) / 5)) / 2,
    "tied to lr": lambda step, group: group["lr"] / group["initial_lr"],
}


@pytest.mark.parametrize("name", FACTORS)
def test_schedule_multiplies_each_groups_own_sigma(name):
    optimizer, noise = noised()
    learning_rates = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    schedule = NoiseSchedule(optimizer, FACTORS[name])
    for step in range(7):
        factors = [FACTORS[name](step, group) for group in optimizer.param_groups]
        assert [group["sigma"] for group in optimizer.param_groups] == [0.5 * factors[0], 0.1 * factors[1]]
        optimizer.step()
        learning_rates.step()
        schedule.step()
    if name == "stop":
        assert not any(state["xi"].any() for state in optimizer.state.values())
        assert all(torch.allclose(p, torch.ones(3)) for g in optimizer.param_groups for p in g["params"])


def test_dial_as_a_schedule_and_resuming():
    optimizer, _ = noised()
    dial = NoiseSchedule(optimizer, lambda step, group: min(1.0, step / 10), entry="cancel")
    for _ in range(4):
        optimizer.step()
        dial.step()
    assert [group["cancel"] for group in optimizer.param_groups] == [0.4, 0.4]
    again, _ = noised()
    again.load_state_dict(optimizer.state_dict())
    resumed = NoiseSchedule(again, dial.factor, entry="cancel")
    resumed.load_state_dict(dial.state_dict())
    optimizer.step(), dial.step(), again.step(), resumed.step()
    assert [g["cancel"] for g in again.param_groups] == [g["cancel"] for g in optimizer.param_groups] == [0.5, 0.5]


def test_schedule_needs_noise_and_one_of_its_entries():
    optimizer, _ = noised()
    for wrong, entry in ((SGD([nn.Parameter(torch.ones(1))], lr=0.1), "sigma"), (optimizer, "lr")):
        with pytest.raises(ValueError, match="attach it first"):
            NoiseSchedule(wrong, FACTORS["constant"], entry=entry)
