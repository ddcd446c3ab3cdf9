"""Layouts of the report of an edit, and of what statements about patches did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lql.render.blocks import Block, Grid, Line, facts, grid
from lql.render.text import duration, percent, printable, size
from lql.render.view import lay_out
from lql.results.edits import (
    COMPARED_TOKENS,
    EditResult,
    FactRow,
    FeatureRow,
    Measures,
    PatchResult,
    ProbeRow,
)


@lay_out.register
def _(result: EditResult) -> Sequence[Block]:
    blocks: list[Block] = [Line(_said(result.statement, fact)) for fact in result.facts[:10]]
    if len(result.facts) > len(blocks):
        blocks.append(Line(f"… and {len(result.facts) - len(blocks)} more facts"))
    blocks += [Line(_written(result.statement, each)) for each in result.features[:10]]
    if len(result.features) > 10:
        blocks.append(Line(f"… and {len(result.features) - 10} more features"))
    if not blocks:
        blocks.append(Line("nothing was changed"))
    if result.probes:
        blocks += [_probes(result), facts(list(_measures(result.measures, result.probes)))]
    cost = f"{duration(result.seconds)}, {size(result.size_bytes)}"
    return (*blocks, Line(f"{result.mode}, check {result.check}: {cost}"))


def _said(statement: str, fact: FactRow) -> str:
    was = "" if fact.replaced is None or fact.replaced == fact.target else f", was {fact.replaced}"
    names = f", also called {', '.join(fact.aliases)}" if fact.aliases else ""
    where = f"(layer {fact.layer}{was}{names})"
    gone = "forgotten" if fact.own else "nothing stored"
    target = gone if fact.target is None else fact.target
    return printable(f"{statement} {fact.entity} —{fact.relation}→ {target} {where}")


def _written(statement: str, feature: FeatureRow) -> str:
    before, after = (each or "nothing" for each in (feature.before, feature.after))
    return printable(f"{statement} {feature.name}: wrote {before}, now {after}")


def _probes(result: EditResult) -> Grid:
    names = ("kind", "prompt", "before", "after", "probability_before", "probability_after", "ok")
    columns = [column for column in result.columns if column.name in names]
    rows = [tuple(getattr(probe, column.name) for column in columns) for probe in result.probes]
    return grid(columns, rows)


def _measures(measures: Measures, probes: Sequence[ProbeRow]) -> Iterator[tuple[str, str]]:
    for name, kind, value in (
        ("efficacy", "canonical", measures.efficacy),
        ("paraphrases", "paraphrase", measures.paraphrases),
        ("neighbours", "neighbour", measures.neighbours),
    ):
        if value is not None:
            asked = [probe for probe in probes if probe.kind == kind]
            good = sum(bool(probe.ok) for probe in asked)
            said = "answered with the whole target"
            word = f"unchanged over {COMPARED_TOKENS} tokens" if kind == "neighbour" else said
            yield name, f"{good} of {len(asked)} {word} ({percent(value)})"
    if measures.controls is not None:
        asked = [probe for probe in probes if probe.kind == "control"]
        changed = sum(not probe.ok for probe in asked)
        yield "controls", f"{changed} of {len(asked)} changed, mean KL {measures.controls:.4g} nats"


@lay_out.register
def _(result: PatchResult) -> Sequence[Block]:
    written = "" if result.size_bytes is None else f", {size(result.size_bytes)}"
    count = "1 operation" if result.operations == 1 else f"{result.operations} operations"
    patch = "" if result.patch is None else f" {result.patch}"
    left = "1 edit" if result.left == 1 else f"{result.left} edits"
    head = f"{result.statement}{patch}: {count}{written}; {left} in effect"
    return (
        Line(printable(head)),
        *(Line(printable(f"  {title}")) for title in result.edits),
        *(
            Line(printable(f"  conflict: {each.what} {each.before}, now {each.after}"))
            for each in result.conflicts
        ),
    )
