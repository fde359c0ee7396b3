"""The exercises' checker: it tells right from wrong, says in which way, and never what the right answer is.

That the solutions are right is seen where they stand: each chapter's own solution cells, which are executed again, call
the checker, and a guard in test_notebooks.py wants its "right" in their outputs.
"""

import math
import re

import numpy as np
import pytest
import sympy
import torch

import notebooks
from antipgd.book.exercises import CHAPTERS, EXERCISES, LEVELS, exercise, numbers
from test_notebooks import PAGES

NUMBER = re.compile(r"\d+\.?\d*(?:e-?\d+)?")
# For each exercise two answers that are easily given and wrong, each with what was overlooked.
WRONG = {
    "optimizer-1": {
        "the perturbations taken for independent": lambda c, n, sigma: n * (1 + c**2) * sigma**2,
        "one noise too many left over": lambda c, n, sigma: sigma**2 * (1 + (1 - c) ** 2 * n),
    },
    "optimizer-2": {
        "the step of plain SGD": lambda lr, g: -lr * g,
        "uphill": lambda lr, g: math.copysign(lr, g),
    },
    "optimizer-3": {
        "the variance of the buffer's limit with positive correlation": lambda phi, sigma: sigma**2 / (1 - phi) ** 2,
        "the standard deviation": lambda phi, sigma: sigma / (1 - phi**2) ** 0.5,
    },
    "frameworks-1": {
        "the first share counted, though xi_0 is zero": lambda c, sigma: sigma**2 * (1 + sum((1 - x) ** 2 for x in c)),
        "the square of the share for the square of the rest": lambda c, sigma: (
            sigma**2 * (1 + sum(1 - x**2 for x in c[1:]))
        ),
    },
    "frameworks-2": {
        "the newest noise alone": lambda decay: (1 - decay) ** 2,
        "weights that are not squared in the sum": lambda decay: 1 - decay,
    },
    "frameworks-3": {
        "the noise that all workers share": lambda K, sigma: (sigma**2, sigma**2),
        "the old noise taken for independent of the average": lambda K, sigma: (sigma**2 * (2 + 1 / K), sigma**2 / K),
    },
    "valley-1": {
        "the second not conditional": lambda d: (floor(d), near(d)),
        "the degrees of freedom exchanged": lambda d: (1 - floor(d), near(d) / floor(d)),
    },
    "valley-2": {
        "the dimension of the theorem": lambda r: math.ceil(2 / r**2),
        "not a whole number": lambda r: 2 / (2 - r),
    },
    "valley-3": {
        "the noise in v taken for that of the last step": lambda lr, u2, sigma: (2 * lr * u2 * sigma**2,) * 2,
        "small steps only": lambda lr, u2, sigma: (sigma**2, 2 * lr * u2 * sigma**2),
    },
    "valley-4": {
        "the level at w": lambda lr, sigma, d, kurtosis: d * sigma**2,
        "the square of the mean for the mean of the square": lambda lr, sigma, d, kurtosis: lr * sigma**4 * d / 2,
    },
    "smoothed-1": {"that of all later ones": -1 / 2, "no sign": 0.5**0.5},
    "smoothed-2": {"the excess over a Gaussian": (-6 / 5, -1 / 20), "the factor without it": (9 / 5, 9 / 5 / 24)},
    "smoothed-3": {
        "w and z exchanged": lambda x: (2 / (2 - x), x / (2 - x)),
        "the first order in x": lambda x: (x / 2, 1 + x / 2),
    },
    "convergence-1": {
        "the printed second term": lambda lr, beta, d, sigma: beta**3 * d * lr * sigma**2,
        "the variance of z alone": lambda lr, beta, d, sigma: d * lr * beta * sigma**2 / (2 - lr * beta),
    },
    "convergence-2": {
        "the slope of L~ taken to vanish with the mean step": lambda sigma: 0.0,
        "the sign": lambda sigma: sigma**3 / 6,
    },
    "convergence-3": {
        "the largest entry of the Hessian": lambda u, v: (max(u, v) ** 2, 3),
        "a fourth derivative without the factor of the cross term": lambda u, v: (hessian_norm(u, v), 12),
    },
    "convergence-4": {
        "the learning rate that needs no noise": lambda a, b, c, e: ((e - c) / b, 2 * a * b / (e - c) ** 2),
        "the floor forgotten": lambda a, b, c, e: (e / (2 * b), 4 * a * b / e**2),
    },
    "pac-1": {
        "one part of the bound for both": lambda K, M: ((8 * M * K) ** 0.5, (K / (8 * M)) ** 0.5),
        "the root forgotten": lambda K, M: (8 * M * K, K / (2 * M)),
    },
    "pac-2": {
        "no prior": lambda s_0, lam, trace, d: (lam * trace / d) ** -0.5,
        "the variance": lambda s_0, lam, trace, d: 1 / (1 / s_0**2 + lam * trace / d),
    },
    "pac-3": {"the variance": (4 / 3) ** 0.5, "a second moment of one half": (2 / 3) ** 0.25},
    "label-1": {
        "the sign of the label": lambda slopes, third: -third * sum(s**3 for s in slopes) / len(slopes) ** 3,
        "the mean not cubed": lambda slopes, third: third * sum(s**3 for s in slopes) / len(slopes),
    },
    "label-2": {
        "the directions that it does move": lambda X: torch.linalg.pinv(X) @ X,
        "rows taken for orthonormal": lambda X: torch.eye(X.shape[1], dtype=X.dtype) - X.T @ X,
    },
    "label-3": {
        "the strength on z forgotten": lambda lr, sigma: sigma / lr**0.5,
        "the variance": lambda lr, sigma: 2 * sigma**2 / lr,
    },
    "accumulated-1": {
        "the coefficients not squared": lambda rho, c: 1 + (rho - c) / (1 - rho),
        "the share taken before the multiplication": lambda rho, c: 1 + rho**2 * (1 - c) ** 2 / (1 - rho**2),
    },
    "accumulated-2": {
        "the mean multiplier as a constant": lambda a: 2 / (1 + (1 + a) / 2),
        "the newest noise forgotten": lambda a: (1 - a) / (2 + a),
    },
    "accumulated-3": {
        "the limit itself": lambda rho: 2 / (1 + rho),
        "the limit of PGD": lambda rho: 1 / (2 * (1 - rho**2)),
    },
    "theorem-1": {
        "the constant of the theorem, whatever r is": lambda r: 4 / 3,
        "the coefficient at r = 0": lambda r: 1.0,
    },
    "theorem-2": {"the theorem's largest chi": (170, 17), "one dimension too early": (39, 16)},
    "theorem-3": {
        "the density of r / 2": lambda r, d: 2 * (((d - 1) / 2 - 1) / r - 1 / (4 * (1 - r / 2))),
        "the sign of the edge": lambda r, d: ((d - 1) / 2 - 1) / r + 1 / (4 * (1 - r / 2)),
    },
    "theorem-4": {
        "the printed constant": lambda alpha, sigma, D: 2 / alpha**2,
        "the limit of small noise": lambda alpha, sigma, D: 4 / alpha**4,
    },
    "network-1": {
        "the part that is learned": lambda X, y: X @ (X.T @ y) / len(X),
        "the number of points forgotten": lambda X, y: y - X @ (X.T @ y),
    },
    "network-2": {
        "v squared": lambda y2, moment, M: ((y2 / (M * moment)) ** 0.5, 2 * (y2 * moment / M) ** 0.5),
        "one part of the trace": lambda y2, moment, M: ((y2 / (M * moment)) ** 0.25, (y2 * moment / M) ** 0.5),
    },
    "network-3": {
        "one entry": lambda noise, M, d, v: noise**2 / (M * v**2),
        "no mean over the points": lambda noise, M, d, v: d * noise**2 / v**2,
    },
    "quadratic-1": {
        "the variance": lambda k, M: (2 * k, 8 * k / M),
        "the columns taken for one": lambda k, M: (2 * k, k * (8 / M) ** 0.5),
    },
    "quadratic-2": {
        "momentum taken for a larger rate": lambda lr, phi: 2 * (1 - phi) / lr,
        "momentum forgotten": lambda lr, phi: 2 / lr,
    },
    "quadratic-3": {
        "the sign of the residual": lambda X, y: X.T @ y / len(y),
        "the Gauss-Newton part": lambda X, y: torch.zeros(X.shape[1]),
    },
    "sensing-1": {
        "the rotations forgotten": lambda n, c: n * c,
        "all symmetric matrices": lambda n, c: n * (n + 1) // 2,
    },
    "sensing-2": {
        "the entries' fourth moments taken for squares": lambda sigma, n: sigma**4 * n**3,
        "the half forgotten": lambda sigma, n: sigma**4 * n**2 * (2 * n + 1),
    },
    "sensing-3": {
        "one block": lambda X: (-2 * X.trace(), -2 * torch.linalg.eigvalsh(X)[-1]),
        "the smallest eigenvalue": lambda X: (-2 * len(X) * X.trace(), -2 * torch.linalg.eigvalsh(X)[0]),
    },
    "anti-sgd-1": {
        "drawn with replacement": lambda B, M: 1 / B,
        "the share that is not drawn": lambda B, M: (M - B) / (B * M),
    },
    "anti-sgd-2": {
        "drawn anew": lambda B, M: 0.0,
        "the number of batches taken for that of the others": lambda B, M: -B / M,
    },
    "anti-sgd-3": {
        "the drift's factor": lambda sigma, a: sigma / (1 - a),
        "upside down": lambda sigma, a: sigma * (1 - a) ** 0.5,
    },
    "peers-1": {
        "the gradient at w": lambda a, b, w, sigma: a * w**3 + b * w,
        "the trace penalty without its half": lambda a, b, w, sigma: a * w**3 + b * w + 6 * a * w * sigma**2,
    },
    "peers-2": {
        "A taken for symmetric": lambda length2, n: (2 * length2, 4 * n * length2),
        "the same for both": lambda length2, n: (2 * length2, 2 * length2),
    },
    "peers-3": {
        "rest in the minimum": lambda lr, mu, a: 0.0,
        "the length of a step at the minimum": lambda lr, mu, a: lr * mu * a,
    },
    "between-1": {
        "the new noise taken to be shared": lambda rho, c: rho * (rho - c) ** 2 / (1 - rho**2) + 1,
        "the variance of w for that of h": lambda rho, c: rho * (1 + (rho - c) ** 2 / (1 - rho**2)),
    },
    "between-2": {
        "the other root": lambda lr, d, level: 1 / dial_for(lr, d, level),
        "the share that is left": lambda lr, d, level: 1 - dial_for(lr, d, level),
    },
    "between-3": {
        "Gaussian noise": lambda c, kurtosis, sigma: -3 * (c + c**3) * sigma**4,
        "the sign": lambda c, kurtosis, sigma: (kurtosis * c + 3 * c**3) * sigma**4,
    },
    "correlated-1": {
        "no momentum": lambda phi, B: 3 / (B + 1),
        "momentum taken to slow down": lambda phi, B: 3 / ((1 - phi) * (B + 1)),
    },
    "correlated-2": {
        "the share that is best for public noise": lambda rho: (rho, 1 / (1 - rho**2)),
        "the root forgotten": lambda rho: ((1 - (1 - rho**2) ** 0.5) / rho, 1 / (1 - rho**2)),
    },
    "correlated-3": {
        "the half forgotten": lambda sigma, a, K: sigma**4 * a**2 * K,
        "one entry in each layer": lambda sigma, a, K: sigma**4 * a * K / 2,
    },
    "resnet-1": {
        "the length of the weights": lambda w: w.norm(),
        "their mean square": lambda w: w.square().mean(),
    },
    "resnet-2": {
        "lengths that add up": lambda n, d, sigma: (n * sigma * d**0.5, sigma * d**0.5),
        "increments taken for independent": lambda n, d, sigma: (sigma * (n * d) ** 0.5, sigma * (2 * n * d) ** 0.5),
    },
    "resnet-3": {
        "the average taken for independent of the newest weights": lambda m: 1 + m / (2 - m),
        "the average taken for exact": lambda m: 1.0,
    },
    "skeleton-1": {"one of the two noises": lambda sigma: sigma**2, "the sign": lambda sigma: -2 * sigma**2},
    "skeleton-2": {"u alone": lambda d, u2, v: u2, "the curvature of one u": lambda d, u2, v: u2 + v**2},
    "skeleton-3": {"no sign": 1 / 2, "the covariance": -1.0},
}


