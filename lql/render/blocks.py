"""What people's formats lay out: a few kinds of block, their cells already text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lql.render.text import cell, is_numeric
from lql.results import Column, Result, Value


@dataclass(frozen=True, slots=True)
class Heading:
    """One column's title and side."""

    title: str
    right: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells under headings."""

    headings: tuple[Heading, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, one pair a line."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text."""

    text: str


Block = Grid | Facts | Line


def grid(columns: Sequence[Column], rows: Sequence[tuple[Value, ...]]) -> Grid:
    """Cells under their columns' names; a column without any value is left out."""
    kept = [
        index
        for index, _ in enumerate(columns)
        if not rows or any(row[index] not in (None, ()) for row in rows)
    ]
    return Grid(
        tuple(Heading(columns[i].name, is_numeric(columns[i])) for i in kept),
        tuple(tuple(cell(row[i], columns[i]) for i in kept) for row in rows),
    )


def rows_of(result: Result, *, without: Sequence[str] = ()) -> Grid:
    """A result's rows as a grid, some columns left out."""
    columns = [column for column in result.columns if column.name not in without]
    rows = [tuple(row[column.name] for column in columns) for row in result.to_rows()]
    return grid(columns, rows)


def facts(pairs: Sequence[tuple[str, str]]) -> Facts:
    """Names and values, those without a value left out."""
    return Facts(tuple((name, value) for name, value in pairs if value))
