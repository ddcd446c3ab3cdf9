"""Where and why the parser stopped: the facts every syntax message is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from lql.codes import Code
from lql.diagnostics import Diagnostic, one_of, visible
from lql.span import SourceText, Span
from lql.syntax_help import StatementHelp, help_for

END = "$END"
MAX_EXPECTED = 8
"""How many of the things that could stand at a place a message lists."""

LITERALS = {
    "STRING": "a string in quotes",
    "INTEGER": "a whole number",
    "FLOAT": "a number",
    "PARAMETER": "a :parameter",
    "NAME": "a name",
}
SYMBOLS = {
    "SEMICOLON": ";",
    "PIPE": "|>",
    "COMMA": ",",
    "COLON": ":",
    "OPEN": "(",
    "CLOSE": ")",
    "STAR": "*",
    "MINUS": "-",
    "EQ": "=",
    "NE": "!=",
    "LE": "<=",
    "GE": ">=",
    "LT": "<",
    "GT": ">",
}


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A token: terminal name (``$END`` for the end, empty for no token at all), text and place."""

    kind: str
    text: str
    span: Span


@dataclass(frozen=True)
class Failure:
    """Where and why the parser stopped.

    Attributes:
        source: the text.
        found: what cannot stand where it does.
        legal: the terminals that could.
        before: every token before it.
        keywords: spelling of each keyword by terminal.
    """

    source: SourceText
    found: Lexeme
    legal: frozenset[str]
    before: Sequence[Lexeme]
    keywords: Mapping[str, str]

    @cached_property
    def is_word(self) -> bool:
        """Whether a name or a keyword was found."""
        return self.found.kind == "NAME" or self.found.kind in self.keywords

    @cached_property
    def legal_words(self) -> list[str]:
        """The keywords that could stand here, in the grammar's order."""
        return [self.keywords[name] for name in self.keywords if name in self.legal]

    @cached_property
    def statement(self) -> Sequence[Lexeme]:
        """The tokens of the unfinished statement."""
        start = len(self.before)
        while start and self.before[start - 1].kind not in ("SEMICOLON", "PIPE"):
            start -= 1
        return self.before[start:]

    @cached_property
    def previous(self) -> Lexeme | None:
        """The token before, if it belongs to the same statement."""
        return self.statement[-1] if self.statement else None

    @cached_property
    def subject(self) -> str:
        """What an expected literal belongs to: the nearest keyword before it."""
        words = [lexeme.kind for lexeme in self.statement if lexeme.kind in self.keywords]
        return words[-1] if words else "this"

    @cached_property
    def ends(self) -> bool:
        """Whether the statement ends where more was needed."""
        return self.found.kind in ("SEMICOLON", "PIPE")

    @cached_property
    def helps(self) -> tuple[StatementHelp, ...]:
        """What the statement could look like."""
        return help_for([lexeme.kind for lexeme in self.statement if lexeme.kind in self.keywords])

    @cached_property
    def begins_statement(self) -> bool:
        """Whether a statement should begin here."""
        return not self.statement and "SELECT" in self.legal

    @cached_property
    def expected(self) -> str:
        """What could stand here, for people; long lists are cut."""
        literals = [text for name, text in LITERALS.items() if name in self.legal]
        if "FLOAT" in self.legal:
            literals.remove(LITERALS["INTEGER"])
        if len(literals) > 1 and "PARAMETER" in self.legal:
            literals.remove(LITERALS["PARAMETER"])
        symbols = [f"`{text}`" for name, text in SYMBOLS.items() if name in self.legal]
        if "SEMICOLON" in self.legal and "PIPE" in self.legal:
            symbols.remove("`|>`")
        words = ["a statement"] if self.begins_statement else self.legal_words
        return some_of(literals + words + symbols)

    def diagnostic(self, code: Code, message: str, **parts: object) -> Diagnostic:
        """Return a diagnostic about what was found; ``span`` and the rest can be overridden."""
        return replace(
            Diagnostic(code, message, source=self.source, span=self.found.span),
            **parts,  # type: ignore[arg-type]
        )


def some_of(choices: Sequence[str]) -> str:
    """Return ``a, b or c``; of a long list the first few, and how many more there are."""
    if len(choices) > MAX_EXPECTED:
        rest = len(choices) - MAX_EXPECTED + 1
        choices = [*choices[: MAX_EXPECTED - 1], f"one of {rest} more"]
    return one_of(choices)


def shorten(text: str, limit: int = 40) -> str:
    """Return ``text`` on one line, cut to ``limit`` characters."""
    text = visible(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
