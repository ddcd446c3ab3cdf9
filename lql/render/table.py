"""Aligned tables for people.

Off a terminal nothing is cut. On a terminal a table that does not fit shortens its text cells, the
widest first, with an ellipsis; where even that would leave nothing readable, rows are printed
vertically. Widths are counted in terminal cells (``rich.cells``), so wide and combining characters
keep the columns straight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TextIO, assert_never

from rich.cells import cell_len, set_cell_size

from lql.render import Expand, RenderOptions
from lql.render.blocks import Block, Facts, Grid, Heading, Line
from lql.render.vertical import facts_lines, spaced, vertical_lines
from lql.render.view import view
from lql.results import Form, Result

_NARROWEST_TEXT = 8
_GAP = "  "
_BOLD, _DIM, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class TableRenderer:
    """Writes results as tables, an empty line between them."""

    def __init__(self, out: TextIO, options: RenderOptions) -> None:
        self._out = out
        self._options = options
        self._first = True

    def write(self, result: Result) -> None:
        """Write one result."""
        if result.form is Form.STATUS:
            return
        if not self._first:
            self._out.write("\n")
        self._first = False
        for block in spaced(view(result)):
            self._out.writelines(line + "\n" for line in self._lines(block))
        self._out.flush()

    def _lines(self, block: Block) -> Iterator[str]:
        match block:
            case Line(text=text):
                yield text
            case Facts():
                yield from facts_lines(block)
            case Grid(rows=()):
                yield "(no rows)"
            case Grid():
                widths = self._widths(block)
                if widths is None:
                    yield from vertical_lines(block)
                else:
                    yield from _grid_lines(block, widths, color=self._options.color)
            case _:
                assert_never(block)

    def _widths(self, grid: Grid) -> list[int] | None:
        """Column widths, or ``None`` where the rows stand vertically."""
        match self._options.expand:
            case Expand.ON:
                return None
            case Expand.AUTO:
                return _fit(grid, self._options.width)
            case Expand.OFF:
                return _fit(grid, self._options.width) or _fit(grid, None)
            case _:
                assert_never(self._options.expand)


def _fit(grid: Grid, limit: int | None) -> list[int] | None:
    """Column widths in terminal cells within ``limit``, or ``None`` if that is too narrow.

    Numbers and titles stand whole. The widest text column gives way first.
    """
    columns = range(len(grid.headings))
    widths = [max(cell_len(row[i]) for row in grid.rows) for i in columns]
    floors = [
        width if heading.right else min(width, _NARROWEST_TEXT)
        for width, heading in zip(widths, grid.headings, strict=True)
    ]
    titles = [cell_len(heading.title) for heading in grid.headings]
    widths = [max(pair) for pair in zip(widths, titles, strict=True)]
    floors = [max(pair) for pair in zip(floors, titles, strict=True)]
    if limit is None:
        return widths
    room = limit - len(_GAP) * (len(widths) - 1)
    if sum(floors) > room:
        return None
    while sum(widths) > room:
        slack = [i for i in columns if widths[i] > floors[i]]
        widths[max(slack, key=lambda i: widths[i])] -= 1
    return widths


def _grid_lines(grid: Grid, widths: Sequence[int], *, color: bool) -> Iterator[str]:
    bold, dim, reset = (_BOLD, _DIM, _RESET) if color else ("", "", "")
    titles = _joined([heading.title for heading in grid.headings], grid.headings, widths)
    yield f"{bold}{titles}{reset}"
    yield f"{dim}{'─' * (sum(widths) + len(_GAP) * (len(widths) - 1))}{reset}"
    for row in grid.rows:
        yield _joined(row, grid.headings, widths)


def _joined(cells: Sequence[str], headings: Sequence[Heading], widths: Sequence[int]) -> str:
    padded = map(_padded, cells, headings, widths)
    return _GAP.join(padded).rstrip(" ")


def _padded(text: str, heading: Heading, width: int) -> str:
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…"
    blank = " " * (width - length)
    return blank + text if heading.right else text + blank
