"""Parameters: values for ``:name``, put into the tree as literals and never into the text."""

from __future__ import annotations

import json
import math
import operator
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, SupportsFloat, SupportsIndex, TypeAlias, TypeVar, assert_never

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlError, LqlNameError, LqlTypeError
from lql.span import Span
from lql.syntax_values import integer_problem, range_problem

ParameterValue: TypeAlias = "str | os.PathLike[str] | int | float | Sequence[ParameterValue]"
Tree = TypeVar("Tree", bound=ast.Node)

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE
)


def parameters(tree: ast.Node) -> tuple[ast.Parameter, ...]:
    """Return every parameter of ``tree`` in the order of the text; a name may occur repeatedly."""
    return tuple(sorted(_parameters(tree), key=lambda parameter: parameter.span))


def bind(script: Tree, values: Mapping[str, ParameterValue]) -> Tree:
    """Return ``script`` with every parameter replaced by the literal for its value.

    Args:
        script: a script, or any part of one.
        values: by parameter name. A text takes ``str`` (or a path), a whole number ``int``, a
            number ``int`` or ``float``, ``IN :name`` a sequence, a compared value any of them.
            Names that do not occur are ignored.

    Raises:
        LqlNameError: LQL0201, a parameter has no value.
        LqlTypeError: LQL03xx, a value is of the wrong kind or outside its range.
    """
    try:
        bound: Tree = _bound(script, values)
    except LqlError as error:
        if isinstance(script, ast.Script):
            error.locate(script.source, script.span)
        raise
    return bound


def from_text(script: ast.Node, texts: Mapping[str, str]) -> dict[str, ParameterValue]:
    """Convert values that arrive as text, as from a command line, by what each stands for.

    A text stays as it is; a whole number or a number is read as one; a list is a JSON array; a
    compared value is a number if it looks like one, else text. What cannot be converted stays
    text, for ``bind`` to refuse with its place. A name that does not occur stays text as well.
    """
    types = {parameter.name: parameter.slot.type for parameter in _parameters(script)}
    return {name: _converted(text, types.get(name)) for name, text in texts.items()}


def _parameters(node: Any) -> Iterator[ast.Parameter]:
    if isinstance(node, ast.Parameter):
        yield node
    elif isinstance(node, tuple):
        for item in node:
            yield from _parameters(item)
    elif isinstance(node, ast.Node):
        for field in fields(node):
            yield from _parameters(getattr(node, field.name))


def _converted(text: str, wanted: ast.SlotType | None) -> ParameterValue:
    match wanted:
        case ast.SlotType.INTEGER if _INTEGER.fullmatch(text):
            return int(text)
        case ast.SlotType.NUMBER if _NUMBER.fullmatch(text):
            return float(text)
        case ast.SlotType.VALUE if _INTEGER.fullmatch(text):
            return int(text)
        case ast.SlotType.VALUE if _NUMBER.fullmatch(text):
            return float(text)
        case ast.SlotType.LIST:
            try:
                items = json.loads(text)
            except (ValueError, RecursionError):
                return text
            return items if isinstance(items, list) else text
        case _:
            return text


def _bound(node: Any, values: Mapping[str, ParameterValue]) -> Any:
    if isinstance(node, ast.Parameter):
        return _literal(node, values)
    if isinstance(node, tuple):
        return tuple(_bound(item, values) for item in node)
    if not isinstance(node, ast.Node):
        return node
    parts = {field.name: getattr(node, field.name) for field in fields(node)}
    result = replace(node, **{name: _bound(part, values) for name, part in parts.items()})
    if isinstance(result, ast.LayerRange | ast.PositionRange):
        _check_range(result)
    return result


def _check_range(bounds: ast.LayerRange | ast.PositionRange) -> None:
    first, last = bounds.first, bounds.last
    if isinstance(first, ast.Integer) and isinstance(last, ast.Integer):
        _refuse(range_problem(first.value, last.value, bounds.span))


def _literal(parameter: ast.Parameter, values: Mapping[str, ParameterValue]) -> ast.Value:
    if parameter.name not in values:
        near = get_close_matches(parameter.name, list(values), n=3)
        raise LqlNameError(
            Diagnostic(
                Code.UNBOUND_PARAMETER,
                f":{parameter.name} has no value",
                span=parameter.span,
                label=f"takes {parameter.slot.type.value}",
                suggestions=tuple(f":{name}" for name in near),
                helps=()
                if near
                else (f"give it one: --param {parameter.name}=… or SET {parameter.name} = …",),
            )
        )
    value = values[parameter.name]
    slot, span = parameter.slot, parameter.span
    match slot.type:
        case ast.SlotType.TEXT:
            literal = _text(value, span)
        case ast.SlotType.INTEGER:
            literal = _integer(value, slot, span)
        case ast.SlotType.NUMBER:
            literal = _number(value, span)
        case ast.SlotType.VALUE:
            literal = _scalar(value, span)
        case ast.SlotType.LIST:
            literal = _list(value, span)
        case _:
            assert_never(slot.type)
    if literal is None:
        raise LqlTypeError(
            Diagnostic(
                Code.WRONG_TYPE,
                f":{parameter.name} takes {slot.type.value}, not {_described(value)}",
                span=span,
                label=f"the {slot.value}",
            )
        )
    return literal


def _text(value: ParameterValue, span: Span) -> ast.Value | None:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return ast.Text(value, span=span) if isinstance(value, str) else None


def _integer(value: ParameterValue, slot: ast.Slot, span: Span) -> ast.Value | None:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    whole = operator.index(value)
    _refuse(integer_problem(whole, slot, span))
    return ast.Integer(whole, span=span)


def _number(value: ParameterValue, span: Span) -> ast.Value | None:
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse(Diagnostic(Code.OUT_OF_RANGE, f"{number} is no number here", span=span))
    return ast.Number(number, span=span)


def _scalar(value: ParameterValue, span: Span) -> ast.Value | None:
    return _text(value, span) or _integer(value, ast.Slot.VALUE, span) or _number(value, span)


def _list(value: ParameterValue, span: Span) -> ast.Value | None:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return None
    items = [_scalar(item, span) for item in value]
    if any(item is None for item in items):
        return None
    return ast.ListLiteral(tuple(item for item in items if item is not None), span=span)


def _described(value: object) -> str:
    match value:
        case str():
            return "text"
        case bool():
            return "a truth value"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case _:
            return f"a value of type {type(value).__name__}"


def _refuse(problem: Diagnostic | None) -> None:
    if problem is not None:
        raise LqlTypeError(problem)
