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
    """

    layer: int
    feature: int
    gate: float
    token: str
    also: tuple[str, ...]
    relation: str | None = None
    band: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkResult(Result):
    """Features nearest to a prompt's last token, by layer. No forward pass.

    Attributes:
        prompt: as typed.
        token, token_id: the token whose embedding was the query; its text is trimmed.
        features: by layer, then by the size of the gate.
    """

    prompt: str
    token: str
    token_id: int
    features: tuple[FeatureRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The documented keys of WALK."""
        return (
            Column("layer", Kind.INTEGER),
            Column("feature", Kind.INTEGER),
            Column("gate", Kind.NUMBER, Unit.DOT),
            Column("token", Kind.TOKEN),
            Column("also", Kind.TOKENS),
        )

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
            Column("feature", Kind.INTEGER),
            Column("relation", Kind.TEXT),
            Column("gate", Kind.NUMBER, Unit.DOT),
            Column("token", Kind.TOKEN),
            Column("also", Kind.TOKENS),
        )


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """What a feature that responds to an entity writes.

    Attributes:
        relation: the feature's label, or ``None``.
        target: the token it writes most.
        evidence: how the row was found; ``static`` means by dot products of stored vectors, with
            no forward pass; ``inserted`` that a user stored the fact.
        score: the gate's response to the entity; of an inserted fact, its confidence.
        layer, feature: the strongest feature with this target; an inserted fact has no feature.
        also: what that feature writes after the target.
        layers: every layer that holds a feature with this target.
    """

    entity: str
    relation: str | None
    target: str
    evidence: str
    score: float
    layer: int
    feature: int | None
    band: str | None
    also: tuple[str, ...]
    layers: tuple[int, ...]
    hits: int

    @property
    def first_layer(self) -> int:
        """Lowest layer with this target."""
        return min(self.layers)

    @property
    def last_layer(self) -> int:
        """Highest layer with this target."""
        return max(self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeResult(Result):
    """The edges of an entity, strongest first; none is an answer too.

    Attributes:
        detailed: rows also hold ``band``, ``first_layer``, ``last_layer``, ``hits`` and ``also``.
    """

    entity: str
    edges: tuple[EdgeRow, ...]
    detailed: bool

    @property
    def columns(self) -> tuple[Column, ...]:
        """The documented keys of DESCRIBE, and more of them where details were asked for."""
        brief = (
            Column("entity", Kind.TEXT),
            Column("relation", Kind.TEXT),
            Column("target", Kind.TOKEN),
            Column("evidence", Kind.TEXT),
            Column("score", Kind.NUMBER, Unit.DOT),
            Column("layer", Kind.INTEGER),
            Column("feature", Kind.INTEGER),
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
        )

    def records(self) -> Sequence[EdgeRow]:
        """The edges."""
        return self.edges
