"""The logit lens: what the model would say after each layer, and how surely."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MultipleLocator, PercentFormatter

from lql.plots.style import BLUE, heading, ink_on, sequential, sheet, token
from lql.results.pictures import LensMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_IN, _COLUMN_IN = 0.21, 0.95


def draw(lens: LensMap) -> Figure:
    """A cell for each layer and position: its token, darker the more probable.

    One position alone has bars of the probability beside it.
    """
    rows, columns = len(lens.layers), len(lens.tokens)
    height = max(2.4, 1.3 + _ROW_IN * rows)
    if columns == 1:
        figure, (cells, bars) = sheet(5.6, height, 2, ratios=(1.1, 2))
        _bars(bars, lens)
    else:
        figure, (cells,) = sheet(max(4.6, 1.5 + _COLUMN_IN * columns), height)
    _cells(cells, lens)
    if columns > 1:
        scale = ScalarMappable(Normalize(0, 1), sequential())
        bar = figure.colorbar(scale, ax=cells, fraction=0.03, pad=0.02, aspect=30)
        bar.set_label("probability of the token")
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
        bar.outline.set_visible(False)
    figure.suptitle(heading(lens.title), fontsize=10)
    return figure


def _cells(axes: Axes, lens: LensMap) -> None:
    colours = sequential()
    grid = [[cell.probability for cell in row] for row in lens.cells]
    axes.pcolormesh(
        grid, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=0.8, rasterized=False
    )
    for row, cells in enumerate(lens.cells):
        for column, cell in enumerate(cells):
            axes.text(
                column + 0.5,
                row + 0.5,
                token(cell.token, 12),
                ha="center",
                va="center",
                fontsize=7.5,
                color=ink_on(colours(cell.probability)),
            )
    axes.set_yticks([row + 0.5 for row in range(len(lens.layers))], map(str, lens.layers))
    axes.set_xticks(
        [column + 0.5 for column in range(len(lens.tokens))],
        [token(text, 12) for text in lens.tokens],
    )
    axes.set_ylabel("after layer")
    axes.set_xlabel("at the token" if len(lens.tokens) > 1 else "at the last token")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _bars(axes: Axes, lens: LensMap) -> None:
    places = [row + 0.5 for row in range(len(lens.layers))]
    axes.barh(places, [row[0].probability for row in lens.cells], height=0.72, color=BLUE)
    axes.set_ylim(0, len(lens.layers))
    axes.set_yticks([])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MultipleLocator(0.25))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("probability of the token")
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
