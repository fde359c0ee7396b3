"""How strong the noise should be, and how its strength changes during training (paper, equations 5 and 6).

Around a point z the noise raises the mean loss by ``sigma**2 / 2 * Tr Hessian``, to leading order: the term that
Anti-PGD minimises together with the loss. So the rise of the loss that one is ready to pay for flatness names a sigma,
in units of the loss and not of the weights.
"""

import math
from typing import NamedTuple

import torch

from antipgd.curvature import call, check_whole, evaluating, move, returning, weights_of
from antipgd.noise import check_law, draw, keyed_seed


class Strength(NamedTuple):
    """sigma, and what noise of this sigma was measured to do: the mean rise of the loss, and its standard error."""

    sigma: float
    rise: float
    stderr: float


def sigma_for(model, loss, batches, *, rise, law="gaussian", draws=8, seed=0, weight=None):
    """The sigma at which noise on the weights raises the mean loss by ``rise``, from the weights where they stand.

    Measured, not computed from the Hessian: the loss is evaluated at w + sigma v and w - sigma v for a few noises v, the
    same ones for each sigma that is tried, until the mean rise is within five percent of the wished one. It takes about
    ten times 2 * draws passes over the batches, without gradients.

    model, loss, batches, weight: as for ``hessian_trace``; the model is evaluated in eval mode, and its weights and modes
    come back as they were. Call it inside ``noise.at_z()`` where the weights carry noise. rise: the wished rise of the
    loss, > 0, in the units of the loss. law: the noise's law. draws: pairs of noises, at least 2.

    Raises ValueError for a rise that is not a positive number, fewer than two draws or sharded weights, and RuntimeError
    where there is no such sigma: where noise lowers the loss (the weights are not near a minimum), or where no noise
    raises it that far.
    """
    check_law(law)
    if not (math.isfinite(rise) and rise > 0) or draws < 2:
        raise ValueError(f"rise is {rise!r} and draws {draws!r}: the rise is a positive number, and two draws the fewest.")
    batches = list(batches)
    weights = weights_of(batches, weight)
    parameters = [p for p in model.parameters() if p.requires_grad]
    check_whole(parameters)
    with evaluating(model), torch.no_grad(), returning(parameters) as start:

        def mean_loss():
            losses = [loss(call(model, inputs), targets).item() * share for (inputs, targets), share in zip(batches, weights)]
            return sum(losses) / sum(weights)

        def measured(sigma):
            """The rise, and its standard error, at this sigma."""
            rises = torch.zeros(draws, dtype=torch.float64)
            for i in range(draws):
                for sign in (sigma, -sigma):
                    displace(parameters, start, sign, law, keyed_seed(seed, i))
                    rises[i] += (mean_loss() - here) / 2
            return rises.mean().item(), rises.std().item() / draws**0.5

        here = mean_loss()
        scale = math.sqrt(sum(p.square().sum().item() for p in start) / sum(p.numel() for p in start)) or 1.0
        return solve(measured, rise, start=scale / 100)


def displace(parameters, start, sigma, law, seed):
    """Put the parameters at ``start + sigma * v``, with the v of this seed."""
    generators = [torch.Generator(w.device).manual_seed(keyed_seed(seed % 2**63, i)) for i, w in enumerate(start)]
    noise = (draw(law, torch.empty_like(w), generator) for w, generator in zip(start, generators))
    move(parameters, (w + sigma * v for w, v in zip(start, noise)))


def solve(measured, wished, start, tolerance=0.05, tries=60):
    """The sigma with this measured rise: from a bracket, by steps that suppose a rise like sigma squared."""
    low, high, sigma = 0.0, math.inf, start
    for _ in range(tries):
        rise, stderr = measured(sigma)
        if abs(rise / wished - 1) < tolerance:
            return Strength(sigma, rise, stderr)
        if rise < wished:
            low = sigma
        else:  # too high, or not finite
            high = sigma
        guess = sigma * math.sqrt(wished / rise) if math.isfinite(rise) and rise > 0 else 0.0
        ends = (low * 1.01, high / 1.01)
        inside = ends[0] < guess < ends[1] and guess < 10 * sigma
        sigma = guess if inside else (10 * sigma if math.isinf(high) else math.sqrt(max(low, high * 1e-4) * high))
        if sigma > 1e6 * start or sigma < 1e-12 * start:
            break
    raise RuntimeError(
        f"No sigma raises the loss by {wished:.3g}. The last one tried, {sigma:.3g}, changed it by {rise:.3g} ± {stderr:.1g}. "
        "If that is negative or small, the weights are not near a minimum: train further before asking. If it is less "
        "than the wished rise for any sigma, the loss is bounded: wish for less."
    )


class NoiseSchedule:
    """Changes an entry of the parameter groups from step to step, as torch's schedulers change the learning rate.

    >>> noise = AntiPGD(optimizer, sigma=0.01)
    >>> schedule = NoiseSchedule(optimizer, lambda step, group: min(1, step / 1000))  # warm-up
    >>> for x, y in batches:
    ...     take_step(model, optimizer, x, y)
    ...     schedule.step()

    optimizer: one that carries noise. factor(step, group): by what the group's own value is multiplied from this step on,
    step = 0 at the start. 0 from step N on stops the noise, and step N lands on z; ``group["lr"] / group["initial_lr"]``
    ties it to a scheduler's learning rate (make the scheduler first). entry: "sigma", or "cancel" for the dial
    from PGD (0) to Anti-PGD (1).
    Its ``state_dict`` goes into a checkpoint beside the optimizer's, and is loaded after it: a new schedule takes the
    groups' present values for their own.

    Raises ValueError for an optimizer without noise and for another entry.
    """

    def __init__(self, optimizer, factor, *, entry="sigma"):
        if entry not in ("sigma", "cancel") or any("noise_step" not in group for group in optimizer.param_groups):
            raise ValueError("A schedule moves 'sigma' or 'cancel' of an optimizer that carries noise: attach it first.")
        self.optimizer, self.factor, self.entry = optimizer, factor, entry
        self.last_step, self.base = 0, []
        self._set()

    def step(self):
        self.last_step += 1
        self._set()

    def _set(self):
        groups = self.optimizer.param_groups
        self.base += [group[self.entry] for group in groups[len(self.base) :] if self.entry in group]
        for group, base in zip(groups, self.base):
            group[self.entry] = base * self.factor(self.last_step, group)

    def state_dict(self):
        return {"last_step": self.last_step, "base": list(self.base)}

    def load_state_dict(self, state_dict):
        self.last_step, self.base = state_dict["last_step"], list(state_dict["base"])
        self._set()