def floor(d):
    """The probability of valley-1 to end at v = 0."""
    return EXERCISES["valley-1"].solve(d)[0]


def near(d):
    """The probability of valley-1 to do so near |u_0|^2."""
    return np.prod(EXERCISES["valley-1"].solve(d))


def hessian_norm(u, v):
    return np.linalg.norm([[v**2, 2 * u * v], [2 * u * v, u**2]], 2)


def dial_for(lr, d, level):
    x = 4 * lr * level / (2 * (d - 1) - (d + 2) * lr * level)
    return 1 + x / 2 - (x + x**2 / 4) ** 0.5


def said(capsys, name, answer):
    """What the checker prints on an answer."""
    exercise(name, answer)
    return capsys.readouterr().out


names = pytest.mark.parametrize("name", EXERCISES)


@names
def test_the_right_answer_is_right(capsys, name):
    asked = EXERCISES[name]
    right = asked.solve if asked.arguments else asked.solve()
    assert said(capsys, name, right) == f"{name} ({asked.level}): right.\n"


@names
def test_a_stub_is_told_what_is_wanted_and_not_that_it_is_wrong(capsys, name):
    asked = EXERCISES[name]
    stubs = [lambda *arguments: ..., lambda *arguments: None, lambda *arguments: (..., ...)] if asked.arguments else []
    for stub in [..., None, (..., ...), *stubs]:
        words = said(capsys, name, stub)
        assert words == f"{name} ({asked.level}): not answered yet. Wanted: {asked.wanted}.\n"


