"""antipgd.noise: against the rule written by hand, and against what happens around an optimizer in real training."""

import copy
import functools
import inspect
import io
import itertools
import pickle
import random
import sys
import types
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial
from torch.optim import SGD, Adagrad, Adam, AdamW

from antipgd import noise as noise_module
from antipgd.guards import ENTRIES
from antipgd.noise import LAWS, PGD, AntiPGD, CorrelatedNoise, draw, keyed_seed
from project import in_processes

@pytest.fixture(autouse=True)
def no_seed_is_seed_zero(monkeypatch):
    """Without a seed each noise object takes the next number: here they all take 0, so that runs can be compared."""
    monkeypatch.setattr(noise_module, "_seeds", itertools.repeat(0))


pytestmark = pytest.mark.filterwarnings("error")  # no warning but the one on half precision, which is caught

SPARSE_ONLY = torch.optim.SparseAdam  # it takes nothing but sparse gradients, and these the noise refuses
DENSE = [
    c
    for c in vars(torch.optim).values()
    if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer) and c not in (torch.optim.Optimizer, SPARSE_ONLY)
]
every_optimizer = pytest.mark.parametrize("cls", DENSE, ids=lambda c: c.__name__)
every_law = pytest.mark.parametrize("law", LAWS)
every_cancel = pytest.mark.parametrize("cancel", [0.0, 0.5, 1.0])


# Small things to train


def network(seed=0):
    """Two matrices and nothing else: Muon takes only matrices."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False))


def train(model, optimizer, steps):
    """One optimizer step for each number in ``steps``; the number also seeds the batch."""
    for n in steps:
        generator = torch.Generator().manual_seed(n)
        x, y = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)

        def closure():
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def resting(n=4, dtype=torch.float64):
    """A parameter that stands away from zero, with gradient zero: only the noise moves it."""
    p = nn.Parameter(torch.linspace(1, 2, n, dtype=dtype))
    p.grad = torch.zeros_like(p)
    return p


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def distance(a, b):
    return max((p - q).abs().max().item() for p, q in zip(a, b, strict=True))


def same(a, b):
    """Equal bit for bit, through dicts, lists and tuples."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a is b or a == b


def snapshot(optimizer):
    """A copy of everything that an attachment or a step can change."""
    params = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    states = [dict(optimizer.state.get(p, {})) for group in optimizer.param_groups for p in group["params"]]
    hooks = {name: len(entries) for name, entries in vars(optimizer).items() if name.endswith("_hooks")}
    return copy.deepcopy([params, states, groups, optimizer.defaults, hooks])


def through_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# The rule


def by_hand(w, H, xis, lrs, *, cancel, momentum=0.0, weight_decay=0.0):
    """SGD with the noise on the loss w'Hw/2, in the form of z = w - cancel * xi, where xi_0 = 0.

    z moves by SGD's step taken at w, then by the share of xi that stays for good.
    """
    z, velocity, path = w, torch.zeros_like(w), []
    for xi, lr in zip(xis, lrs, strict=True):
        velocity = momentum * velocity + H @ w + weight_decay * w
        z = z - lr * velocity + (1 - cancel) * xi
        w = z + cancel * xi
        path.append(w)
    return torch.stack(path)


def draws_by_hand(seed, steps, group, parameter, n):
    """Standard normal draws of one parameter for the steps 1, 2, ..., float64, shape (steps, n)."""
    generator = torch.Generator()
    draws = torch.empty(steps, n, dtype=torch.float64)
    for step, out in enumerate(draws, start=1):
        out.normal_(generator=generator.manual_seed(keyed_seed(seed, step, group, parameter)))
    return draws


class Quadratics:
    """Three parameters in two groups, each with a loss w'Hw/2 of its own, next to the rule by hand."""

    places = [(0, 0), (0, 1), (1, 0)]

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        roots = [torch.randn(5, 5, dtype=torch.float64, generator=generator) for _ in self.places]
        self.H = [root @ root.T / 10 for root in roots]
        self.start = [torch.randn(5, dtype=torch.float64, generator=generator) for _ in self.places]
        self.params = [nn.Parameter(w.clone()) for w in self.start]
        self.groups = [{"params": self.params[:2]}, {"params": self.params[2:]}]

    def run(self, optimizer, steps, micro_batches=1, after_step=lambda n: None):
        """The path of each parameter, shape (steps, 5)."""
        path = []
        for n in range(steps):
            optimizer.zero_grad()
            for _ in range(micro_batches):
                losses = [p @ H @ p / 2 for p, H in zip(self.params, self.H, strict=True)]
                (sum(losses) / micro_batches).backward()
            optimizer.step()
            path.append([p.detach().clone() for p in self.params])
            after_step(n)
        return [torch.stack(w) for w in zip(*path, strict=True)]

    def by_hand(self, seed, sigmas, lrs, **rule):
        sigmas = torch.tensor(sigmas, dtype=torch.float64)[:, None]
        xis = [sigmas * draws_by_hand(seed, len(lrs), *place, 5) for place in self.places]
        return [by_hand(w, H, xi, lrs, **rule) for w, H, xi in zip(self.start, self.H, xis, strict=True)]


