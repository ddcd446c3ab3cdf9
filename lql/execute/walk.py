"""WALK and EXPLAIN WALK: features nearest to a prompt's last token, without a forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.execute.bands import band_layers, band_name
from lql.execute.experts import note_experts
from lql.execute.slots import integer_or, layer_range, not_available, text
from lql.results.browse import ExplainWalkResult, FeatureRow, WalkResult
from vindex.features import FeatureHit, Float32, gate_walk, prompt_query

if TYPE_CHECKING:
    from vindex.store import Vindex

DEFAULT_TOP = 10
EXPLAIN_TOP, EXPLAIN_VERBOSE_TOP = 5, 10
EXPLAIN_ALSO, EXPLAIN_VERBOSE_ALSO = 3, 9


def run(statement: ast.Walk | ast.ExplainWalk, context: Context) -> WalkResult:
    """Run WALK or EXPLAIN WALK."""
    match statement:
        case ast.Walk():
            return _walk(statement, context)
        case ast.ExplainWalk():
            return _explain(statement, context)
        case _:
            assert_never(statement)


def _walk(statement: ast.Walk, context: Context) -> WalkResult:
    if statement.mode is not None:
        raise not_available("WALK … MODE", statement.span, "WALK without MODE ranks by the gate")
    if statement.compare:
        raise not_available("WALK … COMPARE", statement.span)
    vindex = context.vindex(statement.title)
    layers = layer_range(statement.layers, vindex.index.num_layers)
    query, token_id = _query(vindex, statement.prompt)
    note_experts(vindex, context)
    hits = gate_walk(vindex, query, layers, integer_or(statement.top, DEFAULT_TOP))
    rows = tuple(_row(vindex, hit, len(hit.also)) for hit in hits)
    return WalkResult(
        prompt=text(statement.prompt),
        token=vindex.token_texts.text(token_id),
        token_id=token_id,
        features=rows,
    )


def _explain(statement: ast.ExplainWalk, context: Context) -> ExplainWalkResult:
    if statement.attention:
        raise not_available("WITH ATTENTION", statement.span)
    vindex = context.vindex(statement.title)
    chosen = layer_range(statement.layers, vindex.index.num_layers)
    band = band_layers(vindex, statement.band, statement.span)
    top = integer_or(statement.top, EXPLAIN_VERBOSE_TOP if statement.verbose else EXPLAIN_TOP)
    also = EXPLAIN_VERBOSE_ALSO if statement.verbose else EXPLAIN_ALSO
    query, token_id = _query(vindex, statement.prompt)
    note_experts(vindex, context)
    rows: list[FeatureRow] = []
    for layer in (layer for layer in chosen if layer in band):
        asked = vindex.num_features(layer) if statement.relations_only else top
        found = (_row(vindex, hit, also) for hit in gate_walk(vindex, query, [layer], asked))
        kept = [row for row in found if row.relation is not None or not statement.relations_only]
        rows += kept[:top]
    return ExplainWalkResult(
        prompt=text(statement.prompt),
        token=vindex.token_texts.text(token_id),
        token_id=token_id,
        features=tuple(rows),
    )


def _query(vindex: Vindex, prompt: ast.TextSlot) -> tuple[Float32, int]:
    """The scaled embedding ``[D]`` of a prompt's last token, and the token's id.

    Raises:
        LqlRuntimeError: the prompt has no token.
    """
    found = prompt_query(vindex, text(prompt))
    if found is None:
        raise LqlRuntimeError(
            Diagnostic(Code.EMPTY_PROMPT, "the prompt holds no token", span=prompt.span)
        )
    return found


def _row(vindex: Vindex, hit: FeatureHit, also: int) -> FeatureRow:
    label = vindex.labels.of(hit.layer, hit.feature)
    return FeatureRow(
        layer=hit.layer,
        feature=hit.feature,
        gate=hit.gate,
        token=hit.token,
        also=hit.also[:also],
        relation=None if label is None else label.text,
        band=band_name(vindex, hit.layer),
    )
