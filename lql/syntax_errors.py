"""What is wrong with a text: from where the parser stopped to a message that helps.

The parser reports one fact: this token cannot stand here, those could. ``explain`` looks at it in
a fixed order, from the most telling reason to the plainest, and builds one diagnostic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property

from lql.codes import Code
from lql.diagnostics import Diagnostic, one_of
from lql.errors import LqlLiteralError, LqlSyntaxError
from lql.span import SourceText, Span
from lql.syntax_characters import explain_character, shorten, unquoted
from lql.syntax_help import (
    FIRST_WORDS,
    RESERVED,
    RESERVED_FORMS,
    StatementHelp,
    help_for,
)
from lql.syntax_text import quote, unquote

END = "$END"
MAX_EXPECTED = 8
"""How many of the things that could stand at a place a message lists."""

_LITERALS = {
    "STRING": "a string in quotes",
    "INTEGER": "a whole number",
    "FLOAT": "a number",
    "PARAMETER": "a :parameter",
    "NAME": "a name",
}
_SYMBOLS = {
    "SEMICOLON": ";",
    "PIPE": "|>",
    "COMMA": ",",
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
_NEEDED = ("FROM", "VALUES", "SET", "WHERE", "INTO")
"""Keywords of clauses that a statement cannot do without."""


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
        literals = [text for name, text in _LITERALS.items() if name in self.legal]
        if "FLOAT" in self.legal:
            literals.remove(_LITERALS["INTEGER"])
        if len(literals) > 1 and "PARAMETER" in self.legal:
            literals.remove(_LITERALS["PARAMETER"])
        symbols = [f"`{text}`" for name, text in _SYMBOLS.items() if name in self.legal]
        if "SEMICOLON" in self.legal and self.statement:
            symbols.remove("`|>`")
        words = ["a statement"] if self.begins_statement else self.legal_words
        choices = literals + words + symbols
        if len(choices) > MAX_EXPECTED:
            rest = len(choices) - MAX_EXPECTED + 1
            choices = [*choices[: MAX_EXPECTED - 1], f"one of {rest} more"]
        return one_of(choices) or "the end of the text"

    def diagnostic(self, code: Code, message: str, **parts: object) -> Diagnostic:
        """Return a diagnostic about what was found; ``span`` and the rest can be overridden."""
        return replace(
            Diagnostic(code, message, source=self.source, span=self.found.span),
            **parts,  # type: ignore[arg-type]
        )


def explain(failure: Failure) -> LqlSyntaxError:
    """Return the error for ``failure``."""
    if not failure.found.kind:
        return _error(*explain_character(failure))
    diagnostic = next(found for reason in _REASONS if (found := reason(failure)) is not None)
    if not (diagnostic.helps or diagnostic.suggestions) and len(failure.helps) <= 2:
        syntax = tuple(f"syntax: {entry.syntax}" for entry in failure.helps)
        diagnostic = replace(diagnostic, notes=diagnostic.notes + syntax)
    return _error(diagnostic, failure.found.kind == END)


def too_deep(source: SourceText, span: Span) -> LqlSyntaxError:
    """Return the error for nesting beyond the parser's limit."""
    return LqlSyntaxError(
        Diagnostic(
            Code.TOO_DEEP,
            "this is nested too deeply",
            source=source,
            span=span,
            label="too many open parentheses, NOT or EXPLAIN before this",
            helps=("write long alternatives as one list: column IN (…)",),
        )
    )


def _error(diagnostic: Diagnostic, incomplete: bool) -> LqlSyntaxError:
    if diagnostic.code in (Code.WRONG_TYPE, Code.OUT_OF_RANGE):
        return LqlLiteralError(diagnostic, incomplete=incomplete)
    return LqlSyntaxError(diagnostic, incomplete=incomplete)


# --------------------------------------------------------------------------- the reasons, in order


def _ends_too_early(failure: Failure) -> Diagnostic | None:
    if failure.found.kind != END:
        return None
    first = failure.statement[0].text.upper() if failure.statement else "a pipe"
    return failure.diagnostic(
        Code.UNFINISHED,
        f"the text ends in the middle of {first}",
        label=f"expected {failure.expected}",
    )


def _is_reserved(failure: Failure) -> Diagnostic | None:
    if not failure.is_word:
        return None
    word = failure.found.text.upper()
    first = failure.previous.kind if failure.previous else ""
    if not (failure.begins_statement and word in RESERVED) and (first, word) not in RESERVED_FORMS:
        return None
    form = f"{first} {word}".strip() if (first, word) in RESERVED_FORMS else word
    return failure.diagnostic(
        Code.RESERVED,
        f"{form} is reserved for a later version of LQL",
        label="not available yet",
        helps=(f"the statements of this version begin with {one_of(failure.legal_words)}",)
        if not first
        else (),
    )


def _lacks_semicolon(failure: Failure) -> Diagnostic | None:
    starts = "SEMICOLON" in failure.legal and failure.found.kind in FIRST_WORDS
    if not starts or failure.previous is None:
        return None
    end = failure.previous.text
    return failure.diagnostic(
        Code.MISSING_SEMICOLON,
        f"a ; is missing before {failure.found.text}",
        label="a new statement begins here",
        helps=(f"end the statement before it with a semicolon: … {shorten(end)};",),
    )


