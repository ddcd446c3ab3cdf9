"""One line per value, for rows too wide to stand side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TextIO, assert_never

from lql.render.blocks import Block, Facts, Grid, Line
from lql.render.view import view
from lql.results import Form, Result


class VerticalRenderer:
    """Writes results with a ruled block per row, an empty line between results."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._first = True

    def write(self, result: Result) -> None:
        """Write one result."""
        if result.form is Form.STATUS:
            return
        if not self._first:
            self._out.write("\n")
        self._first = False
        for block in spaced(view(result)):
            self._out.writelines(line + "\n" for line in _lines(block))
        self._out.flush()


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Line(text=text):
            yield text
        case Facts():
            yield from facts_lines(block)
        case Grid(rows=()):
            yield "(no rows)"
        case Grid():
            yield from vertical_lines(block)
        case _:
            assert_never(block)


def spaced(blocks: Iterable[Block]) -> Iterator[Block]:
    """Blocks with an empty line before whatever follows a grid or facts."""
    after_body = False
    for block in blocks:
        if after_body:
            yield Line("")
        yield block
        after_body = not isinstance(block, Line)


def vertical_lines(grid: Grid) -> Iterator[str]:
    """The rows of a grid, each under its number."""
    width = max(len(heading.title) for heading in grid.headings)
    for number, row in enumerate(grid.rows, start=1):
        yield f"── row {number} ".ljust(width + 12, "─")
        for heading, text in zip(grid.headings, row, strict=True):
            yield f"{heading.title:<{width}}  {text}".rstrip()


def facts_lines(facts: Facts) -> Iterator[str]:
    """Names and values, aligned."""
    width = max((len(name) for name, _ in facts.pairs), default=0)
    for name, value in facts.pairs:
        yield f"{name:<{width}}  {value}"
