"""What a run does: every setting, with its default and where that comes from, and the presets of the figures."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from antipgd.noise import check_law

LARGE = ("gd", "pgd", "antipgd")  # the methods that stand for gradient descent on all data, by their large batches
CANCEL = {"pgd": 0.0, "antipgd": 1.0, "antisgd": 1.0}
NAMES = {"gd": "GD", "sgd": "SGD", "pgd": "PGD", "antipgd": "Anti-PGD", "antisgd": "Anti-SGD", "sam": "SAM"}


@dataclass(frozen=True)
class Settings:
    """One training run of a ResNet18."""

    method: Literal["gd", "sgd", "pgd", "antipgd", "antisgd", "sam"] = "antipgd"
    """gd, pgd and antipgd take large batches, sgd, antisgd and sam small ones; pgd, antipgd and antisgd add noise."""
    sigma: float = 0.0
    """Standard deviation of the noise on each weight, in units of the weights (the paper does not give it)."""
    noise_start: int = 0
    """Epoch before which there is no noise (section 4: 0 for Figure 2, 75 for Figure 6)."""
    noise_stop: int | None = None
    """Epoch from which there is none again; None for never (section 4: 250 for Figure 2)."""
    noise_on: Literal["all", "weights", "scaled"] = "all"
    """all: the same on every parameter, as in the paper. weights: none on BatchNorm and biases. scaled: none there, and
    on the others sigma times the root mean square of each at the start; sigma is then dimensionless."""
    law: str = "gaussian"
    """Distribution of the noise: gaussian (section 4), rademacher or uniform."""
    lr: float = 0.05
    """Learning rate (section 4)."""
    momentum: float = 0.9
    """Momentum (section 4)."""
    weight_decay: float = 0.0
    """Weight decay (the paper names none)."""
    rho: float = 0.0
    """For sam: the distance of its first step, in units of the weights."""
    epochs: int = 300
    """Passes over the training images (Figure 2)."""
    large_batch: int = 7500
    """Images in a batch of gd, pgd and antipgd (section 4)."""
    small_batch: int = 128
    """Images in a batch of sgd, antisgd and sam (section 4; 1024 as well in section D.5)."""
    micro_batch: int = 1500
    """Images that pass through the network at once; their gradients are summed over the batch. BatchNorm takes its
    statistics over these (section 4 speaks of 7500 images on 5 GPUs; in PyTorch's usual way each then has its own)."""
    augment: bool = False
    """Random crops and mirror images (the paper names none, and its accuracies of 0.60 to 0.85 are without)."""
    width: int = 64
    """Channels of the first stage (D.4: the usual ResNet18)."""
    train_images: int = 50_000
    """Images to train on, the first of each class (section 4: all); of those that remain, up to 2000 are for choices."""
    eval_images: int = 10_000
    """Test images, and at most as many training images, in the evaluations before the last, which takes all."""
    eval_every: int = 10
    """Epochs between two evaluations (chosen)."""
    trace_every: int = 50
    """Epochs between two traces of the Hessian, of those that are evaluated, and one at the end; 0 for none (chosen)."""
    trace_images: int = 1000
    """Training images over which the trace is taken (chosen)."""
    trace_probes: int = 10
    """Random probes of the trace, the same at every measurement (chosen)."""
    seed: int = 0
    """Of the starting weights, the order of the images, the crops and the noise."""
    def __post_init__(self):
        check_law(self.law)
        for name in ("epochs", "large_batch", "small_batch", "micro_batch", "width", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is at least 1.")
        for name in ("train_images", "eval_images", "trace_images"):
            if getattr(self, name) < 10 or getattr(self, name) % 10:
                raise ValueError(f"{name} is {getattr(self, name)}: there are ten classes, so it is 10, 20, 30, ...")
        for name in ("sigma", "lr", "momentum", "weight_decay", "rho"):
            if not math.isfinite(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it is a finite number, at least 0.")
        if self.trace_every and self.trace_probes < 2:
            raise ValueError(f"trace_probes is {self.trace_probes}: a standard error takes at least 2.")
        if self.sigma and self.method not in CANCEL:
            raise ValueError(f"{self.method} takes no noise: leave sigma at 0, or choose one of {', '.join(CANCEL)}.")
        if self.rho and self.method != "sam":
            raise ValueError(f"rho belongs to sam, and the method is {self.method}.")
        if self.batch_size > self.train_images:
            raise ValueError(f"A batch of {self.batch_size} has more images than the {self.train_images} to train on.")

    @property
    def batch_size(self):
        return self.large_batch if self.method in LARGE else self.small_batch

    @property
    def name(self):
        """The method as figures name it."""
        return NAMES[self.method]

    def sigma_in(self, epoch):
        """The strength of the noise in this epoch, counted from 0."""
        on = self.noise_start <= epoch < (self.epochs if self.noise_stop is None else self.noise_stop)
        return self.sigma if on else 0.0


FIG_2 = Settings(noise_stop=250)
FIG_6 = Settings(noise_start=75)
# The same on a CPU: fewer images and channels. A large batch is 15 % of the images, as in the paper; the noise starts
# after gradient descent has fitted all images, and stops in time for the descent to end.
SMALL = Settings(
    width=8,
    train_images=1000,
    large_batch=150,
    small_batch=16,
    micro_batch=150,
    epochs=50,
    eval_images=1000,
    eval_every=10,
    trace_every=25,
    trace_images=200,
    trace_probes=8,
)
# Between the two: minutes on a free GPU.
MIDDLE = replace(SMALL, width=32, train_images=5000, large_batch=750, small_batch=64, micro_batch=750, eval_images=2000)
TINY = replace(
    SMALL,
    width=4,
    train_images=120,
    large_batch=60,
    small_batch=20,
    micro_batch=30,
    epochs=3,
    eval_images=100,
    eval_every=1,
    trace_every=3,
    trace_images=20,
    trace_probes=2,
)
PRESETS = {
    "fig2": FIG_2,
    "fig6": FIG_6,
    "fig2-small": replace(SMALL, noise_stop=40),
    "fig6-small": replace(SMALL, noise_start=25),
    "fig2-middle": replace(MIDDLE, noise_stop=40),
    "tiny": TINY,
}
