"""WHERE over rows: a condition becomes a predicate, checked against the columns beforehand.

Every operator means what SQL says. A missing value makes a comparison unknown, and only rows for
which the whole condition is true are kept. ``LIKE`` ignores case; ``=`` does not. A column that
holds a list of tokens takes ``=``, ``LIKE`` and ``IN``, which hold when they hold for any of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlTypeError
from lql.names import nearest
from lql.results import Column, Kind, Row, Value

Predicate = Callable[[Row], bool | None]
"""True, false, or ``None`` for unknown."""

Scalar = str | int | float


def compile_condition(
    condition: ast.Condition, columns: Sequence[Column], aliases: Mapping[str, str]
) -> Predicate:
    """Turn a bound condition into a predicate over rows with these columns.

    Args:
        condition: without parameters.
        columns: what the table has.
        aliases: other names that a column answers to.

    Raises:
        LqlNameError: an unknown column.
        LqlTypeError: a value of another type than its column.
    """
    table = {column.name: column for column in columns}
    return _Compiler(table, aliases).condition(condition)


class _Compiler:
    def __init__(self, table: Mapping[str, Column], aliases: Mapping[str, str]) -> None:
        self._table = table
        self._aliases = aliases

    def condition(self, node: ast.Condition) -> Predicate:
        match node:
            case ast.Or():
                return _any([self.condition(part) for part in node.conditions])
            case ast.And():
                return _all([self.condition(part) for part in node.conditions])
            case ast.Not():
                return _not(self.condition(node.condition))
            case ast.Comparison():
                return self._comparison(node)
            case ast.Like():
                return _not_if(node.negated, self._like(node))
            case ast.In():
                return _not_if(node.negated, self._in(node))
            case ast.Between():
                return _not_if(node.negated, self._between(node))
            case ast.IsNull():
                name = self._column(node.operand).name
                return lambda row: (row[name] is None) != node.negated
            case _:
                assert_never(node)

    def _comparison(self, node: ast.Comparison) -> Predicate:
        column = self._column(node.operand)
        value = _scalar(node.value, column)
        if column.kind is Kind.TOKENS and node.comparator is not ast.Comparator.EQ:
            raise _no_order(column, node)
        compare = _COMPARE[node.comparator]
        return _holds(column, lambda item: compare(item, value))

    def _like(self, node: ast.Like) -> Predicate:
        column = self._column(node.operand)
        pattern = _scalar(node.pattern, column)
        if not isinstance(pattern, str):
            raise _wrong_type(node.pattern, column, "LIKE matches text")
        matches = _like_pattern(pattern).fullmatch
        return _holds(column, lambda item: matches(str(item)) is not None)

    def _in(self, node: ast.In) -> Predicate:
        column = self._column(node.operand)
        if isinstance(node.values, ast.Parameter):
            raise AssertionError(f"parameter {node.values.name} is not bound")
        values = {_scalar(value, column) for value in node.values.items}
        return _holds(column, lambda item: item in values)

    def _between(self, node: ast.Between) -> Predicate:
        column = self._column(node.operand)
        low, high = _scalar(node.low, column), _scalar(node.high, column)
        if column.kind is Kind.TOKENS:
            raise _no_order(column, node)
        at_least, at_most = _COMPARE[ast.Comparator.GE], _COMPARE[ast.Comparator.LE]
        return _holds(column, lambda item: at_least(item, low) and at_most(item, high))

    def _column(self, operand: ast.Operand) -> Column:
        if isinstance(operand, ast.Aggregate):
            raise LqlTypeError(
                Diagnostic(
                    Code.WRONG_TYPE,
                    f"{operand.function.value} cannot stand in WHERE",
                    span=operand.span,
                    helps=("an aggregate of groups is filtered by HAVING",),
                )
            )
        column = self._table.get(self._aliases.get(operand.name, operand.name))
        if column is None:
            raise LqlNameError(
                Diagnostic(
                    Code.UNKNOWN_COLUMN,
                    f'unknown column "{operand.name}"',
                    span=operand.span,
                    suggestions=nearest(operand.name, self._table),
                    notes=(f"the columns are {', '.join(self._table)}",),
                )
            )
        return column


# --------------------------------------------------------------------------- three-valued logic


def _all(parts: Sequence[Predicate]) -> Predicate:
    def predicate(row: Row) -> bool | None:
        unknown = False
        for part in parts:
            holds = part(row)
            if holds is False:
                return False
            unknown |= holds is None
        return None if unknown else True

    return predicate


def _any(parts: Sequence[Predicate]) -> Predicate:
    def predicate(row: Row) -> bool | None:
        unknown = False
        for part in parts:
            holds = part(row)
            if holds:
                return True
            unknown |= holds is None
        return None if unknown else False

    return predicate


def _not(part: Predicate) -> Predicate:
    def predicate(row: Row) -> bool | None:
        holds = part(row)
        return None if holds is None else not holds

    return predicate


def _not_if(negated: bool, part: Predicate) -> Predicate:
    return _not(part) if negated else part


def _holds(column: Column, test: Callable[[Scalar], bool]) -> Predicate:
    """A test of one value as a predicate: unknown when missing, any of them for a list."""

    def predicate(row: Row) -> bool | None:
        value: Value = row[column.name]
        if value is None:
            return None
        if isinstance(value, tuple):
            return any(test(item) for item in value)
        return test(value)

    return predicate


_COMPARE: Mapping[ast.Comparator, Callable[[Scalar, Scalar], bool]] = {
    ast.Comparator.EQ: lambda left, right: left == right,
    ast.Comparator.NE: lambda left, right: left != right,
    ast.Comparator.LT: lambda left, right: left < right,  # type: ignore[operator]
    ast.Comparator.LE: lambda left, right: left <= right,  # type: ignore[operator]
    ast.Comparator.GT: lambda left, right: left > right,  # type: ignore[operator]
    ast.Comparator.GE: lambda left, right: left >= right,  # type: ignore[operator]
}


def _like_pattern(pattern: str) -> re.Pattern[str]:
    """``%`` is any run of characters, ``_`` one; everything else is itself, in either case."""
    runs = re.split("%+", pattern)
    parts = ["".join("." if char == "_" else re.escape(char) for char in run) for run in runs]
    return re.compile(".*".join(parts), re.DOTALL | re.IGNORECASE)


# --------------------------------------------------------------------------- types


def _scalar(node: ast.Value, column: Column) -> Scalar:
    """The value of a literal, of the type that its column holds."""
    match node:
        case ast.Text(value=text):
            if column.kind in (Kind.INTEGER, Kind.NUMBER):
                raise _wrong_type(node, column, f'"{column.name}" holds numbers')
            return text
        case ast.Integer(value=number) | ast.Number(value=number):
            if column.kind not in (Kind.INTEGER, Kind.NUMBER):
                raise _wrong_type(node, column, f'"{column.name}" holds text')
            return number
        case ast.ListLiteral():
            raise _wrong_type(node, column, "a list inside a list cannot be compared")
        case ast.Parameter():
            raise AssertionError(f"parameter {node.name} is not bound")
        case _:
            assert_never(node)


def _wrong_type(node: ast.Node, column: Column, why: str) -> LqlTypeError:
    wanted = "a number" if column.kind in (Kind.INTEGER, Kind.NUMBER) else "a string in quotes"
    return LqlTypeError(
        Diagnostic(Code.WRONG_TYPE, why, span=node.span, label=f"expected {wanted}")
    )


def _no_order(column: Column, node: ast.Node) -> LqlTypeError:
    return LqlTypeError(
        Diagnostic(
            Code.WRONG_TYPE,
            f'"{column.name}" is a list of tokens',
            span=node.span,
            label="cannot be compared like this",
            helps=("=, LIKE and IN hold when they hold for any token of the list",),
        )
    )