@every_cancel
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_the_rule_by_hand(cancel, momentum, weight_decay):
    """Not scaled by lr, not filtered by momentum, xi_0 = 0, weight decay at w, keyed by every part of the key."""
    task, rule = Quadratics(), {"momentum": momentum, "weight_decay": weight_decay}
    optimizer = SGD(task.groups, lr=0.05, **rule)
    CorrelatedNoise(optimizer, 0.3, cancel=cancel, seed=7)
    path = task.run(optimizer, 40)
    assert distance(path, task.by_hand(7, [0.3] * 40, [0.05] * 40, cancel=cancel, **rule)) < 1e-12


@pytest.mark.parametrize("method, cancel", [(AntiPGD, 1.0), (PGD, 0.0)])
def test_the_two_names_set_the_dial(method, cancel):
    task = Quadratics()
    optimizer = SGD(task.groups, lr=0.05)
    method(optimizer, 0.3, seed=7)
    assert distance(task.run(optimizer, 10), task.by_hand(7, [0.3] * 10, [0.05] * 10, cancel=cancel)) < 1e-12


def test_one_draw_per_step_with_gradient_accumulation():
    task = Quadratics()
    optimizer = SGD(task.groups, lr=0.05)
    AntiPGD(optimizer, 0.3, seed=7)
    path = task.run(optimizer, 10, micro_batches=3)
    assert distance(path, task.by_hand(7, [0.3] * 10, [0.05] * 10, cancel=1.0)) < 1e-12
    assert [group["noise_step"] for group in optimizer.param_groups] == [10, 10]


@every_cancel
def test_sigma_follows_a_schedule(cancel):
    task, sigmas = Quadratics(), [0.3 / (n + 1) for n in range(10)]

    def schedule(n):
        for group in optimizer.param_groups:
            group["sigma"] = sigmas[min(n + 1, 9)]

    optimizer = SGD(task.groups, lr=0.05)
    CorrelatedNoise(optimizer, sigmas[0], cancel=cancel, seed=7)
    path = task.run(optimizer, 10, after_step=schedule)
    assert distance(path, task.by_hand(7, sigmas, [0.05] * 10, cancel=cancel)) < 1e-12


@every_cancel
def test_learning_rate_scheduler_leaves_the_noise_alone(cancel):
    task, lrs = Quadratics(), []
    optimizer = SGD(task.groups, lr=0.1, momentum=0.9)
    CorrelatedNoise(optimizer, 0.3, cancel=cancel, seed=7)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)

    def advance(n):
        lrs.append(scheduler.get_last_lr()[0])
        scheduler.step()

    path = task.run(optimizer, 10, after_step=advance)
    assert lrs[0] == 0.1 and lrs[9] < 0.01
    assert distance(path, task.by_hand(7, [0.3] * 10, lrs, cancel=cancel, momentum=0.9)) < 1e-12


def test_warm_up_from_learning_rate_zero_draws_noise():
    task, lrs = Quadratics(), [0.0, 0.0, 0.05, 0.1]
    optimizer = SGD(task.groups, lr=1.0)
    AntiPGD(optimizer, 0.3, seed=7)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [0.0, 0.0, 0.05, 0.1, 0.1].__getitem__)
    path = task.run(optimizer, 4, after_step=lambda n: scheduler.step())
    assert distance(path, task.by_hand(7, [0.3] * 4, lrs, cancel=1.0)) < 1e-12


def test_lbfgs_draws_once_per_step_and_not_per_closure_call():
    model, calls = network(), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1)
    AntiPGD(optimizer, 0.1)
    train(model, optimizer, range(3))
    assert len(calls) > 6
    assert optimizer.param_groups[0]["noise_step"] == 3


# Noise switched off


@every_optimizer
def test_sigma_zero_is_the_base_optimizer_bit_for_bit(cls):
    plain, noised = network(), network()
    base, optimizer = cls(plain.parameters()), cls(noised.parameters())
    AntiPGD(optimizer, 0.0)
    train(plain, base, range(6))
    train(noised, optimizer, range(6))
    assert same(weights(noised), weights(plain))
    assert distance(weights(plain), weights(network())) > 0


@pytest.mark.parametrize("cancel", [0.0, 0.3, 0.5, 1.0])
def test_sigma_set_to_zero_lands_on_z(cancel):
    p = resting(1000, torch.float32)
    optimizer = SGD([p], lr=0.1, momentum=0.9)
    noise = CorrelatedNoise(optimizer, 0.1, cancel=cancel)
    for _ in range(3):
        optimizer.step()
    z = p.detach() - cancel * optimizer.state[p]["xi"]
    with noise.at_z():
        assert torch.equal(p.detach(), z)
    optimizer.param_groups[0]["sigma"] = 0.0
    for _ in range(3):
        optimizer.step()
        assert torch.equal(p.detach(), z)