def _is_misspelt(failure: Failure) -> Diagnostic | None:
    if not failure.is_word:
        return None
    strict = "STRING" in failure.legal or failure.found.kind != "NAME"
    near = get_close_matches(
        failure.found.text.upper(), failure.legal_words, n=3, cutoff=0.75 if strict else 0.6
    )
    if not near:
        return None
    place = "statement" if failure.begins_statement else "word"
    return failure.diagnostic(
        Code.MISSPELT_KEYWORD,
        f"unknown {place} {shorten(failure.found.text)}",
        label=f"expected {failure.expected}",
        suggestions=tuple(near),
    )


def _is_no_statement(failure: Failure) -> Diagnostic | None:
    if not failure.begins_statement:
        return None
    if failure.is_word:
        return failure.diagnostic(
            Code.UNKNOWN_STATEMENT,
            f"no statement begins with {shorten(failure.found.text)}",
            helps=(f"statements begin with {one_of(failure.legal_words)}",),
        )
    return failure.diagnostic(
        Code.UNEXPECTED,
        f"{found(failure)} stands where a statement should begin",
        helps=(f"statements begin with {one_of(failure.legal_words)}",),
    )


def _lacks_quotes(failure: Failure) -> Diagnostic | None:
    shouted = failure.found.kind in failure.keywords and failure.found.text.isupper()
    if "STRING" not in failure.legal or not failure.is_word or shouted:
        return None
    return unquoted(failure)


def _splits_string(failure: Failure) -> Diagnostic | None:
    """A quote inside a string ended it: ``'O'Brien'``."""
    before = failure.previous
    if (
        before is None
        or before.kind != "STRING"
        or before.span.end != failure.found.span.start
        or not failure.is_word
    ):
        return None
    mark = before.text[0]
    return failure.diagnostic(
        Code.UNEXPECTED,
        f"the string ends before {shorten(failure.found.text)}",
        label=f"expected {failure.expected}",
        helps=(f"inside a string a {mark} is written {mark}{mark} or \\{mark}",),
    )


def _is_negative(failure: Failure) -> Diagnostic | None:
    if failure.found.kind != "MINUS" or "INTEGER" not in failure.legal:
        return None
    rest = re.compile(r"-\s*[\w.]*").match(failure.source.text, failure.found.span.start)
    end = rest.end() if rest else failure.found.span.end
    return failure.diagnostic(
        Code.OUT_OF_RANGE,
        f"{failure.subject} takes a whole number that is not negative",
        span=Span(failure.found.span.start, end),
    )


def _has_wrong_type(failure: Failure) -> Diagnostic | None:
    kind, text = failure.found.kind, failure.found.text
    wanted = next((name for name in ("STRING", "INTEGER", "OPEN") if name in failure.legal), None)
    takes_list = wanted == "OPEN" and failure.subject == "IN"
    if kind == "OPEN" and failure.previous and failure.previous.kind in _SYMBOLS and wanted:
        return failure.diagnostic(
            Code.WRONG_TYPE,
            f"{failure.previous.text} compares with one value, not with a list",
            label=f"expected {failure.expected}",
            helps=("write IN (…) to compare with several",),
        )
    if kind not in ("STRING", "INTEGER", "FLOAT") or not wanted or (wanted == "OPEN") > takes_list:
        return None
    suggestions: tuple[str, ...] = ()
    if takes_list:
        suggestions = (f"({text})",)
    elif wanted == "STRING":
        suggestions = (quote(text),)
    elif kind == "STRING" and unquote(text).isascii() and unquote(text).isdigit():
        suggestions = (unquote(text),)
    takes = "a list in parentheses" if takes_list else _LITERALS[wanted]
    return failure.diagnostic(
        Code.WRONG_TYPE,
        f"{failure.subject} takes {takes}, not {found(failure)}",
        label=f"expected {failure.expected}",
        suggestions=suggestions,
    )


def _lacks_clause(failure: Failure) -> Diagnostic | None:
    needed = [word for word in _NEEDED if word in failure.legal]
    if not needed or "SEMICOLON" in failure.legal or failure.found.kind == "NAME":
        return None
    first = failure.statement[0].text.upper()
    return failure.diagnostic(
        Code.MISSING_CLAUSE,
        f"{first} needs {one_of(needed)} before {found(failure)}",
        label=f"expected {failure.expected}",
        helps=tuple(f"write it like this: {entry.syntax}" for entry in failure.helps[:1]),
    )


def _cannot_stand(failure: Failure) -> Diagnostic:
    before = failure.previous
    twice = before is not None and before.kind == failure.found.kind == "EQ"
    return failure.diagnostic(
        Code.UNEXPECTED,
        f"{found(failure)} cannot stand here",
        label=f"expected {failure.expected}",
        helps=("equality is one =",) if twice else (),
    )


_REASONS: tuple[Callable[[Failure], Diagnostic | None], ...] = (
    _ends_too_early,
    _is_reserved,
    _lacks_semicolon,
    _splits_string,
    _is_misspelt,
    _is_no_statement,
    _lacks_quotes,
    _is_negative,
    _has_wrong_type,
    _lacks_clause,
    _cannot_stand,
)


# --------------------------------------------------------------------------- wording


def found(failure: Failure) -> str:
    """Return what was found, for people."""
    lexeme = failure.found
    match lexeme.kind:
        case "STRING":
            return f"the string {shorten(lexeme.text)}"
        case "INTEGER" | "FLOAT":
            return f"the number {shorten(lexeme.text)}"
        case "NAME" | "PARAMETER":
            return shorten(lexeme.text)
        case kind if kind in failure.keywords:
            return lexeme.text
        case _:
            return f"`{lexeme.text}`"
