"""DESCRIBE: what features suggest about an entity, by static evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.context import Context
from lql.execute.bands import band_layers
from lql.execute.experts import note_experts
from lql.execute.paging import page
from lql.execute.slots import layer, text
from lql.results.browse import DescribeResult, EdgeRow
from vindex.edges import GATE_FLOOR, Edge, describe_static
from vindex.features import entity_query
from vindex.gates import gate_scores

if TYPE_CHECKING:
    from vindex.store import Vindex

EVIDENCE = "static"
BRIEF_LIMIT = 20


def run(statement: ast.Describe, context: Context) -> DescribeResult:
    """Run DESCRIBE."""
    vindex = context.vindex(statement.title)
    entity = text(statement.entity)
    layers = _layers(statement, vindex)
    edges = [
        edge
        for edge in describe_static(vindex, entity, layers)
        if edge.relation is not None or not statement.relations_only
    ]
    note_experts(vindex, context)
    if not edges:
        context.note(_silence(vindex, entity, layers, relations_only=statement.relations_only))
    detail = statement.detail or ast.Detail.BRIEF
    default = BRIEF_LIMIT if detail is ast.Detail.BRIEF else None
    shown, meta = page(edges, statement.limit, default=default)
    return DescribeResult(
        entity=entity,
        edges=tuple(_row(entity, edge, detail) for edge in shown),
        detailed=detail is not ast.Detail.BRIEF,
        meta=meta,
    )


def _layers(statement: ast.Describe, vindex: Vindex) -> Sequence[int]:
    """The layers that AT LAYER and the band both allow, ascending."""
    band = band_layers(vindex, statement.band, statement.span)
    if statement.layer is None:
        return band
    only = layer(statement.layer, vindex.index.num_layers)
    return [only] if only in band else []


def _row(entity: str, edge: Edge, detail: ast.Detail) -> EdgeRow:
    return EdgeRow(
        entity=entity,
        relation=_relation(edge, detail),
        target=edge.target,
        evidence=EVIDENCE,
        score=edge.score,
        layer=edge.layer,
        feature=edge.feature,
        band=None if edge.band is None else edge.band.value,
        also=edge.also,
        layers=edge.layers,
        hits=edge.hits,
    )


def _relation(edge: Edge, detail: ast.Detail) -> str | None:
    """The label, which RAW leaves out."""
    match detail:
        case ast.Detail.BRIEF | ast.Detail.VERBOSE:
            return None if edge.relation is None else edge.relation.text
        case ast.Detail.RAW:
            return None
        case _:
            assert_never(detail)


def _silence(vindex: Vindex, entity: str, layers: Sequence[int], *, relations_only: bool) -> str:
    """Why there are no edges, as exactly as it is known."""
    if not layers:
        return "no layer is both AT LAYER and in the band"
    query = entity_query(vindex, entity)
    if query is None:
        return f'no signal: no token of "{entity}" has an embedding'
    features = f"{sum(map(vindex.num_features, layers)):,} features"
    scores = (gate_scores(vindex, layer, query) for layer in layers)
    gate = max((float(each.max()) for each in scores if len(each)), default=0.0)
    ask = "INFER asks the model itself"
    if gate < GATE_FLOOR:
        return (
            f'no signal: {features} answer "{entity}" with a gate of {gate:.1f} at most, '
            f"an edge needs {GATE_FLOOR:g}; {ask}"
        )
    missing = "a relation label" if relations_only else "a content word of its own"
    return f'no signal: of {features}, none with a gate for "{entity}" has {missing}; {ask}'
