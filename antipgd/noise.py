"""The method: correlated parameter noise on any ``torch.optim`` optimizer (paper, equations 1 and 2).

After every step of the optimizer the weights move by

    w  +=  xi_new - cancel * xi_old,        xi = sigma * (independent draws of mean 0 and variance 1)

``cancel = 1`` is Anti-PGD, ``cancel = 0`` is PGD, and the numbers between are the dial from one to the
other. The noise is added to the weights and not to the gradient: the learning rate does not scale it and
momentum does not filter it. Both would break the cancellation on which the method rests.

Here stand the law of the noise and the rule. What may carry it, and what is refused, is in ``guards.py``.
"""

import contextlib
import hashlib
import itertools
import math
import numbers
import struct

import torch

from antipgd import guards
from antipgd.guards import ENTRIES, is_sharded, local, part_of

SQRT3 = math.sqrt(3.0)


def random_signs(out, generator):
    """Fill ``out`` with +1 and -1: 64 of them from each draw of 64 bits, several times cheaper than 64 draws."""
    bits = torch.empty(-(-out.numel() // 64), dtype=torch.int64, device=out.device)
    bits.random_(-(2**63), None, generator=generator)
    places = torch.arange(8, dtype=torch.uint8, device=out.device).unsqueeze(-1)
    signs = (bits.view(torch.uint8) >> places).bitwise_and_(1).view(torch.int8).mul_(2).sub_(1)
    return out.copy_(signs.flatten()[: out.numel()].view(out.shape))


LAWS = {
    "gaussian": lambda out, generator: out.normal_(generator=generator),
    "rademacher": random_signs,
    "uniform": lambda out, generator: out.uniform_(-SQRT3, SQRT3, generator=generator),
}


def check_law(law):
    if law not in LAWS:
        raise ValueError(f"Unknown noise law {law!r}. Choose one of: {', '.join(LAWS)}.")


def draw(law, out, generator):
    """Fill ``out`` with independent draws of mean 0 and variance 1, and return it.

    law: a name in ``LAWS``; "rademacher" is the symmetric Bernoulli noise of the paper's theorems.
    out: floating-point tensor of any shape. generator: a ``torch.Generator`` on its device.
    Raises ValueError for an unknown law.
    """
    check_law(law)
    return LAWS[law](out, generator)


def keyed_seed(*key):
    """A 64-bit seed that depends on every integer of the key, and mixes them well.

    Torch's CPU generator keeps the lower 32 bits of a seed, its CUDA generator all 64. So on a CPU two given
    draws are the same with probability 2**-32; no global random state is read or moved on either.
    """
    digest = hashlib.blake2b(struct.pack(f"{len(key)}q", *key), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class CorrelatedNoise:
    """Noise with a chosen cancellation on an existing optimizer: ``w += xi_new - cancel * xi_old`` after each step.

    The optimizer stays the caller's own object: schedulers, gradient scalers, ``state_dict`` and training
    frameworks see what they saw before. It starts with ``xi_0 = 0``. One draw is made per step of the
    optimizer, for each parameter that has a gradient (of a step with a closure: after the closure's last call). One that
    has none, frozen perhaps, keeps its xi until it steps again; ``at_z`` and ``detach`` take it off there, too.

    optimizer: a ``torch.optim.Optimizer``, and not a wrapper around one.
    sigma: standard deviation of each coordinate of xi, in the units of the weights; >= 0.
    cancel: the share of the previous perturbation that is taken back, in [0, 1], dimensionless.
    law: "gaussian", "rademacher" or "uniform".
    seed: 64-bit integer; give the run's own. By default the next number of this process, 0, 1, ...: two optimizers have
        different noise, but a program that is started anew has the same, whatever ``torch.manual_seed`` says, and
        replicas agree if they make their noise objects in one order. Every draw is keyed by (seed, step, group,
        parameter): it needs no saved generator, replicas of a model agree without talking, and the global random state
        is left alone. A sharded parameter (DTensor) gets its part of the noise of the whole tensor, so that the run does
        not depend on how the tensor is cut.

    Five entries join every parameter group: ``sigma`` and ``cancel`` (change them at any time, per group),
    ``noise_law``, ``noise_seed`` and ``noise_step``. A group that has one already, from the caller or from a
    loaded checkpoint, keeps its own; loading a checkpoint brings its values along, as it does for ``lr``. A group
    that is added later has them from its first step on. The current xi stands in ``optimizer.state[p]["xi"]`` and
    is saved with the rest; like torch's own momenta it is written in place, so a ``state_dict`` that is kept in
    memory and not copied follows the training.

    A model without noise on BatchNorm is one line:
    ``SGD([{"params": weights}, {"params": norms, "sigma": 0.0}], lr=0.1)``.

    A copy or an unpickled noise object is attached to its copy of the optimizer. An optimizer that is copied or
    unpickled alone loses its hooks, in torch, and its first step warns of that: attach the noise to the copy.

    Raises TypeError for something that is no optimizer or a wrapper around one, for complex parameters, for parameters
    whose shards cannot be told apart (FSDP1, ZeRO; at the step DeepSpeed, Megatron), and, at the step, for sparse
    gradients; ValueError for a bad sigma, cancel, law or seed, or where the optimizer has a setting of one of these
    names; RuntimeError where noise is attached already. All are raised before anything has changed. Warns on
    half-precision parameters.
    Source: paper, equations (1) and (2).
    """

    def __init__(self, optimizer, sigma, *, cancel, law="gaussian", seed=None):
        guards.check_optimizer(optimizer)
        self._entries = checked({
            "sigma": sigma,
            "cancel": cancel,
            "noise_law": law,
            "noise_seed": next(_seeds) if seed is None else seed,
            "noise_step": 0,
        })
        for group in optimizer.param_groups:
            checked({**self._entries, **group})
        self.optimizer = optimizer
        self._generators = {}
        self._away = False  # the weights stand at z for the moment
        self._seen = set()  # ids of the parameters that were checked
        self._carriers = {}  # id of a parameter that has a xi: (the parameter, its xi, its group)
        self._resting = set()  # ids of the parameters whose xi is zero
        self._stepping = {}  # of the step that is under way, parameters with a gradient: (number of group, of parameter)
        self._allocating = set()  # of the same step, numbers of the groups whose state a checkpointer wants to see
        self._follow_groups()
        self._know_carriers()
        # In place of these calls a compiled step would trace the keys, anew at each step.
        before, after = torch.compiler.disable(self._before_step), torch.compiler.disable(self._after_step)
        self._hooks = [
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
            optimizer.register_state_dict_pre_hook(self._before_saving),
            optimizer.register_load_state_dict_pre_hook(self._before_loading),
            optimizer.register_load_state_dict_post_hook(self._after_loading),
        ]
        guards.attached.add(optimizer)

    # The rule.

    @torch.no_grad()
    def _after_step(self, optimizer, args, kwargs):
        if guards.inside_its_own_step(optimizer):
            return
        stepping, self._stepping = self._stepping, {}
        if guards.step_was_skipped(optimizer):
            return
        for g, group in enumerate(optimizer.param_groups):
            stepped = [(p, place) for p, place in stepping.items() if place[0] == g]
            for p, _ in stepped:
                self._carry(p, group)
            if g in self._allocating:
                continue
            group["noise_step"] += 1
            for part in in_parts(stepped):
                self._move(part, group)

    def _move(self, part, group):
        """``w += xi_new - cancel * xi_old``, and xi_new takes the place of xi_old; for several parameters in one call."""
        if group["sigma"] == 0:  # this step lands on z; the next ones touch no bit of w
            part = [(p, place) for p, place in part if id(p) not in self._resting]
        if not part:
            return
        weights, xi = zip(*((local(p), local(self._carriers[id(p)][1])) for p, _ in part))
        torch._foreach_mul_(xi, -group["cancel"])
        # One combined write to the weights: two would round twice, and the roundings of z add up.
        if group["sigma"] == 0:
            torch._foreach_add_(weights, xi)
            torch._foreach_zero_(xi)
            self._resting.update(id(p) for p, _ in part)
        else:
            new = [local(self._draw(p, group, place)) for p, place in part]
            torch._foreach_mul_(new, group["sigma"])
            torch._foreach_add_(xi, new)
            torch._foreach_add_(weights, xi)
            torch._foreach_copy_(xi, new)
            self._resting.difference_update(id(p) for p, _ in part)

    def _draw(self, p, group, place):
        device = local(p).device
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        seed = keyed_seed(group["noise_seed"], group["noise_step"], *place)
        whole = torch.empty(p.shape, dtype=p.dtype, device=device) if is_sharded(p) else torch.empty_like(p)
        return part_of(draw(group["noise_law"], whole, self._generators[device].manual_seed(seed)), p)

    @contextlib.contextmanager
    def at_z(self):
        """Inside the ``with`` block the weights stand at ``z = w - cancel * xi``; afterwards at w, bit for bit.

        For Anti-PGD this is the paper's z (equation 3), the point that its theory speaks of; for PGD z is w.
        The weights return also when the block raises. Weights that the block has written itself are the new z, and on
        leaving the noise comes on top of them. Stepping, saving or loading the optimizer inside raises RuntimeError, as
        does entering or leaving where the optimizer has put other weights into the model (schedule-free's eval mode),
        and where FSDP2 keeps weights that it gathered in a forward pass without a backward one: ``model.reshard()``.
        """
        self._refuse_at_z("at_z()")
        noisy = list(self._outstanding())
        guards.check_move(self.optimizer, [p for p, *_ in noisy])
        self._away = True
        try:
            with torch.no_grad():
                noisy = [(p, p.detach().clone(), xi, cancel) for p, xi, cancel in noisy]
                for p, _, xi, cancel in noisy:
                    p.sub_(xi * cancel)
            torch.clear_autocast_cache()  # it holds casts of the weights at w
            yield
            guards.check_move(self.optimizer, [p for p, *_ in noisy])
        finally:
            self._away = False
            with torch.no_grad():
                for p, w, xi, cancel in noisy:
                    untouched = torch.equal(local(p), local(w - xi * cancel))
                    p.copy_(w if untouched else p + xi * cancel)
            torch.clear_autocast_cache()

    @torch.no_grad()
    def forget(self):
        """Say that the weights as they stand carry no noise: xi becomes zero, and no weight moves.

        For weights that were replaced from outside by some without noise: averages (SWA, EMA) that were taken at z and
        stay in the model, a model that was saved at z. Not for a checkpoint from under the noise: its weights carry the xi
        of their own step, so load its optimizer, too.
        """
        self._refuse_at_z("forget()")
        for p, xi, _ in self._carriers.values():
            xi.zero_()
            self._resting.add(id(p))

    @torch.no_grad()
    def detach(self):
        """Take the noise off: the weights move to z, and the optimizer is a plain one again.

        A sigma or cancel of a group's own goes with the rest: give it again before attaching anew.
        """
        self._refuse_at_z("detach()")
        noisy = list(self._outstanding())
        guards.check_move(self.optimizer, [p for p, *_ in noisy])
        for p, xi, cancel in noisy:
            p.sub_(xi * cancel)
        for hook in self._hooks:
            hook.remove()
        for p, _, _ in self._carriers.values():
            if "xi" in (state := self.optimizer.state.get(p, {})):
                del state["xi"]
                if not state:  # ours was the only entry: plain SGD keeps no state
                    del self.optimizer.state[p]
        for group in self.optimizer.param_groups:
            for name in ENTRIES:
                group.pop(name, None)
        self._carriers.clear()
        guards.attached.discard(self.optimizer)

    # What can happen to the optimizer between its steps.

    def _before_step(self, optimizer, args, kwargs):
        """Refuse what the noise could not follow while nothing has changed yet, and note who has a gradient."""
        if guards.inside_its_own_step(optimizer):
            return None
        self._refuse_at_z("optimizer.step()")
        self._follow_groups()
        self._let_go()
        self._note_gradients()
        return guards.with_closure(args, kwargs, self._note_gradients)

    def _note_gradients(self):
        """Now, since some optimizers consume them in the step; where a closure makes them, after it."""
        self._stepping, self._allocating = {}, set()
        for g, group in enumerate(self.optimizer.param_groups):
            mine = {p: (g, i) for i, p in reversed(list(enumerate(group["params"]))) if p.grad is not None}
            for p in mine:
                guards.check_gradient(p)
            if guards.only_allocates(group, mine, self._carriers):
                self._allocating.add(g)
            self._stepping = {**mine, **self._stepping}  # a parameter that is reached twice is drawn for once

    def _follow_groups(self):
        """Fill our entries into groups that lack them, and check what somebody may have set or added."""
        entries = [checked({**self._entries, **group}) for group in self.optimizer.param_groups]
        new = [p for group in self.optimizer.param_groups for p in group["params"] if id(p) not in self._seen]
        if new:
            guards.check_holders(self.optimizer)
        for p in new:
            guards.check_parameter(p)
        for group, its_entries in zip(self.optimizer.param_groups, entries):
            group.update(its_entries)
        guards.warn_of_half_precision(new)
        self._seen.update(map(id, new))

    def _carry(self, p, group):
        """The xi of a parameter, in the optimizer's state: new, or put back where the state was cleared."""
        known = self._carriers.get(id(p))
        if known is None:
            self._resting.add(id(p))
        xi = self.optimizer.state[p].setdefault("xi", torch.zeros_like(p) if known is None else known[1])
        self._carriers[id(p)] = (p, xi, group)

    def _know_carriers(self):
        """From a state that came from elsewhere: who has a xi, and which."""
        self._carriers, self._resting = {}, set()
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if "xi" in (state := self.optimizer.state.get(p, {})):
                    state["xi"] = state["xi"].clone()  # after load_state_dict it may be the tensor of another optimizer
                    self._carriers[id(p)] = (p, state["xi"], group)

    @torch.no_grad()
    def _let_go(self):
        """Parameters that were taken out of the optimizer land on z."""
        members = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for key in self._carriers.keys() - members:
            p, xi, group = self._carriers.pop(key)
            if key not in self._resting:
                p.sub_(xi * group["cancel"])
            self._resting.discard(key)
            self._seen.discard(key)
            self.optimizer.state.get(p, {}).pop("xi", None)

    def _outstanding(self):
        """Each parameter that carries noise, its xi, and the share of it that the next step takes back."""
        for p, xi, group in self._carriers.values():
            if id(p) not in self._resting:
                yield p, xi, group["cancel"]

    def _before_saving(self, optimizer):
        self._refuse_at_z("saving the optimizer")
        for group in optimizer.param_groups:
            group.update(plain({**self._entries, **group}))
        for p, _, _ in self._outstanding():
            if "xi" not in optimizer.state.get(p, {}):
                raise RuntimeError(
                    "The optimizer's state was cleared, and its weights carry noise: saved now, they would keep it for "
                    "good. Take a step first, which puts xi back, or call forget() if the weights were replaced."
                )

    def _before_loading(self, optimizer, state_dict):
        self._refuse_at_z("loading the optimizer")
        for group in state_dict["param_groups"]:
            guards.check_loaded_group(group)
            checked({**self._entries, **group})

    def _after_loading(self, optimizer):
        self._follow_groups()
        self._know_carriers()

    def _refuse_at_z(self, what):
        if self._away:
            raise RuntimeError(
                f"{what} inside at_z(): the weights stand at z for the moment and return to w. "
                "Leave the at_z() block first."
            )

    def __reduce__(self):
        return attach, (type(self), self.optimizer, self._entries)


class AntiPGD(CorrelatedNoise):
    """Anti-PGD on an existing optimizer: ``w += xi_new - xi_old`` after each step (paper, equation 2).

    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> noise = AntiPGD(optimizer, sigma=0.01)
    >>> train(model, optimizer)  # as before
    >>> with noise.at_z():  # without the noise of the last step
    ...     evaluate(model)

    Arguments, entries in the parameter groups and errors: see ``CorrelatedNoise``.
    """

    def __init__(self, optimizer, sigma, *, law="gaussian", seed=None):
        super().__init__(optimizer, sigma, cancel=1.0, law=law, seed=seed)


class PGD(CorrelatedNoise):
    """Perturbed gradient descent on an existing optimizer: ``w += xi_new`` after each step (paper, equation 1).

    Arguments, entries in the parameter groups and errors: see ``CorrelatedNoise``.
    """

    def __init__(self, optimizer, sigma, *, law="gaussian", seed=None):
        super().__init__(optimizer, sigma, cancel=0.0, law=law, seed=seed)


_seeds = itertools.count()  # of noise objects that were given none
AT_ONCE = 2**18  # coordinates that are moved in one call: many small tensors, or one large one, for memory's sake


def in_parts(stepped):
    """Cut a list of (parameter, place) into lists of at most AT_ONCE coordinates; one that has more stays alone."""
    part, size = [], 0
    for p, place in stepped:
        if part and size + p.numel() > AT_ONCE:
            yield part
            part, size = [], 0
        part.append((p, place))
        size += p.numel()
    if part:
        yield part


def attach(cls, optimizer, entries):
    """A noise object of this class on the copy of an optimizer; the copy's groups hold what was set since."""
    noise = cls.__new__(cls)
    settings = {"cancel": entries["cancel"], "law": entries["noise_law"], "seed": entries["noise_seed"]}
    CorrelatedNoise.__init__(noise, optimizer, entries["sigma"], **settings)
    return noise


def checked(group):
    """The five entries of a group as plain Python numbers, or ValueError."""
    check_noise(group["sigma"], group["cancel"])
    check_law(group["noise_law"])
    for name in ("noise_seed", "noise_step"):
        if not isinstance(group[name], numbers.Integral) or not -(2**63) <= group[name] < 2**63:
            raise ValueError(f"{name} is {group[name]!r}. It is an integer of at most 64 bits with its sign.")
    return plain(group)


def plain(group):
    """The entries with Python's numbers for numpy's: a checkpoint with these does not load with weights_only=True."""

    def python_number(value):
        if isinstance(value, numbers.Integral):
            return int(value)
        return float(value) if isinstance(value, numbers.Real) else value

    return {name: python_number(group[name]) for name in ENTRIES}


def check_noise(sigma, cancel):
    if not isinstance(sigma, numbers.Real) or not math.isfinite(sigma) or sigma < 0:
        raise ValueError(
            f"sigma is {sigma!r}. It is the standard deviation of the noise on each weight: "
            "a finite number >= 0, given as a Python number (0 switches the noise off)."
        )
    if not isinstance(cancel, numbers.Real) or not 0 <= cancel <= 1:
        raise ValueError(f"cancel is {cancel!r}. It lies between 0 (PGD) and 1 (Anti-PGD).")
