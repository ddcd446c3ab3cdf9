"""What adds up to a target's logit, term by term, in the order in which the model adds it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from matplotlib.patches import Patch

from lql.plots.style import BLUE, GREEN, GREY, INK, VERMILLION, heading, sheet, token
from lql.results.pictures import Contribution, Contributions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"embedding": GREY, "attention": BLUE, "ffn": VERMILLION}
_OTHER = GREEN
_HATCHES = {"attention": "", "ffn": "////"}
_LABELLED = 6


def draw(sums: Contributions) -> Figure:
    """A bar from the sum before each term to the sum after it; the largest ones are named."""
    figure, (axes,) = sheet(max(6.0, 1.5 + 0.13 * len(sums.terms)), 3.6)
    ends = list(accumulate(term.amount for term in sums.terms))
    starts = [0.0, *ends[:-1]]
    for place, (term, start) in enumerate(zip(sums.terms, starts, strict=True)):
        axes.bar(
            place,
            term.amount,
            bottom=start,
            width=0.82,
            color=_COLOURS.get(term.part, _OTHER),
            hatch=_HATCHES.get(term.part, ""),
            edgecolor="white",
            linewidth=0.3,
        )
    axes.step(range(len(ends)), ends, where="mid", color=INK, linewidth=0.6)
    axes.axhline(0, color=INK, linewidth=0.6)
    _name_largest(axes, sums.terms, starts, ends)
    _ticks(axes, sums.terms)
    axes.set_ylabel(f"{sums.unit} of {token(sums.target)}, so far")
    axes.margins(x=0.01)
    low, high = min(0.0, *ends), max(0.0, *ends)
    axes.set_ylim(low - 0.08 * (high - low) if low < 0 else 0, high + 0.08 * (high - low))
    parts = list(dict.fromkeys(term.part for term in sums.terms))
    axes.legend(
        handles=[
            Patch(
                facecolor=_COLOURS.get(part, _OTHER),
                hatch=_HATCHES.get(part, ""),
                edgecolor="white",
                label=part.upper() if part == "ffn" else part,
            )
            for part in parts
        ],
        ncols=len(parts),
        loc="lower right",
        bbox_to_anchor=(1, 1),
    )
    axes.set_title(heading(sums.title), loc="left")
    return figure


def _name_largest(
    axes: Axes, terms: Sequence[Contribution], starts: Sequence[float], ends: Sequence[float]
) -> None:
    ranked = sorted(range(len(terms)), key=lambda at: (-abs(terms[at].amount), at))
    for at in ranked[:_LABELLED]:
        up = terms[at].amount >= 0
        axes.annotate(
            f"{terms[at].amount:+.1f}",
            (at, max(starts[at], ends[at]) if up else min(starts[at], ends[at])),
            xytext=(0, 2 if up else -2),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4},
        )


def _ticks(axes: Axes, terms: Sequence[Contribution]) -> None:
    """One tick for each layer, at the middle of its terms."""
    places: dict[int, list[int]] = {}
    for at, term in enumerate(terms):
        if term.layer is not None:
            places.setdefault(term.layer, []).append(at)
    every = 1 if len(places) <= 16 else 2 if len(places) <= 40 else 5
    shown = [layer for layer in places if layer % every == 0]
    axes.set_xticks([sum(places[layer]) / len(places[layer]) for layer in shown], map(str, shown))
    axes.set_xlabel("layer")
