"""Many runs at once: the paper's methods on the toy landscapes (paper, sections 2.3, 3.2 and 4).

All runs step together as one tensor of shape (seeds, configurations, dim). The configurations of one seed
share their draws (common random numbers), so that methods are compared under the same noise and the same
minibatches. The noise law is the one of ``noise.py``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from tqdm import tqdm

from antipgd.noise import check_law, check_noise, draw, keyed_seed

BLOCK = 64  # steps whose noise is drawn in one call; a part of what a seed means, so not a parameter
LONG_WORK = 5e9  # coordinate updates: from here on a progress bar is shown
XI, LABELS = (0,), (1,)  # with the seed, the keys of the random streams


def minibatches(size):
    """The key of the stream that draws minibatches of this size."""
    return (2, size)


@dataclass(frozen=True)
class Method:
    """One configuration of gradient descent and what is added to it; zero switches an ingredient off.

    name: what figures call it. lr: learning rate eta.
    sigma, cancel, law: parameter noise ``w += xi_new - cancel * xi_old`` of standard deviation sigma (equations 1, 2).
    batch_size: data points of a step's gradient, drawn without replacement; None takes all of them.
    label_sigma: standard deviation of the noise on each label, new at each step and for each data point (section 2.3).
    trace_sigma: explicit regulariser, the gradient of ``L + trace_sigma**2 / 2 * Tr Hessian`` (equation 6).
    """

    name: str
    lr: float
    sigma: float = 0.0
    cancel: float = 0.0
    batch_size: int | None = None
    label_sigma: float = 0.0
    trace_sigma: float = 0.0

    def __post_init__(self):
        check_noise(self.sigma, self.cancel)
        for name in ("lr", "label_sigma", "trace_sigma"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}: it is a finite number >= 0.")


def gd(lr):
    """Gradient descent."""
    return Method("GD", lr)


def sgd(lr, batch_size=1):
    """Stochastic gradient descent on minibatches."""
    return Method("SGD", lr, batch_size=batch_size)


def pgd(lr, sigma):
    """Perturbed gradient descent, equation (1)."""
    return Method("PGD", lr, sigma=sigma)


def anti_pgd(lr, sigma):
    """Anti-PGD, equation (2)."""
    return Method("Anti-PGD", lr, sigma=sigma, cancel=1.0)


def label_noise(lr, sigma):
    """Gradient descent with fresh noise on the labels at each step, section 2.3."""
    return Method("label noise", lr, label_sigma=sigma)


def trace_regularised(lr, sigma):
    """Gradient descent on the regularised loss of equation (6)."""
    return Method("trace regularisation", lr, trace_sigma=sigma)


def log_spaced(steps, per_decade=10):
    """The step numbers 0, 1, ... ``steps``, evenly spaced on a logarithmic axis: an increasing tensor of integers."""
    points = np.geomspace(1, steps, 1 + int(np.ceil(per_decade * np.log10(max(steps, 10)))))
    return torch.from_numpy(np.unique(np.r_[0, np.rint(points).astype(np.int64), steps]))


def run(landscape, w0, methods, steps, *, seeds, law="gaussian", record=None):
    """Run every method from w0 under every seed, and keep snapshots.

    landscape: a ``Landscape``. w0: starting weights, broadcast to (seeds, methods, dim); its dtype and device are
    the computation's. methods: a list of ``Method``. steps: number of updates. seeds: a list of integers.
    law: the noise law of xi and of label noise. record: step numbers to keep (default: ``log_spaced(steps)``).

    Returns ``Trajectories``. A run whose weights stop being finite is reported there and the others go on.
    Raises ValueError where a method needs data (minibatches, label noise) and the landscape has none.
    """
    seeds, methods = list(seeds), list(methods)
    check_law(law)
    check_run(landscape, w0, methods, steps, seeds)
    record = log_spaced(steps) if record is None else torch.as_tensor(record)
    check_record(record, steps)
    stepper = Stepper(landscape, methods, seeds, law, w0)
    w = w0.expand(len(seeds), len(methods), landscape.dim)[:, stepper.order].clone()
    wanted = set(record.tolist())
    kept = {0: (w.clone(), torch.zeros_like(w))} if 0 in wanted else {}
    diverged_at = torch.full(w.shape[:2], -1, device=w.device)

    blocks = range(0, steps, BLOCK)
    for start in tqdm(blocks, unit_scale=BLOCK, unit="step", disable=steps * w.numel() < LONG_WORK):
        before = w.clone()
        stepper.draw_block()
        count = min(BLOCK, steps - start)
        for k in range(count):
            stepper.step(w, k)
            if start + k + 1 in wanted:
                kept[start + k + 1] = (w.clone(), stepper.outstanding(w, k))
        ended = lost(w) & (diverged_at < 0)
        if ended.any():
            stepper.locate_divergence(before, count, start, ended, diverged_at)
    return Trajectories.ordered(landscape, methods, seeds, kept, diverged_at, stepper.order)


def check_run(landscape, w0, methods, steps, seeds):
    if not methods or not seeds or steps < 1:
        raise ValueError("A run needs at least one method, one seed and one step.")
    if not w0.is_floating_point():
        raise ValueError(f"w0 is of {w0.dtype}, and the runs compute in its dtype: give floating-point numbers.")
    samples = getattr(landscape, "samples", None)
    for method in methods:
        if samples is None and (method.batch_size or method.label_sigma):
            raise ValueError(
                f"{method.name} needs data points, and {type(landscape).__name__} is a loss without data: "
                "leave out minibatches and label noise here."
            )
        if method.batch_size is not None and not 1 <= method.batch_size <= samples:
            raise ValueError(f"batch_size is {method.batch_size}: the landscape has {samples} data points.")


def check_record(record, steps):
    if record.is_floating_point() or record.numel() == 0 or record.min() < 0 or record.max() > steps:
        raise ValueError(f"Recorded steps are integers between 0 and {steps}, at least one of them: got {record}.")


class Stepper:
    """One step of all runs. Methods are reordered so that each ingredient acts on one slice of the tensor."""

    def __init__(self, landscape, methods, seeds, law, w0):
        self.landscape, self.law = landscape, law
        self.like = {"dtype": w0.dtype, "device": w0.device}
        self.order = sorted(range(len(methods)), key=lambda i: ingredients(methods[i]))
        methods = [methods[i] for i in self.order]

        def column(name):
            values = [getattr(method, name) or 0.0 for method in methods]
            return torch.tensor(values, **self.like).unsqueeze(-1)

        self.minus_lr = -column("lr")
        self.noisy, self.sigma = active(column("sigma"))
        self.cancelling, self.taken_back = active(-column("sigma") * column("cancel"))
        self.noisy_labels, self.label_sigma = active(column("label_sigma"))
        self.penalised, trace_sigma = active(column("trace_sigma"))
        self.penalty = trace_sigma.square() / 2
        self.batches = {
            size: active(column("batch_size") == size)[0] for size in {m.batch_size for m in methods} if size
        }
        self.with_data = bool(self.batches) or not empty(self.noisy_labels)
        self.generators = {
            stream: [torch.Generator().manual_seed(keyed_seed(seed, *stream)) for seed in seeds]
            for stream in [XI, LABELS, *(minibatches(size) for size in self.batches)]
        }
        self.xi = torch.zeros(BLOCK + 1, len(seeds), 1, landscape.dim, **self.like)

    def draw_block(self):
        """Noise for the next BLOCK steps; the last xi of the block before stays in front."""
        self.xi[0] = self.xi[-1]
        if not empty(self.noisy):
            self.xi[1:] = self._draws(XI, self.landscape.dim)
        if not empty(self.noisy_labels):
            self.labels = self._draws(LABELS, self.landscape.samples).to(**self.like)
        self.weights = {size: self._minibatches(size) for size in self.batches}

    def _draws(self, stream, width):
        # In float32 also for float64 weights: five times faster, and a noise law has no use for more digits.
        return torch.stack(
            [draw(self.law, torch.empty(BLOCK, 1, width), generator) for generator in self.generators[stream]], dim=1
        )

    def _minibatches(self, size):
        """Weights of the residuals, (BLOCK, seeds, 1, samples): samples/size on a random minibatch and 0 elsewhere."""
        samples = self.landscape.samples
        generators = self.generators[minibatches(size)]
        order = torch.stack([torch.rand(BLOCK, 1, samples, generator=g) for g in generators], dim=1)
        # The largest numbers mark the batch; argmax finds a single one five times faster than topk.
        chosen = order.argmax(-1, keepdim=True) if size == 1 else order.topk(size, dim=-1).indices
        weights = torch.zeros_like(order, dtype=self.like["dtype"]).scatter_(-1, chosen, samples / size)
        return weights.to(self.like["device"])

    def step(self, w, k):
        """One update of all runs, in place, with the k-th draws of the block."""
        w.addcmul_(self.minus_lr, self._gradient(w, k))
        if not empty(self.noisy):
            w[:, self.noisy].addcmul_(self.sigma, self.xi[k + 1])
        if not empty(self.cancelling):
            w[:, self.cancelling].addcmul_(self.taken_back, self.xi[k])

    def _gradient(self, w, k):
        if self.with_data:
            residuals = self.landscape.residuals(w)
            if not empty(self.noisy_labels):
                residuals[:, self.noisy_labels].addcmul_(self.label_sigma, self.labels[k])
            for size, batch in self.batches.items():
                residuals[:, batch].mul_(self.weights[size][k])
            gradient = self.landscape.pull_back(w, residuals)
        else:
            gradient = self.landscape.gradient(w)
        if not empty(self.penalised):
            penalised = w[:, self.penalised]
            gradient[:, self.penalised].addcmul_(self.penalty, self.landscape.trace_gradient(penalised))
        return gradient

    def outstanding(self, w, k):
        """What the next step takes back: ``w - z`` after the k-th step of the block."""
        taken = torch.zeros_like(w)
        if not empty(self.cancelling):
            taken[:, self.cancelling] = -self.taken_back * self.xi[k + 1]
        return taken

    def locate_divergence(self, w, count, start, ended, diverged_at):
        """Replay a block from its start to find the step at which each of the ``ended`` runs left the finite."""
        for k in range(count):
            self.step(w, k)
            now = ended & lost(w) & (diverged_at < 0)
            diverged_at[now] = start + k + 1


def ingredients(method):
    return (method.batch_size or 0, method.label_sigma > 0, method.trace_sigma > 0, method.sigma > 0, method.cancel > 0)


def lost(w):
    """Which runs are not finite: zero times such a coordinate is NaN. Ten times faster than ``isfinite``."""
    return (w * 0).sum(-1).isnan()


def active(column):
    """The shortest slice of the methods that holds all nonzero entries, and the entries in it."""
    indices = column.flatten().nonzero().flatten().tolist()
    where = slice(indices[0], indices[-1] + 1) if indices else slice(0, 0)
    return where, column[where]


def empty(where):
    return where.start == where.stop


@dataclass
class Trajectories:
    """Snapshots of all runs. Axes: T recorded steps, S seeds, C methods, and the coordinates of a point.

    w: (T, S, C, dim), the iterates. z: the same without what the next step takes back, ``w - cancel * xi``.
    steps: (T,). diverged_at: (S, C), the step at which a run stopped being finite, -1 for those that did not.
    """

    landscape: object
    methods: list
    seeds: list
    steps: torch.Tensor
    w: torch.Tensor
    z: torch.Tensor
    diverged_at: torch.Tensor

    @classmethod
    def ordered(cls, landscape, methods, seeds, kept, diverged_at, order):
        """From snapshots in the stepper's order of methods to the caller's."""
        back = torch.tensor(order).argsort()
        steps = torch.tensor(sorted(kept))
        w = torch.stack([kept[n][0] for n in steps.tolist()])[:, :, back]
        noise = torch.stack([kept[n][1] for n in steps.tolist()])[:, :, back]
        return cls(landscape, methods, seeds, steps, w, w - noise, diverged_at[:, back])

    def descended(self, steps):
        """Where ``steps`` of noise-free gradient descent lead from every snapshot, shape (T, S, C, dim)."""
        lr = torch.tensor([m.lr for m in self.methods], dtype=self.w.dtype, device=self.w.device)
        return descend(self.landscape, self.w, lr.unsqueeze(-1), steps)

    def divergences(self):
        """One sentence for each run that diverged."""
        return [
            f"{self.methods[c].name} (lr {self.methods[c].lr:g}, sigma {self.methods[c].sigma:g}), "
            f"seed {self.seeds[s]}: not finite from step {self.diverged_at[s, c].item()} on"
            for s, c in (self.diverged_at >= 0).nonzero().tolist()
        ]


def descend(landscape, w, lr, steps):
    """Plain gradient descent from w, shape (..., dim); ``lr`` broadcasts against it. w itself is left alone."""
    w, minus_lr = w.clone(), -torch.as_tensor(lr, dtype=w.dtype, device=w.device)
    for _ in range(steps):
        w.addcmul_(minus_lr, landscape.gradient(w))
    return w


@dataclass(frozen=True)
class Interval:
    """Mean over seeds with the half width of its 95 % confidence interval, and the number n of seeds in it."""

    mean: torch.Tensor
    half: torch.Tensor
    n: torch.Tensor


def over_seeds(values, dim=-2, *, leave_out_lost=False):
    """Mean and 95 % interval (Student's t) over the axis of seeds, for values such as (T, S, C).

    A run that is not finite makes its mean and interval NaN: a mean over those that are left hides that one was lost.
    leave_out_lost: take the mean over those that are left all the same, and say how many they are: n, in the result.
    Where fewer than two are left, there is no interval and the entries are NaN.
    """
    finite = values.isfinite()
    n = finite.sum(dim)
    kept = torch.where(finite, values, torch.zeros_like(values))
    mean = kept.sum(dim) / n
    spread = torch.where(finite, values - mean.unsqueeze(dim), torch.zeros_like(values))
    variance = spread.square().sum(dim) / (n - 1)
    quantile = torch.as_tensor(stats.t.ppf(0.975, np.maximum(n.cpu().numpy() - 1, 1))).to(values)
    enough = (n > 1) if leave_out_lost else (n == values.shape[dim]) & (n > 1)
    half = quantile * (variance / n).sqrt()
    return Interval(torch.where(enough, mean, torch.nan), torch.where(enough, half, torch.nan), n)


def ratio_over_seeds(values, others, dim=0, *, leave_out_lost=False):
    """The ratio of two positive values under the same seeds: geometric mean, and the ends of its 95 % interval.

    Three tensors, of the shape that ``over_seeds`` gives the mean; dim and leave_out_lost are its arguments.
    """
    logs = over_seeds((values / others).log(), dim, leave_out_lost=leave_out_lost)
    return [(logs.mean + side * logs.half).exp() for side in (0, -1, 1)]
