"""Stretches of text by what they are, for highlighting and completion. Needs no valid text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum

from lql.span import Span
from lql.syntax_words import Slot


class TokenKind(Enum):
    """What a stretch of text is. ``OPEN`` is a string or comment that nothing closes."""

    KEYWORD = "keyword"
    NAME = "name"
    STRING = "string"
    NUMBER = "number"
    PARAMETER = "parameter"
    OPERATOR = "operator"
    PUNCTUATION = "punctuation"
    COMMENT = "comment"
    SPACE = "space"
    OPEN = "open"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Token:
    """A stretch of text. The tokens of a text, put together, are the text."""

    kind: TokenKind
    text: str
    span: Span


_KINDS = {
    "NAME": TokenKind.NAME,
    "STRING": TokenKind.STRING,
    "FLOAT": TokenKind.NUMBER,
    "INTEGER": TokenKind.NUMBER,
    "PARAMETER": TokenKind.PARAMETER,
    "LINE_COMMENT": TokenKind.COMMENT,
    "BLOCK_COMMENT": TokenKind.COMMENT,
    "SPACE": TokenKind.SPACE,
    "SEMICOLON": TokenKind.PUNCTUATION,
    "COMMA": TokenKind.PUNCTUATION,
    "DOT": TokenKind.PUNCTUATION,
    "COLON": TokenKind.PUNCTUATION,
    "OPEN": TokenKind.PUNCTUATION,
    "CLOSE": TokenKind.PUNCTUATION,
    "OPEN_TEXT": TokenKind.OPEN,
    "OTHER": TokenKind.ERROR,
}

_WORDS = (TokenKind.KEYWORD, TokenKind.NAME, TokenKind.NUMBER, TokenKind.PARAMETER)


def scanner(patterns: Iterable[tuple[str, str]]) -> re.Pattern[str]:
    """Compile the pattern that finds one token after the other.

    Args:
        patterns: name and regular expression of every terminal that is no keyword, the more
            urgent first. What none of them matches is an open string or comment, or an error.
    """
    named = [*patterns, ("OPEN_TEXT", r"(?s:[\"'].*|/\*.*)"), ("OTHER", r"(?s:.)")]
    return re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in named))


def scan(
    pattern: re.Pattern[str], text: str, keywords: Mapping[str, str], names: Set[int]
) -> Iterator[Token]:
    """Yield the tokens of ``text``.

    Args:
        pattern: from ``scanner``.
        text: anything.
        keywords: spelling of each keyword.
        names: offsets of the words that are known to be names although spelt like keywords.
    """
    for match in pattern.finditer(text):
        terminal = match.lastgroup or ""
        kind = _KINDS.get(terminal, TokenKind.OPERATOR)
        if kind is TokenKind.NAME and match[0].upper() in keywords and match.start() not in names:
            kind = TokenKind.KEYWORD
        yield Token(kind, match[0], Span(*match.span()))


def is_partial(token: Token) -> bool:
    """Whether more typing right after ``token`` could change it: a word, or an open string."""
    return token.kind in _WORDS or (token.kind is TokenKind.OPEN and token.text[0] != "/")


def hides_typing(token: Token) -> bool:
    """Whether what is typed right after ``token`` belongs to a comment."""
    if token.kind is TokenKind.COMMENT:
        return token.text.startswith("--")
    return token.kind is TokenKind.OPEN and token.text[0] == "/"


_COLUMN_SLOTS = {
    "entity": Slot.ENTITY,
    "relation": Slot.RELATION,
    "target": Slot.TARGET,
    "layer": Slot.LAYER,
}

_BETWEEN_COLUMN_AND_VALUE = {
    *("EQ", "NE", "LT", "LE", "GT", "GE", "LIKE", "IN", "BETWEEN", "AND", "NOT"),
    *("OPEN", "COMMA", "STRING", "INTEGER", "FLOAT", "PARAMETER", "MINUS"),
}


def compared_slot(before: Iterable[tuple[str, str]]) -> Slot | None:
    """Return what the column that a value is compared with says about the value.

    Args:
        before: terminal and text of every token before the value, the last first.
    """
    for terminal, text in before:
        if terminal not in _BETWEEN_COLUMN_AND_VALUE:
            return _COLUMN_SLOTS.get(text.lower())
    return None
