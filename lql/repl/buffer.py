"""What a typed text consists of, and what Enter does with it. The parser decides both."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from lql.parser import Completeness, completeness, tokens
from lql.repl.commands import Call, call_of
from lql.span import Span
from lql.syntax_tokens import TokenKind

_BLANK = (TokenKind.SPACE, TokenKind.COMMENT)


@dataclass(frozen=True, slots=True)
class Statements:
    """Text for the interpreter.

    Attributes:
        start: offset of its first character in the whole text.
    """

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A line for the shell itself.

    Attributes:
        span: the line in the whole text.
    """

    call: Call
    span: Span


Part: TypeAlias = Statements | CommandLine


class Enter(Enum):
    """What the Enter key does."""

    RUN = "run"
    NEWLINE = "newline"


def split(text: str) -> list[Part]:
    """Tell commands and statements apart.

    A command takes one line, and stands where a statement could begin: a backslash inside a
    statement or a string of several lines is part of that.
    """
    parts: list[Part] = []
    begin = at = 0
    for line in text.split("\n"):
        call = call_of(line)
        end = at + len(line)
        if call is not None and not _is_unfinished(text[begin:at]):
            parts += _statements(text[begin:at], begin)
            parts.append(CommandLine(call, Span(at, end)))
            begin = end + 1
        at = end + 1
    return parts + _statements(text[begin:], begin)


def enter(text: str) -> Enter:
    """Decide whether Enter runs the text or begins a new line.

    What is wrong runs, to be told why; what is unfinished goes on. A statement that could end
    here or go on runs if it is closed with ``;`` or stands on a single line; over several lines
    the ``;``, or an empty line, says that it is finished.
    """
    parts = split(text)
    if not parts or isinstance(parts[-1], CommandLine):
        return Enter.RUN
    last = parts[-1].text
    match completeness(last):
        case Completeness.INCOMPLETE:
            return Enter.NEWLINE
        case Completeness.INVALID:
            return Enter.RUN
        case Completeness.COMPLETE:
            closed = _is_closed(last) or "\n" not in last.strip() or last.endswith("\n")
            return Enter.RUN if closed else Enter.NEWLINE


def is_blank(text: str) -> bool:
    """Whether a text holds nothing but space and comments."""
    first = text.lstrip()
    if not first.startswith(("-", "/")):  # no comment: known without reading the text
        return not first
    return all(token.kind in _BLANK for token in tokens(text))


def _is_unfinished(text: str) -> bool:
    return not is_blank(text) and completeness(text) is Completeness.INCOMPLETE


def _statements(text: str, start: int) -> list[Part]:
    return [] if is_blank(text) else [Statements(text, start)]


def _is_closed(text: str) -> bool:
    last = next((token for token in reversed(tokens(text)) if token.kind not in _BLANK), None)
    return last is not None and last.text == ";"
