"""Columns and conditions of statements as Python expressions.

::

    col("layer") == 20
    (col("logit") > 0.5) & ~col("token").like("a%")
    col("token").isin(["Paris", "London"])
    count(), col("logit").max().named("best")
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from lql import ast
from lql.params import bind

Literal: TypeAlias = "str | int | float"


@dataclass(frozen=True, slots=True)
class Where:
    """A condition, joined with ``&``, ``|`` and ``~``; ``and``, ``or`` and ``not`` are refused."""

    condition: ast.Condition

    def __and__(self, other: Where) -> Where:
        return Where(ast.And((*_parts(self, ast.And), *_parts(other, ast.And))))

    def __or__(self, other: Where) -> Where:
        return Where(ast.Or((*_parts(self, ast.Or), *_parts(other, ast.Or))))

    def __invert__(self) -> Where:
        return Where(ast.Not(self.condition))

    def __bool__(self) -> bool:
        raise TypeError(
            "a condition has no truth value: join conditions with & | ~, in parentheses"
        )


def _parts(where: Where, chain: type[ast.And | ast.Or]) -> tuple[ast.Condition, ...]:
    inner = where.condition
    return inner.conditions if isinstance(inner, chain) else (inner,)


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """A column or an aggregate: what can be selected, compared and ordered by.

    Attributes:
        operand: as the language has it.
        alias: its name in the result, or ``None``.
    """

    operand: ast.Operand
    alias: str | None = None

    __hash__ = object.__hash__

    def named(self, alias: str) -> Expression:
        """The same under another name, as AS gives one."""
        return Expression(self.operand, alias)

    def __eq__(self, other: object) -> Where:  # type: ignore[override]
        return self._compared(ast.Comparator.EQ, other)

    def __ne__(self, other: object) -> Where:  # type: ignore[override]
        return self._compared(ast.Comparator.NE, other)

    def __lt__(self, other: Literal) -> Where:
        return self._compared(ast.Comparator.LT, other)

    def __le__(self, other: Literal) -> Where:
        return self._compared(ast.Comparator.LE, other)

    def __gt__(self, other: Literal) -> Where:
        return self._compared(ast.Comparator.GT, other)

    def __ge__(self, other: Literal) -> Where:
        return self._compared(ast.Comparator.GE, other)

    def like(self, pattern: str) -> Where:
        """LIKE: ``%`` stands for any run, ``_`` for one character; case does not count."""
        return Where(ast.Like(self.operand, ast.Text(pattern)))

    def isin(self, values: Iterable[Literal]) -> Where:
        """IN: one of some values."""
        return Where(ast.In(self.operand, ast.ListLiteral(tuple(map(literal, values)))))

    def between(self, low: Literal, high: Literal) -> Where:
        """BETWEEN, both ends included."""
        return Where(ast.Between(self.operand, literal(low), literal(high)))

    def missing(self) -> Where:
        """IS NULL."""
        return Where(ast.IsNull(self.operand))

    def asc(self) -> ast.SortKey:
        """ORDER BY it, smallest first."""
        return ast.SortKey(self.operand)

    def desc(self) -> ast.SortKey:
        """ORDER BY it, largest first."""
        return ast.SortKey(self.operand, ast.Direction.DESC)

    def count(self) -> Expression:
        """COUNT of its values."""
        return self._aggregate(ast.Function.COUNT)

    def sum(self) -> Expression:
        """SUM of its values."""
        return self._aggregate(ast.Function.SUM)

    def avg(self) -> Expression:
        """AVG of its values."""
        return self._aggregate(ast.Function.AVG)

    def min(self) -> Expression:
        """MIN of its values."""
        return self._aggregate(ast.Function.MIN)

    def max(self) -> Expression:
        """MAX of its values."""
        return self._aggregate(ast.Function.MAX)

    def _compared(self, comparator: ast.Comparator, other: object) -> Where:
        if other is None:
            raise TypeError("a missing value compares with nothing: use missing()")
        return Where(ast.Comparison(self.operand, comparator, literal(other)))

    def _aggregate(self, function: ast.Function) -> Expression:
        if isinstance(self.operand, ast.Aggregate):
            raise TypeError("an aggregate of an aggregate has no meaning")
        return Expression(ast.Aggregate(function, self.operand))


def col(name: str) -> Expression:
    """A column by name, ``column`` or ``table.column``; case does not count."""
    table, dot, column = name.rpartition(".")
    return Expression(ast.Column(column.lower(), table.lower() if dot else None))


def count() -> Expression:
    """``COUNT(*)``."""
    return Expression(ast.Aggregate(ast.Function.COUNT, ast.Star()))


def literal(value: object) -> ast.Scalar:
    """A value as a statement has it.

    Raises:
        LqlTypeError: neither a text nor a number.
    """
    found: ast.Scalar = bind(ast.Parameter("value"), {"value": value})  # type: ignore[dict-item]
    return found
