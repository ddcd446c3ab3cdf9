"""LIMIT of DESCRIBE, whose rows are no table's: what is cut is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from lql import ast
from lql.execute.slots import integer, integer_or
from lql.results import Meta, Truncation

T = TypeVar("T")


def page(
    rows: Sequence[T],
    limit: ast.IntegerSlot | None,
    offset: ast.IntegerSlot | None = None,
    *,
    default: int | None = None,
) -> tuple[tuple[T, ...], Meta]:
    """The rows of one page, and the fact that there are more.

    Args:
        rows: all of them.
        limit, offset: as written.
        default: rows shown where no LIMIT was written; ``None`` for all.
    """
    start = min(integer_or(offset, 0), len(rows))
    size = default if limit is None else integer(limit)
    stop = len(rows) if size is None else min(start + size, len(rows))
    shown = tuple(rows[start:stop])
    if stop == len(rows):
        return shown, Meta()
    return shown, Meta(truncated=Truncation(len(shown), len(rows), "a larger LIMIT"))
