"""From grammar rules to the nodes below a statement: literals, columns and conditions.

See ``lql.syntax_build`` for how the parser calls these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlLiteralError
from lql.span import Span
from lql.syntax_text import unquote

Children: TypeAlias = Sequence[Any]
Builder: TypeAlias = Callable[[Children, Span], Any]

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
_TOO_BIG = "the whole number does not fit into 64 bits"
_INTEGER_DIGITS = len(str(INTEGER_MAX))


@dataclass(frozen=True, slots=True)
class Part:
    """Something built that is no node: an enum member, or a tuple of nodes."""

    value: Any
    span: Span


def kinds(children: Children) -> list[str]:
    """Return the names of the terminals among ``children``."""
    return [terminal(child) for child in children if isinstance(child, str)]


def terminal(token: Any) -> str:
    """Return the name of a token's terminal."""
    return token.type  # type: ignore[no-any-return]


def parts(children: Children) -> list[Any]:
    """Return what other rules built, without the terminals."""
    return [child for child in children if not isinstance(child, str)]


def plain(child: Any) -> Any:
    """Return a ``Part``'s value, and anything else as it is."""
    return child.value if isinstance(child, Part) else child


# --------------------------------------------------------------------------- literals


def integer_problem(value: int, slot: ast.Slot, span: Span) -> Diagnostic | None:
    """Return what is wrong with a whole number at its place, LQL0302, or ``None``."""
    minimum = slot.minimum
    if minimum is not None and value < minimum:
        return Diagnostic(
            Code.OUT_OF_RANGE,
            f"the {slot.value} must be at least {minimum}, not {value}",
            span=span,
            label=f"at least {minimum}",
        )
    if not INTEGER_MIN <= value <= INTEGER_MAX:
        return Diagnostic(Code.OUT_OF_RANGE, _TOO_BIG, span=span, label="out of range")
    return None


def range_text(first: int, last: int) -> str:
    """A range as it is written; two signs in a row would be a comment."""
    return f"{first}-{last}" if first >= 0 <= last else f"{first} - {last}"


def range_problem(first: int, last: int, span: Span) -> Diagnostic | None:
    """Return what is wrong with a range, LQL0303, or ``None``.

    Bounds of two signs are told apart when it is known how many there are.
    """
    if first <= last or (first < 0) != (last < 0):
        return None
    return Diagnostic(
        Code.INVERTED_RANGE,
        f"the range {range_text(first, last)} ends before it begins",
        span=span,
        suggestions=(range_text(last, first),),
    )


def _refuse(problem: Diagnostic | None) -> None:
    if problem is not None:
        raise LqlLiteralError(problem)


def _integer(digits: str, span: Span, *, negative: bool = False) -> int:
    if len(digits.lstrip("0")) > _INTEGER_DIGITS:  # int() itself refuses thousands of digits
        _refuse(Diagnostic(Code.OUT_OF_RANGE, _TOO_BIG, span=span, label="out of range"))
    return -int(digits) if negative else int(digits)


def _float(digits: str, span: Span, *, negative: bool = False) -> float:
    value = float(digits)
    if math.isinf(value):
        message = "the number is too large for a 64-bit float"
        _refuse(Diagnostic(Code.OUT_OF_RANGE, message, span=span, label="out of range"))
    return -value if negative else value


def _parameter(token: str, slot: ast.Slot, span: Span) -> ast.Parameter:
    return ast.Parameter(token[1:], slot, span=span)


def slot_rule(slot: ast.Slot) -> Builder:
    """Build the literal or parameter that stands at a typed place."""

    def build(children: Children, span: Span) -> ast.Text | ast.Integer | ast.Parameter:
        token = children[0]
        if token.type == "PARAMETER":
            return _parameter(token, slot, span)
        if token.type == "STRING":
            return ast.Text(unquote(token), span=span)
        value = _integer(token, span)
        _refuse(integer_problem(value, slot, span))
        return ast.Integer(value, span=span)

    return build


def _number(children: Children, span: Span) -> ast.Number | ast.Parameter:
    token = children[-1]
    if token.type == "PARAMETER":
        return _parameter(token, ast.Slot.NUMBER, span)
    return ast.Number(_float(token, span, negative=len(children) > 1), span=span)


def _number_value(children: Children, span: Span) -> ast.Integer | ast.Number:
    token = children[-1]
    negative = len(children) > 1
    if token.type == "FLOAT":
        return ast.Number(_float(token, span, negative=negative), span=span)
    value = _integer(token, span, negative=negative)
    _refuse(integer_problem(value, ast.Slot.VALUE, span))
    return ast.Integer(value, span=span)


def _list(children: Children, span: Span) -> ast.ListLiteral:
    return ast.ListLiteral(tuple(parts(children)), span=span)