def test_each_exercise_has_two_typical_wrong_answers():
    assert set(WRONG) == set(EXERCISES)
    assert {len(answers) for answers in WRONG.values()} == {2}


@pytest.mark.parametrize("name, overlooked", [(name, each) for name, answers in WRONG.items() for each in answers])
def test_a_typical_wrong_answer_is_not_right_and_is_not_told_the_right_one(capsys, name, overlooked):
    asked, wrong = EXERCISES[name], WRONG[name][overlooked]
    words = said(capsys, name, wrong)
    assert words.startswith(f"{name} ({asked.level}): not yet. ")
    assert words.endswith(f"Look again: {asked.hint}\n")
    assert "fails" not in words, words
    told = {float(number) for number in NUMBER.findall(words.partition("not yet.")[2])} - {0, 1, 2, 3, 4}  # as in v^2
    told -= {value for arguments in asked.at for value in arguments if isinstance(value, (int, float))}
    for value in np.concatenate([numbers(asked.solve(*arguments)).ravel() for arguments in asked.at]):
        assert not any(math.isclose(number, abs(value), rel_tol=0.01) for number in told), words


@names
def test_an_answer_of_another_kind_is_told_so(capsys, name):
    asked = EXERCISES[name]
    if not asked.arguments:
        assert f"Wanted is {asked.wanted}, and this is a function." in said(capsys, name, lambda: asked.solve())
        return
    assert f"Wanted is {asked.wanted}, and this is a float." in said(capsys, name, 0.5)
    assert "Wanted are real numbers, and this is a str" in said(capsys, name, lambda *arguments: "much")
    assert "It is an array of shape (1, 2, 3), and wanted is" in said(
        capsys, name, lambda *arguments: np.ones((1, 2, 3))
    )


