"""The chapters' exercises: ``exercise("valley-2", answer)`` says whether an answer is right, or how it is wrong.

A right answer is computed from the question, mostly the long way round: by adding up what each noise leaves, by
enumeration, by a search for the lowest value. An answer is either numbers or a function, which is tried at several
arguments. Below the checker the exercises stand by chapter.
"""

import copy
import difflib
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import integrate, optimize, signal, special, stats

from antipgd import theory
from antipgd.landscapes import WideningValley

LEVELS = ("warm-up", "standard", "challenge")
CHAPTERS = {  # by the first part of their exercises' names
    "optimizer": "your_optimizer",
    "frameworks": "frameworks",
    "valley": "widening_valley",
    "smoothed": "smoothed_loss",
    "convergence": "convergence",
    "pac": "pac_bayes",
    "label": "label_noise",
    "accumulated": "accumulated_noise",
    "theorem": "valley_theorem",
    "network": "linear_networks",
    "quadratic": "quadratic_regression",
    "sensing": "matrix_sensing",
    "anti-sgd": "anti_sgd",
    "peers": "peers",
    "between": "between",
    "correlated": "correlated_noise",
    "resnet": "resnet",
    "skeleton": "chapter",  # tools/chapter.md, from which a new one begins
}


def exercise(name, answer):
    """Print whether the answer to an exercise is right, and if not, what kind of thing is wrong with it.

    name: such as "valley-2". answer: what the exercise asks for: a number, several numbers in a list or an array, or a
    function; ``...``, or a function that returns nothing, is an answer not yet given. Numbers may be of any library.

    Raises ValueError for a name that no exercise has. Whatever the answer does is caught, and told.
    """
    if name not in EXERCISES:
        close = difflib.get_close_matches(name, EXERCISES)
        told = (
            f"Did you mean {' or '.join(map(repr, close))}?"
            if close
            else f"The names are {', '.join(map(repr, EXERCISES))}."
        )
        raise ValueError(f"There is no exercise {name!r}. {told}")
    asked = EXERCISES[name]
    print(f"{name} ({asked.level}): {asked.verdict(answer)}")


class NotYet(Exception):
    """An answer that is not right, with what can be said about it without saying the right one."""


class NotAnswered(Exception):
    """An answer that is still ``...``."""


