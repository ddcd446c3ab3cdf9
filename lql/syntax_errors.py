"""What is wrong with a text: from where the parser stopped to a message that helps.

The parser reports one fact: this token cannot stand here, those could. ``explain`` looks at it in
a fixed order, from the most telling reason to the plainest, and builds one diagnostic.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

from lql.codes import Code
from lql.diagnostics import Diagnostic, Related, one_of
from lql.errors import LqlLiteralError, LqlSyntaxError
from lql.span import SourceText, Span
from lql.syntax_characters import explain_character, unquoted
from lql.syntax_failure import END, LITERALS, SYMBOLS, Failure, shorten, some_of
from lql.syntax_help import FIRST_WORDS
from lql.syntax_text import quote, unquote

_COMPARATORS = ("EQ", "NE", "LE", "GE", "LT", "GT")
_NEEDED = ("FROM", "VALUES", "SET", "WHERE", "INTO")
"""Keywords of clauses that a statement cannot do without."""


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


def too_long(source: SourceText, span: Span, limit: int) -> LqlSyntaxError:
    """Return the error for a script with more than ``limit`` tokens."""
    return LqlSyntaxError(
        Diagnostic(
            Code.TOO_LONG,
            f"the script has more than {limit:,} words, literals and symbols",
            source=source,
            span=span,
            label="this is one too many",
            helps=("split it into several scripts",),
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


def _pipes_an_include(failure: Failure) -> Diagnostic | None:
    word = failure.found.text.upper()
    into = word == "INCLUDE" and failure.before and failure.before[-1].kind == "PIPE"
    first = failure.statement[0].text.upper() if failure.statement else ""
    out = failure.found.kind == "PIPE" and first == "INCLUDE"
    if not (into or out):
        return None
    return failure.diagnostic(
        Code.UNEXPECTED,
        "INCLUDE stands alone, not beside |>",
        helps=("end the statement before with a semicolon",),
    )


def _lacks_semicolon(failure: Failure) -> Diagnostic | None:
    starts = "SEMICOLON" in failure.legal and failure.found.kind in FIRST_WORDS
    if not starts or failure.previous is None:
        return None
    last = shorten(failure.previous.text)
    return failure.diagnostic(
        Code.MISSING_SEMICOLON,
        f"a ; is missing before {failure.found.text}",
        label="a new statement begins here",
        helps=(f"end the statement before it with a semicolon: … {last};",),
    )


def _is_misspelt(failure: Failure) -> Diagnostic | None:
    if not failure.is_word:
        return None
    word = failure.found.text.upper()
    # Where text could stand or the word means something elsewhere, only a near miss is a typo.
    doubtful = "STRING" in failure.legal or failure.found.kind in failure.keywords
    near = get_close_matches(word, failure.legal_words, n=3, cutoff=0.75 if doubtful else 0.6)
    if not near and len(word) > 2 and "STRING" not in failure.legal:
        near = [legal for legal in failure.legal_words if legal.startswith(word)][:3]
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
    helps = (f"statements begin with {some_of(failure.legal_words)}",)
    if failure.is_word:
        message = f"no statement begins with {shorten(failure.found.text)}"
        return failure.diagnostic(Code.UNKNOWN_STATEMENT, message, helps=helps)
    message = f"{found(failure)} stands where a statement should begin"
    return failure.diagnostic(Code.UNEXPECTED, message, helps=helps)


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
    after = failure.previous.kind if failure.previous else ""
    if kind == "OPEN" and after in _COMPARATORS:
        return failure.diagnostic(
            Code.WRONG_TYPE,
            f"{SYMBOLS[after]} compares with one value, not with a list",
            label=f"expected {failure.expected}",
            helps=("write IN (…) to compare with several",),
        )
    if kind not in ("STRING", "INTEGER", "FLOAT", "NAME"):
        return None
    suggestions: tuple[str, ...] = ()
    if after == "IN":
        wanted = "a list in parentheses"
        suggestions = (f"({text})",) if kind != "NAME" else (f"({quote(text)})",)
    elif "STRING" in failure.legal:
        wanted = LITERALS["STRING"]
        suggestions = (quote(text),)
    elif "INTEGER" in failure.legal:
        wanted = failure.expected
        digits = unquote(text) if kind == "STRING" else ""
        suggestions = (digits,) if digits.isascii() and digits.isdigit() else ()
    else:
        return None
    return failure.diagnostic(
        Code.WRONG_TYPE,
        f"{failure.subject} takes {wanted}, not {found(failure)}",
        label=f"expected {failure.expected}",
        suggestions=suggestions,
    )


def _lacks_columns(failure: Failure) -> Diagnostic | None:
    """``SELECT FROM EDGES``, ``SELECT a, FROM EDGES``: the grammar took FROM for a column."""
    before = failure.previous
    if before is None or before.kind != "NAME" or before.text.upper() != "FROM":
        return None
    if failure.found.kind not in ("EDGES", "FEATURES", "ENTITIES"):
        return None
    first = len(failure.statement) == 2
    return failure.diagnostic(
        Code.MISSING_CLAUSE,
        "SELECT needs columns before FROM" if first else "a column is missing before FROM",
        span=before.span,
        label="expected `*` or column names" if first else "expected a column after the comma",
        suggestions=("* FROM",) if first else (),
        helps=() if first else ("leave the last comma out, or name another column",),
    )


def _lacks_clause(failure: Failure) -> Diagnostic | None:
    needed = [word for word in _NEEDED if word in failure.legal]
    begins = "SELECT" in failure.legal  # a statement may begin here, with SET too
    if not needed or begins or "SEMICOLON" in failure.legal:
        return None
    if failure.found.kind == "NAME" and not failure.legal <= {*_NEEDED}:
        return None
    first = failure.statement[0].text.upper()
    return failure.diagnostic(
        Code.MISSING_CLAUSE,
        f"{first} needs {one_of(needed)} before {found(failure)}",
        label=f"expected {failure.expected}",
    )


def _lacks_value(failure: Failure) -> Diagnostic | None:
    ended = failure.ends or failure.found.kind in failure.keywords
    wanted = failure.legal & {"STRING", "INTEGER", "FLOAT", "NAME"}
    if not ended or not wanted or failure.previous is None or "SEMICOLON" in failure.legal:
        return None
    return failure.diagnostic(
        Code.MISSING_CLAUSE,
        f"{failure.previous.text} needs {failure.expected}",
        label="it is missing before this",
    )


def _lacks_parenthesis(failure: Failure) -> Diagnostic | None:
    if not failure.ends or "CLOSE" not in failure.legal:
        return None
    depth = 0
    for lexeme in reversed(failure.statement):
        depth += {"CLOSE": 1, "OPEN": -1}.get(lexeme.kind, 0)
        if depth < 0:
            return failure.diagnostic(
                Code.UNEXPECTED,
                "a parenthesis is never closed",
                span=lexeme.span,
                label="opened here",
                related=(Related(failure.found.span, f"expected {failure.expected}"),),
            )
    return None


def _is_aggregate(failure: Failure) -> Diagnostic | None:
    before = failure.previous
    if failure.found.kind != "OPEN" or before is None or "EQ" not in failure.legal:
        return None
    return failure.diagnostic(
        Code.UNEXPECTED,
        f"{before.text} is no column, and WHERE compares columns",
        span=before.span,
        helps=("conditions on aggregates stand in HAVING, after GROUP BY",),
    )


def _cannot_stand(failure: Failure) -> Diagnostic:
    before = failure.previous
    twice = before is not None and before.kind == failure.found.kind == "EQ"
    return failure.diagnostic(
        Code.UNEXPECTED,
        f"{found(failure)} cannot stand here",
        label=f"expected {failure.expected}",
        helps=("equality is written with one =",) if twice else (),
    )


_REASONS: tuple[Callable[[Failure], Diagnostic | None], ...] = (
    _ends_too_early,
    _pipes_an_include,
    _lacks_semicolon,
    _lacks_columns,
    _splits_string,
    _is_misspelt,
    _is_no_statement,
    _lacks_quotes,
    _is_negative,
    _has_wrong_type,
    _lacks_clause,
    _lacks_value,
    _lacks_parenthesis,
    _is_aggregate,
    _cannot_stand,
)


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
