"""One look for all figures, and the summary by which tests see what a figure draws."""

import sys

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all common kinds of colour vision; markers and dashes serve print and
# whoever sees no colour at all.
METHODS = {
    "GD": ("#000000", "o", "-"),
    "SGD": ("#0072B2", "s", "--"),
    "PGD": ("#D55E00", "^", "-."),
    "Anti-PGD": ("#009E73", "D", "-"),
    "label noise": ("#CC79A7", "v", "--"),
    "trace regularisation": ("#56B4E9", "P", ":"),
    "smoothing": ("#E69F00", "X", ":"),
    "SAM": ("#8B4513", ">", "-."),
    "weight decay": ("#9467BD", "<", "--"),
}
# For whatever is not a method: laws, dimensions, places. The methods' colours are reserved for the methods.
SERIES = [
    ("#332288", "o", "-"),
    ("#882255", "s", "--"),
    ("#999933", "^", "-."),
    ("#44AA99", "D", ":"),
    ("#661100", "v", (0, (3, 1, 1, 1, 1, 1))),
]
THEORY = {"color": "#7F7F7F", "linestyle": (0, (4, 2)), "linewidth": 1.2}
WIDTH = 6.4  # inches: the width of the text, at which the font sizes below are those of the text


def use_style():
    """Set the book's figure style, sharp images in notebooks, and one thread for torch.

    One thread, because the sums of several threads differ in their last digits, and the notebooks' numbers are
    compared when they are run again.
    """
    torch.set_num_threads(1)
    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.6),
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "lines.markersize": 5,
        }
    )
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():  # a notebook, not a script
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")
        # Jupyter, Colab and the book show a figure's picture; the text beside it is what the tests compare.
        texts = sys.modules["IPython"].get_ipython().display_formatter.formatters["text/plain"]
        texts.for_type(Figure, lambda figure, printer, cycle: printer.text(summary(figure)))


def method_style(name):
    """Keyword arguments of a line for the method of this name. Raises ValueError for one without a style."""
    if name not in METHODS:
        raise ValueError(f"No style for {name!r}. The methods with one: {', '.join(METHODS)}.")
    color, marker, linestyle = METHODS[name]
    return {"color": color, "marker": marker, "linestyle": linestyle, "label": name}


def series(i):
    """Keyword arguments of a line for the i-th of several that are not methods. Raises IndexError past the fifth."""
    color, marker, linestyle = SERIES[i]
    return {"color": color, "marker": marker, "linestyle": linestyle}


def band(ax, x, interval, name, *, of_logarithms=False, **line):
    """Draw the mean of an ``Interval`` of shape (T,) over x, with its 95 % interval as a band, in a method's style.

    of_logarithms: the interval is one of logarithms, and what is drawn is the geometric mean. Use it on logarithmic
    axes, where the band of an arithmetic mean can reach below zero.
    """
    style = {**method_style(name), "markevery": 0.15, **line}
    x, mean, half = (torch.as_tensor(values).cpu() for values in (x, interval.mean, interval.half))
    curves = [mean, mean - half, mean + half]
    middle, low, high = (curve.exp() for curve in curves) if of_logarithms else curves
    ax.plot(x, middle, **style)
    ax.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def summary(figure):
    """What a figure draws, in rounded numbers, one line for each of its lines, areas, images and bars.

    Each has its label and colour, and for every array behind it: the number of values, the first and the last, the
    least and the greatest, their mean above the least, plain and unevenly weighted, and how many are not finite.
    Another array makes another text.
    """
    lines = [f"figure of {len(figure.axes)} axes"]
    for number, ax in enumerate(figure.axes, start=1):
        lines.append(f"axes {number}: {ax.get_title()!r}, {ax.get_xlabel()!r}, {ax.get_ylabel()!r}")
        for artist in drawn(ax):
            color, arrays = artist_arrays(artist)
            what = f"  {type(artist).__name__} {artist.get_label()!r}"
            described = [f"{name} {numbers(values)}" for name, values in arrays if np.size(values)]
            lines.append("; ".join([f"{what} {color}".rstrip(), *described]))
    return "\n".join(lines)


def drawn(ax):
    """The artists of an axes that draw data. What the axes have of their own, such as their frame, is not among them."""
    return [artist for artist in (*ax.lines, *ax.collections, *ax.images, *ax.patches) if artist.get_visible()]


def artist_arrays(artist):
    """The colour of an artist ("" for one that has none of its own), and the arrays behind it, each with its name."""
    if isinstance(artist, mpl.lines.Line2D):
        x, y = artist.get_data(orig=False)
        return to_hex(artist.get_color()), [("x", x), ("y", y)]
    if isinstance(artist, mpl.patches.Patch):
        corners = artist.get_patch_transform().transform(artist.get_path().vertices)
        return to_hex(artist.get_facecolor()), [("x", corners[:, 0]), ("y", corners[:, 1])]
    values = artist.get_array()
    values = [("values", np.ma.filled(values.astype(float), np.nan))] if values is not None else []
    if isinstance(artist, mpl.image.AxesImage):
        return "", [*values, ("extent", artist.get_extent())]
    if isinstance(artist, QuadMesh):
        points = artist.get_coordinates().reshape(-1, 2)
    else:
        points = np.concatenate([np.zeros((0, 2)), *(path.vertices for path in artist.get_paths())])
    arrays = [("x", points[:, 0]), ("y", points[:, 1])]
    offsets = np.ma.filled(artist.get_offsets(), np.nan)
    if offsets.any():  # of markers and arrows; other collections stand where they are
        arrays += [("at x", offsets[:, 0]), ("at y", offsets[:, 1])]
    if hasattr(artist, "U"):  # the arrows of a quiver
        arrays += [("U", artist.U), ("V", artist.V)]
    colors = [*artist.get_facecolor(), *artist.get_edgecolor()]
    return to_hex(colors[0]) if len(colors) and not values else "", values + arrays


def numbers(values):
    """A short text that tells one array of numbers from another."""
    values = np.asarray(values, dtype=float).ravel()
    finite = values[np.isfinite(values)]
    text = f"({len(values)})"
    if len(finite):
        above = finite - finite.min()  # not negative: their means do not cancel down to the rounding of the values
        uneven = 1 + np.sin(np.arange(len(finite))) / 2  # so that the order counts as well
        parts = [finite[0], finite[-1], finite.min(), finite.max(), above.mean(), (uneven * above).mean()]
        text += " {} to {}, {} to {}, {}, {}".format(*(f"{part:#.6g}" for part in parts))
    return text + (f", {len(values) - len(finite)} not finite" if len(finite) < len(values) else "")