def test_noise_comes_back_from_z_after_a_pause():
    p = resting()
    optimizer = SGD([p], lr=0.1)
    noise = AntiPGD(optimizer, 0.1)
    for sigma in (0.1, 0.0, 0.2):
        optimizer.param_groups[0]["sigma"] = sigma
        optimizer.step()
    assert distance([p.detach() - 2 * 0.1 * draws_by_hand(0, 3, 0, 0, 4)[2]], [resting().detach()]) < 1e-15
    noise.detach()
    assert distance([p.detach()], [resting().detach()]) < 1e-15


# Saving and resuming


def saved_run(cls):
    """Six steps with noise, then its checkpoint; six more, for comparison."""
    model = network()
    optimizer = cls(model.parameters())
    CorrelatedNoise(optimizer, 0.05, cancel=0.7, law="rademacher", seed=3)
    train(model, optimizer, range(6))
    checkpoint = through_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, range(6, 12))
    return checkpoint, model, optimizer


def attach_otherwise(optimizer):
    """With every argument different from that of the saved run."""
    return CorrelatedNoise(optimizer, 9.0, cancel=0.1, law="uniform", seed=5)


@every_optimizer
@pytest.mark.parametrize("attach_first", [True, False])
def test_resumes_bit_for_bit_and_the_checkpoint_wins(cls, attach_first):
    checkpoint, model, optimizer = saved_run(cls)
    resumed = network(seed=1)
    fresh = cls(resumed.parameters())
    if attach_first:
        attach_otherwise(fresh)
    resumed.load_state_dict(checkpoint["model"])
    fresh.load_state_dict(checkpoint["optimizer"])
    if not attach_first:
        attach_otherwise(fresh)
    assert fresh.param_groups[0]["sigma"] == 0.05
    train(resumed, fresh, range(6, 12))
    assert same(weights(resumed), weights(model))
    assert same(fresh.state_dict(), optimizer.state_dict())


@every_optimizer
def test_checkpoint_without_noise_loads_and_starts_from_xi_zero(cls):
    model = network()
    base = cls(model.parameters())
    train(model, base, range(3))
    noised = network(seed=1)
    optimizer = cls(noised.parameters())
    noise = AntiPGD(optimizer, 0.05)
    train(noised, optimizer, range(3))  # so that a xi stands there, which must go with the old weights

    noised.load_state_dict(through_file(model.state_dict()))
    optimizer.load_state_dict(through_file(base.state_dict()))
    train(model, base, [3])
    train(noised, optimizer, [3])
    assert distance(weights(noised), weights(model)) > 0.05
    with noise.at_z():
        assert distance(weights(noised), weights(model)) < 1e-6
    assert optimizer.param_groups[0]["noise_step"] == 1


@every_optimizer
def test_checkpoint_with_noise_loads_into_a_plain_optimizer(cls):
    checkpoint, _, _ = saved_run(cls)
    with_entries, without = network(), network()
    with_entries.load_state_dict(checkpoint["model"])
    without.load_state_dict(checkpoint["model"])
    loaded, stripped = cls(with_entries.parameters()), cls(without.parameters())
    loaded.load_state_dict(copy.deepcopy(checkpoint["optimizer"]))  # loading in memory shares the tensors
    for state in checkpoint["optimizer"]["state"].values():
        del state["xi"]
    stripped.load_state_dict(checkpoint["optimizer"])
    with pytest.warns(UserWarning, match="steps without noise.*Attach the noise to this optimizer, or remove"):
        train(with_entries, loaded, [6])
    train(with_entries, loaded, [7, 8])  # says it once
    for group in stripped.param_groups:
        for name in ENTRIES:
            del group[name]
    train(without, stripped, range(6, 9))
    assert same(weights(with_entries), weights(without))


def test_optimizers_that_share_a_state_dict_in_memory_do_not_move_each_other():
    model, optimizer, _ = noised_network()
    twin = network()
    twin_optimizer = SGD(twin.parameters())
    twin_optimizer.load_state_dict(optimizer.state_dict())  # shares the tensors
    AntiPGD(twin_optimizer, 0.1)
    before = snapshot(optimizer)
    train(twin, twin_optimizer, range(3))
    assert same(snapshot(optimizer), before)


def copied(pair):
    return copy.deepcopy(pair)


def pickled(pair):
    return pickle.loads(pickle.dumps(pair))


@pytest.mark.parametrize("make_copy", [copied, pickled])
@pytest.mark.parametrize("cls", [SGD, Adam])
def test_copies_lose_the_hooks_and_attaching_again_continues(cls, make_copy):
    model = network()
    optimizer = cls(model.parameters())
    AntiPGD(optimizer, 0.05, seed=3)
    train(model, optimizer, range(6))
    twin, twin_optimizer = make_copy((model, optimizer))
    attach_otherwise(twin_optimizer)
    train(model, optimizer, range(6, 12))
    train(twin, twin_optimizer, range(6, 12))
    assert same(weights(twin), weights(model))
    assert same(twin_optimizer.state_dict(), optimizer.state_dict())


