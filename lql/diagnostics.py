"""What went wrong, where, and what to do next: as data, and as text.

The text has one shape, each part in its place::

    error[LQL0203]: unknown relation "captial"
      --> audit.lql:14:51
       |
    14 | SELECT entity, target FROM EDGES WHERE relation = "captial";
       |                                                   ^^^^^^^^^ not in gemma3-4b.vindex
      help: did you mean "capital" or "capitals"?
      note: SHOW RELATIONS lists them all
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lql.codes import Code
from lql.span import SourceText, Span

MAX_EXCERPT = 160
"""Screen columns of a source line that are shown; a longer line is cut around the span."""

_TAB = 4


class Severity(Enum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Related:
    """A second place that the message speaks of."""

    span: Span
    label: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One message about a text or a run.

    Attributes:
        code: the kind of problem.
        message: one sentence, lower case, no full stop.
        severity: error unless said.
        source: the text it is about, or ``None`` when it is about no text.
        span: where in ``source``.
        label: said under the caret: what was found or expected there.
        suggestions: what could be written instead, exactly as it would be written, best first.
        helps: next steps.
        notes: further facts.
        related: other places, each with its own caret.
    """

    code: Code
    message: str
    severity: Severity = Severity.ERROR
    source: SourceText | None = None
    span: Span | None = None
    label: str | None = None
    suggestions: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    related: tuple[Related, ...] = ()


def render_text(diagnostic: Diagnostic) -> str:
    """Return the whole message for people, several lines, without colour or final newline."""
    lines = [f"{_head(diagnostic)}: {visible(diagnostic.message)}"]
    margin = 2
    if diagnostic.source is not None and diagnostic.span is not None:
        source = diagnostic.source
        places = [(diagnostic.span, diagnostic.label or "", "-->", "^")]
        places += [(other.span, other.label, ":::", "-") for other in diagnostic.related]
        margin = max([margin, *(len(str(source.position(p[0].start).line)) for p in places)])
        for span, label, arrow, caret in places:
            lines += _excerpt(source, span, label, arrow, caret, margin)
    elif diagnostic.source is not None:
        lines.append(f"{'':{margin}}--> {visible(diagnostic.source.name)}")
    lines += [f"{'':{margin}}help: {visible(text)}" for text in _helps(diagnostic)]
    lines += [f"{'':{margin}}note: {visible(text)}" for text in diagnostic.notes]
    return "\n".join(lines)


def render_short(diagnostic: Diagnostic) -> str:
    """Return one line ``file:line:col: error[CODE]: message``, for editors and CI."""
    line = f"{_head(diagnostic)}: {visible(diagnostic.message)}"
    if diagnostic.source is None:
        return line
    return f"{_place(diagnostic.source, diagnostic.span)}: {line}"


def to_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """Return the message as JSON-ready data.

    Lines and columns are 1-based and count code points; the end is the place after the last
    character. ``file`` and the four numbers are null when the message is about no text.
    """
    return {
        "severity": diagnostic.severity.value,
        "code": diagnostic.code.id,
        "message": diagnostic.message,
        **_place_json(diagnostic.source, diagnostic.span),
        "label": diagnostic.label,
        "suggestions": list(diagnostic.suggestions),
        "helps": list(diagnostic.helps),
        "notes": list(diagnostic.notes),
        "related": [
            {**_place_json(diagnostic.source, other.span), "label": other.label}
            for other in diagnostic.related
        ],
    }


def one_of(choices: Iterable[str]) -> str:
    """Return ``a``, ``a or b``, ``a, b or c``."""
    items = list(choices)
    return " or ".join(", ".join(part) for part in (items[:-1], items[-1:]) if part)


def visible(text: str) -> str:
    """Return ``text`` on one line with control characters replaced by their pictures.

    Text from files and models must not move the cursor or colour the screen.
    """
    if text.isprintable():
        return text
    return "".join(_picture(char) for char in text)


def _picture(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    return "\ufffd"


def _head(diagnostic: Diagnostic) -> str:
    return f"{diagnostic.severity.value}[{diagnostic.code.id}]"


def _helps(diagnostic: Diagnostic) -> tuple[str, ...]:
    if not diagnostic.suggestions:
        return diagnostic.helps
    return (f"did you mean {one_of(diagnostic.suggestions)}?", *diagnostic.helps)


def _place(source: SourceText, span: Span | None) -> str:
    if span is None:
        return visible(source.name)
    position = source.position(span.start)
    return f"{visible(source.name)}:{position.line}:{position.column}"


def _place_json(source: SourceText | None, span: Span | None) -> dict[str, Any]:
    place: dict[str, Any] = dict.fromkeys(("file", "line", "col", "end_line", "end_col"))
    if source is not None:
        place["file"] = source.name
        if span is not None:
            start, end = source.position(span.start), source.position(span.end)
            place |= {
                "line": start.line,
                "col": start.column,
                "end_line": end.line,
                "end_col": end.column,
            }
    return place


def _excerpt(
    source: SourceText, span: Span, label: str, arrow: str, caret: str, margin: int
) -> list[str]:
    """Draw one place: its address, its line, and the caret span with the label."""
    start = source.position(span.start)
    line = source.line(start.line)
    first = min(start.column - 1, len(line))
    last = min(max(first + span.end - span.start, first), len(line))
    cells = _cells(line)
    left, right = _window(cells, first, last)
    shown = "".join(text for text, _ in cells[left:right])
    shown = ("…" if left else "") + shown + ("…" if right < len(cells) else "")
    indent = (1 if left else 0) + sum(width for _, width in cells[left:first])
    width = sum(width for _, width in cells[first : min(last, right)])
    marks = f"{'':{indent}}{caret * max(1, width)} {visible(label)}".rstrip()
    return [
        f"{'':{margin}}{arrow} {_place(source, span)}",
        f"{'':{margin}} |",
        f"{start.line:>{margin}} | {shown}".rstrip(),
        f"{'':{margin}} | {marks}",
    ]


def _cells(line: str) -> list[tuple[str, int]]:
    """Return each character as it is printed, with the screen columns it takes."""
    cells: list[tuple[str, int]] = []
    column = 0
    for char in line:
        if char == "\t":
            width = _TAB - column % _TAB
            text = " " * width
        else:
            text = _picture(char)
            width = _width(text)
        cells.append((text, width))
        column += width
    return cells


def _width(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def _window(cells: list[tuple[str, int]], first: int, last: int) -> tuple[int, int]:
    """Choose which cells of a long line to show: the span, with what fits before and after it."""
    if sum(width for _, width in cells) <= MAX_EXCERPT:
        return 0, len(cells)
    left = max(0, first - MAX_EXCERPT // 3)
    right = left
    room = MAX_EXCERPT
    while right < len(cells) and room >= cells[right][1]:
        room -= cells[right][1]
        right += 1
    return left, right
