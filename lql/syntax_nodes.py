"""The nodes below a statement: literals, columns, layer ranges and conditions.

Every node is frozen, slotted and hashable. ``span`` is where it stands in the text; it takes no
part in comparison, so a tree parsed from ``unparse(tree)`` equals the first one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from lql.span import NOWHERE, Span
from lql.syntax_words import Comparator, Direction, Function, Slot, Table


@dataclass(frozen=True, slots=True)
class Node:
    """Anything that stands in a text."""

    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


# --------------------------------------------------------------------------- literals


@dataclass(frozen=True, slots=True)
class Text(Node):
    """A string, unescaped."""

    value: str


@dataclass(frozen=True, slots=True)
class Integer(Node):
    """A whole number within signed 64 bits."""

    value: int


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A finite float64."""

    value: float


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """``:name``, to be replaced by a literal through ``lql.params.bind``.

    Attributes:
        name: as written, without the colon; case counts.
        slot: what the value stands for, which decides its type and range.
    """

    name: str
    slot: Slot = Slot.VALUE


@dataclass(frozen=True, slots=True)
class ListLiteral(Node):
    """``(value, …)``, possibly empty, possibly nested."""

    items: tuple[Value, ...]


TextSlot: TypeAlias = Text | Parameter
IntegerSlot: TypeAlias = Integer | Parameter
NumberSlot: TypeAlias = Number | Parameter
Value: TypeAlias = Text | Integer | Number | Parameter | ListLiteral
Scalar: TypeAlias = Text | Integer | Number | Parameter


# --------------------------------------------------------------------------- names and places


@dataclass(frozen=True, slots=True)
class Column(Node):
    """A column by name, in lower case: column names do not depend on case.

    Attributes:
        table: the name or alias of its table, in lower case, where one was written before it.
    """

    name: str
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Word(Node):
    """A bare name, in lower case: options and their values do not depend on case."""

    value: str


@dataclass(frozen=True, slots=True)
class Star(Node):
    """``*``: every column, or every row inside ``COUNT``."""


@dataclass(frozen=True, slots=True)
class Aggregate(Node):
    """``COUNT(*)``, ``AVG(score)``, ``COUNT(DISTINCT relation)``. Only COUNT takes ``*``."""

    function: Function
    argument: Column | Star
    distinct: bool = False


Operand: TypeAlias = Column | Aggregate


@dataclass(frozen=True, slots=True)
class Current(Node):
    """``CURRENT``: the session's vindex with its edits, where a vindex path could stand."""


VindexRef: TypeAlias = Current | Text | Parameter


@dataclass(frozen=True, slots=True)
class LayerRange(Node):
    """``first-last``, both ends included; ``first <= last`` when both are literals."""

    first: IntegerSlot
    last: IntegerSlot


# --------------------------------------------------------------------------- conditions


@dataclass(frozen=True, slots=True)
class Or(Node):
    """At least one holds. Two or more conditions, none of them an ``Or``."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class And(Node):
    """All hold. Two or more conditions, none of them an ``And``."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not(Node):
    """The condition does not hold."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Comparison(Node):
    """``operand comparator value``."""

    operand: Operand
    comparator: Comparator
    value: Scalar


@dataclass(frozen=True, slots=True)
class Like(Node):
    """``operand [NOT] LIKE pattern``, with ``%`` for any run and ``_`` for one character.

    Case does not count, so ILIKE is another word for it.
    """

    operand: Operand
    pattern: TextSlot
    negated: bool = False


@dataclass(frozen=True, slots=True)
class In(Node):
    """``operand [NOT] IN (value, …)``. An empty list holds for no row.

    Attributes:
        values: a list, or one parameter that is bound to a list.
    """

    operand: Operand
    values: ListLiteral | Parameter
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Between(Node):
    """``operand [NOT] BETWEEN low AND high``, both ends included."""

    operand: Operand
    low: Scalar
    high: Scalar
    negated: bool = False


@dataclass(frozen=True, slots=True)
class IsNull(Node):
    """``operand IS [NOT] NULL``."""

    operand: Operand
    negated: bool = False


Condition: TypeAlias = Or | And | Not | Comparison | Like | In | Between | IsNull


# --------------------------------------------------------------------------- parts of statements


@dataclass(frozen=True, slots=True)
class SelectItem(Node):
    """One entry of a SELECT list. ``alias`` keeps the case it was written in; ``*`` has none."""

    expression: Star | Column | Aggregate
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class Join(Node):
    """``[LEFT] JOIN table [AS alias] ON a = b AND … | USING (column, …)``.

    Attributes:
        alias: in lower case.
        on: pairs of columns that must be equal; empty where ``using`` is not.
        using: names that both sides have, whose columns must be equal.
        left: rows without a partner stay, with NULL in its columns.
    """

    table: Table
    alias: str | None = None
    on: tuple[tuple[Column, Column], ...] = ()
    using: tuple[Column, ...] = ()
    left: bool = False


@dataclass(frozen=True, slots=True)
class Nearest(Node):
    """``NEAREST TO entity AT LAYER layer``."""

    entity: TextSlot
    layer: IntegerSlot


@dataclass(frozen=True, slots=True)
class SortKey(Node):
    """One ORDER BY key."""

    operand: Operand
    direction: Direction = Direction.ASC


@dataclass(frozen=True, slots=True)
class Route(Node):
    """``ROUTE VERIFY [FALLBACK] [TOPK n] [EXIT]``: how INFER checks stored facts."""

    fallback: bool = False
    topk: IntegerSlot | None = None
    exit: bool = False


@dataclass(frozen=True, slots=True)
class EdgeRow(Node):
    """One row of INSERT: entity —[relation]→ target."""

    entity: TextSlot
    relation: TextSlot
    target: TextSlot


@dataclass(frozen=True, slots=True)
class Assignment(Node):
    """``column = value`` of UPDATE."""

    column: Column
    value: Scalar


@dataclass(frozen=True, slots=True)
class Requirement(Node):
    """``measure >= value`` of REQUIRE; the comparator is never an equality."""

    measure: Column
    comparator: Comparator
    value: NumberSlot
