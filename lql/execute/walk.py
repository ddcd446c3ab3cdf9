"""WALK and EXPLAIN WALK: features that answer a prompt's last token.

PURE, the default, asks the stored vectors alone. HYBRID and DENSE run the model: attention has then
written into what the FFN of each layer reads, and the gates respond to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError, LqlTypeError
from lql.execute.bands import band_layers, band_name
from lql.execute.experts import note_experts
from lql.execute.slots import integer_or, layer_range, text
from lql.results.browse import ExplainWalkResult, FeatureRow, WalkResult
from vindex.features import FeatureHit, Float32, down_tokens, gate_walk, prompt_query
from vindex.routes import expert_of

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
    vindex = context.vindex(statement.title)
    layers = layer_range(statement.layers, vindex.index.num_layers)
    top = integer_or(statement.top, DEFAULT_TOP)
    mode = statement.mode or ast.WalkMode.PURE
    if statement.compare and mode is ast.WalkMode.PURE:
        mode = ast.WalkMode.DENSE
    rows: tuple[FeatureRow, ...] = ()
    query, token_id = _query(vindex, statement.prompt)
    if mode is ast.WalkMode.PURE or statement.compare:
        note_experts(vindex, context, query, layers)
        hits = gate_walk(vindex, query, layers, top)
        context.read_gates(vindex, layers)
        rows = tuple(_row(vindex, hit, len(hit.also)) for hit in hits)
    if mode is not ast.WalkMode.PURE:
        fired, token_id = _fired(vindex, statement, mode, layers, top, context)
        if statement.compare:
            context.note(_shared(rows, fired, mode))
        rows += fired
    return WalkResult(
        prompt=text(statement.prompt),
        token=vindex.token_texts.text(token_id),
        token_id=token_id,
        features=rows,
        mode=mode.value.lower(),
        compared=statement.compare,
    )


def _fired(
    vindex: Vindex,
    statement: ast.Walk,
    mode: ast.WalkMode,
    layers: range,
    top: int,
    context: Context,
) -> tuple[tuple[FeatureRow, ...], int]:
    """The features of a real forward pass, and the prompt's last token."""
    model = context.model(f"WALK … MODE {mode.value}")
    found = model.features(
        text(statement.prompt),
        layers=layers,
        per_layer=top,
        by_gate=mode is ast.WalkMode.HYBRID,
        cancel=context.cancel,
    )
    rows = []
    for layer, hits in found.hits.items():
        described = vindex.down_meta.num_features(layer)
        records = vindex.down_meta.records(layer) if described else None
        for hit in hits:
            down = () if records is None else down_tokens(vindex, records[hit.feature])
            label = vindex.labels.of(layer, hit.feature)
            rows.append(
                FeatureRow(
                    layer=layer,
                    feature=hit.feature,
                    gate=hit.gate,
                    token=down[0].token if down else None,
                    also=tuple(token.token for token in down[1:]),
                    relation=None if label is None else label.text,
                    band=band_name(vindex, layer),
                    mode=mode.value.lower(),
                    activation=hit.activation,
                    expert=expert_of(vindex, layer, hit.feature),
                )
            )
    return tuple(rows), found.encoded.ids[-1]


def _shared(pure: tuple[FeatureRow, ...], fired: tuple[FeatureRow, ...], mode: ast.WalkMode) -> str:
    """How many features both walks name."""
    both = {(row.layer, row.feature) for row in pure} & {(row.layer, row.feature) for row in fired}
    name = mode.value.lower()
    return f"pure and {name} name {len(both)} features alike, of {len(fired)} that {name} names"


def _explain(statement: ast.ExplainWalk, context: Context) -> ExplainWalkResult:
    refuse_attention(statement)
    vindex = context.vindex(statement.title)
    chosen = layer_range(statement.layers, vindex.index.num_layers)
    band = band_layers(vindex, statement.band, statement.span)
    top = integer_or(statement.top, EXPLAIN_VERBOSE_TOP if statement.verbose else EXPLAIN_TOP)
    also = EXPLAIN_VERBOSE_ALSO if statement.verbose else EXPLAIN_ALSO
    query, token_id = _query(vindex, statement.prompt)
    asked_of = [layer for layer in chosen if layer in band]
    note_experts(vindex, context, query, asked_of, verbose=statement.verbose)
    rows: list[FeatureRow] = []
    for layer in asked_of:
        asked = vindex.num_features(layer) if statement.relations_only else top
        context.read_gates(vindex, [layer])
        found = (_row(vindex, hit, also) for hit in gate_walk(vindex, query, [layer], asked))
        kept = [row for row in found if row.relation is not None or not statement.relations_only]
        rows += kept[:top]
    return ExplainWalkResult(
        prompt=text(statement.prompt),
        token=vindex.token_texts.text(token_id),
        token_id=token_id,
        features=tuple(rows),
    )


def refuse_attention(statement: ast.ExplainWalk) -> None:
    """Refuse WITH ATTENTION, which larql reads here and ignores.

    A gate walk asks stored vectors with the embedding of one token: nothing attends to anything.

    Raises:
        LqlTypeError: it is written.
    """
    if statement.attention:
        raise LqlTypeError(
            Diagnostic(
                Code.CLAUSE_MISPLACED,
                "EXPLAIN WALK has no attention to show: it runs no forward pass",
                span=statement.span,
                helps=(
                    'EXPLAIN INFER "prompt" WITH ATTENTION shows what every head attends to',
                    'WALK "prompt" MODE HYBRID ranks features by what attention has written',
                ),
            )
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
        expert=expert_of(vindex, hit.layer, hit.feature),
    )
