"""The rows of SELECT and SHOW."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lql.results.base import Column, Record, Result, Row, Value, fields_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TableResult(Result):
    """Rows of whatever columns were asked for.

    Attributes:
        shape: the columns; their names differ.
        values: the rows, a value for each column.
    """

    shape: tuple[Column, ...]
    values: tuple[tuple[Value, ...], ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that were asked for, in that order."""
        return self.shape

    def records(self) -> Sequence[Row]:
        """The rows by name of column."""
        return self.to_rows()

    def to_rows(self) -> list[Row]:
        """The result as one flat table."""
        names = [column.name for column in self.shape]
        return [dict(zip(names, row, strict=True)) for row in self.values]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult(Record):
    """The file that COPY wrote.

    Attributes:
        format: ``parquet``, ``csv``, ``json`` or ``jsonl``.
    """

    path: str
    format: str
    rows_written: int
    size_bytes: int

    def to_dict(self) -> dict[str, object]:
        """The facts."""
        return fields_of(self, without=("meta",))
