"""Places in a text: half-open character ranges, and offsets turned into lines and columns."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The characters ``start <= offset < end`` of a text.

    Attributes:
        start: offset of the first character, in code points, 0-based.
        end: offset after the last one. Equal to ``start`` for a place between characters.
    """

    start: int
    end: int

    def join(self, other: Span) -> Span:
        """Return the smallest span that covers both."""
        return Span(min(self.start, other.start), max(self.end, other.end))


NOWHERE = Span(0, 0)
"""The span of a node that was built by a program and stands in no text."""


@dataclass(frozen=True, slots=True)
class Position:
    """A line and a column, both 1-based; columns count code points, a tab is one."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class SourceText:
    """A script with its name, for diagnostics.

    Attributes:
        name: what the user knows it by: a file name, ``<stdin>``, ``<-e>``.
        text: the whole script.
    """

    name: str
    text: str = field(repr=False)
    _line_starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = [0]
        find = self.text.find
        at = find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = find("\n", at + 1)
        object.__setattr__(self, "_line_starts", tuple(starts))

    def position(self, offset: int) -> Position:
        """Return the line and column of an offset; offsets beyond the text mean its end."""
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self._line_starts, offset)
        return Position(line, offset - self._line_starts[line - 1] + 1)

    def line(self, number: int) -> str:
        """Return line ``number`` (1-based) without its line end."""
        start = self._line_starts[number - 1]
        stop = self._line_starts[number] - 1 if number < len(self._line_starts) else len(self.text)
        return self.text[start:stop].removesuffix("\r")

    def slice(self, span: Span) -> str:
        """Return the characters of ``span``."""
        return self.text[span.start : span.end]


NO_SOURCE = SourceText("<program>", "")
"""The source of a tree that a program built."""
