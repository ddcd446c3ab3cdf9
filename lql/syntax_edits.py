"""The statements that edit: facts, composed features, patches and the way back.

``lql.ast`` re-exports them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lql.syntax_nodes import (
    Assignment,
    Condition,
    EdgeRow,
    IntegerSlot,
    LayerRange,
    Node,
    NumberSlot,
    Requirement,
    TextSlot,
)
from lql.syntax_words import Check, InsertMode, Table


@dataclass(frozen=True, slots=True)
class Probe(Node):
    """``PROBE RELATION relation FOR (entity, …) … | FROM path …``.

    Either ``entities`` or ``path`` is there. Without ``templates`` the relation's own are asked.
    """

    title: ClassVar[str] = "PROBE RELATION"
    relation: TextSlot
    entities: tuple[TextSlot, ...] = ()
    path: TextSlot | None = None
    templates: tuple[TextSlot, ...] = ()
    top: IntegerSlot | None = None
    batch: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class LabelFeatures(Node):
    """``LABEL FEATURES FROM PROBES [MIN SUPPORT n]``, or ``… FROM path``."""

    title: ClassVar[str] = "LABEL FEATURES"
    path: TextSlot | None = None
    support: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class Insert(Node):
    """``INSERT INTO EDGES (entity, relation, target) VALUES (…), … …`` or ``… FROM path …``.

    Either ``rows`` or ``path`` is there.
    """

    title: ClassVar[str] = "INSERT"
    rows: tuple[EdgeRow, ...] = ()
    path: TextSlot | None = None
    layer: IntegerSlot | None = None
    layers: LayerRange | None = None
    statistics: TextSlot | None = None
    confidence: NumberSlot | None = None
    alpha: NumberSlot | None = None
    mode: InsertMode | None = None
    evict: bool = False
    aliases: tuple[TextSlot, ...] = ()
    check: Check | None = None
    require: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete(Node):
    """``DELETE FROM table WHERE … [LIMIT n | ALL] [CHECK …] [REQUIRE …]``."""

    title: ClassVar[str] = "DELETE"
    where: Condition
    table: Table = Table.EDGES
    limit: IntegerSlot | None = None
    all_rows: bool = False
    check: Check | None = None
    require: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class Update(Node):
    """``UPDATE table SET column = value, … WHERE …``. No column is assigned twice."""

    title: ClassVar[str] = "UPDATE"
    assignments: tuple[Assignment, ...]
    where: Condition
    table: Table = Table.EDGES
    limit: IntegerSlot | None = None
    all_rows: bool = False
    check: Check | None = None
    require: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class Rebalance(Node):
    """``REBALANCE [UNTIL CONVERGED] [MAX n] [FLOOR x] [CEILING x]``."""

    title: ClassVar[str] = "REBALANCE"
    until_converged: bool = False
    max_steps: IntegerSlot | None = None
    floor: NumberSlot | None = None
    ceiling: NumberSlot | None = None


@dataclass(frozen=True, slots=True)
class CompactMinor(Node):
    """``COMPACT MINOR``."""

    title: ClassVar[str] = "COMPACT MINOR"


@dataclass(frozen=True, slots=True)
class CompactMajor(Node):
    """``COMPACT MAJOR [FULL] [WITH LAMBDA = x]``."""

    title: ClassVar[str] = "COMPACT MAJOR"
    full: bool = False
    ridge: NumberSlot | None = None


@dataclass(frozen=True, slots=True)
class BeginPatch(Node):
    """``BEGIN PATCH path``."""

    title: ClassVar[str] = "BEGIN PATCH"
    path: TextSlot


@dataclass(frozen=True, slots=True)
class SavePatch(Node):
    """``SAVE PATCH [path] [OVERWRITE]``; without a path, the one BEGIN PATCH named."""

    title: ClassVar[str] = "SAVE PATCH"
    path: TextSlot | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class ApplyPatch(Node):
    """``APPLY PATCH path [FORCE]``."""

    title: ClassVar[str] = "APPLY PATCH"
    path: TextSlot
    force: bool = False


@dataclass(frozen=True, slots=True)
class RemovePatch(Node):
    """``REMOVE PATCH path``."""

    title: ClassVar[str] = "REMOVE PATCH"
    path: TextSlot


@dataclass(frozen=True, slots=True)
class DiscardPatch(Node):
    """``DISCARD PATCH``: drop every edit that no file holds."""

    title: ClassVar[str] = "DISCARD PATCH"


@dataclass(frozen=True, slots=True)
class Undo(Node):
    """``UNDO [steps]``: take back the last statements that edited."""

    title: ClassVar[str] = "UNDO"
    steps: IntegerSlot | None = None
