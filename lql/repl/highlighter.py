"""Colours of what is typed, from the grammar's own terminals: no keyword can be forgotten."""

from __future__ import annotations

from collections.abc import Callable

from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import split_lines
from prompt_toolkit.lexers import Lexer

from lql.parser import tokens
from lql.repl.buffer import CommandLine, split
from lql.syntax_tokens import TokenKind

MAX_LENGTH = 10_000
"""Longer texts are shown plain, so that typing in them stays quick."""

STYLES = {
    TokenKind.KEYWORD: "class:lql.keyword",
    TokenKind.NAME: "class:lql.name",
    TokenKind.STRING: "class:lql.string",
    TokenKind.NUMBER: "class:lql.number",
    TokenKind.PARAMETER: "class:lql.parameter",
    TokenKind.OPERATOR: "class:lql.operator",
    TokenKind.PUNCTUATION: "",
    TokenKind.COMMENT: "class:lql.comment",
    TokenKind.SPACE: "",
    TokenKind.OPEN: "class:lql.string",
    TokenKind.ERROR: "class:lql.error",
}


def fragments(text: str) -> StyleAndTextTuples:
    """The text in styled pieces that, put together, are the text."""
    if len(text) > MAX_LENGTH:
        return [("", text)]
    pieces: StyleAndTextTuples = []
    at = 0
    for part in split(text):
        if isinstance(part, CommandLine):
            pieces += _statement_fragments(text[at : part.span.start])
            pieces.append(("class:lql.command", text[part.span.start : part.span.end]))
            at = part.span.end
    return pieces + _statement_fragments(text[at:])


def _statement_fragments(text: str) -> StyleAndTextTuples:
    return [(STYLES[token.kind], token.text) for token in tokens(text)]


class LqlLexer(Lexer):
    """Highlights the buffer."""

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        """Return a function from line number to styled pieces."""
        lines = list(split_lines(fragments(document.text)))

        def line(number: int) -> StyleAndTextTuples:
            return lines[number] if number < len(lines) else []

        return line