@dataclass(frozen=True)
class Exercise:
    """A question, with what it takes to judge an answer.

    name, level: as ``exercise`` shows them. solve: the right answer as a function, of no arguments where numbers are
    asked for; its docstring says where to look again. at: the tuples of arguments at which an answer is tried.
    tolerance: relative.
    """

    name: str
    level: str
    solve: Callable
    at: tuple
    tolerance: float

    @property
    def chapter(self):
        """The name of the chapter that asks it."""
        return CHAPTERS[self.name.rpartition("-")[0]]

    @property
    def arguments(self):
        """The names of the arguments of the function that is asked for; none where numbers are."""
        return list(inspect.signature(self.solve).parameters)

    @property
    def wanted(self):
        """What is asked for, in words."""
        return f"a function of {', '.join(self.arguments)}" if self.arguments else shaped(numbers(self.solve()).shape)

    @property
    def hint(self):
        """Where to look again, in a line."""
        return " ".join(self.solve.__doc__.split())

    def verdict(self, answer):
        """What there is to say about the answer, in words that begin with "right", "not yet" or "not answered yet"."""
        try:
            given = [self.value(answer, arguments) for arguments in self.at]
            self.judge(given, [numbers(self.solve(*arguments)) for arguments in self.at])
        except NotAnswered:
            return f"not answered yet. Wanted: {self.wanted}."
        except NotYet as found:
            return f"not yet. {capitalised(str(found))}\nLook again: {self.hint}"
        return "right."

    def value(self, answer, arguments):
        """The answer's numbers at these arguments. Raises NotAnswered, or NotYet for what are none."""
        if unanswered(answer):
            raise NotAnswered
        if callable(answer) != bool(self.arguments):
            raise NotYet(f"Wanted is {self.wanted}, and this is a {type(answer).__name__}.")
        try:
            answer = answer(*copy.deepcopy(arguments)) if callable(answer) else answer
        except Exception as error:
            raise NotYet(f"Your function fails{self.at_these(arguments)}: {type(error).__name__}: {error}") from error
        if unanswered(answer):
            raise NotAnswered
        return numbers(answer)

    def at_these(self, arguments):
        """The arguments in words, those that fit into a line."""
        short = [f"{name} = {value}" for name, value in zip(self.arguments, arguments) if len(str(value)) < 40]
        return f" at {', '.join(short)}" if short else ""

    def judge(self, given, right):
        """Raise NotYet where the given numbers, an array for each trial, are not the right ones."""
        for one, other in zip(given, right):
            if one.shape != other.shape:
                raise NotYet(f"It is {shaped(one.shape)}, and wanted is {shaped(other.shape)}.")
            if not np.isfinite(one).all():
                raise NotYet("Something in it is not a finite number.")
        shapes = {each.shape for each in right}
        if len(shapes) == 1 and right[0].ndim == 1:  # several numbers: one after the other
            for i in range(len(right[0])):
                self.compare([each[i] for each in given], [each[i] for each in right], f"Number {i + 1} of it: ")
        else:
            self.compare(given, right)

    def compare(self, given, right, part=""):
        """Raise NotYet where they differ, with words on how, which begin with the part that is compared."""
        largest = max(np.abs(each).max() for each in right)
        allowed = [self.tolerance * np.abs(each).max() + 1e-9 * largest for each in right]

        def agree(changed):
            return [bool((np.abs(one - other) <= most).all()) for one, other, most in zip(changed, right, allowed)]

        found = agree(given)
        if all(found):
            return
        kinds = [words for words, changed in slips(given, right) if all(agree(changed))]
        if kinds:
            raise NotYet(f"{part}{kinds[0]}")
        if any(found):
            where = self.at_these(self.at[found.index(False)]) or " at others"
            raise NotYet(f"{part}it is right at some arguments, but not{where}.")
        close = all(np.allclose(one, other, rtol=0.5) for one, other in zip(given, right))
        raise NotYet(f"{part}it is {'near, but not right' if close else 'far off'}.")


def slips(given, right):
    """Pairs of a kind of mistake, in words, and the given numbers as they would be without it."""
    ours, theirs = (np.concatenate([np.ravel(each) for each in arrays]) for arrays in (given, right))
    with np.errstate(all="ignore"):
        undone = {
            "its sign is wrong.": lambda each: -each,
            "it is upside down.": lambda each: 1 / each,
            "there is a square too much, or a root missing.": lambda each: each**0.5,
            "there is a square missing, or a root too much.": lambda each: each**2,
        }
        if len(theirs) > 1:
            factor, added = theirs @ ours / (ours @ ours), (theirs - ours).mean()
            undone["it is right up to a constant factor."] = lambda each: factor * each
            undone["it is right up to a constant that is added."] = lambda each: each + added
        else:
            factor = next((n for n in (2, 3, 4, 1 / 2, 1 / 3, 1 / 4) if np.allclose(n * ours, theirs)), 1)
            undone["it is off by a small whole factor."] = lambda each: factor * each
        return [(words, [undo(each) for each in given]) for words, undo in undone.items()]


def capitalised(words):
    """The words with a capital letter in front."""
    return words[0].upper() + words[1:]


def unanswered(answer):
    """Whether this, or a part of it, is still ``...`` or nothing."""
    parts = answer if isinstance(answer, (tuple, list)) else [answer]
    return any(part is None or part is ... for part in parts)


def numbers(answer):
    """An answer as an array of float64. Raises NotYet for what is not made of real numbers."""
    try:
        if isinstance(answer, torch.Tensor):
            answer = answer.detach().cpu()
        array = np.asarray(answer)
        if array.dtype.kind not in "iufO":
            raise TypeError
        return array.astype(float)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"Wanted are real numbers, and this is a {type(answer).__name__} without them.") from None


def shaped(shape):
    """A shape in words."""
    if len(shape) < 2:
        return f"{shape[0]} numbers" if shape else "a number"
    return f"an array of shape {shape}"


EXERCISES = {}  # by name


def asks(name, level, *at, tolerance=1e-6):
    """Register the function below as the right answer to an exercise; see ``Exercise``. Without at, it is numbers."""

    def register(solve):
        EXERCISES[name] = Exercise(name, level, solve, at or ((),), tolerance)
        return solve

    return register


