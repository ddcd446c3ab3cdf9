"""The vocabulary of results: columns, kinds, units, and the root type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

Value = str | int | float | bool | None | tuple[str, ...]
Row = dict[str, Value]


class Form(Enum):
    """Which shape of a result the JSON format prints.

    ROWS: an array of row objects. RECORD: one object (``to_dict``). STATUS: nothing on standard
    output, a line for people on standard error.
    """

    ROWS = "rows"
    RECORD = "record"
    STATUS = "status"


class Kind(Enum):
    """Type of a column's values. ``None`` is allowed in every kind."""

    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"
    TOKEN = "token"  # text from a model: any character may occur, spaces at the ends count
    TOKENS = "tokens"  # a tuple of those


class Unit(Enum):
    """What a column's numbers measure, and so how people want them printed."""

    NONE = ""
    PROBABILITY = "probability"  # 0..1
    LOGIT = "logit"
    DOT = "dot product"  # no scale of its own: compare within one layer of one model only
    LENGTH = "length"  # of a vector in the residual stream: compare within one model only
    BYTES = "B"
    SECONDS = "s"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result: its JSON key, the type of its values and their unit."""

    name: str
    kind: Kind
    unit: Unit = Unit.NONE


@dataclass(frozen=True, slots=True)
class Truncation:
    """Rows were left out.

    Attributes:
        shown, total: rows in the result, rows there are.
        more: the clause that shows more, e.g. ``VERBOSE`` or ``LIMIT n``.
    """

    shown: int
    total: int
    more: str


@dataclass(frozen=True, slots=True)
class Meta:
    """Facts about the run rather than the answer.

    Attributes:
        elapsed_s: wall time of the statement, ``load_s`` included.
        load_s: the part spent loading weights for the first time.
        device: where the model ran, for statements that run it.
        tokens, forward_s: prompt tokens that went through the model, and how long they took; 0
            where that was not measured.
        touched_bytes: stored weights that a statement without a forward pass read.
        notes: sentences for people; no fact stands only here.
        truncated: set when a limit left rows out.
    """

    elapsed_s: float = 0.0
    load_s: float = 0.0
    device: str | None = None
    tokens: int = 0
    forward_s: float = 0.0
    touched_bytes: int = 0
    notes: tuple[str, ...] = ()
    truncated: Truncation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(ABC):
    """Root of the results. A new type needs ``columns`` and ``records`` to work in every format."""

    form: ClassVar[Form] = Form.ROWS
    meta: Meta = field(default_factory=Meta, compare=False)

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns of ``to_rows``, in order; their names are the JSON keys."""

    @abstractmethod
    def records(self) -> Sequence[object]:
        """One object per row, with an attribute for every column."""

    def to_rows(self) -> list[Row]:
        """The result as one flat table."""
        names = [column.name for column in self.columns]
        return [{name: getattr(item, name) for name in names} for item in self.records()]

    def to_dict(self) -> dict[str, Any]:
        """The result as nested plain values: ``dict``, ``list``, ``str``, numbers, ``None``."""
        return {"rows": [plain(row) for row in self.to_rows()]}

    @property
    def rows(self) -> list[Row]:
        """The result as one flat table, a ``dict`` per row."""
        return self.to_rows()

    def to_arrow(self) -> pa.Table:
        """The rows as a ``pyarrow.Table``.

        Raises:
            LqlCapabilityError: pyarrow is not installed.
        """
        from lql.results.frames import arrow_table

        return arrow_table(self.columns, self.to_rows())

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a ``pandas.DataFrame``.

        Raises:
            LqlCapabilityError: pandas is not installed.
        """
        from lql.results.frames import pandas_frame

        return pandas_frame(self.columns, self.to_rows())

    def to_polars(self) -> pl.DataFrame:
        """The rows as a ``polars.DataFrame``.

        Raises:
            LqlCapabilityError: polars is not installed.
        """
        from lql.results.frames import polars_frame

        return polars_frame(self.columns, self.to_rows())

    def _repr_html_(self) -> str | None:
        """The rows as a notebook shows them."""
        from lql.results.html import html_table

        return html_table(self.columns, self.to_rows(), self.meta.truncated)


@dataclass(frozen=True, slots=True)
class Property:
    """A named value of a record, for where a record has to become rows."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Result):
    """A result that is one object; flat, it is a table of dotted names and values."""

    form: ClassVar[Form] = Form.RECORD

    @property
    def columns(self) -> tuple[Column, ...]:
        """Name and value."""
        return (Column("name", Kind.TEXT), Column("value", Kind.TEXT))

    def records(self) -> Sequence[Property]:
        """The leaves of ``to_dict``."""
        return tuple(_leaves(self.to_dict(), ""))

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The object."""


def _leaves(mapping: Mapping[str, Any], prefix: str) -> list[Property]:
    """Leaves of nested mappings under dotted names; a list of plain values is one leaf."""
    found: list[Property] = []
    for name, value in mapping.items():
        match value:
            case dict():
                found += _leaves(value, f"{prefix}{name}.")
            case list():
                found.append(Property(prefix + name, tuple(str(item) for item in value)))
            case _:
                found.append(Property(prefix + name, value))
    return found


def plain(row: Mapping[str, Value]) -> dict[str, Any]:
    """A row with its tuples as lists, as JSON has them."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in row.items()}


def fields_of(record: Any, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a slotted dataclass as plain values."""
    names = (item.name for item in fields(record))
    return plain({name: getattr(record, name) for name in names if name not in without})
