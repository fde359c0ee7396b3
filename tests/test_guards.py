"""What happens around an optimizer in real training: the noise follows it, or refuses in words before anything moved."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from antipgd.noise import PGD, AntiPGD, CorrelatedNoise

pytestmark = pytest.mark.filterwarnings("error")


def parameter(n=4):
    p = nn.Parameter(torch.linspace(1, 2, n, dtype=torch.float64))
    p.grad = torch.full_like(p, 0.5)
    return p


def xi_of(optimizer, p):
    return optimizer.state[p]["xi"].clone()


class Consuming(Optimizer):
    """Takes the gradients away in its step, as some fused optimizers do to save memory."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        if closure is not None:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad)
                    p.grad = None


class Derived(Consuming):
    def step(self, closure=None):
        return super().step(closure)


class Failing(SGD):
    fail = False

    def step(self, closure=None):
        if self.fail:
            raise ArithmeticError("in the middle of the step")
        return super().step(closure)


# One draw for each parameter that had a gradient when the step began


@pytest.mark.parametrize("cls", [Consuming, Derived, Failing])
def test_one_draw_where_gradients_are_consumed_and_hooks_are_called_twice(cls):
    p, frozen = parameter(), parameter()
    frozen.grad = None
    optimizer = cls([p, frozen], lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    z, before = p.detach().clone(), frozen.detach().clone()
    for n in range(1, 4):
        p.grad = torch.full_like(p, 0.5)
        optimizer.step()
        z = z - 0.05
        assert optimizer.param_groups[0]["noise_step"] == n
        assert xi_of(optimizer, p).any() and torch.equal(frozen.detach(), before)
        with noise.at_z():
            torch.testing.assert_close(p.detach(), z)


@pytest.mark.parametrize("by_keyword", [True, False])
def test_gradients_that_a_closure_makes_count_and_stale_ones_do_not(by_keyword):
    p, stale = parameter(), parameter()
    optimizer = Consuming([p, stale])
    AntiPGD(optimizer, 0.3)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
    assert xi_of(optimizer, p).any() and "xi" not in optimizer.state[stale]


def test_a_step_that_raises_is_followed_by_one_with_noise():
    p = parameter()
    optimizer = Failing([p], lr=0.1)
    AntiPGD(optimizer, 0.3)
    optimizer.fail = True
    for _ in range(2):
        with pytest.raises(ArithmeticError):
            optimizer.step()
    assert "xi" not in optimizer.state[p] and optimizer.param_groups[0]["noise_step"] == 0
    optimizer.fail = False
    optimizer.step()
    assert xi_of(optimizer, p).any() and optimizer.param_groups[0]["noise_step"] == 1


def test_noise_that_is_attached_during_a_step_begins_with_the_next():
    p, attached = parameter(), []
    optimizer = SGD([p], lr=0.1)

    def closure():
        attached.append(AntiPGD(optimizer, 0.3))
        return p.sum()

    optimizer.step(closure)
    assert torch.equal(p.detach(), torch.linspace(1, 2, 4, dtype=torch.float64) - 0.05)
    optimizer.step()
    assert xi_of(optimizer, p).any()


def test_a_parameter_that_is_reached_twice_is_drawn_for_once():
    p = parameter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on the duplicate
        optimizer = SGD([p, p], lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    optimizer.step()
    once = xi_of(optimizer, p)
    with noise.at_z():
        torch.testing.assert_close(p.detach(), torch.linspace(1, 2, 4, dtype=torch.float64) - 0.1)
    assert once.any()


def test_closure_with_a_sparse_gradient_moves_nothing():
    table = nn.Embedding(6, 3, sparse=True)
    optimizer = SGD(table.parameters(), lr=0.1)
    AntiPGD(optimizer, 0.3)
    before = table.weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = table(torch.tensor([1, 2])).sum()
        loss.backward()
        return loss

    with pytest.raises(TypeError, match="sparse gradient"):
        optimizer.step(closure)
    assert torch.equal(table.weight.detach(), before) and "xi" not in optimizer.state[table.weight]


# Copies and wrappers


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@pytest.mark.parametrize("cls", [SGD, Adam])
def test_a_copy_of_the_noise_is_attached_to_the_copy_of_its_optimizer(cls, make_copy):
    p = parameter()
    optimizer = cls([p], lr=0.1)
    noise = PGD(optimizer, 0.3, law="uniform", seed=7)
    optimizer.param_groups[0]["sigma"] = 0.2
    optimizer.step()
    twin_p, twin_optimizer, twin = make_copy((p, optimizer, noise))
    twin_p.grad = p.grad.clone()
    assert type(twin) is PGD and twin.optimizer is twin_optimizer
    for _ in range(3):
        optimizer.step()
        twin_optimizer.step()
    assert torch.equal(twin_p, p) and torch.equal(xi_of(twin_optimizer, twin_p), xi_of(optimizer, p))
    with pytest.raises(RuntimeError, match="carries noise already"):
        copy.copy(noise)


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_of_the_optimizer_alone_says_at_its_first_step_that_it_has_no_noise(make_copy):
    p = parameter()
    optimizer = SGD([p], lr=0.1)
    AntiPGD(optimizer, 0.3)
    optimizer.step()
    twin_p, twin = make_copy((p, optimizer))
    twin_p.grad = p.grad.clone()
    with pytest.warns(UserWarning, match="steps without noise.*copy or was unpickled.*Attach the noise to this"):
        twin.step()
    twin.step()  # once is enough
    AntiPGD(twin, 0.1)
    twin.step()


class Wrapper(Optimizer):
    """The shape of Accelerate's and of others: an Optimizer that hands its calls to the one inside."""

    def __init__(self, optimizer, name):
        self.__dict__[name] = [optimizer] if name == "optimizers" else optimizer
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, optimizer.defaults

    def step(self, closure=None):
        pass


@pytest.mark.parametrize("name", ["optimizer", "base_optimizer", "_optimizer", "optimizers"])
def test_a_wrapper_is_refused_and_the_way_in_is_named(name):
    p = parameter()
    optimizer = SGD([p], lr=0.1)
    keys = set(optimizer.param_groups[0])
    with pytest.raises(TypeError, match=f"wrapper around another optimizer, SGD.*pass its attribute '{name}'"):
        AntiPGD(Wrapper(optimizer, name), 0.1)
    assert set(optimizer.param_groups[0]) == keys
    AntiPGD(optimizer, 0.1)


def test_an_optimizer_whose_steps_call_no_hooks_is_refused():
    class Bare(Optimizer):
        def __init__(self, params):
            self.param_groups, self.state, self.defaults = [{"params": list(params)}], {}, {}

        def step(self, closure=None):
            pass

    with pytest.raises(TypeError, match="call no hooks"):
        AntiPGD(Bare([parameter()]), 0.1)


# Names and values


def test_a_setting_of_the_optimizer_with_one_of_our_names_is_refused():
    class Kernel(SGD):
        def __init__(self, params, sigma=0.7):
            super().__init__(params, lr=0.1)
            for group in self.param_groups:
                group["sigma"] = sigma

    class Defaulted(SGD):
        def __init__(self, params):
            super().__init__(params, lr=0.1)
            self.defaults["cancel"] = True

    for cls, name in ((Kernel, "sigma"), (Defaulted, "cancel")):
        optimizer = cls([parameter()])
        groups = copy.deepcopy([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
        with pytest.raises(ValueError, match=f"setting '{name}' of its own"):
            AntiPGD(optimizer, 0.1)
        assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == groups


def test_a_checkpoint_whose_sigma_is_not_ours_is_refused():
    p = parameter()
    optimizer = SGD([p], lr=0.1)
    AntiPGD(optimizer, 0.1)
    foreign = copy.deepcopy(SGD([parameter()], lr=0.1).state_dict())
    foreign["param_groups"][0]["sigma"] = 12.0
    with pytest.raises(ValueError, match="entry 'sigma' in a parameter group.*not from a run with this noise"):
        optimizer.load_state_dict(foreign)
    assert optimizer.param_groups[0]["sigma"] == 0.1


def test_the_optimizers_defaults_can_be_passed_on():
    optimizer = SGD([parameter()], lr=0.1, momentum=0.9)
    AntiPGD(optimizer, 0.1)
    again = SGD([parameter()], **{k: v for k, v in optimizer.defaults.items() if k != "differentiable"})
    assert "sigma" not in again.param_groups[0]


@pytest.mark.parametrize("number", [np.float64(0.25), np.float32(0.25), np.int64(1), 1])
def test_numbers_of_numpy_can_be_set_at_any_time_and_are_saved_as_pythons(number, tmp_path):
    p = parameter()
    optimizer = SGD([p], lr=0.1)
    AntiPGD(optimizer, 0.1)
    optimizer.param_groups[0]["sigma"] = optimizer.param_groups[0]["cancel"] = number
    torch.save(optimizer.state_dict(), tmp_path / "before.pt")
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "after.pt")
    for name in ("before", "after"):
        group = torch.load(tmp_path / f"{name}.pt", weights_only=True)["param_groups"][0]
        assert group["sigma"] == group["cancel"] == float(number)


def test_half_precision_that_is_added_later_warns():
    optimizer = SGD([parameter()], lr=0.1)
    AntiPGD(optimizer, 0.1)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]})
    with pytest.warns(UserWarning, match="bfloat16"):
        optimizer.step()
    optimizer.step()