# What the answers are computed with.


def response(b, a, steps=6000):
    """What an impulse leaves after 0, 1, ... steps of a filter: w_n = sum_j b_j xi_{n-j} - sum_{j>0} a_j w_{n-j}."""
    impulse = np.zeros(steps)
    impulse[0] = 1
    return signal.lfilter(b, a, impulse)


def energy(b, a):
    """The variance that white noise of variance one has behind the filter."""
    return (response(b, a) ** 2).sum()


def lowest(f, low, high):
    """Where a function of one number is lowest, and its value there."""
    found = optimize.minimize_scalar(f, bounds=(low, high), method="bounded", options={"xatol": 1e-10 * high})
    return found.x, found.fun


def isotropic(M, d, seed):
    """Features (M, d) with X^T X / M the identity."""
    X = torch.randn(M, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return M**0.5 * torch.linalg.qr(X)[0]


def some(*shape, seed):
    """Normal numbers, float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def left_over(shares):
    """Sum of the squares of what is left of each noise, when the given share of noise k - 1 is taken back in step k."""
    left = np.ones(len(shares))
    left[:-1] -= shares[1:]
    return (left**2).sum()


# your_optimizer


@asks("optimizer-1", "warm-up", (0.5, 11, 1.0), (0.0, 7, 0.3), (0.9, 101, 0.2), (1.0, 5, 0.7))
def _(c, n, sigma):
    """Which noises are left in w_n, and how much of each? In the first step there is nothing to take back."""
    return sigma**2 * left_over([c] * n)


@asks("optimizer-2", "standard", (0.01, 3.0), (0.003, -0.2), (0.1, 1e-4))
def _(lr, g):
    """After one step, what are the two bias-corrected averages of Adam? And in which direction does it go?"""
    mean, square = ((1 - beta) * power / (1 - beta) for beta, power in ((0.9, g), (0.999, g**2)))
    return -lr * mean / square**0.5


@asks("optimizer-3", "challenge", (0.9, 1.0), (0.5, 0.2), (0.0, 2.0))
def _(momentum, sigma):
    """The buffer averages the increments, and w sums the buffer. What does one xi leave after j steps?"""
    return sigma**2 * energy([1, -1], np.polymul([1, -momentum], [1, -1]))


# frameworks


@asks(
    "frameworks-1", "standard", ([0.0, 0.0, 0.0], 2.0), ([0.1, 0.9, 0.2, 1.0], 0.5), ([k / 9 for k in range(10)], 0.3)
)
def _(shares, sigma):
    """The first share takes back nothing, for xi_0 is zero; the last noise has not been taken back at all."""
    return sigma**2 * left_over(shares)


@asks("frameworks-2", "warm-up", (0.9,), (0.5,), (0.99,))
def _(decay):
    """The variances of independent noises add up, each with the square of its weight in the average."""
    return ((1 - decay) ** 2) * energy([1], [1, -decay])


@asks("frameworks-3", "challenge", (8, 0.3), (2, 0.5), (5, 2.0))
def _(workers, sigma):
    """After the averaging all workers hold the same mean of the last draws. Then each adds and takes back its own."""
    draws = np.eye(4 * workers).reshape(4, workers, -1)  # all that are drawn in four steps, each a direction
    average = before = np.zeros_like(draws[0])
    for draw in draws:
        w = average + draw - before
        average, before = w.mean(0), draw
    return sigma**2 * (w[0] ** 2).sum(), sigma**2 * (average**2).sum()


# widening_valley


@asks("valley-1", "standard", (1,), (4,), (25,), (100,), tolerance=1e-4)
def _(d):
    """Which quotient has an F distribution, with which degrees of freedom? The second probability is conditional."""

    def below(part):  # the probability that v^2 < part |u|^2, by integrating over |u|
        length = np.linspace(0, 12 + d**0.5, 10_001)
        return integrate.trapezoid(stats.chi.pdf(length, d) * special.erf(length * (part / 2) ** 0.5), length)

    return below(1), below(1 / 20) / below(1)


@asks("valley-2", "warm-up", (0.5,), (0.1,), (1.3,), (1.93,))
def _(r):
    """Push and pull are in the table, and the pull grows with r; a dimension is a whole number."""
    return next(d for d in itertools.count(1) if d - 2 / (2 - r) > 0)


@asks("valley-3", "standard", (0.02, 1.0, 0.1), (0.1, 4.0, 0.5), (0.5, 2.0, 1.0))
def _(lr, length2, sigma):
    """At a fixed u, v is multiplied by 1 - r in each step. What does one xi leave in v, in either case?"""
    keeps = [1, lr * length2 - 1]
    return [2 * lr * length2 * sigma**2 * energy(b, keeps) for b in ([1], [1, -1])]


@asks("valley-4", "challenge", (0.1, 0.1, 4, 3.0), (0.05, 0.2, 30, 1.0), (0.02, 0.3, 10, 1.8), tolerance=0.01)
def _(lr, sigma, d, kurtosis):
    """The mean of q^2 has the kurtosis, and that of q has not; the squared length of xi^u has the mean d sigma^2."""
    q, q2, z2 = lr * sigma**2, kurtosis * lr**2 * sigma**4, 0.0
    for _ in range(int(20 / q)):
        z2 = (1 - 2 * q + q2) * z2 + q2 * d * sigma**2
    return z2


# smoothed_loss


@asks("smoothed-1", "warm-up")
def _():
    """How large is the variance of the first perturbation, with nothing to take back, and that of the second?"""
    first, second = np.array([1, 0]), np.array([-1, 1])  # in units of xi_1 and xi_2
    return first @ second / (np.linalg.norm(first) * np.linalg.norm(second))


@asks("smoothed-2", "standard")
def _():
    """The kurtosis is the fourth moment over the squared variance; the series has it less that of a Gaussian."""
    kurtosis = stats.uniform.stats(moments="k") + 3
    return kurtosis, (kurtosis - 3) / 24


@asks("smoothed-3", "challenge", (0.3,), (1.0,), (1.7,))
def _(x):
    """Which multiples of z_n and of xi_n, which are independent, make up z_{n+1}? And w is z and the newest noise."""
    return energy([0, -x], [1, x - 1]), energy([1, -1], [1, x - 1])


# convergence


@asks("convergence-1", "standard", (0.1, 2.0, 3, 0.5), (1.0, 1.0, 1, 0.3), (0.05, 10.0, 20, 0.1))
def _(lr, beta, d, sigma):
    """In the bowl each coordinate of z is multiplied in each step and gets a multiple of xi. Where does it settle?"""
    return beta**2 * d * sigma**2 * energy([0, -lr * beta], [1, lr * beta - 1])


@asks("convergence-2", "challenge", (1.0,), (0.4,), (2.5,), tolerance=1e-4)
def _(sigma):
    """At the rest point K z balances the mean of |z + xi|^3 / 6, and z itself becomes small as K grows."""
    K = 1e9 * sigma**2

    def force(pull):  # of the mean step, where K z is the pull
        return pull + (abs(pull / K + sigma) ** 3 + abs(pull / K - sigma) ** 3) / 12

    pull = optimize.brentq(force, -(sigma**3), 0.0, xtol=1e-14)
    return pull + abs(pull / K) ** 3 / 6 + sigma**2 / 2 * abs(pull / K)


@asks("convergence-3", "challenge", (1.0, 1.0), (2.2, 0.55), (0.3, 1.5), tolerance=1e-4)
def _(u_most, v_most):
    """The first is the norm of the two by two matrix in the corner; for the second, where on the unit circle is the
    product of two squares largest?
    """
    valley = WideningValley(1)
    grid = torch.cartesian_prod(*(most * torch.linspace(-1, 1, 5, dtype=torch.float64) for most in (u_most, v_most)))
    hessians = torch.stack([torch.autograd.functional.hessian(valley.loss, at) for at in grid])
    angle = torch.linspace(0, torch.pi, 401, dtype=torch.float64)
    quartic = valley.loss(torch.stack([angle.cos(), angle.sin()], dim=-1))  # t^4 times this, along each direction
    return torch.linalg.matrix_norm(hessians, ord=2).max().item(), 24 * quartic.max().item()


@asks("convergence-4", "warm-up", (1.0, 2.0, 0.01, 0.05), (3.0, 0.5, 0.0, 0.1), (0.2, 7.0, 0.02, 0.5), tolerance=1e-4)
def _(C_1, C_2, C_3, epsilon):
    """Solve the bound for N, and look for the learning rate at which the denominator is largest."""
    most = (epsilon - C_3) / C_2
    return lowest(lambda lr: C_1 / (lr * (epsilon - C_3 - C_2 * lr)), 1e-3 * most, 0.999 * most)


# pac_bayes


@asks("pac-1", "warm-up", (5.0, 1000), (1.0, 50), (20.0, 400), tolerance=1e-5)
def _(K, M):
    """One part of the bound grows with lambda and the other falls; at the best lambda they are equal."""
    return lowest(lambda lam: lam / (8 * M) + K / lam, 1.0, 1e4)


@asks("pac-2", "standard", (0.5, 100.0, 3.0, 10), (1.0, 20.0, 50.0, 4), (2.0, 1000.0, 0.1, 30), tolerance=1e-5)
def _(s_0, lam, trace, d):
    """Differentiate by s^2 rather than by s; what comes out is a sum for 1 / s^2."""

    def bound(s):
        return s**2 / 2 * trace + d * (np.log(s_0 / s) + s**2 / (2 * s_0**2)) / lam

    return lowest(bound, 1e-4, 2 * s_0)[0]


@asks("pac-3", "challenge", tolerance=1e-5)
def _():
    """R^2 is the fourth power of e over four. What is the fourth moment of a normal number? The constant is half."""

    def constant(sd):
        e, weights = np.polynomial.hermite_e.hermegauss(8)  # of the standard normal law
        return weights @ ((sd * e) ** 2 / 2) ** 2 / weights.sum() / 2

    return optimize.brentq(lambda sd: constant(sd) - 1 / 2, 0.1, 10)


# label_noise


@asks("label-1", "warm-up", ([1.0, 2.0, -0.5], 2.0), ([0.3], 1.0), ([-1.0, 0.2, 0.4, 0.7], -3.0))
def _(slopes, third):
    """The gradient noise is a mean over the data points, and the third moments of independent numbers add up."""
    law, total = {2.0: 1 / 3, -1.0: 2 / 3}, 0.0  # its third moment is two
    for noise in itertools.product(law, repeat=len(slopes)):
        total += np.prod([law[each] for each in noise]) * (np.dot(noise, slopes) / len(slopes)) ** 3
    return third / 2 * total


@asks("label-2", "standard", (some(3, 5, seed=0),), (some(2, 4, seed=1),), (some(4, 3, seed=2),))
def _(X):
    """The part of w that the data see is its projection on the span of the rows, which need not be orthogonal."""
    _, singular, rows = torch.linalg.svd(X)
    unseen = rows[len(singular) :]
    return unseen.T @ unseen


@asks("label-3", "challenge", (0.01, 0.1), (0.00125, 0.05), (0.5, 1.0))
def _(lr, sigma):
    """Compare the covariance with the Hessian of the *sum*: no number of data points is left. Half of it is for z."""
    return optimize.brentq(lambda sigma_y: lr * sigma_y**2 / 2 - sigma**2, 0, 100 * sigma)


# accumulated_noise


@asks("accumulated-1", "standard", (0.9, 0.5), (0.3, 1.0), (0.5, 0.5), (0.8, 0.0))
def _(rho, c):
    """The newest noise stands in w whole. What is left, one step later, of the noise before it?"""
    return energy([1, -c], [1, -rho])


@asks("accumulated-2", "challenge", (0.0,), (0.5,), (0.9,))
def _(a):
    """In the recursion of nu the multiplier and nu are independent: the mean of a product is a product of means."""
    rhos, weights = np.polynomial.legendre.leggauss(8)
    rhos, nu = a + (1 - a) * (1 + rhos) / 2, 0.0
    for _ in range(1000):
        nu = weights @ (rhos**2 * nu + (1 - rhos) ** 2) / 2
    return 1 + nu


@asks("accumulated-3", "warm-up", (0.99,), (0.5,), (0.01,))
def _(rho):
    """Divide the limit of Anti-PGD with a constant multiplier by the bound."""
    return energy([1, -1], [1, -rho]) / 2


# valley_theorem


@asks("theorem-1", "warm-up", (0.5,), (1.0,), (0.2,), (1.6,))
def _(r_max):
    """The coefficient of r v_k^2 falls as r grows, so the largest r decides."""
    return optimize.brentq(lambda c: min(c * (2 - r) - 2 for r in np.linspace(0, r_max, 11)), 0, 100)


@asks("theorem-2", "standard", tolerance=1e-3)
def _():
    """The first is a formula of the chapter, with chi = 0, rounded up; for the second go through the dimensions."""
    first = next(d for d in itertools.count(2) if theory.pgd_left_exit_diffusion(0.5, 1, d, 0.25) < 0.01)
    return np.ceil(theory.pgd_dimension(0.5, 0.01, chi=0)), first


@asks("theorem-3", "standard", (0.3, 5), (1.2, 3), (1.8, 40), tolerance=1e-5)
def _(r, d):
    """The Beta law is that of r / 2, so what stands in it as 1 - x becomes 1 - r / 2."""
    law = theory.pgd_stationary(1.0, d)
    return (law.logpdf(r + 1e-6) - law.logpdf(r - 1e-6)) / 2e-6


@asks("theorem-4", "challenge", (0.5, 0.1, 1.0), (0.25, 0.05, 2.0), (0.9, 0.2, 1.5))
def _(alpha, sigma, D):
    """The drift is at least d sigma^2 less (1 - rho^2) U, and U is largest at the right edge, D / alpha."""
    v_max = 2 * sigma / alpha**2
    rho = 1 - alpha / (2 * D) * v_max**2
    return optimize.brentq(lambda d: d * sigma**2 - (1 - rho**2) * D / alpha, 0, 1e6)


# linear_networks


@asks(
    "network-1", "standard", (isotropic(12, 3, seed=0), some(12, seed=1)), (isotropic(30, 8, seed=2), some(30, seed=3))
)
def _(X, y):
    """Nothing is to be learned from a target whose mean product with every feature is zero."""
    return y - X @ torch.linalg.lstsq(X, y.unsqueeze(-1)).solution[:, 0]


@asks("network-2", "challenge", (9.0, 2.0, 10), (1.0, 0.1, 4), (50.0, 30.0, 20), tolerance=1e-5)
def _(length2, moment, M):
    """Of the two parts of the trace one grows and one falls with v^2; at the lowest trace they are equal."""
    return lowest(lambda v: v**2 * moment + length2 / (M * v**2), 1e-3, 10.0)


@asks("network-3", "warm-up", (0.5, 20, 7, 2.0), (1.0, 40, 3, 0.5), (2.0, 12, 12, 1.0))
def _(noise, M, d, v):
    """Each of the d entries of c is a mean of M products with a feature of mean square one; then divide by v."""
    X = isotropic(M, d, seed=4)
    return noise**2 * (X / M).square().sum().item() / v**2


# quadratic_regression


@asks("quadratic-1", "warm-up", (5, 40), (1, 10), (20, 100))
def _(k, M):
    """The trace is a sum over the ones of the squared length of a column, which has a chi-square law."""
    squares = stats.chi2(M * k)  # of all entries in the columns of the ones
    return 2 / M * squares.mean(), 2 / M * squares.std()


@asks("quadratic-2", "challenge", (0.1, 0.0), (0.05, 0.9), (0.2, 0.5), tolerance=1e-5)
def _(lr, momentum):
    """With momentum a step is a linear map of two weights, the present one and the last. At the edge w changes sign."""

    def growth(x):
        return np.abs(np.linalg.eigvals([[1 + momentum - x, -momentum], [1, 0]])).max() - 1

    return optimize.brentq(growth, 1 + momentum, 20) / lr


@asks("quadratic-3", "standard", (some(6, 4, seed=5), some(6, seed=6)), (some(3, 5, seed=7), some(3, seed=8)))
def _(X, y):
    """The gradient is a product with w. Differentiate it once more, and put w = 0: the residual is then -y."""

    def loss(w):
        return (X @ w**2 - y).square().sum() / (4 * len(y))

    return torch.autograd.functional.hessian(loss, torch.zeros(X.shape[1], dtype=X.dtype)).diagonal()


# matrix_sensing


@asks("sensing-1", "warm-up", (5, 1), (6, 2), (7, 4), (4, 4))
def _(n, c):
    """Which V give the same matrix, and how many numbers does a rotation of c directions take?"""
    V = some(n, c, seed=9)
    J = torch.autograd.functional.jacobian(lambda at: at @ at.T, V).reshape(n * n, n * c)
    return torch.linalg.matrix_rank(J, rtol=1e-9).item()


@asks("sensing-2", "standard", (0.1, 20), (1.0, 3), (0.5, 6))
def _(sigma, n):
    """Sum the mean squares of the entries of xi xi^T: the diagonal has fourth moments too, and there is a half."""
    diagonal = sum(3 if k == other else 1 for k in range(n) for other in range(n))
    return sigma**4 / 2 * (n * diagonal + n * (n - 1) * n)


@asks(
    "sensing-3",
    "challenge",
    (torch.diag(torch.tensor([3.0, 1.0, 0.0])).double(),),
    (torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double(),),
    tolerance=1e-5,
)
def _(target):
    """The Hessian at zero has one block for each column of U, all alike: which matrix, in the mean?"""

    def loss(U):
        U = U.reshape(target.shape)
        return (U @ U.T - target).square().sum() / 2

    hessian = torch.autograd.functional.hessian(loss, torch.zeros(target.numel(), dtype=target.dtype))
    return hessian.trace(), torch.linalg.eigvalsh(hessian)[0]


# anti_sgd


@asks("anti-sgd-1", "warm-up", (1, 6), (2, 6), (5, 7), (4, 4))
def _(B, M):
    """Two different numbers of a draw have a negative mean product; for B = M no noise is left."""
    values = np.arange(M) ** 2.0
    return np.var([np.mean(each) for each in itertools.combinations(values, B)]) / np.var(values)


@asks("anti-sgd-2", "challenge", (1, 4), (2, 6), (3, 6), (2, 8))
def _(B, M):
    """The deviations of all M / B minibatches of an epoch sum to zero. Multiply this sum by one of them."""
    values, everything = np.arange(M) ** 2.0, set(range(M))
    pairs = [
        (values[list(one)].mean(), values[list(other)].mean())
        for one in itertools.combinations(range(M), B)
        for other in itertools.combinations(sorted(everything - set(one)), B)
    ]
    return np.corrcoef(np.transpose(pairs))[0, 1]


@asks("anti-sgd-3", "standard", (0.1, 0.5), (1.0, 0.0), (0.3, 0.9))
def _(sigma, a):
    """The drift goes with the *square* of sigma."""
    return sigma * np.sum(float(a) ** np.arange(1000)) ** 0.5


# peers


@asks("peers-1", "warm-up", (1.0, 0.0, 0.5, 0.2), (2.0, 3.0, -1.0, 0.5), (0.5, -1.0, 2.0, 1.0))
def _(a, b, w, sigma):
    """Expand the third power at both points; the odd powers of sigma cancel."""
    return np.mean([a * at**3 + b * at for at in (w - sigma, w + sigma)])


@asks("peers-2", "standard", (3.0, 20), (1.0, 2), (0.5, 7))
def _(length2, n):
    """S is the *symmetric part* of A, so its entries off the diagonal have the variance of a mean of two."""
    row = sum(1.0 if i == 0 else 0.5 for i in range(n))  # of the mean squares of the entries of S
    return 2 * length2, 4 * row * length2


@asks("peers-3", "challenge", (0.1, 1.0, 0.5), (0.05, 10.0, 0.2), (0.5, 3.0, 1.0))
def _(lr, mu, a):
    """SAM's climb has a fixed length, however near the minimum is. Look for a w that a step turns into -w."""
    w = 1.0
    for _ in range(3000):
        w -= lr * mu * (w + a * np.sign(w))
    return abs(w)


# between


@asks("between-1", "warm-up", (0.8, 1.0), (0.8, 0.0), (0.5, 0.5), (0.3, 0.9))
def _(rho, c):
    """Write w_n and w_{n+1} by the h before and the two newest noises; only the newest is new."""
    left = response([1, -c], [1, -rho])
    return left[1:] @ left[:-1]


@asks("between-2", "standard", (0.1, 10, 1.0), (0.1, 10, 5.0), (0.02, 30, 20.0))
def _(lr, d, level):
    """The level depends on c by (1 - c)^2 / c only; of the two roots take the one below one."""
    return optimize.brentq(lambda c: theory.dial_plateau(lr, d, c) - level, 0, 1, xtol=1e-14)


@asks("between-3", "challenge", (0.5, 3.0, 1.0), (0.5, 1.0, 0.7), (2.0, 1.8, 1.0))
def _(c, kurtosis, sigma):
    """Only the noise that both increments hold counts: once in the next one, with -c, and in odd powers in the cube."""
    size = kurtosis**0.5  # xi is plus or minus this, or zero; its variance is one
    law, total = {-size: 0.5 / kurtosis, 0.0: 1 - 1 / kurtosis, size: 0.5 / kurtosis}, 0.0
    for x, y, z in itertools.product(law, repeat=3):
        total += law[x] * law[y] * law[z] * (y - c * x) ** 3 * (z - c * y)
    return sigma**4 * total


# correlated_noise


@asks("correlated-1", "challenge", (0.0, 2000), (0.5, 2000), (0.8, 4000), tolerance=0.02)
def _(momentum, B):
    """In flat directions momentum acts like a larger learning rate. By which factor?"""
    x, k = 1e-8, np.arange(1, B)
    starts = [(1 + momentum - x) / (1 + momentum)]  # of the autocorrelation, at lag one
    a, _ = signal.lfilter(
        [1],
        [1, x - 1 - momentum, momentum],
        np.zeros(B - 1),
        zi=signal.lfiltic([1], [1, x - 1 - momentum, momentum], [1.0, *starts]),
    )
    return x / (1 - 2 * (B - k) / (B * (B - 1)) @ a)


@asks("correlated-2", "standard", (0.3,), (0.9,), (0.99,), tolerance=1e-5)
def _(rho):
    """The derivative of the quotient vanishes at a root of a quadratic equation; take the root below one."""
    return lowest(lambda c: energy([1, -c], [1, -rho]) / (1 - c**2), 0.0, 1.0)


@asks("correlated-3", "warm-up", (0.2, 4, 64), (1.0, 1, 3), (0.5, 2, 5))
def _(sigma, a, K):
    """Each of the a times a entries of xi_2 xi_1 is a sum of K products; the loss has a half."""
    return sum(sigma**2 * sigma**2 for _ in itertools.product(range(a), range(a), range(K))) / 2


# resnet


@asks("resnet-1", "warm-up", (some(10, seed=10),), (3 * some(40, seed=11),), (torch.tensor([3.0, 4.0]).double(),))
def _(w):
    """The length of the noise is sigma times the root of the number of weights."""
    return optimize.brentq(lambda sigma: sigma * len(w) ** 0.5 - w.norm().item(), 0, 100)


@asks("resnet-2", "standard", (400, 1000, 0.01), (7, 50, 1.0), (90, 10, 0.3))
def _(n, d, sigma):
    """What remains of a sum of increments? The squares of the lengths of independent vectors add up."""
    return [sigma * (d * left_over([c] * n)) ** 0.5 for c in (0.0, 1.0)]


@asks("resnet-3", "challenge", (0.1,), (0.5,), (0.01,))
def _(m):
    """The newest weights stand in the average too, with the weight m. What is left of them in the difference?"""
    weights = response([m], [1, m - 1])  # of this step's mean, the last one's, ..., in the average
    weights[0] -= 1
    return (weights**2).sum()


# The skeleton of a new chapter: replace the name, and the questions by its own.


@asks("skeleton-1", "warm-up", (1.0,), (0.1,), (3.0,))
def _(sigma):
    """How many independent noises does an increment hold?"""
    return sigma**2 * (np.array([1, -1]) ** 2).sum()


@asks("skeleton-2", "standard", (3, 2.0, 0.5), (10, 1.0, 1.0), (1, 0.2, -2.0))
def _(d, length2, v):
    """How many coordinates does the trace sum over, and which curvature has each?"""
    w = torch.full((d + 1,), (length2 / d) ** 0.5, dtype=torch.float64)
    w[-1] = v
    return torch.autograd.functional.hessian(WideningValley(d).loss, w).trace()


@asks("skeleton-3", "challenge")
def _():
    """Which noise do two successive increments share, and with which signs?"""
    first, second = np.array([-1, 1, 0]), np.array([0, -1, 1])  # in units of xi_n, xi_{n+1} and xi_{n+2}
    return first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
