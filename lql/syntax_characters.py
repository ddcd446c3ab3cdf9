"""What is wrong where no token begins: open strings, curly quotes, odd characters and numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.span import Span
from lql.syntax_failure import Failure, shorten
from lql.syntax_text import quote

_OPENING = "“”„‟«»‘’‚‛‹›＂＇`´"
_CLOSING = re.compile(f"[{_OPENING}\"']")
_HINTS = {
    "|": "a pipe is written |>",
    "!": "not equal is written !=",
    "&": "both is written AND",
    "#": "a comment begins with --",
    "/": "a comment begins with -- or stands between /* and */",
    ":": "a parameter is written :name",
    "[": "a list stands in parentheses",
    "{": "a list stands in parentheses",
    ".": "text stands in quotes",
}


def explain_character(failure: Failure) -> tuple[Diagnostic, bool]:
    """Return what is wrong at a character that begins no token.

    Returns:
        The diagnostic, and whether more text could mend it.
    """
    text = failure.source.text
    at = failure.found.span.start
    char = text[at]
    if char in "\"'":
        return _open_string(failure, char), True
    if text.startswith("/*", at):
        return _open_comment(failure), True
    if char in _OPENING:
        return _curly_quotes(failure), False
    if re.compile(r"\.?[0-9]").match(text, at):
        return _bad_number(failure), False
    if "STRING" in failure.legal and (char.isalnum() or char in "./~\\@"):
        return unquoted(failure), False
    return _bad_character(failure, char), False


def unquoted(failure: Failure) -> Diagnostic:
    """Return the diagnostic for text without quotes, whose first token was found."""
    start = failure.found.span.start
    run = unquoted_run(failure.source.text, start, failure.keywords)
    return failure.diagnostic(
        Code.UNQUOTED_TEXT,
        f"{shorten(run)} must stand in quotes",
        span=Span(start, start + len(run)),
        label=f"expected {failure.expected}",
        suggestions=(quote(run),),
    )


def unquoted_run(text: str, start: int, keywords: Mapping[str, str]) -> str:
    """Return the words from ``start`` that somebody may have meant as one string.

    Further words on the line belong to it while they begin with a letter and are no keywords.
    """
    first = re.compile(r"[^\s;,()\"']+").match(text, start)
    end = first.end() if first else start + 1
    more = re.compile(r"[ \t]+([^\W\d_][^\s;,()\"'=<>!]*)")
    while (word := more.match(text, end)) and word[1].upper() not in keywords:
        end = word.end()
    return text[start:end].split("|>")[0].rstrip() or text[start]


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _open_string(failure: Failure, mark: str) -> Diagnostic:
    text, start = failure.source.text, failure.found.span.start
    end = _line_end(text, start)
    line = text[start + 1 : end].rstrip(" \t\r;")
    other = "'" if mark == '"' else '"'
    return failure.diagnostic(
        Code.UNCLOSED_STRING,
        "the string is never closed",
        span=Span(start, max(start + 1, len(text[:end].rstrip()))),
        label=f"opened here with {mark}",
        helps=(f"close it with {mark}, the quote it was opened with",)
        if line.endswith(other)
        else (f"close it with {mark}",),
    )


def _open_comment(failure: Failure) -> Diagnostic:
    start = failure.found.span.start
    return failure.diagnostic(
        Code.UNCLOSED_COMMENT,
        "the comment is never closed",
        span=Span(start, start + 2),
        label="opened here",
        helps=("close it with */",),
    )


def _curly_quotes(failure: Failure) -> Diagnostic:
    text, start = failure.source.text, failure.found.span.start
    closing = _CLOSING.search(text, start + 1, _line_end(text, start))
    end = closing.end() if closing else start + 1
    inside = text[start + 1 : closing.start()] if closing else ""
    return failure.diagnostic(
        Code.CURLY_QUOTES,
        f"{text[start]} is a typographic quote; LQL reads only straight ones",
        span=Span(start, end),
        suggestions=(quote(inside),) if closing else (),
        helps=() if closing else ("write \" or '",),
    )


def _bad_number(failure: Failure) -> Diagnostic:
    text, start = failure.source.text, failure.found.span.start
    run = re.compile(r"[\w.]+(?:(?<=[eE])[+-][\w.]+)?").match(text, start)
    end = run.end() if run else start + 1
    written = text[start:end]
    span = Span(start, end)
    if "STRING" in failure.legal and "INTEGER" not in failure.legal:
        return unquoted(failure)
    suggestions: tuple[str, ...] = ()
    if dots := re.fullmatch(r"([0-9]+)\.\.\.?([0-9]+)", written):
        suggestions = (f"{dots[1]}-{dots[2]}",)
    elif whole := re.fullmatch(r"([0-9]+)\.", written):
        suggestions = (whole[1],)
    elif re.fullmatch(r"[0-9]+(_[0-9]+)+", written):
        suggestions = (written.replace("_", ""),)
    elif "STRING" in failure.legal:
        suggestions = (quote(written),)
    return failure.diagnostic(
        Code.BAD_NUMBER,
        f"{shorten(written)} is no number",
        span=span,
        label=f"expected {failure.expected}",
        suggestions=suggestions,
        helps=() if suggestions else ("numbers are written 5, 0.5, .5 or 1e-3",),
    )


def _bad_character(failure: Failure, char: str) -> Diagnostic:
    hidden = not char.isprintable() or char.isspace()
    name = unicodedata.name(char, "").lower()
    called = f"U+{ord(char):04X}" + (f" ({name})" if name else "")
    if hidden:
        helps = ("it cannot be seen: delete it, or write a plain space",)
    elif char in _HINTS:
        helps = (_HINTS[char],)
    elif char.isalpha():
        helps = ("names consist of A-Z, a-z, 0-9 and _; other text stands in quotes",)
    else:
        helps = ("delete it, or put the text it belongs to in quotes",)
    return failure.diagnostic(
        Code.BAD_CHARACTER,
        f"the character {called} means nothing here" if hidden else f"{char} means nothing here",
        label=f"expected {failure.expected}",
        helps=helps,
    )
