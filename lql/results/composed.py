"""Results of REBALANCE, COMPACT and SHOW COMPACT STATUS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lql.results.base import Column, Form, Kind, Record, Result, Unit, fields_of


@dataclass(frozen=True, slots=True)
class BalanceRow:
    """A fact that features hold, before and after.

    Attributes:
        layer, feature: of its first feature; ``None`` where the fact stays beside the weights.
        probability_before, probability_after: of the whole target, on the phrasing where it is
            least; the stored fact's own answer does not count.
        ok: the probability is between the bounds (REBALANCE); the features answer the fact's
            prompt (COMPACT MINOR).
    """

    entity: str
    relation: str
    target: str
    layer: int
    feature: int | None
    probability_before: float
    probability_after: float
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceResult(Result):
    """REBALANCE or COMPACT MINOR.

    Attributes:
        rounds: of adjusting; 0 for COMPACT MINOR.
        facts: in the order of their insertion.
    """

    form = Form.ROWS
    statement: str
    facts: tuple[BalanceRow, ...]
    rounds: int
    seconds: float

    @property
    def columns(self) -> tuple[Column, ...]:
        """One row per fact."""
        return (
            Column("entity", Kind.TEXT),
            Column("relation", Kind.TEXT),
            Column("target", Kind.TEXT),
            Column("layer", Kind.INTEGER),
            Column("feature", Kind.INTEGER),
            Column("probability_before", Kind.NUMBER, Unit.PROBABILITY),
            Column("probability_after", Kind.NUMBER, Unit.PROBABILITY),
            Column("ok", Kind.BOOLEAN),
        )

    def records(self) -> Sequence[BalanceRow]:
        """The facts."""
        return self.facts


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactStatusResult(Record):
    """How the edits in effect are held.

    Attributes:
        stored: facts beside the weights, which COMPACT MINOR composes.
        composed: facts that features hold.
        features: features that hold them.
        changed, off: features that a statement or patch turned to other vectors, or switched off.
        layers: how many layers have edited features.
        bytes: vectors of all of it.
    """

    stored: int
    composed: int
    features: int
    changed: int
    off: int
    layers: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))
