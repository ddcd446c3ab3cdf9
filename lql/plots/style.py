"""How every picture looks.

Colours are Okabe and Ito's, which colour-blind readers tell apart, or one hue that grows darker,
which also survives a grey print. Nothing is said by colour alone. Text stays text in SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from lql.render.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

BLUE, VERMILLION, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#999999", "#222222"
SEQUENTIAL, _PALEST = "Blues", 0.08
_INK_LUMINANCE, _GLARE = 0.016, 0.05

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so every machine has it
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.unicode_minus": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "text.color": INK,
    "text.parse_math": False,  # a token may be "$"
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "lql",
}
_TITLE_WIDTH = 76


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save in this style, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def sheet(
    width: float, height: float, columns: int = 1, *, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """An empty figure with axes side by side, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, columns, squeeze=False, width_ratios=ratios)
    return figure, list(grid[0])


def token(text: str, longest: int = 14) -> str:
    """A token as a label: spaces and control characters seen, long ones cut."""
    shown = visible(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def heading(text: str) -> str:
    """A prompt as a title: visible, in a few lines."""
    lines = wrap(visible(text), _TITLE_WIDTH) or [""]
    return "\n".join([*lines[:2], "…"] if len(lines) > 3 else lines)


def sequential() -> Colormap:
    """Light for 0, dark for 1; the lightest is kept off white, so that a cell is seen."""
    hues = matplotlib.colormaps[SEQUENTIAL]
    return ListedColormap([hues(_PALEST + (1 - _PALEST) * step / 255) for step in range(256)])


def ink_on(colour: Sequence[float]) -> str:
    """White or the colour of ink, whichever stands out more from a colour (WCAG's contrast)."""
    red, green, blue = (_linear(part) for part in colour[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue + _GLARE
    return "white" if (1 + _GLARE) / luminance > luminance / (_INK_LUMINANCE + _GLARE) else INK


def _linear(part: float) -> float:
    return float(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
