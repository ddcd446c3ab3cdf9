"""Results of questions about features that need no forward pass: WALK, EXPLAIN WALK, DESCRIBE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lql.results.base import Column, Kind, Result, Unit


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature whose gate responds to the query.

    Attributes:
        gate: dot product of the gate vector and the query; negative means the opposite direction.
        token: the token the feature writes most, by its down vector.
        also: the tokens after it.
        relation: the feature's label, or ``None``.
        band: ``syntax``, ``knowledge`` or ``output``, or ``None`` for a model without bands.
        mode: of the walk that found it.
        activation: the factor its down vector was added with; ``None`` without a forward pass.
        expert: that the feature belongs to; ``None`` of a dense FFN or a shared expert.
    """

    layer: int
    feature: int
    gate: float
    token: str | None
    also: tuple[str, ...]
    relation: str | None = None
    band: str | None = None
    mode: str = "pure"
    activation: float | None = None
    expert: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkResult(Result):
    """Features that answer a prompt's last token, by layer.

    Attributes:
        prompt: as typed.
        token, token_id: the last token; its text is trimmed.
        features: by layer, then by what the mode ranks by; of COMPARE, mode by mode.
        mode: ``pure``: by the gate's response to the token's embedding, no forward pass;
            ``hybrid``: by its response to the FFN's real input; ``dense``: by activation.
        compared: rows of mode ``pure`` stand before those of ``mode``.
    """

    prompt: str
    token: str
    token_id: int
    features: tuple[FeatureRow, ...]
    mode: str = "pure"
    compared: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """The documented keys of WALK, with what a forward pass and COMPARE add."""
        mode = (Column("mode", Kind.TEXT),) if self.compared else ()
        forward = self.mode != "pure"
        activation = (Column("activation", Kind.NUMBER, Unit.DOT),) if forward else ()
        return (
            *mode,
            Column("layer", Kind.INTEGER),
            *self.expert,
            Column("feature", Kind.INTEGER),
            Column("gate", Kind.NUMBER, Unit.DOT),
            *activation,
            Column("token", Kind.TOKEN),
            Column("also", Kind.TOKENS),
        )

    @property
    def expert(self) -> tuple[Column, ...]:
        """The column of experts, where features belong to any."""
        routed = any(row.expert is not None for row in self.features)
        return (Column("expert", Kind.INTEGER),) if routed else ()

    def records(self) -> Sequence[FeatureRow]:
        """The features."""
        return self.features


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainWalkResult(WalkResult):
    """A walk with each layer's band and each feature's label."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The keys of WALK with ``band`` and ``relation``."""
        return (
            Column("layer", Kind.INTEGER),
            Column("band", Kind.TEXT),
            *self.expert,
            Column("feature", Kind.INTEGER),
            Column("relation", Kind.TEXT),
            Column("gate", Kind.NUMBER, Unit.DOT),
            Column("token", Kind.TOKEN),
            Column("also", Kind.TOKENS),
        )


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """Something a model says about an entity.

    Attributes:
        relation: of an answer, what was asked for; of a feature, its label, or ``None``.
        target: the answer's words; the token the feature writes most.
        evidence: how the row was found. ``answer``: the model said so in a forward pass.
            ``static``: by dot products of stored vectors alone. ``inserted``: a user stored it.
            ``probe``: an answer that PROBE kept.
        signal: ``none``, ``weak`` or ``clear``: whether names that mean nothing get such rows.
        probability, lift_nats: of an answer; see the language reference.
        score: what rows of one kind of evidence are ranked by; of an inserted fact, its confidence.
        source: of an answer, the text that the model completed.
        layer, feature: the strongest feature with this target; of an answer, the one that
            carries it most, where that was asked for.
        also: what that feature writes after the target.
        layers: every layer that holds a feature with this target.
        via: the features that carry an answer, with their shares.
        causal: the probability of the answer's first token without that feature.
    """

    entity: str
    relation: str | None
    target: str
    evidence: str
    score: float
    layer: int | None
    feature: int | None
    band: str | None
    also: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    hits: int | None = None
    signal: str | None = None
    probability: float | None = None
    lift_nats: float | None = None
    source: str | None = None
    via: tuple[str, ...] = ()
    causal: float | None = None

    @property
    def first_layer(self) -> int | None:
        """Lowest layer with this target."""
        return min(self.layers, default=None)

    @property
    def last_layer(self) -> int | None:
        """Highest layer with this target."""
        return max(self.layers, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeResult(Result):
    """The edges of an entity, strongest first; none is an answer too.

    Attributes:
        kinds: what kind of thing the model takes the entity for, most probable first; empty
            where it was not asked.
        detailed: rows also hold ``band``, ``first_layer``, ``last_layer``, ``hits``, ``also``,
            ``via`` and ``causal``.
    """

    entity: str
    edges: tuple[EdgeRow, ...]
    detailed: bool
    kinds: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The documented keys of DESCRIBE, and more of them where details were asked for."""
        brief = (
            Column("entity", Kind.TEXT),
            Column("relation", Kind.TEXT),
            Column("target", Kind.TOKEN),
            Column("evidence", Kind.TEXT),
            Column("signal", Kind.TEXT),
            Column("probability", Kind.NUMBER, Unit.PROBABILITY),
            Column("lift_nats", Kind.NUMBER, Unit.DOT),
            Column("score", Kind.NUMBER, Unit.DOT),
            Column("layer", Kind.INTEGER),
            Column("feature", Kind.INTEGER),
            Column("source", Kind.TEXT),
        )
        if not self.detailed:
            return brief
        return (
            *brief,
            Column("band", Kind.TEXT),
            Column("first_layer", Kind.INTEGER),
            Column("last_layer", Kind.INTEGER),
            Column("hits", Kind.INTEGER),
            Column("also", Kind.TOKENS),
            Column("via", Kind.TOKENS),
            Column("causal", Kind.NUMBER, Unit.PROBABILITY),
        )

    def records(self) -> Sequence[EdgeRow]:
        """The edges."""
        return self.edges