@pytest.mark.parametrize("lr", [None, torch.tensor(0.1), np.float64(0.1)])
def test_a_learning_rate_may_be_missing_a_tensor_or_numpys(lr):
    class Plain(Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            pass

    p = parameter()
    optimizer = Plain([p], lr)
    AntiPGD(optimizer, 0.1)
    optimizer.step()
    assert xi_of(optimizer, p).any()


# Seeds


def test_noise_without_a_seed_differs_from_one_optimizer_to_the_next():
    pairs = []
    for _ in range(3):
        p = parameter()
        optimizer = SGD([p], lr=0.1)
        AntiPGD(optimizer, 0.1)
        optimizer.step()
        pairs.append((optimizer.param_groups[0]["noise_seed"], xi_of(optimizer, p)))
    seeds = [seed for seed, _ in pairs]
    assert seeds == list(range(seeds[0], seeds[0] + 3))
    assert not torch.equal(pairs[0][1], pairs[1][1])


# xi is in the weights, and the weights' xi is known


@pytest.mark.parametrize("first, later", [(0.0, 0.3), (0.3, 0.0), (0.0, 0.0)])
def test_xi_is_in_the_state_whatever_sigma(first, later):
    p = parameter()
    optimizer = SGD([p], lr=0.1)
    noise = AntiPGD(optimizer, first)
    optimizer.step()
    assert optimizer.state[p]["xi"].any() == (first > 0)
    optimizer.param_groups[0]["sigma"] = later
    optimizer.step()
    assert optimizer.state[p]["xi"].any() == (later > 0)
    with noise.at_z():
        torch.testing.assert_close(p.detach(), torch.linspace(1, 2, 4, dtype=torch.float64) - 0.1)


def test_weights_that_were_replaced_carry_no_noise_after_forget():
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    model(torch.ones(1, 3)).sum().backward()
    best = copy.deepcopy(model.state_dict())
    optimizer.step()
    model.load_state_dict(best)
    noise.forget()
    with noise.at_z():
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), best.values()))
    optimizer.step()  # z goes on from the weights that were loaded
    with noise.at_z():
        for p, q in zip(model.parameters(), best.values()):
            torch.testing.assert_close(p.detach(), q - 0.1 * p.grad)


