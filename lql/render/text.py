"""The one place where text becomes safe to show, and numbers become readable.

Formats for people show text from a model (``Kind.TOKEN``, ``Kind.TOKENS``) so that nothing is lost
and nothing acts on the terminal:

=======================================  ======================
in the text                              shown as
=======================================  ======================
space at either end                      ``␣``
newline, carriage return, tab            ``\\n`` ``\\r`` ``\\t``
backslash, a literal ``␣``               ``\\\\`` ``\\u2423``
other control, format, private,          ``\\x1b`` ``\\u200b``
unassigned and line-breaking characters  ``\\U000e0001``
everything else                          itself
=======================================  ======================

The escapes are unambiguous: a token that is itself ``\\n`` is shown as ``\\\\n``. Other text
(paths, labels, names) keeps its spaces and backslashes; only what would act on the terminal is
escaped. Machine formats do not come here: they are exact.
"""

from __future__ import annotations

import unicodedata
from typing import assert_never

from lql.results.base import Column, Kind, Unit, Value

SPACE_MARK = "\N{OPEN BOX}"

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", SPACE_MARK: "\\u2423"}
# Cc control, Cf format (bidi, zero width), Cs surrogate, Co private, Cn unassigned, Zl/Zp breaks.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Joiners inside a cluster are how emoji and Indic scripts are spelled; alone they are escaped.
_JOINERS = frozenset({"\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}"})


def visible(text: str) -> str:
    """Model text for people: every character seen, none obeyed."""
    inner = text.strip(" ")
    if not inner:
        return SPACE_MARK * len(text)
    head = len(text) - len(text.lstrip(" "))
    tail = len(text) - len(text.rstrip(" "))
    shown = "".join(_NAMED.get(char) or _shown(inner, i) for i, char in enumerate(inner))
    return SPACE_MARK * head + shown + SPACE_MARK * tail


def printable(text: str) -> str:
    """Other text for people: as it is, less what would act on the terminal."""
    if text.isprintable():
        return text
    return "".join(
        char if char in " \\" else _NAMED.get(char) or _shown(text, i)
        for i, char in enumerate(text)
    )


def streamable(text: str) -> str:
    """Generated text for a terminal: lines and tabs kept, nothing else that would act on it."""
    if text.isprintable():
        return text
    return "".join(
        char if char in "\n\t \\" else _NAMED.get(char) or _shown(text, i)
        for i, char in enumerate(text)
    )


def _shown(text: str, index: int) -> str:
    char = text[index]
    if char.isascii() and char.isprintable():
        return char
    if char in _JOINERS and 0 < index < len(text) - 1 and not text[index - 1].isascii():
        return char
    category = unicodedata.category(char)
    lonely_mark = category.startswith("M") and index == 0
    odd_space = category == "Zs" and char != " "
    if category in _HIDDEN or lonely_mark or odd_space:
        return _code(char)
    return char


def _code(char: str) -> str:
    number = ord(char)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def cell(value: Value, column: Column) -> str:
    """A value as a cell for people."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return size(value) if column.unit is Unit.BYTES else str(value)
        case float():
            return number(value, column.unit)
        case str():
            return visible(value) if column.kind is Kind.TOKEN else printable(value)
        case tuple():
            return "  ".join(visible(item) for item in value)
        case _:
            assert_never(value)


def is_numeric(column: Column) -> bool:
    """Whether the column's cells stand right-aligned."""
    return column.kind in (Kind.INTEGER, Kind.NUMBER)


def number(value: float, unit: Unit) -> str:
    """A number rounded for reading, with the sign or unit that its meaning asks for."""
    match unit:
        case Unit.PROBABILITY:
            return percent(value)
        case Unit.DOT:
            return f"{value:+.2f}"
        case Unit.LOGIT | Unit.LENGTH:
            return f"{value:.2f}"
        case Unit.SECONDS:
            return duration(value)
        case Unit.BYTES:
            return size(int(value))
        case Unit.NONE:
            return f"{value:.6g}"
        case _:
            assert_never(unit)


def percent(probability: float) -> str:
    """``77.25 %``; small ones keep two digits that say something: ``0.0031 %``."""
    value = probability * 100
    if value >= 0.1 or value == 0 or value != value:
        return f"{value:.2f} %"
    if value >= 1e-4:
        return f"{value:.2g} %"
    return f"{value:.0e} %"


def duration(seconds: float) -> str:
    """``31 ms``, ``2.4 s``, ``3 min 20 s``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def size(count: int) -> str:
    """Bytes in binary units: ``254.3 MiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
