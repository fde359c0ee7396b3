"""The look that all figures share."""

import inspect
import sys
from types import SimpleNamespace

import matplotlib as mpl
import pytest
import torch
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure

from antipgd import dynamics
from antipgd.dynamics import Interval
from antipgd.book.figures import METHODS, SERIES, THEORY, band, method_style, series, summary, use_style

# Whatever in dynamics.py makes a Method from a learning rate and one more number.
CONSTRUCTORS = [
    function
    for _, function in inspect.getmembers(dynamics, inspect.isfunction)
    if function.__module__ == dynamics.__name__ and next(iter(inspect.signature(function).parameters), "") == "lr"
]


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture
def defaults():
    """The figure style and the number of threads, given back after the test."""
    threads = torch.get_num_threads()
    with mpl.rc_context():
        yield
    torch.set_num_threads(threads)


def test_constructors_are_found():
    assert {dynamics.gd, dynamics.anti_pgd, dynamics.trace_regularised} <= set(CONSTRUCTORS)


@pytest.mark.parametrize("constructor", CONSTRUCTORS, ids=lambda function: function.__name__)
def test_every_method_has_a_style(constructor):
    method = constructor(*[1] * len(inspect.signature(constructor).parameters))
    assert method_style(method.name)["label"] == method.name


@pytest.mark.parametrize("part", [0, 1], ids=["colours", "markers"])
def test_methods_are_told_apart(part):
    looks = [style[part] for style in METHODS.values()]
    assert len(set(looks)) == len(looks)


def test_theory_looks_like_no_method():
    assert to_rgb(THEORY["color"]) not in {to_rgb(color) for color, _, _ in METHODS.values()}


def test_what_is_no_method_looks_like_none_and_is_told_apart():
    colors = {color for color, _, _ in SERIES}
    assert len(colors) == len(SERIES) and not colors & {THEORY["color"], *(color for color, _, _ in METHODS.values())}
    assert len({marker for _, marker, _ in SERIES}) == len(SERIES)
    assert series(1) == dict(zip(("color", "marker", "linestyle"), SERIES[1]))


def test_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="No style for 'Adam'.*GD.*Anti-PGD"):
        method_style("Adam")


def test_band_is_the_mean_and_its_interval(ax):
    mean, half = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0.5, 0.25, 1.0])
    band(ax, torch.tensor([0, 1, 5]), Interval(mean, half, torch.tensor([9, 9, 9])), "Anti-PGD", linewidth=3)
    (line,), (area,) = ax.lines, ax.collections
    assert line.get_xdata().tolist() == [0, 1, 5] and line.get_ydata().tolist() == mean.tolist()
    assert (line.get_color(), line.get_marker(), line.get_linestyle()) == METHODS["Anti-PGD"]
    assert line.get_label() == "Anti-PGD" and line.get_linewidth() == 3
    corners = set(map(tuple, area.get_paths()[0].vertices.tolist()))
    assert corners == {(0, 0.5), (0, 1.5), (1, 2.75), (1, 3.25), (5, 1), (5, 3)}
    assert to_rgba(area.get_facecolor()[0])[:3] == to_rgb(line.get_color()) and area.get_facecolor()[0][3] < 1


def test_band_takes_plain_lists_and_a_look_of_the_callers(ax):
    band(ax, [1, 2], Interval([1.0, 2.0], torch.tensor([0.1, 0.1]), 5), "GD", color="#123456", label="both")
    assert ax.lines[0].get_label() == "both" and ax.lines[0].get_color() == "#123456"
    assert to_rgb(ax.collections[0].get_facecolor()[0]) == to_rgb("#123456")


def test_style_is_set_and_torch_keeps_to_one_thread(defaults):
    torch.set_num_threads(2)
    use_style()
    assert torch.get_num_threads() == 1
    assert mpl.rcParams["axes.spines.top"] is False and mpl.rcParams["figure.constrained_layout.use"] is True


@pytest.mark.parametrize(
    "in_a_shell, formats", [(False, []), (True, ["retina"])], ids=["in a script", "in a notebook"]
)
def test_sharp_images_and_summaries_are_asked_for_in_notebooks_only(defaults, monkeypatch, in_a_shell, formats):
    texts = {}
    formatters = {"text/plain": SimpleNamespace(for_type=texts.__setitem__)}
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters=formatters)) if in_a_shell else None
    asked = []  # asking in a script would start a shell there, which takes the place of the module __main__
    monkeypatch.setattr("matplotlib_inline.backend_inline.set_matplotlib_formats", asked.append)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    use_style()
    assert asked == formats and set(texts) == ({Figure} if in_a_shell else set())


def test_style_needs_no_notebook(defaults, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    use_style()
    assert "IPython" not in sys.modules


ARRAYS = {
    "line": (lambda ax, y: ax.plot(y)),
    "band": (lambda ax, y: ax.fill_between(range(4), y)),
    "bars": (lambda ax, y: ax.bar(range(4), y)),
    "histogram": (lambda ax, y: ax.hist(y, bins=[0, 1.5, 2.5, 9])),
    "points": (lambda ax, y: ax.scatter(range(4), y)),
    "sizes in colour": (lambda ax, y: ax.scatter(range(4), range(4), c=y)),
    "intervals": (lambda ax, y: ax.errorbar(range(4), [1] * 4, y)),
    "image": (lambda ax, y: ax.imshow([y, y])),
    "mesh": (lambda ax, y: ax.pcolormesh([y, y])),
    "contours": (lambda ax, y: ax.contour([y, [1, 2, 1, 2]], levels=[1.2, 1.7])),
    "filled contours": (lambda ax, y: ax.contourf([y, [1, 2, 1, 2]], levels=[1.2, 1.7, 3])),
    "levels": (lambda ax, y: ax.hlines(y, 0, 1)),
    "arrows": (lambda ax, y: ax.quiver(range(4), range(4), y, y)),
    "a point where a number was": (lambda ax, y: ax.plot([float("nan") if value == 1.5 else value for value in y])),
}


def drawing(name, y):
    figure = Figure()
    ARRAYS[name](figure.subplots(), y)
    return summary(figure)


@pytest.mark.parametrize("name", ARRAYS)
def test_another_array_makes_another_summary(name):
    same, other = [1.0, 2.0, 3.0, 1.5], [1.0, 3.0, 2.0, 1.5]  # only the order inside differs
    if name in ("histogram", "a point where a number was"):
        other = [1.0, 1.0, 3.0, 1.6]
    assert drawing(name, same) == drawing(name, same)
    assert drawing(name, same) != drawing(name, other)


def test_the_summary_names_what_it_describes(ax):
    ax.plot([1, 2], [3, float("nan")], **method_style("PGD"))
    ax.set(title="A title", xlabel="x", ylabel="y")
    assert summary(ax.figure).splitlines() == [
        "figure of 1 axes",
        "axes 1: 'A title', 'x', 'y'",
        "  Line2D 'PGD' #d55e00; x (2) 1.00000 to 2.00000, 1.00000 to 2.00000, 0.500000, 0.710368; "
        "y (2) 3.00000 to 3.00000, 3.00000 to 3.00000, 0.00000, 0.00000, 1 not finite",
    ]
