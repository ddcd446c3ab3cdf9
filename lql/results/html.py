"""Results as HTML, for notebooks. Every text is escaped: what a model wrote is data."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lql.results.base import Column, Kind, Row, Truncation, Value

SHOWN = 100


def html_table(columns: Sequence[Column], rows: Sequence[Row], truncated: Truncation | None) -> str:
    """A table of the first hundred rows, and a line that says what is left out."""
    head = "".join(f"<th>{_safe(column.name)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(_cell(row[column.name], column) for column in columns)}</tr>"
        for row in rows[:SHOWN]
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    total = len(rows) if truncated is None else truncated.total
    shown = min(len(rows), SHOWN)
    return table if shown == total else f"{table}<p>{shown} of {total} rows</p>"


def _cell(value: Value, column: Column) -> str:
    right = column.kind in (Kind.INTEGER, Kind.NUMBER)
    style = ' style="text-align: right"' if right else ' style="text-align: left"'
    return f"<td{style}>{_safe(_text(value))}</td>"


def _text(value: Value) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.6g}"
        case tuple():
            return ", ".join(value)
        case _:
            return str(value)


def _safe(text: str) -> str:
    """Text that HTML shows as it stands; what cannot be seen is spelt out."""
    seen = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escape(seen)
