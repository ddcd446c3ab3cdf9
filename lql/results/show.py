"""What a vindex holds: STATS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lql.results.base import Record, fields_of


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
