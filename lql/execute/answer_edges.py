"""Edges with evidence ``answer``: what DESCRIBE finds by forward pass, as rows of EDGES."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lql.context import Context
from lql.execute.asking import asking, facts, is_name
from lql.execute.kept import keep, kept
from lql.tables.edges import EdgeRecord, EdgeRequest, Evidence
from vindex.errors import VindexError
from vindex.kept_answers import Answer
from vindex.kinds import ExtractLevel
from vindex.store import Vindex

if TYPE_CHECKING:
    from lql.inference.attribution import Carrier


def answer_edges(request: EdgeRequest, vindex: Vindex, context: Context) -> list[EdgeRecord]:
    """What the model answers about the named entities, best first for each."""
    if Evidence.ANSWER not in request.evidence or not request.entities:
        return []
    try:
        vindex.require(ExtractLevel.INFERENCE, "asking the model itself")
    except VindexError as error:
        context.note(f"no answer edges: {error}" + (f"; {error.hint}" if error.hint else ""))
        return []
    rows: list[EdgeRecord] = []
    for entity in request.entities:
        context.cancel.check(f"answers about {entity}")
        rows += _answers(" ".join(entity.split()), entity, request, context)
    return rows


def _answers(
    name: str, entity: str, request: EdgeRequest, context: Context
) -> Sequence[EdgeRecord]:
    known = None if request.carriers else kept(name, 0.0, context)
    if known is not None:
        return _records(entity, known.answers, [()] * len(known.answers))
    from lql.inference.errors import PromptTooLong

    held = asking("SELECT", context)
    if not is_name(name, held):
        context.note(f'no answer edges of "{entity[:40]}": it is no name')
        return ()
    try:
        found, kinds = facts(name, held, context)
    except PromptTooLong as error:
        context.note(f'no answer edges of "{entity[:40]}": {error}')
        return ()
    keep(name, 0.0, [score.kind for score in kinds], found, context)
    describer = held.describer
    carried: list[tuple[Carrier, ...]] = [()] * len(found)
    if request.carriers and describer.attributes and found:
        layers = range(describer.num_layers)
        carried = describer.carriers(found, layers, top=1, cancel=context.cancel)
    return _records(entity, found, carried)


def _records(
    entity: str, found: Sequence[Answer], carried: Sequence[tuple[Carrier, ...]]
) -> list[EdgeRecord]:
    rows = []
    for fact, carriers in zip(found, carried, strict=True):
        first = carriers[0] if carriers else None
        rows.append(
            EdgeRecord(
                entity=entity,
                relation=fact.relation,
                target=fact.target,
                evidence=Evidence.ANSWER,
                probability=fact.probability,
                lift_nats=fact.lift_nats,
                layer=None if first is None else first.layer,
                feature=None if first is None else first.feature,
                share=None if first is None else first.share,
                source=fact.source,
                signal=fact.signal.value,
            )
        )
    return rows
