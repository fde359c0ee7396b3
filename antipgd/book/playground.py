"""The interactive figure of the book: the methods on two landscapes, in the reader's browser, with all their settings.

``figure()`` shows it in a notebook and in the book's pages. It needs no kernel afterwards, no network and no other
package. ``widget()`` is the same figure as a Jupyter widget, whose settings Python can read and set; it needs anywidget.
Both use one module of JavaScript, ``_static/playground.mjs``, which computes the runs itself.
"""

import functools
import html
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from antipgd import theory
from antipgd.noise import check_law, check_noise

LANDSCAPES = ("valley", "quadratic")
CURVATURES = (0.2, 1.0)  # of the quadratic, as in the module of JavaScript


@dataclass(frozen=True)
class Setting:
    """What the figure shows first.

    landscape: "valley", the widening valley, or "quadratic", with two weights and the curvatures ``CURVATURES``.
    eta, sigma: step size and standard deviation of the noise; the figure's own controls reach from 0.01 to 0.5.
    cancel: the dial, in [0, 1]; between its ends a fourth run stands beside GD, PGD and Anti-PGD.
    dimension: of u, in the valley. law: "gaussian", "rademacher" or "uniform". seed: of the browser's own generator.
    steps: how many each run takes.

    Raises ValueError for a value that is none of these.
    """

    landscape: str = "valley"
    eta: float = 0.1
    sigma: float = 0.1
    cancel: float = 1.0
    dimension: int = 10
    law: str = "gaussian"
    seed: int = 0
    steps: int = 1000

    def __post_init__(self):
        if self.landscape not in LANDSCAPES:
            raise ValueError(f"Unknown landscape {self.landscape!r}. Choose one of: {', '.join(LANDSCAPES)}.")
        check_noise(self.sigma, self.cancel)
        check_law(self.law)
        if not 0 < self.eta < 1:
            raise ValueError(f"eta is {self.eta!r}: on these landscapes it lies between 0 and 1.")
        for name, least in (("dimension", 1), ("seed", 0), ("steps", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}: it is an integer of at least {least}.")


def long_run(setting):
    """What theory predicts for PGD and for Anti-PGD in the long run, at w: of |u|^2 in the valley, else of |w|^2."""
    if setting.landscape == "quadratic":
        rhos = 1 - setting.eta * torch.tensor(CURVATURES, dtype=torch.float64)
        return tuple(theory.dial_variance(rhos, c, setting.sigma).sum().item() for c in (0, 1))
    floor = setting.dimension * setting.sigma**2
    return tuple(theory.dial_plateau(setting.eta, setting.dimension, c) + floor for c in (0, 1))


def in_words(setting):
    """The figure's first setting and what is predicted there, for whoever cannot see it."""
    where, what = {"valley": ("the widening valley", "|u|²"), "quadratic": ("a quadratic", "|w|²")}[setting.landscape]
    pgd, anti = long_run(setting)
    return (
        f"An interactive figure: gradient descent, PGD and Anti-PGD on {where}. It begins at step size {setting.eta:g} and "
        f"noise {setting.sigma:g}, where theory predicts in the long run {what} of about {pgd:.3g} for PGD and "
        f"{anti:.3g} for Anti-PGD."
    )


@functools.cache
def module():
    """The text of the module of JavaScript, which an installed package carries, too."""
    packaged, in_the_tree = (Path(__file__).parents[i] / folder / "playground.mjs" for i, folder in ((0, ""), (2, "_static")))
    return (packaged if packaged.exists() else in_the_tree).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Figure:
    """The figure as an output: HTML with all that it needs, and its words where there is no HTML."""

    setting: Setting

    def __repr__(self):
        return in_words(self.setting)

    def _repr_html_(self):
        words = f"{in_words(self.setting)} It needs JavaScript; in Jupyter, run its cell."
        place = f'<div class="apg-place" data-setting="{html.escape(json.dumps(asdict(self.setting)))}"><p>{words}</p></div>'
        # Inside the page, since browsers load no module from a file on disk.
        return f'{place}\n<script type="module">\n{module()}\nmount();\n</script>'


def figure(**setting):
    """The interactive figure. Keyword arguments: the fields of ``Setting``, whose ValueError this raises."""
    return Figure(Setting(**setting))


def widget(**setting):
    """The same figure as a widget: ``w = widget()``, then ``w.eta`` follows the reader, and ``w.eta = 0.2`` the figure.

    In Colab call ``google.colab.output.enable_custom_widget_manager()`` before.

    Keyword arguments: the fields of ``Setting``. Raises ImportError where anywidget is missing, and ValueError as above.
    """
    return widget_class()(**asdict(Setting(**setting)))


@functools.cache
def widget_class():
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError(
            "The widget needs anywidget: pip install anywidget. Without it, figure() shows the same, and Python does not "
            "learn what the reader chose."
        ) from error
    kinds = {str: traitlets.Unicode, float: traitlets.Float, int: traitlets.Int}
    traits = {name: kinds[type(value)]().tag(sync=True) for name, value in asdict(Setting()).items()}
    return type("Playground", (anywidget.AnyWidget,), {"_esm": module(), **traits})