def test_what_a_function_raises_is_told_with_the_arguments(capsys):
    words = said(capsys, "accumulated-1", lambda rho, c: 1 / (rho - rho))
    assert "Your function fails at rho = 0.9, c = 0.5: ZeroDivisionError: float division by zero" in words
    assert "TypeError" in said(capsys, "accumulated-1", lambda rho: rho)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x: -x, "Its sign is wrong."),
        (lambda x: 1 / x, "It is upside down."),
        (lambda x: x**2, "There is a square too much, or a root missing."),
        (lambda x: x**0.5, "There is a square missing, or a root too much."),
        (lambda x: 3.3 * x, "It is right up to a constant factor."),
        (lambda x: x + 0.2, "It is right up to a constant that is added."),
        (lambda x: x if x > 0.6 else 0.1, "It is right at some arguments, but not at rho = 0.99."),
        (lambda x: x * math.sin(9 * x), "It is far off."),
        (lambda x: x + 0.1 * math.sin(9 * x), "It is near, but not right."),
        (lambda x: math.nan, "Something in it is not a finite number."),
    ],
)
def test_the_kind_of_mistake_is_named(capsys, change, words):
    solve = EXERCISES["accumulated-3"].solve
    assert said(capsys, "accumulated-3", lambda rho: change(solve(rho))).partition("not yet. ")[2].startswith(words)


