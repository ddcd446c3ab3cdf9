"""Where attention looks: each head of each layer, from one position over the tokens before it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import PercentFormatter

from lql.plots.style import heading, sequential, sheet, token
from lql.results.pictures import AttentionMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_IN, _COLUMN_IN, _HIGHEST_IN = 0.12, 0.62, 9.0
_LABELLED_LAYERS = 40


def draw(found: AttentionMap) -> Figure:
    """A row for each head, layer under layer; a column for each token; darker the larger share."""
    rows, columns = len(found.heads), len(found.tokens)
    height = min(max(2.4, 1.2 + _ROW_IN * rows), _HIGHEST_IN)
    figure, (axes,) = sheet(max(4.2, 1.6 + _COLUMN_IN * columns), height)
    axes.pcolormesh([head.shares for head in found.heads], cmap=sequential(), vmin=0, vmax=1)
    axes.set_xticks(
        [column + 0.5 for column in range(columns)],
        [token(text, 10) for text in found.tokens],
        rotation=45 if columns > 8 else 0,
    )
    at = 0
    ticks, labels = [], []
    for layer, heads in groupby(found.heads, key=lambda head: head.layer):
        count = len(list(heads))
        ticks.append(at + count / 2)
        labels.append(str(layer))
        at += count
        axes.axhline(at, color="white", linewidth=0.8)
    every = 1 + len(labels) // _LABELLED_LAYERS
    axes.set_yticks(ticks[::every], labels[::every])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("layer, its heads from below")
    axes.set_xlabel("share of the attention to the token")
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), sequential()), ax=axes, fraction=0.04, pad=0.02, aspect=30
    )
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    bar.outline.set_visible(False)
    axes.set_title(heading(found.title), loc="left")
    return figure
