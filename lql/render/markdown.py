"""GitHub-flavoured markdown tables, for notebooks, issues and reports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO, assert_never

from lql.render.blocks import Block, Facts, Grid, Heading, Line
from lql.render.view import view
from lql.results import Form, Result

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#&$!])")


class MarkdownRenderer:
    """Writes results as markdown, an empty line between blocks."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._first = True

    def write(self, result: Result) -> None:
        """Write one result."""
        if result.form is Form.STATUS:
            return
        for block in view(result):
            if not self._first:
                self._out.write("\n")
            self._first = False
            self._out.writelines(line + "\n" for line in _lines(block))
        self._out.flush()


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Line(text=text):
            yield _escape(text)
        case Facts(pairs=pairs):
            yield from _table((Heading("name"), Heading("value")), pairs)
        case Grid(headings=headings, rows=rows):
            yield from _table(headings, rows)
        case _:
            assert_never(block)


def _table(headings: tuple[Heading, ...], rows: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    yield _row(heading.title for heading in headings)
    yield _row(("---:" if heading.right else "---") for heading in headings)
    for row in rows:
        yield _row(_escape(text) for text in row)


def _row(cells: Iterator[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    """Text that markdown shows as it stands."""
    return _SPECIAL.sub(r"\\\1", text)
