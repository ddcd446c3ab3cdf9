"""Strings as they are written: quotes and escapes, off and on."""

from __future__ import annotations

import re

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
_WRITTEN = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}
_SPECIAL = re.compile(r'[\\"\n\t\r\0]')
_WITHIN = {
    '"': re.compile(r'\\(.)|""', re.DOTALL),
    "'": re.compile(r"\\(.)|''", re.DOTALL),
}


def unquote(literal: str) -> str:
    """Return what a string literal says.

    ``\\n``, ``\\t``, ``\\r`` and ``\\0`` are control characters, a backslash before anything else
    is dropped, and the quote the literal is written in stands for itself when doubled.
    """
    quote = literal[0]
    body = literal[1:-1]
    if "\\" not in body and quote not in body:
        return body
    return _WITHIN[quote].sub(
        lambda match: quote if match[1] is None else _ESCAPES.get(match[1], match[1]), body
    )


def quote(text: str) -> str:
    """Return a literal in double quotes, on one line, that says ``text``."""
    return '"' + _SPECIAL.sub(lambda match: _WRITTEN[match[0]], text) + '"'
