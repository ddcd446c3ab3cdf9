"""Results of statements that say what a vindex holds: SHOW and STATS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lql.results.base import Column, Kind, Record, Result, Unit, fields_of


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer of the model.

    Attributes:
        attention: ``full`` or ``sliding``; ``None`` where the family cannot be rebuilt.
        features: FFN width.
        described: how many features have a token in down_meta.
        token: the token most of them write first, or ``None``.
        writers: how many features that is.
    """

    layer: int
    band: str | None
    attention: str | None
    features: int
    described: int
    token: str | None
    writers: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersResult(Result):
    """SHOW LAYERS."""

    layers: tuple[LayerRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """One row per layer."""
        return (
            Column("layer", Kind.INTEGER),
            Column("band", Kind.TEXT),
            Column("attention", Kind.TEXT),
            Column("features", Kind.INTEGER),
            Column("described", Kind.INTEGER),
            Column("token", Kind.TOKEN),
            Column("writers", Kind.INTEGER),
        )

    def records(self) -> Sequence[LayerRow]:
        """Layers, ascending."""
        return self.layers


@dataclass(frozen=True, slots=True)
class FeatureInfoRow:
    """A feature by what it writes.

    Attributes:
        token: the token its down vector points to most, of all the vocabulary.
        logit: dot product of down vector and that token's embedding (no norm, no scale).
        also: the tokens after it.
    """

    layer: int
    feature: int
    token: str
    token_id: int
    logit: float
    relation: str | None
    also: tuple[str, ...]


FEATURE_COLUMNS = (
    Column("layer", Kind.INTEGER),
    Column("feature", Kind.INTEGER),
    Column("token", Kind.TOKEN),
    Column("token_id", Kind.INTEGER),
    Column("logit", Kind.NUMBER, Unit.LOGIT),
    Column("relation", Kind.TEXT),
    Column("also", Kind.TOKENS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesResult(Result):
    """SHOW FEATURES: those that have tokens, by feature."""

    features: tuple[FeatureInfoRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """One row per feature; the same names stand in WHERE."""
        return FEATURE_COLUMNS

    def records(self) -> Sequence[FeatureInfoRow]:
        """Features, ascending."""
        return self.features


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A vindex in the working directory.

    Attributes:
        status: ``ready``, or why it cannot be opened.
    """

    path: str
    model: str | None
    family: str | None
    layers: int | None
    level: str | None
    dtype: str | None
    size_bytes: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsResult(Result):
    """SHOW MODELS."""

    models: tuple[ModelRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """One row per vindex."""
        return (
            Column("path", Kind.TEXT),
            Column("model", Kind.TEXT),
            Column("family", Kind.TEXT),
            Column("layers", Kind.INTEGER),
            Column("level", Kind.TEXT),
            Column("dtype", Kind.TEXT),
            Column("size_bytes", Kind.INTEGER, Unit.BYTES),
            Column("status", Kind.TEXT),
        )

    def records(self) -> Sequence[ModelRow]:
        """Vindexes by name."""
        return self.models


@dataclass(frozen=True, slots=True)
class BandRow:
    """A band of layers, both ends included."""

    name: str
    first_layer: int
    last_layer: int
    features: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsResult(Record):
    """STATS: what a vindex or model holds.

    Attributes:
        level: extract level, or ``None`` for a model used without extraction.
        described: features with a token in down_meta.
        labelled: features with a probed relation label; ``clusters``: relation clusters.
        size_bytes: of all files, or ``None`` for a model used without extraction.
        experts: in each layer that has any, without shared ones; ``None`` in a dense model.
        experts_per_token: how many of them the router sends a token to.
    """

    path: str
    model: str
    family: str
    level: str | None
    dtype: str | None
    layers: int
    hidden: int
    vocabulary: int
    features: int
    described: int | None
    labelled: int
    clusters: int
    bands: tuple[BandRow, ...]
    size_bytes: int | None
    experts: int | None = None
    experts_per_token: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The facts, the bands by name."""
        facts = fields_of(self, without=("meta", "bands"))
        bands = {band.name: fields_of(band, without=("name",)) for band in self.bands}
        return facts | {"bands": bands}
