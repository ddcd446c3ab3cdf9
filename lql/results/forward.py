"""Results of statements that run the model: INFER, INFER … COMPARE, EXPLAIN INFER."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lql.results.base import Column, Form, Kind, Result, Unit, fields_of
from lql.results.pictures import AttentionMap, HeadShares, LensCell, LensMap

TOKEN_COLUMNS = (
    Column("rank", Kind.INTEGER),
    Column("token", Kind.TOKEN),
    Column("token_id", Kind.INTEGER),
    Column("probability", Kind.NUMBER, Unit.PROBABILITY),
    Column("logit", Kind.NUMBER, Unit.LOGIT),
)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A candidate for the next token; ``rank`` counts from 1, ``token`` is the exact text."""

    rank: int
    token: str
    token_id: int
    probability: float
    logit: float


@dataclass(frozen=True, slots=True)
class FactRow:
    """A stored fact that answered in the model's place.

    Attributes:
        target: the whole text that it says.
        layer, cosine: where it was recognised, and how alike its nearest key was.
        own: the model's own first token; ``None`` where the pass ended at the fact (EXIT).
    """

    entity: str
    relation: str
    target: str
    layer: int
    cosine: float
    own: str | None
    own_probability: float | None

    def __str__(self) -> str:
        return f"{self.entity} —{self.relation}→ {self.target}"


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """A ``TokenRow``, and the stored fact that it comes from; ``None`` for the model's own."""

    rank: int
    token: str
    token_id: int
    probability: float
    logit: float
    fact: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResult(Result):
    """The most probable next tokens, most probable first.

    Attributes:
        prompt: as typed.
        prompt_mode: ``chat`` (inside the model's template) or ``raw`` (as typed).
        fact: the stored fact that answers, if one does. The first row is its first token then, and
            the rows after it are the model's own, with the probabilities they have without it.
        interventions: what ABLATE and STEER changed, as it was written.
    """

    prompt: str
    prompt_mode: str
    tokens: tuple[TokenRow, ...]
    fact: FactRow | None = None
    interventions: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The documented keys of INFER; ``fact`` besides, where a stored fact answers."""
        return TOKEN_COLUMNS if self.fact is None else (*TOKEN_COLUMNS, Column("fact", Kind.TEXT))

    def records(self) -> Sequence[TokenRow | AnsweredRow]:
        """The candidates."""
        if self.fact is None:
            return self.tokens
        names = [str(self.fact), *(None for _ in self.tokens[1:])]
        return tuple(
            AnsweredRow(row.rank, row.token, row.token_id, row.probability, row.logit, name)
            for row, name in zip(self.tokens, names, strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """The prompt and the candidates."""
        return {
            "prompt": self.prompt,
            "prompt_mode": self.prompt_mode,
            "rows": [fields_of(token) for token in self.tokens],
            "fact": None if self.fact is None else fields_of(self.fact),
            "interventions": list(self.interventions),
        }


@dataclass(frozen=True, slots=True)
class PathTokenRow:
    """A ``TokenRow`` and the forward path (``dense`` or ``walk``) it comes from."""

    path: str
    rank: int
    token: str
    token_id: int
    probability: float
    logit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InferComparison(Result):
    """The FFN as matrix products (dense) beside the FFN evaluated feature by feature (walk).

    Attributes:
        dense, walk: candidates by each path, most probable first.
        probability_difference, logit_difference: the largest absolute ones over the vocabulary.
        dense_s, walk_s: wall time of each forward pass.
    """

    form: ClassVar[Form] = Form.RECORD
    prompt: str
    prompt_mode: str
    dense: tuple[TokenRow, ...]
    walk: tuple[TokenRow, ...]
    probability_difference: float
    logit_difference: float
    dense_s: float
    walk_s: float

    @property
    def columns(self) -> tuple[Column, ...]:
        """``path`` and the keys of INFER."""
        return (Column("path", Kind.TEXT), *TOKEN_COLUMNS)

    def records(self) -> Sequence[PathTokenRow]:
        """Dense rows, then walk rows."""
        return tuple(
            PathTokenRow(path, t.rank, t.token, t.token_id, t.probability, t.logit)
            for path, rows in (("dense", self.dense), ("walk", self.walk))
            for t in rows
        )

    def to_dict(self) -> dict[str, Any]:
        """Both lists of rows and their largest differences."""
        return {
            "prompt": self.prompt,
            "prompt_mode": self.prompt_mode,
            "dense": [fields_of(token) for token in self.dense],
            "walk": [fields_of(token) for token in self.walk],
            "largest_difference": {
                "probability": self.probability_difference,
                "logit": self.logit_difference,
            },
            "seconds": {"dense": self.dense_s, "walk": self.walk_s},
        }


@dataclass(frozen=True, slots=True)
class RoutedRow:
    """One rank of an answer by the route of stored facts, and of the model without them.

    Attributes:
        routed … routed_logit: ``None`` where the pass ended at the fact (EXIT).
        fact: the stored fact that the routed token comes from.
    """

    rank: int
    routed: str | None
    routed_id: int | None
    routed_probability: float | None
    routed_logit: float | None
    dense: str
    dense_id: int
    dense_probability: float
    dense_logit: float
    fact: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteComparison(Result):
    """The answer by the route of stored facts beside that of the weights alone (dense).

    Attributes:
        fact: what answers, if a fact does.
    """

    prompt: str
    prompt_mode: str
    routed: tuple[TokenRow, ...]
    dense: tuple[TokenRow, ...]
    fact: FactRow | None

    @property
    def columns(self) -> tuple[Column, ...]:
        """The rank, both tokens with their numbers, and the fact that answers."""
        sides = (
            Column(f"{side}{suffix}", kind, unit)
            for side in ("routed", "dense")
            for suffix, kind, unit in (
                ("", Kind.TOKEN, Unit.NONE),
                ("_id", Kind.INTEGER, Unit.NONE),
                ("_probability", Kind.NUMBER, Unit.PROBABILITY),
                ("_logit", Kind.NUMBER, Unit.LOGIT),
            )
        )
        return (Column("rank", Kind.INTEGER), *sides, Column("fact", Kind.TEXT))

    def records(self) -> Sequence[RoutedRow]:
        """By rank."""
        routed = (*self.routed, *(None for _ in self.dense[len(self.routed) :]))
        return tuple(
            RoutedRow(
                rank=own.rank,
                routed=None if told is None else told.token,
                routed_id=None if told is None else told.token_id,
                routed_probability=None if told is None else told.probability,
                routed_logit=None if told is None else told.logit,
                dense=own.token,
                dense_id=own.token_id,
                dense_probability=own.probability,
                dense_logit=own.logit,
                fact=str(self.fact) if self.fact is not None and own.rank == 1 else None,
            )
            for told, own in zip(routed, self.dense, strict=True)
        )


@dataclass(frozen=True, slots=True)
class PromptToken:
    """A token of the prompt as the model reads it.

    Attributes:
        position: from 0.
        added: not typed by the user: a BOS token or the chat template's text.
    """

    position: int
    token: str
    token_id: int
    added: bool


@dataclass(frozen=True, slots=True)
class ActivationRow:
    """A feature that took part in a forward pass.

    Attributes:
        gate: the gate's response to the FFN's real input.
        activation: the factor its down vector was added with.
        token: what the down vector points to most; ``None`` for a model without a vindex.
        also: the tokens after it.
        relation: the feature's label, or ``None``.
    """

    feature: int
    gate: float
    activation: float
    token: str | None
    also: tuple[str, ...]
    relation: str | None


@dataclass(frozen=True, slots=True)
class AttentionRow:
    """What one attention head attends to at the last position.

    Attributes:
        tokens: of the prompt, strongest first; ``positions`` and ``shares`` go with them.
        sink: the share that goes to no token, in models with attention sinks.
    """

    layer: int
    head: int
    tokens: tuple[str, ...]
    positions: tuple[int, ...]
    shares: tuple[float, ...]
    sink: float


@dataclass(frozen=True, slots=True)
class LayerExplanation:
    """One layer of an explained forward pass, at the last position.

    Attributes:
        lens: the most probable token if the model stopped after this layer (logit lens).
        features: by falling magnitude of activation.
    """

    layer: int
    band: str | None
    lens: TokenRow
    features: tuple[ActivationRow, ...]


@dataclass(frozen=True, slots=True)
class ExplainInferRow:
    """A feature of a layer with the layer's logit lens, flat."""

    layer: int
    band: str | None
    lens: str
    lens_probability: float
    feature: int | None
    relation: str | None
    gate: float | None
    activation: float | None
    token: str | None
    also: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainInferResult(Result):
    """A forward pass taken apart: the prompt's tokens, each layer, the prediction.

    Attributes:
        compute: how the weights are computed with, one line.
        attention: by layer and head, WITH ATTENTION.
    """

    form: ClassVar[Form] = Form.RECORD
    prompt: str
    prompt_mode: str
    prompt_tokens: tuple[PromptToken, ...]
    layers: tuple[LayerExplanation, ...]
    prediction: tuple[TokenRow, ...]
    compute: str
    attention: tuple[AttentionRow, ...] | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """One row per feature of a layer; a layer without features has one row of its own."""
        return (
            Column("layer", Kind.INTEGER),
            Column("band", Kind.TEXT),
            Column("lens", Kind.TOKEN),
            Column("lens_probability", Kind.NUMBER, Unit.PROBABILITY),
            Column("feature", Kind.INTEGER),
            Column("relation", Kind.TEXT),
            Column("gate", Kind.NUMBER, Unit.DOT),
            Column("activation", Kind.NUMBER, Unit.DOT),
            Column("token", Kind.TOKEN),
            Column("also", Kind.TOKENS),
        )

    def records(self) -> Sequence[ExplainInferRow]:
        """Layers ascending, features strongest first."""
        rows: list[ExplainInferRow] = []
        for layer in self.layers:
            head = (layer.layer, layer.band, layer.lens.token, layer.lens.probability)
            rows += [
                ExplainInferRow(
                    *head, hit.feature, hit.relation, hit.gate, hit.activation, hit.token, hit.also
                )
                for hit in layer.features
            ]
            if not layer.features:
                rows.append(ExplainInferRow(*head, None, None, None, None, None, None))
        return tuple(rows)

    def attention_map(self) -> AttentionMap | None:
        """What each head looks at most, WITH ATTENTION; its other tokens count nothing here."""
        if self.attention is None:
            return None
        count = len(self.prompt_tokens)
        most = max((len(row.positions) for row in self.attention), default=0)
        heads = []
        for row in self.attention:
            shares = dict(zip(row.positions, row.shares, strict=True))
            whole = tuple(shares.get(position, 0.0) for position in range(count))
            heads.append(HeadShares(row.layer, row.head, whole))
        title = self.prompt if most >= count else f"{self.prompt} (each head's {most} strongest)"
        return AttentionMap(title, tuple(each.token for each in self.prompt_tokens), tuple(heads))

    def lens_map(self) -> LensMap:
        """The lens at the last position, layer by layer."""
        return LensMap(
            title=self.prompt,
            tokens=tuple(token.token for token in self.prompt_tokens[-1:]),
            layers=tuple(layer.layer for layer in self.layers),
            cells=tuple(
                (LensCell(layer.lens.token, layer.lens.probability),) for layer in self.layers
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Tokens, layers with their features, prediction."""
        return {
            "prompt": self.prompt,
            "prompt_mode": self.prompt_mode,
            "compute": self.compute,
            "tokens": [fields_of(token) for token in self.prompt_tokens],
            "layers": [
                {
                    "layer": layer.layer,
                    "band": layer.band,
                    "lens": fields_of(layer.lens, without=("rank",)),
                    "features": [fields_of(hit) for hit in layer.features],
                }
                for layer in self.layers
            ],
            "attention": None
            if self.attention is None
            else [
                {
                    "layer": head.layer,
                    "head": head.head,
                    "sink": head.sink,
                    "tokens": [
                        {"position": position, "token": token, "share": share}
                        for position, token, share in zip(
                            head.positions, head.tokens, head.shares, strict=True
                        )
                    ],
                }
                for head in self.attention
            ],
            "prediction": [fields_of(token) for token in self.prediction],
        }
