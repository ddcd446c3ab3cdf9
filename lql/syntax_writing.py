"""The parts that statements are written of: conditions, words and values.

The other half of ``lql.unparse``; what is written here parses back to the same nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import assert_never

from lql import ast
from lql.syntax_text import quote

_OPERATOR_NAMES = frozenset({"like", "ilike", "in", "between", "is"})
"""Columns that NOT would take for its own operator."""

# --------------------------------------------------------------------------- conditions


def condition_text(node: ast.Condition) -> str:
    """A condition, with the parentheses that it needs."""
    match node:
        case ast.Or():
            return " OR ".join(_grouped(part, ast.Or) for part in node.conditions)
        case ast.And():
            return " AND ".join(_grouped(part, ast.Or, ast.And) for part in node.conditions)
        case ast.Not():
            inner = _grouped(node.condition, ast.Or, ast.And)
            if _first_column(node.condition) in _OPERATOR_NAMES:
                inner = f"({inner})"
            return f"NOT {inner}"
        case ast.Comparison():
            return f"{value_text(node.operand)} {node.comparator.value} {value_text(node.value)}"
        case ast.Like():
            return f"{value_text(node.operand)} {_not(node)}LIKE {value_text(node.pattern)}"
        case ast.In():
            return f"{value_text(node.operand)} {_not(node)}IN {value_text(node.values)}"
        case ast.Between():
            bounds = f"{value_text(node.low)} AND {value_text(node.high)}"
            return f"{value_text(node.operand)} {_not(node)}BETWEEN {bounds}"
        case ast.IsNull():
            return f"{value_text(node.operand)} IS {_not(node)}NULL"
        case _:
            assert_never(node)


def _grouped(node: ast.Condition, *looser: type[ast.Node]) -> str:
    text = condition_text(node)
    return f"({text})" if isinstance(node, looser) else text


def _not(node: ast.Like | ast.In | ast.Between | ast.IsNull) -> str:
    return "NOT " if node.negated else ""


def _first_column(node: ast.Condition) -> str | None:
    if isinstance(node, ast.Or | ast.And | ast.Not):
        return None  # begins with a parenthesis or with NOT
    column = node.operand
    return (column.table or column.name) if isinstance(column, ast.Column) else None


# --------------------------------------------------------------------------- words and values


def value_text(node: ast.Value | ast.Operand | ast.Star | ast.Current | ast.Word) -> str:
    """A literal, column or aggregate."""
    match node:
        case ast.Text():
            return quote(node.value)
        case ast.Word():
            return node.value
        case ast.Integer():
            return str(node.value)
        case ast.Number():
            return repr(node.value)
        case ast.Parameter():
            return f":{node.name}"
        case ast.ListLiteral():
            return f"({list_of(map(value_text, node.items))})"
        case ast.Column():
            return node.name if node.table is None else f"{node.table}.{node.name}"
        case ast.Star():
            return "*"
        case ast.Current():
            return "CURRENT"
        case ast.Aggregate():
            argument = join_words(flag_text("DISTINCT", node.distinct), value_text(node.argument))
            return f"{node.function.value}({argument})"
        case _:
            assert_never(node)


def join_words(*words: str) -> str:
    """The words that there are, separated by spaces."""
    return " ".join(word for word in words if word)


def list_of(items: Iterable[str]) -> str:
    """Items, separated by commas."""
    return ", ".join(items)


def flag_text(word: str, present: bool) -> str:
    """A word, if it is said."""
    return word if present else ""


def slot_text(words: str, value: ast.Value | ast.Current | None) -> str:
    """Words and their value, if there is one."""
    return f"{words} {value_text(value)}" if value is not None else ""


def word_text(word: Enum | None) -> str:
    """A word of an enum by its value, if there is one."""
    return str(word.value) if word is not None else ""


def name_text(words: str, word: Enum | None) -> str:
    """Words and a word of an enum by its name, if there is one."""
    return f"{words} {word.name}" if word is not None else ""


def layers_text(word: str, layers: ast.LayerRange | None) -> str:
    """A word and a range of layers, if there is one."""
    return (
        f"{word} {value_text(layers.first)}-{value_text(layers.last)}" if layers is not None else ""
    )


def positions_text(positions: ast.TracePositions | tuple[ast.PositionRange, ...] | None) -> str:
    """POSITIONS and a word or ranges, if there are any."""
    if not isinstance(positions, tuple):
        return name_text("POSITIONS", positions)
    return f"POSITIONS {list_of(map(_position_range, positions))}"


def _position_range(bounds: ast.PositionRange) -> str:
    first, last = value_text(bounds.first), value_text(bounds.last)
    if bounds.first == bounds.last:
        return first
    return f"{first} - {last}" if "-" in (first[0], last[0]) else f"{first}-{last}"


def where_text(condition: ast.Condition | None) -> str:
    """WHERE and a condition, if there is one."""
    return f"WHERE {condition_text(condition)}" if condition is not None else ""
