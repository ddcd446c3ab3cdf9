"""Inserted edges as rows: what SELECT, DESCRIBE and completion show of the session's facts."""

from __future__ import annotations

from dataclasses import dataclass

from lql.context import Context

EVIDENCE = "inserted"


@dataclass(frozen=True, slots=True)
class InsertedEdge:
    """A stored fact as an edge.

    Attributes:
        score: the confidence that it was inserted with, 0..1.
        layer: where it is recognised, or the last that it is written into; it has no feature.
    """

    entity: str
    relation: str
    target: str
    score: float
    layer: int
    aliases: tuple[str, ...]

    def is_about(self, entity: str) -> bool:
        """Whether the entity or one of its aliases is called so, case aside."""
        wanted = " ".join(entity.split()).casefold()
        names = (self.entity, *self.aliases)
        return any(" ".join(name.split()).casefold() == wanted for name in names)


def inserted_edges(context: Context) -> tuple[InsertedEdge, ...]:
    """The facts in effect, those that the vindex itself stores included, in order."""
    return tuple(
        InsertedEdge(
            fact.entity, fact.relation, fact.target, fact.confidence, fact.layer, fact.aliases
        )
        for fact in context.state.overlay.view.every_fact
    )
