"""The method: correlated parameter noise on any ``torch.optim`` optimizer (paper, equations 1 and 2).

After every step of the optimizer the weights move by

    w  +=  xi_new - cancel * xi_old,        xi = sigma * (independent draws of mean 0 and variance 1)

``cancel = 1`` is Anti-PGD, ``cancel = 0`` is PGD, and the numbers between are the dial from one to the
other. The noise is added to the weights and not to the gradient: the learning rate does not scale it and
momentum does not filter it. Both would break the cancellation on which the method rests.
"""

import contextlib
import hashlib
import math
import struct
import warnings
import weakref

import torch

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
    optimizer, for each parameter that has a gradient.

    optimizer: a ``torch.optim.Optimizer``.
    sigma: standard deviation of each coordinate of xi, in the units of the weights; >= 0.
    cancel: the share of the previous perturbation that is taken back, in [0, 1], dimensionless.
    law: "gaussian", "rademacher" or "uniform".
    seed: 64-bit integer. Every draw is keyed by (seed, step, group, parameter), so it needs no saved generator,
        replicas of a model agree without talking, and the global random state is left alone.

    Five entries join every parameter group: ``sigma`` and ``cancel`` (change them at any time, per group),
    ``noise_law``, ``noise_seed`` and ``noise_step``. A group that has one already, from the caller or from a
    loaded checkpoint, keeps its own; loading a checkpoint brings its values along, as it does for ``lr``.
    The current xi stands in ``optimizer.state[p]["xi"]`` and is saved with the rest.

    A model without noise on BatchNorm is one line:
    ``SGD([{"params": weights}, {"params": norms, "sigma": 0.0}], lr=0.1)``.

    Copies and pickles of an optimizer lose their hooks, in torch: attach the noise to the copy.

    Raises TypeError for something that is no optimizer, for complex or sharded parameters, and, at the step,
    for sparse gradients; ValueError for a bad sigma, cancel, law or seed, RuntimeError where noise is attached
    already. All are raised before anything has changed. Warns on half-precision parameters.
    Source: paper, equations (1) and (2).
    """

    def __init__(self, optimizer, sigma, *, cancel, law="gaussian", seed=0):
        check_optimizer(optimizer)
        self._defaults = {
            "sigma": sigma,
            "cancel": cancel,
            "noise_law": law,
            "noise_seed": seed,
            "noise_step": 0,
        }
        check_group(self._defaults)
        # Plain floats: a checkpoint that holds numpy's does not load with weights_only=True.
        self._defaults.update(sigma=float(sigma), cancel=float(cancel))
        for group in optimizer.param_groups:
            check_group({**self._defaults, **group})
        warn_of_half_precision(optimizer)

        self.optimizer = optimizer
        self._generators = {}
        self._away = False  # the weights stand at z for the moment
        optimizer.defaults.update(self._defaults)  # groups that are added later inherit these
        self._fill_groups(optimizer)
        self._hooks = [
            optimizer.register_step_pre_hook(self._check),
            optimizer.register_step_post_hook(self._perturb),
            optimizer.register_load_state_dict_post_hook(self._fill_groups),
        ]
        _attached.add(optimizer)

    @contextlib.contextmanager
    def at_z(self):
        """Inside the ``with`` block the weights stand at ``z = w - cancel * xi``; afterwards at w, bit for bit.

        For Anti-PGD this is the paper's z (equation 3), the point that its theory speaks of; for PGD z is w.
        The weights return also when the block raises. Stepping the optimizer inside raises RuntimeError.
        """
        if self._away:
            raise RuntimeError("The weights stand at z already: leave the outer at_z() block first.")
        outstanding = list(self._outstanding())
        saved = [p.detach().clone() for p, _ in outstanding]
        self._away = True
        try:
            self._take_back(outstanding)
            yield
        finally:
            self._away = False
            with torch.no_grad():
                for (p, _), w in zip(outstanding, saved):
                    p.copy_(w)

    def detach(self):
        """Take the noise off: the weights move to z, and the optimizer is a plain one again.

        A sigma or cancel of a group's own goes with the rest: give it again before attaching anew.
        """
        if self._away:
            raise RuntimeError("The weights stand at z for the moment: leave the at_z() block before detach().")
        self._take_back(self._outstanding())
        for hook in self._hooks:
            hook.remove()
        for p, state in list(self.optimizer.state.items()):
            state.pop("xi", None)
            if not state:  # ours was the only entry: plain SGD keeps no state
                del self.optimizer.state[p]
        for entries in (self.optimizer.defaults, *self.optimizer.param_groups):
            for key in self._defaults:
                entries.pop(key, None)
        _attached.discard(self.optimizer)

    def _fill_groups(self, optimizer):
        for group in optimizer.param_groups:
            for key, value in self._defaults.items():
                group.setdefault(key, value)

    def _check(self, optimizer, args, kwargs):
        """Before the step: refuse what the noise could not follow, while nothing has changed yet."""
        if self._away:
            raise RuntimeError(
                "optimizer.step() inside at_z(): the step would be lost when the weights return to w. "
                "Leave the at_z() block before stepping."
            )
        for group in optimizer.param_groups:
            check_group(group)
            for p in group["params"]:
                check_parameter(p)
                if p.grad is not None and p.grad.layout is not torch.strided:
                    raise TypeError(
                        "A parameter has a sparse gradient. The noise moves every weight, so a sparse update would "
                        "become a dense one. Build the embedding with sparse=False, or give its parameters an "
                        "optimizer of their own without noise."
                    )

    @torch.no_grad()
    def _perturb(self, optimizer, args, kwargs):
        if step_was_skipped(optimizer):
            return
        for g, group in enumerate(optimizer.param_groups):
            stepped = [(i, p) for i, p in enumerate(group["params"]) if p.grad is not None]
            if only_allocates(group, stepped, optimizer.state):
                for _, p in stepped:
                    optimizer.state[p]["xi"] = torch.zeros_like(p)
                continue
            group["noise_step"] += 1
            for i, p in stepped:
                self._move(p, optimizer.state[p], group, (g, i))

    def _move(self, p, state, group, position):
        old = state.pop("xi", None)
        if group["sigma"] == 0:  # lands on z, and without noise before it touches no bit of w
            if old is not None:
                p.sub_(old * group["cancel"])  # rounded as in at_z()
            return
        new = self._draw(p, group, position).mul_(group["sigma"])
        # One combined write: two would round twice, and the roundings of z add up.
        p.add_(new if old is None else new.sub(old, alpha=group["cancel"]))
        state["xi"] = new  # a new tensor each time: state_dict() hands out the live ones

    def _draw(self, p, group, position):
        if p.device not in self._generators:
            self._generators[p.device] = torch.Generator(p.device)
        seed = keyed_seed(group["noise_seed"], group["noise_step"], *position)
        return draw(group["noise_law"], torch.empty_like(p), self._generators[p.device].manual_seed(seed))

    def _outstanding(self):
        """Each parameter that carries noise, with the part of it that the next step takes back."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                xi = self.optimizer.state.get(p, {}).get("xi")
                if xi is not None:
                    yield p, xi * group["cancel"]

    @torch.no_grad()
    def _take_back(self, outstanding):
        for p, noise in outstanding:
            p.sub_(noise)