# Groups and parameters that come later


def test_adam_with_a_parameter_that_joins_late():
    early, late = resting(), resting()
    late.grad = None
    optimizer = Adam([early, late], lr=0.1)
    noise = AntiPGD(optimizer, 0.1)
    optimizer.step()
    assert torch.equal(late.detach(), resting().detach()) and late not in optimizer.state
    late.grad = torch.zeros_like(late)
    optimizer.step()
    assert torch.equal(optimizer.state[late]["xi"], 0.1 * draws_by_hand(0, 2, 0, 1, 4)[1])
    optimizer.step()
    with noise.at_z():
        assert distance([early.detach(), late.detach()], [resting().detach()] * 2) < 1e-15


def test_parameter_without_gradient_keeps_its_xi_and_the_others_their_places():
    p, other = resting(), resting()
    optimizer = SGD([p, other], lr=0.1)
    noise = AntiPGD(optimizer, 0.1)
    optimizer.step()
    w, xi, p.grad = p.detach().clone(), optimizer.state[p]["xi"].clone(), None
    optimizer.step()
    assert torch.equal(p.detach(), w) and torch.equal(optimizer.state[p]["xi"], xi)
    assert torch.equal(optimizer.state[other]["xi"], 0.1 * draws_by_hand(0, 2, 0, 1, 4)[1])
    with noise.at_z():
        assert distance([p.detach()], [resting().detach()]) < 1e-15


