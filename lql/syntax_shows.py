"""The SHOW statements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lql.syntax_nodes import Condition, IntegerSlot, LayerRange, Node
from lql.syntax_words import Detail


@dataclass(frozen=True, slots=True)
class ShowModels(Node):
    """``SHOW MODELS [LIMIT n]``."""

    title: ClassVar[str] = "SHOW MODELS"
    limit: IntegerSlot | None = None
    offset: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class ShowLayers(Node):
    """``SHOW LAYERS [[RANGE] a-b] [LIMIT n]``."""

    title: ClassVar[str] = "SHOW LAYERS"
    layers: LayerRange | None = None
    limit: IntegerSlot | None = None
    offset: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class ShowFeatures(Node):
    """``SHOW FEATURES layer [WHERE …] [LIMIT n] [OFFSET n]``."""

    title: ClassVar[str] = "SHOW FEATURES"
    layer: IntegerSlot
    where: Condition | None = None
    limit: IntegerSlot | None = None
    offset: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class ShowEntities(Node):
    """``SHOW ENTITIES [layer] [LIMIT n] [OFFSET n]``."""

    title: ClassVar[str] = "SHOW ENTITIES"
    layer: IntegerSlot | None = None
    limit: IntegerSlot | None = None
    offset: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class ShowRelations(Node):
    """``SHOW RELATIONS [AT LAYER n] [WITH EXAMPLES] [BRIEF|VERBOSE|RAW] [LIMIT n] [OFFSET n]``."""

    title: ClassVar[str] = "SHOW RELATIONS"
    layer: IntegerSlot | None = None
    examples: bool = False
    detail: Detail | None = None
    limit: IntegerSlot | None = None
    offset: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class ShowPatches(Node):
    """``SHOW PATCHES [LIMIT n]``."""

    title: ClassVar[str] = "SHOW PATCHES"
    limit: IntegerSlot | None = None
    offset: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class ShowEdits(Node):
    """``SHOW EDITS [LIMIT n]``."""

    title: ClassVar[str] = "SHOW EDITS"
    limit: IntegerSlot | None = None
    offset: IntegerSlot | None = None


@dataclass(frozen=True, slots=True)
class ShowCompactStatus(Node):
    """``SHOW COMPACT STATUS``."""

    title: ClassVar[str] = "SHOW COMPACT STATUS"
