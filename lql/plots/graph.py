"""DESCRIBE as a graph: an entity, and an edge to everything that the model says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from lql.plots.style import BLUE, GREY, INK, heading, sheet, token
from lql.render.text import percent, printable
from lql.results.browse import DescribeResult, EdgeRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_EDGES = 24
_ROW_IN = 0.34
_LINE_ENDS, _RELATION_X, _TARGET_X = 0.44, 0.455, 0.64
_DASHES: dict[str | None, Literal["solid", "dashed", "dotted"]] = {
    "clear": "solid",
    "weak": "dashed",
    "none": "dotted",
    None: "solid",
}


def draw(found: DescribeResult) -> Figure:
    """The entity on the left, its targets on the right; a thick line is a strong edge.

    Solid edges have a clear signal, dashed ones a weak one, dotted ones none.
    """
    edges = found.edges[:MAX_EDGES]
    figure, (axes,) = sheet(6.4, max(2.2, 1.1 + _ROW_IN * len(edges)))
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, max(len(edges), 1) - 0.5)
    axes.set_axis_off()
    middle = (max(len(edges), 1) - 1) / 2
    strongest = max((abs(edge.score) for edge in edges), default=1.0) or 1.0
    for row, edge in enumerate(edges):
        _edge(axes, edge, middle, len(edges) - 1 - row, abs(edge.score) / strongest)
    axes.text(
        0.16,
        middle,
        token(found.entity, 22),
        ha="right",
        va="center",
        fontsize=11,
        fontweight="bold",
    )
    if not edges:
        axes.text(_TARGET_X, middle, "nothing", va="center", style="italic")
    title = found.entity if not found.kinds else f"{found.entity} ({', '.join(found.kinds)})"
    axes.set_title(heading(title), loc="left")
    _legend(axes, edges)
    if len(found.edges) > len(edges):
        note = f"the strongest {len(edges)} of {len(found.edges)} edges"
        figure.supxlabel(note, fontsize=8)
    return figure


def _edge(axes: Axes, edge: EdgeRow, middle: float, place: float, strength: float) -> None:
    colour = GREY if edge.signal == "none" else BLUE
    axes.add_patch(
        FancyArrowPatch(
            (0.18, middle),
            (_LINE_ENDS, place),
            connectionstyle="angle3,angleA=90,angleB=0"
            if abs(place - middle) > 0.5
            else "arc3,rad=0",
            arrowstyle="-",
            linewidth=0.6 + 2.6 * strength,
            linestyle=_DASHES[edge.signal],
            color=colour,
            alpha=0.85,
        )
    )
    if edge.relation:
        axes.text(
            _RELATION_X,
            place,
            printable(edge.relation),
            va="center",
            fontsize=8,
        )
    axes.text(_TARGET_X, place, token(edge.target, 24), va="center", fontweight="bold")
    axes.text(1.0, place, _told(edge), va="center", ha="right", fontsize=8, color=INK)


def _told(edge: EdgeRow) -> str:
    if edge.probability is not None:
        return percent(edge.probability)
    return f"L{edge.layer} F{edge.feature}" if edge.feature is not None else ""


def _legend(axes: Axes, edges: tuple[EdgeRow, ...]) -> None:
    seen = [s for s in ("clear", "weak", "none") if any(edge.signal == s for edge in edges)]
    if len(seen) < 2:
        return
    axes.legend(
        handles=[
            Line2D(
                [],
                [],
                color=GREY if signal == "none" else BLUE,
                linestyle=_DASHES[signal],
                label=f"{signal} signal" if signal != "none" else "no signal",
            )
            for signal in seen
        ],
        ncols=len(seen),
        loc="lower right",
        bbox_to_anchor=(1, 1),
    )
