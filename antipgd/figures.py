"""One look for all figures: the same colour, marker and dash for a method through the whole book."""

import sys

import matplotlib as mpl
import torch

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
}
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


def method_style(name):
    """Keyword arguments of a line for the method of this name. Raises ValueError for one without a style."""
    if name not in METHODS:
        raise ValueError(f"No style for {name!r}. The methods with one: {', '.join(METHODS)}.")
    color, marker, linestyle = METHODS[name]
    return {"color": color, "marker": marker, "linestyle": linestyle, "label": name}


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