def test_group_added_later_inherits_sigma_and_draws_its_own_noise():
    first, second, third = resting(), resting(), resting()
    optimizer = SGD([first], lr=0.1)
    AntiPGD(optimizer, 0.1, seed=7)
    optimizer.step()
    optimizer.add_param_group({"params": [second]})
    optimizer.add_param_group({"params": [third], "sigma": 0.0})
    optimizer.step()
    assert [group["sigma"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    assert torch.equal(optimizer.state[first]["xi"], 0.1 * draws_by_hand(7, 2, 0, 0, 4)[1])
    assert torch.equal(optimizer.state[second]["xi"], 0.1 * draws_by_hand(7, 1, 1, 0, 4)[0])
    assert torch.equal(third.detach(), resting().detach())


@pytest.mark.parametrize("cls", [SGD, Adam])
def test_batch_norm_group_without_noise(cls):
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    norms = list(model[1].parameters())
    others = [*model[0].parameters(), *model[2].parameters()]
    before = weights(model[1]), [p.detach().clone() for p in others]
    optimizer = cls([{"params": others}, {"params": norms, "sigma": 0.0}], lr=0.0)  # only the noise moves weights
    AntiPGD(optimizer, 0.1)
    train(model, optimizer, range(3))
    assert all(p.grad.any() for p in norms)
    assert same(weights(model[1]), before[0])
    assert all((p != q).all() for p, q in zip(others, before[1], strict=True))


def test_each_group_has_its_own_sigma_and_cancel():
    a, b = resting(), resting()
    optimizer = SGD([{"params": [a]}, {"params": [b], "sigma": 0.2, "cancel": 0.0}], lr=0.1)
    AntiPGD(optimizer, 0.1)
    for _ in range(2):
        optimizer.step()
    assert distance([a.detach()], [resting().detach() + 0.1 * draws_by_hand(0, 2, 0, 0, 4)[1]]) < 1e-15
    assert distance([b.detach()], [resting().detach() + 0.2 * draws_by_hand(0, 2, 1, 0, 4).sum(0)]) < 1e-15


# Statistics. Fixed seeds; a mean may lie four of its standard errors from what is expected.


def agrees(samples, expected):
    standard_error = samples.std() / len(samples) ** 0.5
    return abs(samples.mean() - expected) <= 4 * standard_error


@every_law
def test_each_law_has_mean_0_and_variance_1_and_its_own_kurtosis(law):
    x = draw(law, torch.empty(200_000, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert agrees(x, 0)
    assert agrees(x**2, 1)
    assert agrees(x**3, 0)
    assert agrees(x**4, {"gaussian": 3, "rademacher": 1, "uniform": 9 / 5}[law])


def test_support_of_the_bounded_laws():
    generator, out = torch.Generator().manual_seed(0), torch.empty(10_000, dtype=torch.float64)
    assert set(draw("rademacher", out, generator).tolist()) == {-1.0, 1.0}
    assert 1.7 < draw("uniform", out, generator).abs().max() <= 3**0.5


@pytest.mark.parametrize("lag", [1, 2, 7, 8, 63, 64, 12_500, 25_000])
def test_signs_that_come_from_one_word_are_independent(lag):
    x = draw("rademacher", torch.empty(100_000, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert agrees(x[lag:] * x[:-lag], 0)


@pytest.mark.parametrize("shape", [(), (1,), (7, 9), (64,), (65,), (0,)])
def test_signs_fill_every_shape(shape):
    x = draw("rademacher", torch.full(shape, 5.0), torch.Generator().manual_seed(0))
    assert x.shape == shape and (x.abs() == 1).all()


@every_law
@pytest.mark.parametrize("cls", [SGD, Adam])
def test_increments_of_anti_pgd_are_anticorrelated(cls, law):
    """Variance 2 sigma^2, correlation -1/2 at lag 1 and 0 at lag 2, for any optimizer and law."""
    p, sigma = resting(100_000), 0.3
    optimizer = cls([p], lr=0.1)
    AntiPGD(optimizer, sigma, law=law)
    path = []
    for _ in range(4):
        optimizer.step()
        path.append(p.detach().clone())
    first, second, third = torch.stack(path).diff(dim=0) / (2 * sigma**2) ** 0.5
    assert agrees(first, 0)
    assert agrees(first**2, 1)
    assert agrees(first * second, -1 / 2)
    assert agrees(first * third, 0)


def draws_of(seed, n=100_000):
    """xi / sigma of the first two steps of four parameters in two groups, by (step, group, parameter)."""
    groups = [[resting(n), resting(n)], [resting(n), resting(n)]]
    optimizer = SGD([{"params": params} for params in groups], lr=0.1)
    AntiPGD(optimizer, 1.0, seed=seed)
    draws = {}
    for step in (1, 2):
        optimizer.step()
        for g, params in enumerate(groups):
            for i, p in enumerate(params):
                draws[step, g, i] = optimizer.state[p]["xi"].clone()
    return draws


@pytest.mark.parametrize(
    "seed, place",
    [(0, (1, 0, 1)), (0, (1, 1, 0)), (0, (2, 0, 0)), (1, (1, 0, 0))],
    ids=["parameter", "group", "step", "seed"],
)
def test_draws_are_independent_across_parameters_groups_steps_and_seeds(seed, place):
    a, b = draws_of(0)[1, 0, 0], draws_of(seed)[place]
    assert agrees(a * b, 0)
    assert agrees(a**2 * b**2, 1)


def test_no_two_draws_are_equal():
    """Also where a sum of the key's parts, or the parts in another order, would be equal."""
    draws = [tuple(xi.tolist()) for seed in range(4) for xi in draws_of(seed, n=4).values()]
    assert len(set(draws)) == 4 * 8


def test_equal_keys_give_equal_draws_whatever_else_was_drawn():
    first = draws_of(5, n=10)
    torch.randn(17)
    assert same(draws_of(5, n=10), first)


def test_keyed_seed_never_changes():
    """A change would break the resuming of every stored run."""
    assert keyed_seed(0, 1, 0, 0) == 10414705469639538944
    assert keyed_seed(-(2**63), 2**40, 3, 2**63 - 1) == 838112987302985689


def test_global_random_states_are_untouched():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    for law in LAWS:
        model = network()
        optimizer = Adam(model.parameters())
        noise = AntiPGD(optimizer, 0.1, law=law)
        train(model, optimizer, range(2))
        with noise.at_z():
            pass
        noise.detach()
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])


# At z, and without the noise


def noised_network(cls=SGD, steps=3, cancel=1.0, **options):
    model = network()
    optimizer = cls(model.parameters(), **options)
    noise = CorrelatedNoise(optimizer, 0.1, cancel=cancel)
    train(model, optimizer, range(steps))
    return model, optimizer, noise


@every_cancel
def test_at_z_stands_at_z_and_returns_bit_for_bit(cancel):
    model, optimizer, noise = noised_network(cancel=cancel)
    before = snapshot(optimizer)
    with noise.at_z():
        z = weights(model)
    xi = [optimizer.state[p]["xi"] for p in model.parameters()]
    assert same(z, [w - cancel * x for w, x in zip(weights(model), xi, strict=True)])
    assert all(x.any() for x in xi)
    assert same(snapshot(optimizer), before)


def test_at_z_returns_after_an_exception():
    model, optimizer, noise = noised_network()
    before = snapshot(optimizer)
    with pytest.raises(ZeroDivisionError), noise.at_z():
        1 / 0
    assert same(snapshot(optimizer), before)
    with noise.at_z():
        assert not same(weights(model), before[0])


def test_at_z_before_the_first_step_is_at_w():
    model, _, noise = noised_network(steps=0)
    with noise.at_z():
        assert same(weights(model), weights(network()))


def test_gradients_and_evaluation_at_z():
    model, _, noise = noised_network()
    with noise.at_z():
        z = copy.deepcopy(model)
    x = torch.ones(1, 5)
    with noise.at_z(), torch.inference_mode():
        evaluated = model(x)
    with noise.at_z():
        model.zero_grad()
        model(x).sum().backward()
    z.zero_grad()
    z(x).sum().backward()
    assert torch.equal(evaluated, z(x))
    assert same([p.grad for p in model.parameters()], [p.grad for p in z.parameters()])


@pytest.mark.parametrize("cls", [SGD, Adam])
def test_stepping_at_z_raises_and_changes_nothing(cls):
    model, optimizer, noise = noised_network(cls)
    before = snapshot(optimizer)
    with noise.at_z():
        at_z = snapshot(optimizer)
        with pytest.raises(RuntimeError, match=r"optimizer.step\(\) inside at_z\(\)"):
            optimizer.step()
        assert same(snapshot(optimizer), at_z)
    assert same(snapshot(optimizer), before)
    train(model, optimizer, [3])


def test_nested_at_z_and_detach_inside_it_raise():
    _, optimizer, noise = noised_network()
    before = snapshot(optimizer)
    with noise.at_z():
        at_z = snapshot(optimizer)
        with pytest.raises(RuntimeError, match=r"at_z\(\) inside at_z\(\)"), noise.at_z():
            pass
        with pytest.raises(RuntimeError, match=r"detach\(\) inside at_z\(\)"):
            noise.detach()
        assert same(snapshot(optimizer), at_z)
    assert same(snapshot(optimizer), before)


@every_optimizer
def test_detach_leaves_the_plain_optimizer_at_z(cls):
    model, optimizer, noise = noised_network(cls)
    plain_model = network()
    plain = cls(plain_model.parameters())
    train(plain_model, plain, range(3))
    with noise.at_z():
        z = weights(model)
    noise.detach()
    after, reference = snapshot(optimizer), snapshot(plain)
    assert same(after[0], z)
    assert [state.keys() for state in after[1]] == [state.keys() for state in reference[1]]
    assert same(after[2:], reference[2:])

    plain_model.load_state_dict(model.state_dict())
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, range(3, 6))
    train(plain_model, plain, range(3, 6))
    assert same(weights(model), weights(plain_model))


def test_attaching_again_after_detach():
    p = resting()
    optimizer = SGD([p], lr=0.1)
    AntiPGD(optimizer, 0.1).detach()
    noise = PGD(optimizer, 0.2, seed=7)
    for _ in range(2):
        optimizer.step()
    assert distance([p.detach()], [resting().detach() + 0.2 * draws_by_hand(7, 2, 0, 0, 4).sum(0)]) < 1e-15
    noise.detach()  # PGD's z is w
    assert distance([p.detach()], [resting().detach() + 0.2 * draws_by_hand(7, 2, 0, 0, 4).sum(0)]) < 1e-15


# Gradient scaler, distributed training and its checkpoints


@pytest.mark.parametrize("method", [AntiPGD, PGD])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("cls", [SGD, Adagrad, Adam, AdamW])
def test_step_that_a_gradient_scaler_skips_draws_no_noise(cls, fused, method):
    p = resting(dtype=torch.float32)
    optimizer = cls([p], lr=0.1, fused=fused)
    method(optimizer, 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def step(factor):
        optimizer.zero_grad()
        scaler.scale((p * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    step(1.0)
    before = snapshot(optimizer)
    step(float("inf"))
    assert same(snapshot(optimizer), before)
    step(1.0)
    assert optimizer.param_groups[0]["noise_step"] == 2
    assert not torch.equal(optimizer.state[p]["xi"], before[1][0]["xi"])


@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_checkpointer_that_allocates_state_moves_no_weight(cls):
    model = network()
    optimizer = cls(model.parameters(), lr=0.1)
    AntiPGD(optimizer, 0.1)
    state = get_optimizer_state_dict(model, optimizer)["state"]
    assert same(weights(model), weights(network()))
    assert not any(entries["xi"].any() for entries in state.values())
    assert optimizer.param_groups[0]["noise_step"] == 0


def test_allocating_changes_nothing_later():
    model, other = network(), network()
    optimizers = SGD(model.parameters(), lr=0.1, momentum=0.9), SGD(other.parameters(), lr=0.1, momentum=0.9)
    for optimizer in optimizers:
        AntiPGD(optimizer, 0.1)
    get_optimizer_state_dict(model, optimizers[0])
    train(model, optimizers[0], range(3))
    train(other, optimizers[1], range(3))
    assert same(weights(model), weights(other))


@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_resumes_bit_for_bit_through_the_distributed_checkpoint(cls):
    model, optimizer, _ = noised_network(cls, lr=0.1)
    checkpoint = copy.deepcopy([model.state_dict(), get_optimizer_state_dict(model, optimizer)])
    resumed = network(seed=1)
    resumed.load_state_dict(checkpoint[0])
    fresh = cls(resumed.parameters(), lr=0.1)
    attach_otherwise(fresh)
    set_optimizer_state_dict(resumed, fresh, checkpoint[1])
    train(model, optimizer, range(3, 6))
    train(resumed, fresh, range(3, 6))
    assert same(weights(resumed), weights(model))


def replica(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = nn.parallel.DistributedDataParallel(network())
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    AntiPGD(optimizer, 0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 5)).square().mean().backward()
        optimizer.step()
    xi = [optimizer.state[p]["xi"] for p in model.parameters()]
    torch.save([weights(model), xi, torch.get_rng_state()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_replicas_that_are_seeded_differently_stay_identical(tmp_path):
    in_processes(2, replica, str(tmp_path))
    (w0, xi0, random0), (w1, xi1, random1) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert not torch.equal(random0, random1)
    assert all(x.any() for x in xi0)
    assert same([w0, xi0], [w1, xi1])


# What is refused, and that nothing has changed then


def test_attaches_to_nothing_but_an_optimizer():
    model = nn.Linear(2, 1)
    optimizer = SGD(model.parameters(), lr=0.1)
    before = snapshot(optimizer)
    for wrong in (model, list(model.parameters()), torch.optim.lr_scheduler.StepLR(optimizer, 1), None):
        with pytest.raises(TypeError, match=f"this is a {type(wrong).__name__}. Pass the optimizer itself"):
            AntiPGD(wrong, 0.1)
    before[2][0]["initial_lr"] = 0.1  # the scheduler's
    assert same(snapshot(optimizer), before)


BAD = [
    ("sigma", -0.1, r"sigma is -0.1.* a finite number >= 0"),
    ("sigma", float("nan"), r"sigma is nan.* a finite number >= 0"),
    ("sigma", float("inf"), r"sigma is inf.* a finite number >= 0"),
    ("sigma", "0.1", r"sigma is '0.1'.* given as a Python number"),
    ("sigma", torch.tensor(0.1), r"sigma is tensor.* given as a Python number"),
    ("cancel", -0.1, r"cancel is -0.1.* between 0 \(PGD\) and 1 \(Anti-PGD\)"),
    ("cancel", 1.1, r"cancel is 1.1.* between 0 \(PGD\) and 1 \(Anti-PGD\)"),
    ("cancel", float("nan"), r"cancel is nan.* between 0 \(PGD\) and 1 \(Anti-PGD\)"),
    ("law", "cauchy", r"Unknown noise law 'cauchy'. Choose one of: gaussian, rademacher, uniform"),
    ("seed", 0.5, r"seed is 0.5.* an integer of at most 64 bits"),
    ("seed", 2**63, r"seed is 9223372036854775808.* an integer of at most 64 bits"),
    ("seed", "1", r"seed is '1'.* an integer of at most 64 bits"),
]
every_bad_value = pytest.mark.parametrize("name, value, message", BAD)


def entry(name):
    return {"law": "noise_law", "seed": "noise_seed"}.get(name, name)


@every_bad_value
def test_bad_argument_changes_nothing(name, value, message):
    optimizer = SGD([resting()], lr=0.1)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        CorrelatedNoise(optimizer, **{"sigma": 0.1, "cancel": 1.0, name: value})
    assert same(snapshot(optimizer), before)
    AntiPGD(optimizer, 0.1)


@every_bad_value
def test_bad_argument_is_refused_also_where_every_group_has_its_own(name, value, message):
    optimizer = SGD([{"params": [resting()], "sigma": 0.1, "cancel": 1.0, "noise_law": "uniform", "noise_seed": 1}])
    with pytest.raises(ValueError, match=message):
        CorrelatedNoise(optimizer, **{"sigma": 0.1, "cancel": 1.0, name: value})


@every_bad_value
def test_bad_entry_of_a_group_changes_nothing(name, value, message):
    optimizer = SGD([{"params": [resting()]}, {"params": [resting()], entry(name): value}], lr=0.1)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        AntiPGD(optimizer, 0.1)
    assert same(snapshot(optimizer), before)


@every_bad_value
@pytest.mark.parametrize("cls", [SGD, Adam])
def test_bad_entry_at_the_step_changes_nothing(cls, name, value, message):
    p = resting()
    optimizer = cls([{"params": [resting()]}, {"params": [p]}], lr=0.1)
    AntiPGD(optimizer, 0.1)
    optimizer.step()
    group = optimizer.param_groups[1]
    good, group[entry(name)] = group[entry(name)], value
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert same(snapshot(optimizer), before)
    group[entry(name)] = good
    optimizer.step()


def test_attaching_twice_changes_nothing():
    optimizer = SGD([resting()], lr=0.1)
    noise = AntiPGD(optimizer, 0.1)
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"carries noise already.*group\['sigma'\].*detach\(\)"):
        PGD(optimizer, 0.2)
    assert same(snapshot(optimizer), before)
    noise.detach()
    PGD(optimizer, 0.2)


def test_sparse_gradient_changes_nothing():
    dense, table = resting(dtype=torch.float32), nn.Embedding(6, 3, sparse=True)
    optimizer = Adagrad([dense, table.weight], lr=0.1)  # the one class with step counters that takes both kinds
    AntiPGD(optimizer, 0.1)
    optimizer.step()
    table(torch.tensor([1, 2])).sum().backward()
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match="sparse gradient.*sparse=False.*optimizer of their own"):
        optimizer.step()
    assert same(snapshot(optimizer), before)


def complex_parameter():
    return nn.Parameter(torch.ones(2, dtype=torch.complex64)), "complex.*two parts as real tensors"


def partial_parameter():
    mesh = init_device_mesh("cpu", (1,))
    return nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Partial()])), "Partial placement.*Redistribute"


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("make", [complex_parameter, partial_parameter])
def test_complex_and_partial_parameters_change_nothing(make, one_rank):
    p, message = make()
    optimizer = SGD([resting(), p], lr=0.1)
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match=message):
        AntiPGD(optimizer, 0.1)
    assert same(snapshot(optimizer), before)


@pytest.mark.parametrize("make", [complex_parameter, partial_parameter])
def test_complex_and_partial_parameters_that_come_later_change_nothing(make, one_rank):
    p, message = make()
    optimizer = SGD([resting()], lr=0.1)
    AntiPGD(optimizer, 0.1)
    optimizer.add_param_group({"params": [p]})
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match=message):
        optimizer.step()
    assert same(snapshot(optimizer), before)


class FlatteningOptimizer:
    """Does to an optimizer what DeepSpeed's ZeRO does: it gets one flat piece in place of its parameters, afterwards."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            flat = nn.Parameter(torch.cat([p.detach().flatten() for p in group["params"]]))
            flat.grad = torch.zeros_like(flat)
            group["params"] = [flat]


@pytest.mark.parametrize("package", ["deepspeed.runtime.zero.stage_1_and_2", "megatron.core.optimizer"])
def test_flat_pieces_in_place_of_the_parameters_are_refused_at_the_step(package, monkeypatch):
    monkeypatch.setattr(FlatteningOptimizer, "__module__", package)
    monkeypatch.setitem(sys.modules, package.partition(".")[0], types.ModuleType("flattening"))
    optimizer = SGD([resting(), resting()], lr=0.1)
    AntiPGD(optimizer, 0.1)
    optimizer.step()
    wrapper = FlatteningOptimizer(optimizer)
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match="inside a FlatteningOptimizer of (deepspeed|megatron).*fully_shard"):
        wrapper.optimizer.step()
    assert same(snapshot(optimizer), before)
    flattened = FlatteningOptimizer(SGD([resting()], lr=0.1))
    with pytest.raises(TypeError, match="inside a FlatteningOptimizer"):
        AntiPGD(flattened.optimizer, 0.1)


def test_a_compiled_step_gets_its_noise():
    plain, compiled = network(), network()
    for model, wrap in ((plain, lambda function: function), (compiled, functools.partial(torch.compile, backend="eager"))):
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        noise = AntiPGD(optimizer, 0.1)
        step = wrap(optimizer.step)
        for n in range(4):
            optimizer.zero_grad()
            model(torch.full((2, 5), n / 4)).square().mean().backward()
            step()
        assert optimizer.param_groups[0]["noise_step"] == 4
    with noise.at_z():
        z = weights(compiled)
    assert all(map(torch.equal, weights(plain), weights(compiled)))
    assert not any(map(torch.equal, z, weights(compiled)))


def test_draw_refuses_an_unknown_law():
    with pytest.raises(ValueError, match="Unknown noise law 'cauchy'. Choose one of: gaussian"):
        draw("cauchy", torch.empty(2), torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_warns_with_the_reason(dtype):
    optimizer = SGD([resting(dtype=dtype), resting(dtype=torch.float32)], lr=0.1)
    with pytest.warns(UserWarning, match=f"{dtype}: .*z drifts.*float32 and use autocast") as caught:
        AntiPGD(optimizer, 0.1)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_does_not_warn(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AntiPGD(SGD([resting(dtype=dtype)], lr=0.1), 0.1)


def test_checkpoint_with_a_sigma_from_numpy_loads_safely(tmp_path):
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    AntiPGD(optimizer, np.logspace(-2, -1, 3)[1])
    torch.save(optimizer.state_dict(), tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert loaded["param_groups"][0]["sigma"] == pytest.approx(10**-1.5)


@every_cancel
def test_unit_impulses_come_out_as_the_columns_of_the_noising_matrix(cancel, monkeypatch):
    """w = w_0 + B xi without a gradient, summed: B has ones on its diagonal and 1 - cancel below it."""
    steps = 5
    for hit in range(steps):
        impulses = iter([float(n == hit) for n in range(steps)])
        monkeypatch.setitem(LAWS, "impulse", lambda out, generator: out.fill_(next(impulses)))
        p = resting()
        optimizer = SGD([p], lr=0.1)
        CorrelatedNoise(optimizer, 1.0, cancel=cancel, law="impulse")
        column = []
        for _ in range(steps):
            optimizer.step()
            column.append((p.detach() - resting().detach())[0].item())
        expected = [0.0] * hit + [1.0] + [1 - cancel] * (steps - hit - 1)
        assert column == pytest.approx(expected, abs=1e-12)