def _range(cls: type[ast.LayerRange | ast.PositionRange]) -> Builder:
    """Build a range of one number or two."""

    def build(children: Children, span: Span) -> ast.LayerRange | ast.PositionRange:
        bounds = parts(children)
        first, last = bounds[0], bounds[-1]
        if isinstance(first, ast.Integer) and isinstance(last, ast.Integer):
            _refuse(range_problem(first.value, last.value, span))
        return cls(first, last, span=span)

    return build


def _position(children: Children, span: Span) -> ast.Integer | ast.Parameter:
    token = children[-1]
    if token.type == "PARAMETER":
        return _parameter(token, ast.Slot.POSITION, span)
    value = _integer(token, span, negative=len(children) > 1)
    _refuse(integer_problem(value, ast.Slot.POSITION, span))
    return ast.Integer(value, span=span)


# --------------------------------------------------------------------------- names


def _column(children: Children, span: Span) -> ast.Column:
    name = children[-1].lower()
    table = children[0].lower() if len(children) > 1 else None
    return ast.Column(name, table, span=span)


def _word(children: Children, span: Span) -> ast.Word:
    return ast.Word(children[0].lower(), span=span)


def _star(children: Children, span: Span) -> ast.Star:
    return ast.Star(span=span)


def _aggregate(children: Children, span: Span) -> ast.Aggregate:
    words = kinds(children)
    (argument,) = parts(children)
    return ast.Aggregate(ast.Function[words[0]], argument, "DISTINCT" in words, span=span)


# --------------------------------------------------------------------------- conditions

_COMPARATORS: Mapping[str, ast.Comparator] = {word.name: word for word in ast.Comparator}


def _comparison(children: Children, span: Span) -> ast.Comparison:
    operand, value = parts(children)
    return ast.Comparison(operand, _COMPARATORS[kinds(children)[0]], value, span=span)


def _operator(cls: type[ast.Like | ast.In | ast.Between | ast.IsNull]) -> Builder:
    """Build ``operand [NOT] operator …``: the parts fill the class in order."""

    def build(children: Children, span: Span) -> ast.Node:
        build: Callable[..., ast.Node] = cls
        return build(*parts(children), negated="NOT" in kinds(children), span=span)

    return build


def _chain(cls: type[ast.And | ast.Or]) -> Builder:
    """Build a flat chain: an operand that is itself a chain of the same kind is spliced in."""

    def build(children: Children, span: Span) -> ast.Node:
        flat: list[ast.Condition] = []
        for part in parts(children):
            flat.extend(part.conditions if isinstance(part, cls) else [part])
        return cls(tuple(flat), span=span)

    return build


def _negation(children: Children, span: Span) -> ast.Not:
    return ast.Not(children[-1], span=span)


def _group(children: Children, span: Span) -> ast.Condition:
    (condition,) = parts(children)
    return replace(condition, span=span)  # type: ignore[no-any-return]


SLOT_RULES: Mapping[str, ast.Slot] = {
    "model": ast.Slot.MODEL,
    "vindex_path": ast.Slot.VINDEX_PATH,
    "output_path": ast.Slot.OUTPUT_PATH,
    "patch_path": ast.Slot.PATCH_PATH,
    "facts_path": ast.Slot.FACTS_PATH,
    "script_path": ast.Slot.SCRIPT_PATH,
    "trace_path": ast.Slot.TRACE_PATH,
    "text_path": ast.Slot.TEXT_PATH,
    "url": ast.Slot.URL,
    "prompt": ast.Slot.PROMPT,
    "entity": ast.Slot.ENTITY,
    "relation": ast.Slot.RELATION,
    "target": ast.Slot.TARGET,
    "template": ast.Slot.TEMPLATE,
    "kind": ast.Slot.KIND,
    "message": ast.Slot.MESSAGE,
    "layer": ast.Slot.LAYER,
    "index": ast.Slot.INDEX,
    "count": ast.Slot.COUNT,
    "top": ast.Slot.TOP,
    "offset": ast.Slot.OFFSET,
    "steps": ast.Slot.STEPS,
    "pattern": ast.Slot.PATTERN,
    "text_value": ast.Slot.VALUE,
    "any_parameter": ast.Slot.VALUE,
    "list_parameter": ast.Slot.VALUES,
}
"""What the literals of each one-token rule stand for."""

VALUE_RULES: Mapping[str, Builder] = {
    **{rule: slot_rule(slot) for rule, slot in SLOT_RULES.items()},
    "number": _number,
    "number_value": _number_value,
    "list": _list,
    "layer_range": _range(ast.LayerRange),
    "position_range": _range(ast.PositionRange),
    "position": _position,
    "column": _column,
    "edge_column": _column,
    "option": _word,
    "word_value": _word,
    "star": _star,
    "aggregate": _aggregate,
    "comparison": _comparison,
    "like": _operator(ast.Like),
    "membership": _operator(ast.In),
    "between": _operator(ast.Between),
    "is_null": _operator(ast.IsNull),
    "any_of": _chain(ast.Or),
    "all_of": _chain(ast.And),
    "negation": _negation,
    "group": _group,
}
"""What each rule about values and conditions builds."""