def test_a_state_that_was_cleared_gets_xi_back_and_is_not_saved_without_it():
    p = parameter()
    optimizer = Adam([p], lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    optimizer.step()
    with noise.at_z():
        z = p.detach().clone()
    optimizer.state.clear()
    with pytest.raises(RuntimeError, match="state was cleared.*Take a step first"):
        optimizer.state_dict()
    with noise.at_z():
        assert torch.equal(p.detach(), z)
    optimizer.step()
    assert "exp_avg" in optimizer.state[p]
    optimizer.param_groups[0].update(sigma=0.0, lr=0.0)
    optimizer.step()
    assert (p.detach() - z).abs().max() < 0.2  # Adam's one step of 0.1, and no noise


def test_a_parameter_that_leaves_the_optimizer_lands_on_z():
    p, q = parameter(), parameter()
    optimizer = SGD([{"params": [p]}, {"params": [q]}], lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    optimizer.step()
    with noise.at_z():
        z = q.detach().clone()
    del optimizer.param_groups[1]
    optimizer.step()
    assert torch.equal(q.detach(), z)


# At z


@pytest.mark.parametrize(
    "forbidden",
    ["optimizer.step()", "optimizer.state_dict()", "optimizer.load_state_dict(state)", "noise.detach()", "noise.forget()"],
)
def test_everything_but_reading_is_refused_at_z(forbidden):
    p = parameter()
    optimizer = SGD([p], lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    optimizer.step()
    state, before = copy.deepcopy(optimizer.state_dict()), (p.detach().clone(), xi_of(optimizer, p))
    with noise.at_z(), pytest.raises(RuntimeError, match=r"inside at_z\(\).*Leave the at_z\(\) block first"):
        eval(forbidden)
    assert torch.equal(p.detach(), before[0]) and torch.equal(xi_of(optimizer, p), before[1])


@pytest.mark.parametrize("write", ["p.detach().copy_(new)", "setattr(p, 'data', new.clone())", "p.data.copy_(new)"])
def test_weights_written_at_z_are_the_new_z(write):
    p, new = parameter(), torch.full((4,), 7.0, dtype=torch.float64)
    optimizer = SGD([p], lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    optimizer.step()
    with noise.at_z():
        eval(write)
    torch.testing.assert_close(p.detach(), new + optimizer.state[p]["xi"])
    with noise.at_z():
        torch.testing.assert_close(p.detach(), new)


def test_a_group_that_is_added_at_z_is_coherent():
    p, q = parameter(), parameter()
    optimizer = SGD([p], lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    optimizer.step()
    w = p.detach().clone()
    with noise.at_z():
        optimizer.add_param_group({"params": [q]})
    assert torch.equal(p.detach(), w)
    optimizer.step()
    assert xi_of(optimizer, q).any()


def test_autocast_evaluates_the_weights_that_stand_there():
    model = nn.Linear(8, 8)
    optimizer = SGD(model.parameters(), lr=0.1)
    noise = AntiPGD(optimizer, 0.5)
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    x = torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        at_w = model(x)
        with noise.at_z():
            at_z = model(x)
        again = model(x)
    assert not torch.equal(at_w, at_z) and torch.equal(at_w, again)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_at_z_in_every_gradient_mode(mode):
    p = parameter()
    optimizer = SGD([p], lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    optimizer.step()
    w = p.detach().clone()
    with mode(), noise.at_z():
        assert not torch.equal(p, w)
    assert torch.equal(p.detach(), w)
    optimizer.step()


@pytest.mark.parametrize("law", ["gaussian", "rademacher", "uniform"])
def test_default_dtype_and_device_do_not_matter(law):
    def path():
        p = parameter()
        optimizer = SGD([p], lr=0.1)
        noise = CorrelatedNoise(optimizer, 0.3, cancel=0.5, law=law, seed=1)
        for _ in range(3):
            optimizer.step()
        with noise.at_z():
            return p.detach().clone()

    expected = path()
    p0 = parameter()
    torch.set_default_dtype(torch.float16)
    torch.set_default_device("meta")
    try:
        optimizer = SGD([p0], lr=0.1)
        noise = CorrelatedNoise(optimizer, 0.3, cancel=0.5, law=law, seed=1)
        for _ in range(3):
            optimizer.step()
        with noise.at_z():
            assert torch.equal(p0.detach(), expected)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def test_deterministic_mode_gives_the_same_noise():
    def path():
        p = parameter()
        optimizer = SGD([p], lr=0.1)
        AntiPGD(optimizer, 0.3, seed=1)
        optimizer.step()
        return p.detach().clone()

    expected = path()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(path(), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_eval_mode_of_a_schedule_free_optimizer_is_no_place_for_z():
    p = parameter()
    optimizer = SGD([p], lr=0.1)
    noise = AntiPGD(optimizer, 0.3)
    optimizer.step()
    optimizer.param_groups[0]["train_mode"] = False
    with pytest.raises(RuntimeError, match=r"eval mode.*call optimizer.train\(\) before at_z\(\)"), noise.at_z():
        pass
    optimizer.param_groups[0]["train_mode"] = True
    with noise.at_z():
        pass
