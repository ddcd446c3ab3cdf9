"""DESCRIBE: what a model says about an entity, by the evidence that there is for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.execute.bands import band_layers, band_name
from lql.execute.edges import EVIDENCE as INSERTED
from lql.execute.edges import InsertedEdge, inserted_edges
from lql.execute.experts import note_experts
from lql.execute.paging import page
from lql.execute.slots import layer, layer_range, text
from lql.results.browse import DescribeResult, EdgeRow
from vindex.bands import Band
from vindex.edges import GATE_FLOOR, Edge, StaticAnswer, describe_static
from vindex.edits import fact_name
from vindex.errors import VindexError
from vindex.kinds import ExtractLevel
from vindex.signals import CalibratedEdge, Signal, calibrate

if TYPE_CHECKING:
    from vindex.store import Vindex

EVIDENCE = "static"
PROBED = "probe"
BRIEF_LIMIT = 20


def run(statement: ast.Describe, context: Context) -> DescribeResult:
    """Run DESCRIBE."""
    detail = statement.detail or ast.Detail.BRIEF
    evidence = statement.evidence or _usual_evidence(statement, context)
    layers = _layers(statement, context)
    inserted = _inserted_rows(statement, context, layers)
    rows: list[EdgeRow] = []
    kinds: tuple[str, ...] = ()
    if evidence is not ast.Evidence.STATIC:
        from lql.execute.describe_answer import answer_rows

        answers = answer_rows(statement, context, layers, detail)
        if answers is None:
            evidence = ast.Evidence.STATIC
        else:
            rows, kinds = answers
    elif statement.causal:
        raise _answers_only(statement)
    if evidence is not ast.Evidence.ANSWER:
        rows += _static_rows(statement, context, layers, detail, inserted=bool(inserted))
    probed = _probed_rows(statement, context)
    if statement.evidence is None:
        said = {row.target.casefold() for row in rows if row.evidence == "answer"}
        probed = [row for row in probed if row.target.casefold() not in said]
    rows = [*inserted, *rows, *probed]
    default = BRIEF_LIMIT if detail is ast.Detail.BRIEF else None
    shown, meta = page(rows, statement.limit, default=default)
    return DescribeResult(
        entity=text(statement.entity),
        edges=shown,
        detailed=detail is not ast.Detail.BRIEF or statement.causal,
        kinds=kinds,
        meta=meta,
    )


def _usual_evidence(statement: ast.Describe, context: Context) -> ast.Evidence:
    """Answers where there is a model to ask, unless the statement is about layers."""
    from vindex.store import Vindex

    source = context.source()
    if not isinstance(source, Vindex):
        return ast.Evidence.ANSWER
    try:
        source.require(ExtractLevel.INFERENCE, "asking the model itself")
    except VindexError as error:
        context.note(f"static evidence only: {error}" + (f"; {error.hint}" if error.hint else ""))
        return ast.Evidence.STATIC
    about_layers = (statement.layer, statement.layers, statement.band) != (None, None, None)
    return ast.Evidence.STATIC if about_layers else ast.Evidence.ANSWER


def _static_rows(
    statement: ast.Describe,
    context: Context,
    layers: Sequence[int],
    detail: ast.Detail,
    *,
    inserted: bool,
) -> list[EdgeRow]:
    vindex = context.vindex(statement.title)
    entity = text(statement.entity)
    answer = describe_static(vindex, entity, layers)
    edges = [
        edge for edge in answer.edges if edge.relation is not None or not statement.relations_only
    ]
    context.read_gates(vindex, layers)
    note_experts(
        vindex,
        context,
        answer.query,
        _routed(vindex, layers),
        entity=entity,
        verbose=detail is not ast.Detail.BRIEF,
    )
    if not edges and not inserted:
        context.note(_silence(vindex, entity, answer, layers, statement))
    found = calibrate(vindex, len(answer.tokens), edges)
    if detail is ast.Detail.BRIEF:
        said = [each for each in found if each.signal is not Signal.NONE]
        if len(said) < len(found):
            context.note(
                f"no signal in {len(found) - len(said)} static rows: shuffled entities get as "
                "much; VERBOSE shows them"
            )
        found = said
    return [_row(entity, each, detail) for each in found]


def _routed(vindex: Vindex, layers: Sequence[int]) -> Sequence[int]:
    """The layers whose routers are asked about an entity: those of the knowledge band."""
    if vindex.bands is None:
        return layers
    return [layer for layer in layers if vindex.bands.band_of(layer) is Band.KNOWLEDGE]


def _inserted_rows(
    statement: ast.Describe, context: Context, layers: Sequence[int]
) -> list[EdgeRow]:
    """The stored facts about the entity, unless only other evidence is asked for."""
    facts = inserted_edges(context)
    if statement.evidence not in (None, ast.Evidence.ALL) or not facts:
        return []
    vindex = context.vindex(statement.title)
    entity = text(statement.entity)
    return [
        _inserted_row(entity, edge, vindex)
        for edge in facts
        if edge.is_about(entity) and edge.layer in layers
    ]


def _probed_rows(statement: ast.Describe, context: Context) -> list[EdgeRow]:
    """The kept answers about the entity. They belong to no layer, so a layer leaves them out."""
    about_layers = (statement.layer, statement.layers, statement.band) != (None, None, None)
    if statement.evidence not in (None, ast.Evidence.ALL) or about_layers:
        return []
    entity = text(statement.entity)
    wanted = fact_name(entity, "")[0]
    return [
        EdgeRow(
            entity=entity,
            relation=probe.relation,
            target=answer.target,
            evidence=PROBED,
            score=answer.probability,
            signal=answer.signal,
            layer=None,
            feature=None,
            band=None,
            probability=answer.probability,
            lift_nats=answer.lift_nats,
            source=answer.source,
        )
        for (name, _), probe in context.state.overlay.view.probes.items()
        if name == wanted
        for answer in probe.answers
    ]


def _layers(statement: ast.Describe, context: Context) -> Sequence[int]:
    """The layers that AT LAYER, LAYERS and the band all allow, ascending."""
    count = _num_layers(context)
    allowed: Sequence[int] = layer_range(statement.layers, count)
    if statement.band not in (None, ast.Band.ALL):
        band = band_layers(context.vindex("a band"), statement.band, statement.span)
        allowed = [each for each in allowed if each in band]
    if statement.layer is None:
        return allowed
    only = layer(statement.layer, count)
    return [only] if only in allowed else []


def _num_layers(context: Context) -> int:
    from vindex.store import Vindex

    source = context.source()
    return source.index.num_layers if isinstance(source, Vindex) else source.spec.num_layers


def _answers_only(statement: ast.Describe) -> LqlTypeError:
    return LqlTypeError(
        Diagnostic(
            Code.OUT_OF_RANGE,
            "CAUSAL verifies answers, and static evidence has none",
            span=statement.span,
            helps=("EVIDENCE ANSWER asks the model",),
        )
    )


def _row(entity: str, found: CalibratedEdge, detail: ast.Detail) -> EdgeRow:
    edge = found.edge
    return EdgeRow(
        entity=entity,
        relation=_relation(edge, detail),
        target=edge.target,
        evidence=EVIDENCE,
        score=found.score,
        signal=found.signal.value,
        layer=edge.layer,
        feature=edge.feature,
        band=None if edge.band is None else edge.band.value,
        also=edge.also,
        layers=edge.layers,
        hits=edge.hits,
    )


def _inserted_row(entity: str, edge: InsertedEdge, vindex: Vindex) -> EdgeRow:
    return EdgeRow(
        entity=entity,
        relation=edge.relation,
        target=edge.target,
        evidence=INSERTED,
        score=edge.score,
        layer=edge.layer,
        feature=None,
        band=band_name(vindex, edge.layer),
        also=(),
        layers=(edge.layer,),
        hits=1,
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


def _silence(
    vindex: Vindex,
    entity: str,
    answer: StaticAnswer,
    layers: Sequence[int],
    statement: ast.Describe,
) -> str:
    """Why there are no edges, as exactly as it is known."""
    if not layers:
        return "no layer is both AT LAYER and in the band"
    if answer.query is None:
        return f'no signal: no token of "{entity}" has an embedding'
    features = f"{sum(map(vindex.num_features, layers)):,} features"
    ask = "INFER asks the model itself"
    if answer.gate < GATE_FLOOR:
        return (
            f'no signal: {features} answer "{entity}" with a gate of {answer.gate:.1f} at most, '
            f"an edge needs {GATE_FLOOR:g}; {ask}"
        )
    missing = "a relation label" if statement.relations_only else "a content word of its own"
    return f'no signal: of {features}, none with a gate for "{entity}" has {missing}; {ask}'
