"""WHERE, HAVING and ON as SQL. Every operator means what SQL says.

A missing value makes a comparison unknown, and only rows for which the whole condition is true are
kept. LIKE ignores case; = does not. A list of tokens takes =, LIKE and IN, which hold when they
hold for any of its tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.results import Kind
from lql.tables.engine import Value
from lql.tables.scope import Expression, Scope, Values

Operands = Callable[[ast.Operand], Expression]
_ITEM = "i.item"


def condition_sql(node: ast.Condition, operands: Operands, values: Values) -> str:
    """A bound condition as SQL.

    Args:
        node: without parameters.
        operands: what stands left of an operator.
        values: takes the literals.

    Raises:
        LqlNameError, LqlTypeError: an unknown column; a value of another type than its column.
    """
    return _Compiler(operands, values).condition(node)


class _Compiler:
    def __init__(self, operands: Operands, values: Values) -> None:
        self._operands = operands
        self._values = values

    def condition(self, node: ast.Condition) -> str:
        match node:
            case ast.Or():
                return f"({' OR '.join(map(self.condition, node.conditions))})"
            case ast.And():
                return f"({' AND '.join(map(self.condition, node.conditions))})"
            case ast.Not():
                return f"(NOT {self.condition(node.condition)})"
            case ast.IsNull():
                operand = self._operands(node.operand)
                return f"({operand.sql} IS {'NOT ' if node.negated else ''}NULL)"
            case ast.Comparison() | ast.Like() | ast.In() | ast.Between():
                return self._predicate(node)
            case _:
                assert_never(node)

    def _predicate(self, node: ast.Comparison | ast.Like | ast.In | ast.Between) -> str:
        operand = self._operands(node.operand)
        if operand.items is None:
            test = self._test(node, operand, _number_or_text(operand))
        else:
            if isinstance(node, ast.Between) or (
                isinstance(node, ast.Comparison) and node.comparator is not ast.Comparator.EQ
            ):
                raise _no_order(operand, node)
            matching = f"SELECT i.rid FROM {operand.items} AS i WHERE "
            inside = f"{operand.sql} IN ({matching}{self._test(node, operand, _ITEM)})"
            # Nothing is IN no rows, a missing value included; but comparing it is unknown.
            test = f"CASE WHEN {operand.sql} IS NOT NULL THEN {inside} END"
        negated = not isinstance(node, ast.Comparison) and node.negated
        return f"(NOT ({test}))" if negated else f"({test})"

    def _test(
        self, node: ast.Comparison | ast.Like | ast.In | ast.Between, operand: Expression, sql: str
    ) -> str:
        """A test of one value."""
        match node:
            case ast.Comparison():
                return f"{sql} {node.comparator.value} {self._literal(node.value, operand)}"
            case ast.Between():
                low, high = self._literal(node.low, operand), self._literal(node.high, operand)
                return f"{sql} BETWEEN {low} AND {high}"
            case ast.In():
                return self._membership(node, operand, sql)
            case ast.Like():
                if operand.numeric:
                    raise _wrong_type(node.pattern, operand, "LIKE matches text")
                return f"{sql} ILIKE {self._literal(node.pattern, operand)}"
            case _:
                assert_never(node)

    def _membership(self, node: ast.In, operand: Expression, sql: str) -> str:
        if isinstance(node.values, ast.Parameter):
            raise AssertionError(f"parameter {node.values.name} is not bound")
        literals = [self._literal(item, operand) for item in node.values.items]
        if not literals:  # unknown for a missing value, like every comparison, and never true
            return f"CASE WHEN {sql} IS NOT NULL THEN FALSE END"
        return f"{sql} IN ({', '.join(literals)})"

    def _literal(self, node: ast.Value, operand: Expression) -> str:
        return self._values.bind(literal(node, operand))


def _number_or_text(operand: Expression) -> str:
    """The value to compare: truth values compare as 0 and 1."""
    return f"{operand.sql}::INTEGER" if operand.column.kind is Kind.BOOLEAN else operand.sql


def literal(node: ast.Value, operand: Expression) -> Value:
    """The value of a literal, of the type that its column holds.

    Raises:
        LqlTypeError: it is of another type.
    """
    name = operand.column.name
    match node:
        case ast.Text(value=text):
            if operand.numeric:
                raise _wrong_type(node, operand, f'"{name}" holds numbers')
            if any("\ud800" <= char <= "\udfff" for char in text):
                raise _wrong_type(node, operand, "half a surrogate pair is no text")
            return text
        case ast.Integer(value=number):
            if not operand.numeric:
                raise _wrong_type(node, operand, f'"{name}" holds text')
            return float(number) if operand.column.kind is Kind.NUMBER else number
        case ast.Number(value=number):
            if not operand.numeric:
                raise _wrong_type(node, operand, f'"{name}" holds text')
            return number
        case ast.ListLiteral():
            raise _wrong_type(node, operand, "a list inside a list cannot be compared")
        case ast.Parameter():
            raise AssertionError(f"parameter {node.name} is not bound")
        case _:
            assert_never(node)


def where_operands(scope: Scope) -> Operands:
    """What may stand in WHERE: columns."""

    def operand(node: ast.Operand) -> Expression:
        if isinstance(node, ast.Column):
            return scope.column(node)
        raise LqlTypeError(
            Diagnostic(
                Code.WRONG_TYPE,
                f"{node.function.value} cannot stand in WHERE",
                span=node.span,
                helps=("an aggregate of groups is filtered by HAVING",),
            )
        )

    return operand


def pinned(node: ast.Condition | None, is_meant: Callable[[ast.Operand], bool]) -> list[str] | None:
    """The only texts that a column can have in rows that a condition lets through.

    Args:
        node: a bound condition.
        is_meant: whether an operand is the column.

    Returns:
        In the order of the text; ``None`` when the condition does not say.
    """
    match node:
        case ast.Comparison(comparator=ast.Comparator.EQ, value=ast.Text(value=text)):
            return [text] if is_meant(node.operand) else None
        case ast.In(negated=False, values=ast.ListLiteral(items=items)):
            found = [item.value for item in items if isinstance(item, ast.Text)]
            return list(dict.fromkeys(found)) if is_meant(node.operand) else None
        case ast.And():
            known = [
                each for part in node.conditions if (each := pinned(part, is_meant)) is not None
            ]
            if not known:
                return None
            return [text for text in known[0] if all(text in other for other in known[1:])]
        case ast.Or():
            parts = [pinned(part, is_meant) for part in node.conditions]
            if any(part is None for part in parts):
                return None
            return list(dict.fromkeys(text for part in parts if part for text in part))
        case _:
            return None


def _wrong_type(node: ast.Node, operand: Expression, why: str) -> LqlTypeError:
    wanted = "a number" if operand.numeric else "a string in quotes"
    if operand.column.kind is Kind.BOOLEAN:
        wanted = "0 or 1"
    return LqlTypeError(
        Diagnostic(Code.WRONG_TYPE, why, span=node.span, label=f"expected {wanted}")
    )


def _no_order(operand: Expression, node: ast.Node) -> LqlTypeError:
    return LqlTypeError(
        Diagnostic(
            Code.WRONG_TYPE,
            f'"{operand.column.name}" is a list of tokens',
            span=node.span,
            label="cannot be compared like this",
            helps=("=, LIKE and IN hold when they hold for any token of the list",),
        )
    )
