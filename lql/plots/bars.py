"""INFER: the candidates for the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import PercentFormatter

from lql.plots.style import BLUE, heading, sheet, token
from lql.render.text import percent
from lql.results.forward import InferResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_TOKENS = 40


def draw(found: InferResult) -> Figure:
    """A bar for each token, the most probable at the top."""
    tokens = found.tokens[:MAX_TOKENS]
    figure, (axes,) = sheet(5.2, max(1.8, 1.1 + 0.24 * len(tokens)))
    places = range(len(tokens) - 1, -1, -1)
    axes.barh(list(places), [row.probability for row in tokens], height=0.7, color=BLUE)
    for place, row in zip(places, tokens, strict=True):
        axes.annotate(
            percent(row.probability),
            (row.probability, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(list(places), [token(row.token, 18) for row in tokens])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.15 * max((row.probability for row in tokens), default=1.0))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("probability of the next token")
    axes.set_title(heading(found.prompt), loc="left")
    return figure
