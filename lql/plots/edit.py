"""The report of an edit: what was asked of the model before and after, and how it answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.ticker import MultipleLocator, PercentFormatter

from lql.plots.style import BLUE, GREY, VERMILLION, heading, sheet, token
from lql.render.text import printable
from lql.results.edits import EditResult, Measures, ProbeRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PROBES = 24
_ROW_IN = 0.42
_MEASURES = ("efficacy", "paraphrases", "neighbours")


def draw(report: EditResult) -> Figure:
    """The measures on the left; on the right the target's probability before and after."""
    asked = [probe for probe in report.probes if probe.probability_after is not None]
    shown = asked[:MAX_PROBES]
    figure, (left, right) = sheet(8.6, max(2.8, 1.3 + _ROW_IN * len(shown)), 2, ratios=(1, 1.7))
    _measures(left, report.measures)
    _probes(right, shown)
    facts = "; ".join(f"{fact.entity} —{fact.relation}→ {fact.target}" for fact in report.facts[:3])
    more = f" and {len(report.facts) - 3} more" if len(report.facts) > 3 else ""
    figure.suptitle(heading(f"{report.statement} {facts}{more}"), fontsize=10)
    if len(asked) > len(shown):
        figure.supxlabel(f"the first {len(shown)} of {len(asked)} prompts", fontsize=8)
    return figure


def _measures(axes: Axes, measures: Measures) -> None:
    values = [(name, getattr(measures, name)) for name in reversed(_MEASURES)]
    for place, (_, value) in enumerate(values):
        axes.barh(place, value or 0.0, height=0.36, color=BLUE)
        told = "not measured" if value is None else f"{value:.0%}"
        axes.annotate(
            told,
            ((value or 0.0), place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(values)), [name for name, _ in values])
    axes.set_xlim(0, 1.25)
    _percent_axis(axes)
    kl = "" if measures.controls is None else f"controls: mean KL {measures.controls:.2g} nats"
    axes.set_xlabel("\n".join(filter(None, ("prompts that answer as they should", kl))))


def _probes(axes: Axes, probes: Sequence[ProbeRow]) -> None:
    places = range(len(probes) - 1, -1, -1)
    for name, offset, colour in (("before", 0.18, GREY), ("after", -0.18, BLUE)):
        axes.barh(
            [place + offset for place in places],
            [_probability(probe, name) for probe in probes],
            height=0.34,
            color=colour,
            label=name,
        )
    for place, probe in zip(places, probes, strict=True):
        for offset, said, probability in (
            (0.18, probe.before, _probability(probe, "before")),
            (-0.18, probe.after, _probability(probe, "after")),
        ):
            axes.annotate(
                token(_first_line(said), 22),
                (probability, place + offset),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=VERMILLION if offset < 0 and probe.ok is False else "#222222",
            )
    axes.set_yticks(list(places), [_prompt(probe) for probe in probes], fontsize=7.5)
    axes.set_xlim(0, 1.45)
    _percent_axis(axes)
    axes.set_xlabel("probability of the target\nbeside it: what the model says")
    axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _percent_axis(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_minor_locator(MultipleLocator(0.125))
    axes.tick_params(axis="x", which="minor", length=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def _probability(probe: ProbeRow, when: str) -> float:
    value = probe.probability_before if when == "before" else probe.probability_after
    return value or 0.0


def _first_line(said: str | None) -> str:
    line, cut, _ = (said or "").partition("\n")
    return f"{line}…" if cut else line


def _prompt(probe: ProbeRow) -> str:
    text = printable(probe.prompt or probe.entity)
    mark = {True: "✓ ", False: "✗ ", None: ""}[probe.ok]
    return mark + (text if len(text) <= 40 else f"{text[:39]}…")