class AntiPGD(CorrelatedNoise):
    """Anti-PGD on an existing optimizer: ``w += xi_new - xi_old`` after each step (paper, equation 2).

    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> noise = AntiPGD(optimizer, sigma=0.01)
    >>> ...                     # train as before
    >>> with noise.at_z():      # evaluate without the noise of the last step
    ...     evaluate(model)

    Arguments, entries in the parameter groups and errors: see ``CorrelatedNoise``.
    """

    def __init__(self, optimizer, sigma, *, law="gaussian", seed=0):
        super().__init__(optimizer, sigma, cancel=1.0, law=law, seed=seed)


class PGD(CorrelatedNoise):
    """Perturbed gradient descent on an existing optimizer: ``w += xi_new`` after each step (paper, equation 1).

    Arguments, entries in the parameter groups and errors: see ``CorrelatedNoise``.
    """

    def __init__(self, optimizer, sigma, *, law="gaussian", seed=0):
        super().__init__(optimizer, sigma, cancel=0.0, law=law, seed=seed)


_attached = weakref.WeakSet()  # optimizers that carry noise; copies of them lose the hooks and are not in here


def step_was_skipped(optimizer):
    """Whether a fused kernel found an infinite gradient: under a GradScaler it then leaves the weights alone."""
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf.item())


def only_allocates(group, stepped, state):
    """Whether this step is a checkpointer's: torch.distributed.checkpoint makes an optimizer create its state by
    one step with learning rate 0 and zero gradients, after which the weights are expected where they were."""
    return (
        float(group.get("lr", 1.0)) == 0
        and group["sigma"] > 0
        and not any("xi" in state[p] for _, p in stepped)
        and not any(bool(p.grad.any()) for _, p in stepped)
    )


def check_law(law):
    if law not in LAWS:
        raise ValueError(f"Unknown noise law {law!r}. Choose one of: {', '.join(LAWS)}.")


def check_noise(sigma, cancel):
    if not isinstance(sigma, (int, float)) or not math.isfinite(sigma) or sigma < 0:
        raise ValueError(
            f"sigma is {sigma!r}. It is the standard deviation of the noise on each weight: "
            "a finite number >= 0, given as a Python number (0 switches the noise off)."
        )
    if not isinstance(cancel, (int, float)) or not 0 <= cancel <= 1:
        raise ValueError(f"cancel is {cancel!r}. It lies between 0 (PGD) and 1 (Anti-PGD).")


def check_group(group):
    check_noise(group["sigma"], group["cancel"])
    check_law(group["noise_law"])
    seed = group["noise_seed"]
    if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed is {seed!r}. It is an integer of at most 64 bits with its sign.")


def check_optimizer(optimizer):
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"Noise attaches to a torch.optim.Optimizer, and this is a {type(optimizer).__name__}. "
            "Pass the optimizer itself: not the model, its parameters, a scheduler or a wrapper around it."
        )
    if optimizer in _attached:
        raise RuntimeError(
            "This optimizer carries noise already. Change group['sigma'] or group['cancel'] in its param_groups, "
            "or call detach() on the noise object first."
        )
    for group in optimizer.param_groups:
        for p in group["params"]:
            check_parameter(p)


def check_parameter(p):
    if p.is_complex():
        raise TypeError("A parameter is complex, and the noise is real. Store its two parts as real tensors.")
    if hasattr(p, "to_local") and hasattr(p, "device_mesh"):
        raise TypeError(
            "A parameter is sharded (DTensor): every shard would draw the same noise. "
            "Train with replicated parameters (DistributedDataParallel) or without noise."
        )


def warn_of_half_precision(optimizer):
    halves = {p.dtype for group in optimizer.param_groups for p in group["params"] if p.element_size() < 4}
    if halves:
        names = ", ".join(sorted(str(dtype) for dtype in halves))
        warnings.warn(
            f"Parameters are stored as {names}: rounding at each step keeps the noise from cancelling, and z drifts "
            "like a random walk. Keep the weights in float32 and use autocast for the speed.",
            stacklevel=4,
        )