def test_a_number_off_by_a_small_whole_factor(capsys):
    assert "off by a small whole factor" in said(capsys, "pac-3", 2 * EXERCISES["pac-3"].solve())


def test_of_several_numbers_the_wrong_one_is_named(capsys):
    first, second = EXERCISES["smoothed-2"].solve()
    assert "Number 2 of it: its sign is wrong." in said(capsys, "smoothed-2", (first, -second))
    assert "Number 1 of it: " in said(capsys, "smoothed-2", (second, first))


def test_numbers_of_all_libraries_count(capsys):
    value = 0.5**0.5
    for number in (-value, np.float64(-value), torch.tensor(-value).double().requires_grad_(), -1 / sympy.sqrt(2)):
        assert said(capsys, "smoothed-1", number) == "smoothed-1 (warm-up): right.\n"
    for other in (True, "-0.7", -value + 1j, [None], {}, "word"):
        assert "right." not in said(capsys, "smoothed-1", other)


def test_what_an_answer_does_to_its_arguments_stays_with_it(capsys):
    def answer(X):
        X.zero_()
        return X.T @ X

    before = [arguments[0].clone() for arguments in EXERCISES["label-2"].at]
    said(capsys, "label-2", answer)
    assert all(torch.equal(old, arguments[0]) for old, arguments in zip(before, EXERCISES["label-2"].at))


def test_an_unknown_name_is_refused_with_those_that_are_near():
    with pytest.raises(ValueError, match="no exercise 'valey-2'. Did you mean 'valley-2'"):
        exercise("valey-2", 1)
    with pytest.raises(ValueError, match="no exercise 'xyz'. The names are 'optimizer-1'"):
        exercise("xyz", 1)


def test_every_chapter_has_exercises_of_all_levels_numbered_from_one():
    found = {chapter: [each for each in EXERCISES.values() if each.chapter == chapter] for chapter in CHAPTERS.values()}
    assert set(found) == {*notebooks.listed(), "chapter"} - PAGES
    for exercises in found.values():
        assert {each.level for each in exercises} == set(LEVELS)
        assert [int(each.name.rpartition("-")[2]) for each in exercises] == [*range(1, len(exercises) + 1)]


@names
def test_it_says_where_to_look_again_in_a_sentence(name):
    words = EXERCISES[name].hint
    assert words[0].isupper() and words[-1] in ".?" and len(words) > 30
