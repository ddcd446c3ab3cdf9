"""INFER and EXPLAIN INFER: statements that run the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.context import Context
from lql.execute.bands import band_layers, band_name
from lql.execute.changes import changes_of, refuse_with_changes
from lql.execute.slots import integer_or, layer_range, text
from lql.inference.answers import Encoded, FactHit, FeatureActivation, LayerHits, TokenScore
from lql.results import Result
from lql.results.forward import (
    ActivationRow,
    AttentionRow,
    ExplainInferResult,
    FactRow,
    InferComparison,
    InferResult,
    LayerExplanation,
    PromptToken,
    RouteComparison,
    TokenRow,
)
from vindex.features import down_tokens

if TYPE_CHECKING:
    from lql.inference.knn import Routing
    from lql.inference.model import LoadedModel
    from lql.inference.traces import HeadAttention
    from vindex.store import Vindex

DEFAULT_TOP = 5
DEFAULT_PER_LAYER, VERBOSE_PER_LAYER = 3, 10
ALSO, VERBOSE_ALSO = 3, 9


def run(statement: ast.Infer | ast.ExplainInfer, context: Context) -> Result:
    """Run INFER or EXPLAIN INFER."""
    match statement:
        case ast.Infer(compare=True, route=None):
            return _compare(statement, context)
        case ast.Infer(compare=True):
            return _compare_routes(statement, context)
        case ast.Infer():
            return _infer(statement, context)
        case ast.ExplainInfer():
            return _explain(statement, context)
        case _:
            assert_never(statement)


def _infer(statement: ast.Infer, context: Context) -> InferResult:
    model, mode, top = _prepare(statement, context)
    changes = changes_of(statement, model)
    if changes.wanted and model.facts:
        context.note("with ABLATE or STEER no stored fact answers")
    prediction = model.infer(
        text(statement.prompt),
        top=top,
        mode=mode,
        routing=_routing(statement.route),
        interventions=changes.wanted,
        cancel=context.cancel,
    )
    context.ran(len(prediction.encoded.ids), prediction.forward_seconds)
    return InferResult(
        prompt=text(statement.prompt),
        prompt_mode=mode.value.lower(),
        tokens=_token_rows(prediction.rows),
        fact=_noted_fact(prediction.fact, context),
        interventions=changes.written,
    )


def _routing(route: ast.Route | None) -> Routing | None:
    """What ROUTE VERIFY says. EXIT is dropped where FALLBACK must look at every layer."""
    if route is None:
        return None
    from lql.inference.knn import VERIFY_TOPK, Routing

    return Routing(
        topk=integer_or(route.topk, VERIFY_TOPK),
        fallback=route.fallback,
        exit=route.exit and not route.fallback,
    )


def _noted_fact(hit: FactHit | None, context: Context) -> FactRow | None:
    """The stored fact that answers, told to people as well."""
    if hit is None:
        return None
    own = hit.own
    fact = FactRow(
        entity=hit.entity,
        relation=hit.relation,
        target=hit.target,
        layer=hit.layer,
        cosine=hit.cosine,
        own=None if own is None else own.token,
        own_probability=None if own is None else own.probability,
    )
    alone = "" if own is None else f'; the model alone says "{own.token}" ({own.probability:.1%})'
    context.note(
        f"the stored fact {fact} answers (layer {hit.layer}, cosine {hit.cosine:.2f}){alone}"
    )
    return fact


def _compare(statement: ast.Infer, context: Context) -> InferComparison:
    model, mode, top = _prepare(statement, context)
    if (
        model.facts
        and model.infer(text(statement.prompt), top=1, mode=mode, cancel=context.cancel).fact
    ):
        context.note("a stored fact answers this prompt; COMPARE shows the model without it")
    both = model.compare(text(statement.prompt), top=top, mode=mode, cancel=context.cancel)
    return InferComparison(
        prompt=text(statement.prompt),
        prompt_mode=mode.value.lower(),
        dense=_token_rows(both.dense.rows),
        walk=_token_rows(both.walk.rows),
        probability_difference=both.probability_difference,
        logit_difference=both.logit_difference,
        dense_s=both.dense.forward_seconds,
        walk_s=both.walk.forward_seconds,
    )


def _compare_routes(statement: ast.Infer, context: Context) -> RouteComparison:
    """ROUTE VERIFY … COMPARE: with the stored facts, and without them."""
    from lql.inference.knn import FactStore

    model, mode, top = _prepare(statement, context)
    prompt, cancel = text(statement.prompt), context.cancel
    routed = model.infer(
        prompt, top=top, mode=mode, routing=_routing(statement.route), cancel=cancel
    )
    dense = model.infer(prompt, top=top, mode=mode, facts=FactStore(()), cancel=cancel)
    for each in (routed, dense):
        context.ran(len(each.encoded.ids), each.forward_seconds)
    return RouteComparison(
        prompt=prompt,
        prompt_mode=mode.value.lower(),
        routed=_token_rows(routed.rows),
        dense=_token_rows(dense.rows),
        fact=_noted_fact(routed.fact, context),
    )


def _prepare(statement: ast.Infer, context: Context) -> tuple[LoadedModel, ast.PromptMode, int]:
    refuse_with_changes(statement)
    model = context.model(statement.title)
    mode = statement.prompt_mode or ast.PromptMode.RAW
    note_prompt_mode(model, mode, context)
    return model, mode, integer_or(statement.top, DEFAULT_TOP)


def note_prompt_mode(model: LoadedModel, mode: ast.PromptMode, context: Context) -> None:
    """Say how the prompt was sent, where the model makes a difference of it."""
    if not model.is_instruct:
        return
    match mode:
        case ast.PromptMode.RAW:
            context.note(
                "this instruct model got the prompt as typed (RAW); CHAT wraps it in its template"
            )
        case ast.PromptMode.CHAT:
            context.note(
                "this instruct model got the prompt in its template (CHAT); RAW sends it as typed"
            )
        case _:
            assert_never(mode)


# --------------------------------------------------------------------------- EXPLAIN INFER


def _explain(statement: ast.ExplainInfer, context: Context) -> ExplainInferResult:
    from vindex.store import Vindex

    source = context.source()
    vindex = source if isinstance(source, Vindex) else None
    wanted = _layers(statement, context, vindex)
    model = context.model(statement.title)
    mode = statement.prompt_mode or ast.PromptMode.RAW
    note_prompt_mode(model, mode, context)
    per_layer = integer_or(
        statement.top, VERBOSE_PER_LAYER if statement.verbose else DEFAULT_PER_LAYER
    )
    explanation = model.explain(
        text(statement.prompt),
        top=integer_or(statement.top, DEFAULT_TOP),
        per_layer=model.spec.intermediate_size if statement.relations_only else per_layer,
        mode=mode,
        cancel=context.cancel,
    )
    if vindex is None:
        context.note("features have no tokens or labels without a vindex; EXTRACT makes one")
    also = VERBOSE_ALSO if statement.verbose else ALSO
    layers = [
        LayerExplanation(
            layer=hits.layer,
            band=None if vindex is None else band_name(vindex, hits.layer),
            lens=token_row(hits.lens),
            features=_features(hits, vindex, also, statement.relations_only)[:per_layer],
        )
        for hits in explanation.layers
        if hits.layer in wanted
    ]
    prediction = explanation.prediction
    context.ran(len(prediction.encoded.ids), prediction.forward_seconds)
    _noted_fact(prediction.fact, context)
    heads = None
    if statement.attention:
        found = model.tracer.attention(prediction.encoded, top=per_layer, cancel=context.cancel)
        heads = _attention(found, prediction.encoded, wanted)
    return ExplainInferResult(
        prompt=text(statement.prompt),
        prompt_mode=mode.value.lower(),
        prompt_tokens=_prompt_tokens(prediction.encoded),
        layers=tuple(layers),
        prediction=_token_rows(prediction.rows),
        compute=model.compute,
        attention=heads,
    )


def _attention(
    heads: Sequence[HeadAttention], encoded: Encoded, wanted: frozenset[int]
) -> tuple[AttentionRow, ...]:
    return tuple(
        AttentionRow(
            layer=each.layer,
            head=each.head,
            tokens=tuple(encoded.pieces[position] for position, _ in each.tokens),
            positions=tuple(position for position, _ in each.tokens),
            shares=tuple(share for _, share in each.tokens),
            sink=each.sink,
        )
        for each in heads
        if each.layer in wanted
    )


def _layers(statement: ast.ExplainInfer, context: Context, vindex: Vindex | None) -> frozenset[int]:
    """The layers that both LAYERS and the band allow."""
    chosen = frozenset(layer_range(statement.layers, context.source().spec.num_layers))
    if statement.band in (None, ast.Band.ALL):
        return chosen
    held = context.vindex("a band") if vindex is None else vindex
    return chosen & frozenset(band_layers(held, statement.band, statement.span))


def _features(
    hits: LayerHits, vindex: Vindex | None, also: int, relations_only: bool
) -> tuple[ActivationRow, ...]:
    if vindex is None:
        bare = () if relations_only else hits.hits
        return tuple(
            ActivationRow(hit.feature, hit.gate, hit.activation, None, (), None) for hit in bare
        )
    rows = (_feature(hits.layer, hit, vindex, also) for hit in hits.hits)
    return tuple(row for row in rows if row.relation is not None or not relations_only)


def _feature(layer: int, hit: FeatureActivation, vindex: Vindex, also: int) -> ActivationRow:
    tokens: list[str] = []
    if vindex.down_meta.num_features(layer):
        record = vindex.down_meta.records(layer)[hit.feature]
        tokens = [down.token for down in down_tokens(vindex, record)[: also + 1]]
    label = vindex.labels.of(layer, hit.feature)
    return ActivationRow(
        feature=hit.feature,
        gate=hit.gate,
        activation=hit.activation,
        token=tokens[0] if tokens else None,
        also=tuple(tokens[1:]),
        relation=None if label is None else label.text,
    )


# --------------------------------------------------------------------------- rows


def _prompt_tokens(encoded: Encoded) -> tuple[PromptToken, ...]:
    parts = zip(encoded.pieces, encoded.ids, encoded.from_user, strict=True)
    return tuple(
        PromptToken(position, piece, token_id, added=not typed)
        for position, (piece, token_id, typed) in enumerate(parts)
    )


def _token_rows(scores: Sequence[TokenScore]) -> tuple[TokenRow, ...]:
    return tuple(map(token_row, scores))


def token_row(score: TokenScore) -> TokenRow:
    """A candidate as a row."""
    return TokenRow(score.rank, score.token, score.token_id, score.probability, score.logit)
