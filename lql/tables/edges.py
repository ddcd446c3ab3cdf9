"""The rows of EDGES: what is known of an entity, by the kind of evidence.

Every kind of evidence is a function from a request to rows; ``EDGE_SOURCES`` lists them, the most
telling first. A kind that can list all its edges does so where the request names no entity; static
and answer edges exist for every text that anyone could ask about, so they are computed for those
that are named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from lql.context import Context
from vindex.edges import describe_static
from vindex.edits import ComposedFact
from vindex.features import entity_query, gate_walk
from vindex.store import Vindex


class Evidence(Enum):
    """How an edge is known, the most telling first."""

    ANSWER = "answer"  # the model says so: a forward pass
    PROBE = "probe"  # answers of an earlier PROBE, stored
    INSERTED = "inserted"  # an edit of this session
    STATIC = "static"  # a stored vector points that way


@dataclass(frozen=True, slots=True)
class EdgeRequest:
    """Which edges a statement can want. More rows than it wants do no harm.

    Attributes:
        entities: the only entities that WHERE lets through, as written; ``None`` for any.
        relations: likewise.
        evidence: likewise.
        carriers: whether it reads which features carry an answer.
    """

    entities: tuple[str, ...] | None
    relations: tuple[str, ...] | None
    evidence: frozenset[Evidence]
    carriers: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeRecord:
    """A row of EDGES; what a kind of evidence does not measure is ``None``.

    Attributes:
        probability: of the target, 0..1, by the forward pass behind the row.
        lift_nats: log (probability / background).
        layer, feature: the feature that carries it most.
        share: how much of the target's logit that feature carries, 0..1.
        source: what the row was made by: a template, a patch, ``gate``.
        gate: the feature's gate times the entity's embedding.
        signal: ``none``, ``weak`` or ``clear``, of rows that a forward pass is behind.
    """

    entity: str
    relation: str | None
    target: str
    evidence: Evidence
    probability: float | None = None
    lift_nats: float | None = None
    layer: int | None = None
    feature: int | None = None
    share: float | None = None
    source: str | None = None
    gate: float | None = None
    signal: str | None = None


EdgeSource: TypeAlias = Callable[[EdgeRequest, Vindex, Context], Sequence[EdgeRecord]]


def static_edges(request: EdgeRequest, vindex: Vindex, context: Context) -> list[EdgeRecord]:
    """What the features write whose gates respond to the named entities, strongest first."""
    if Evidence.STATIC not in request.evidence:
        return []
    rows: list[EdgeRecord] = []
    for entity in request.entities or ():
        context.cancel.check(f"edges of {entity}")
        rows += [
            EdgeRecord(
                entity=entity,
                relation=None if edge.relation is None else edge.relation.text,
                target=edge.target,
                evidence=Evidence.STATIC,
                layer=edge.layer,
                feature=edge.feature,
                source="gate",
                gate=edge.score,
            )
            for edge in describe_static(vindex, entity).edges
        ]
    return rows


def probe_edges(request: EdgeRequest, vindex: Vindex, context: Context) -> list[EdgeRecord]:
    """The answers that PROBE kept, in the order in which entities were first probed."""
    if Evidence.PROBE not in request.evidence:
        return []
    return [
        EdgeRecord(
            entity=probe.entity,
            relation=probe.relation,
            target=answer.target,
            evidence=Evidence.PROBE,
            probability=answer.probability,
            lift_nats=answer.lift_nats,
            source=answer.source,
            signal=answer.signal,
        )
        for probe in context.state.overlay.view.probes.values()
        for answer in probe.answers
    ]


def inserted_edges(request: EdgeRequest, vindex: Vindex, context: Context) -> list[EdgeRecord]:
    """The facts in effect, those that the vindex itself stores included."""
    if Evidence.INSERTED not in request.evidence:
        return []
    return [
        EdgeRecord(
            entity=fact.entity,
            relation=fact.relation,
            target=fact.target,
            evidence=Evidence.INSERTED,
            layer=fact.layer,
            feature=fact.slots[0][1] if isinstance(fact, ComposedFact) else None,
        )
        for fact in context.state.overlay.view.every_fact
    ]


def nearest_edges(vindex: Vindex, entity: str, layer: int) -> list[EdgeRecord]:
    """A static edge for every feature of a layer, by the size of its gate: nothing is left out."""
    query = entity_query(vindex, entity)
    if query is None:
        return []
    found = []
    for hit in gate_walk(vindex, query, [layer], vindex.num_features(layer)):
        label = vindex.labels.of(hit.layer, hit.feature)
        found.append(
            EdgeRecord(
                entity=entity,
                relation=None if label is None else label.text,
                target=hit.token,
                evidence=Evidence.STATIC,
                layer=hit.layer,
                feature=hit.feature,
                source="gate",
                gate=hit.gate,
            )
        )
    return found


EDGE_SOURCES: tuple[EdgeSource, ...] = (probe_edges, inserted_edges, static_edges)
"""Every kind of evidence that needs no forward pass."""

_COMPUTED = (Evidence.ANSWER, Evidence.STATIC)


def edges(
    request: EdgeRequest, vindex: Vindex, context: Context, answers: EdgeSource
) -> list[EdgeRecord]:
    """The rows of all kinds, in the natural order of EDGES.

    Args:
        answers: finds those with evidence ``answer``.
    """
    computed = [each.value for each in _COMPUTED if each in request.evidence]
    if request.entities is None and computed:
        context.note(
            f"{' and '.join(computed)} edges are computed for the entities that WHERE names: "
            'entity = "…" or entity IN ("…", …)'
        )
    sources = (answers, *EDGE_SOURCES)
    return [row for source in sources for row in source(request, vindex, context)]
