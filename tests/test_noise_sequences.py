"""Random sequences of what a training run does to an optimizer: at every moment the weights are those of the rule.

The rule by hand, for heavy ball on |p|^2 / 2: velocity' = momentum * velocity + p, and
p' = p - lr * velocity' + xi' - cancel * xi. So p - cancel * xi follows the noiseless recursion, evaluated at p.
"""

import copy
import gc
import io

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import SGD

from antipgd.noise import LAWS, CorrelatedNoise

LR, MOMENTUM = 0.1, 0.5


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    """The noise looks among all objects for what holds an optimizer; those that were there before do not, and are many."""
    gc.freeze()
    yield
    gc.unfreeze()


STRENGTHS, SHARES = st.sampled_from([0.0, 0.1, 0.7]), st.sampled_from([0.0, 0.5, 1.0])


class Model(nn.Module):
    """Parameters that may join later; each has its place in the list that the rule by hand goes through."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ParameterList([filled(i) for i in range(2)])


def filled(i):
    return nn.Parameter(torch.linspace(1, 2 + i, 3, dtype=torch.float64))


class Training(RuleBasedStateMachine):
    @initialize(sigma=STRENGTHS, cancel=SHARES)
    def begin(self, sigma, cancel):
        self.model = Model()
        self.optimizer = SGD(self.model.parts, lr=LR, momentum=MOMENTUM)
        self.noise = CorrelatedNoise(self.optimizer, sigma, cancel=cancel, seed=0)
        self.w = [p.detach().clone() for p in self.model.parts]
        self.velocity = [torch.zeros(3, dtype=torch.float64) for _ in self.w]
        self.xi = [torch.zeros(3, dtype=torch.float64) for _ in self.w]
        self.steps = 0

    def groups(self):
        return [(group, [self.at(p) for p in group["params"]]) for group in self.optimizer.param_groups]

    def at(self, p):
        return next(i for i, q in enumerate(self.model.parts) if q is p)

    def gradients(self):
        for p in self.model.parts:
            p.grad = p.detach().clone() if p.requires_grad else None

    @rule()
    def step(self):
        self.gradients()
        self.optimizer.step()
        self.steps += 1
        for group, places in self.groups():
            for i in places:
                p = self.model.parts[i]
                if p.grad is None:
                    continue
                self.velocity[i] = MOMENTUM * self.velocity[i] + self.w[i]
                new = self.optimizer.state[p]["xi"].clone()
                assert new.any() == (group["sigma"] > 0)
                self.w[i] = self.w[i] - LR * self.velocity[i] + new - group["cancel"] * self.xi[i]
                self.xi[i] = new

    @rule(sigma=STRENGTHS, cancel=SHARES, law=st.sampled_from(sorted(LAWS)), g=st.integers(0, 3))
    def set_entries(self, sigma, cancel, law, g):
        group = self.optimizer.param_groups[g % len(self.optimizer.param_groups)]
        group.update(sigma=sigma, cancel=cancel, noise_law=law)

    @rule(i=st.integers(0, 3))
    def freeze_or_unfreeze(self, i):
        p = self.model.parts[i % len(self.model.parts)]
        p.requires_grad_(not p.requires_grad)

    @precondition(lambda self: len(self.model.parts) < 4)
    @rule()
    def add_group(self):
        self.model.parts.append(filled(len(self.model.parts)))
        self.optimizer.add_param_group({"params": [self.model.parts[-1]]})
        self.w.append(self.model.parts[-1].detach().clone())
        self.velocity.append(torch.zeros(3, dtype=torch.float64))
        self.xi.append(torch.zeros(3, dtype=torch.float64))

    def rebuild(self):
        """Another model and optimizer of the same shape, with other settings, which a checkpoint overrides."""
        model = Model()
        model.parts.extend([filled(9) for _ in range(len(self.model.parts) - 2)])
        for p, q in zip(model.parts, self.model.parts):
            p.requires_grad_(q.requires_grad)
        groups = [{"params": [model.parts[i] for i in places]} for _, places in self.groups()]
        optimizer = SGD(groups, lr=LR, momentum=MOMENTUM)
        return model, optimizer, CorrelatedNoise(optimizer, 0.3, cancel=0.3, seed=1)

    @rule()
    def save_and_load_through_a_file(self):
        file = io.BytesIO()
        torch.save([self.model.state_dict(), self.optimizer.state_dict()], file)
        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        self.model, self.optimizer, self.noise = self.rebuild()
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(state)

    @precondition(lambda self: self.steps and all(p.requires_grad for p in self.model.parts))
    @rule()
    def save_and_load_through_the_distributed_checkpoint(self):
        self.step()  # it saves only state that every parameter has
        state = copy.deepcopy([self.model.state_dict(), get_optimizer_state_dict(self.model, self.optimizer)])
        self.model, self.optimizer, self.noise = self.rebuild()
        self.model.load_state_dict(state[0])
        set_optimizer_state_dict(self.model, self.optimizer, state[1])

    @rule()
    def copy_everything(self):
        self.model, self.optimizer, self.noise = copy.deepcopy((self.model, self.optimizer, self.noise))

    @rule()
    def replace_the_weights(self):
        with torch.no_grad():
            for i, p in enumerate(self.model.parts):
                p.fill_(1.5)
                self.w[i] = p.detach().clone()
                self.xi[i].zero_()
        self.noise.forget()

    @rule(sigma=STRENGTHS, cancel=SHARES)
    def detach_and_attach_again(self, sigma, cancel):
        for group, places in self.groups():
            for i in places:
                self.w[i] = self.w[i] - group.get("cancel", 0.0) * self.xi[i]
                self.xi[i] = torch.zeros(3, dtype=torch.float64)
        self.noise.detach()
        assert not any("sigma" in group for group in self.optimizer.param_groups)
        self.noise = CorrelatedNoise(self.optimizer, sigma, cancel=cancel, seed=2)

    @rule()
    def write_weights_at_z(self):
        with self.noise.at_z(), torch.no_grad():
            for p in self.model.parts:
                p.mul_(2)
        for group, places in self.groups():
            for i in places:
                noise = group.get("cancel", 0.0) * self.xi[i]
                self.w[i] = 2 * (self.w[i] - noise) + noise

    @rule(value=st.sampled_from([-1.0, float("nan"), "1"]), name=st.sampled_from(["sigma", "cancel", "noise_law"]))
    def a_wrong_entry_moves_nothing(self, value, name):
        group = self.optimizer.param_groups[0]
        had = {key: group[key] for key in [name] if key in group}
        group[name] = value
        self.gradients()
        with pytest.raises(ValueError):
            self.optimizer.step()
        group.pop(name)
        group.update(had)

    @invariant()
    def the_weights_are_those_of_the_rule(self):
        if not hasattr(self, "model"):
            return
        for p, w in zip(self.model.parts, self.w):
            torch.testing.assert_close(p.detach(), w, rtol=1e-10, atol=1e-10)
        before = [p.detach().clone() for p in self.model.parts]
        with self.noise.at_z():
            for group, places in self.groups():
                for i in places:
                    z = self.w[i] - group.get("cancel", 0.0) * self.xi[i]
                    torch.testing.assert_close(self.model.parts[i].detach(), z, rtol=1e-10, atol=1e-10)
        assert all(torch.equal(p, q) for p, q in zip(self.model.parts, before))


TestTraining = Training.TestCase
TestTraining.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
