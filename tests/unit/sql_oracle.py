"""SELECT as plain Python over lists of rows: what DuckDB's answers are held against.

Written for being right, not fast: one row after the other, one condition after the other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from lql import ast
from lql.ast import Table
from lql.unparse import operand_text

Row = dict[str, Any]
Rows = tuple[Row | None, ...]
"""A row of every table of FROM; ``None`` where a LEFT JOIN found no partner."""

COMPARE: Mapping[ast.Comparator, Callable[[Any, Any], bool]] = {
    ast.Comparator.EQ: lambda left, right: left == right,
    ast.Comparator.NE: lambda left, right: left != right,
    ast.Comparator.LT: lambda left, right: left < right,
    ast.Comparator.LE: lambda left, right: left <= right,
    ast.Comparator.GT: lambda left, right: left > right,
    ast.Comparator.GE: lambda left, right: left >= right,
}


@dataclass
class Answer:
    names: list[str]
    rows: list[tuple[Any, ...]]
    total: int


@dataclass
class Oracle:
    """Tables as lists of rows in their natural order, every row with every column."""

    tables: Mapping[Table, list[Row]]
    columns: Mapping[Table, tuple[str, ...]]
    _sources: list[tuple[str, Table]] = field(default_factory=list)
    _shared: set[str] = field(default_factory=set)

    def answer(self, select: ast.Select) -> Answer:
        self._sources = [(select.alias or select.table.value.lower(), select.table)]
        self._shared = {column.name for join in select.joins for column in join.using}
        found: list[Rows] = [(row,) for row in self.tables[select.table]]
        for join in select.joins:
            self._sources.append((join.alias or join.table.value.lower(), join.table))
            found = list(self._joined(found, join))
        if select.where is not None:
            found = [rows for rows in found if self._holds(select.where, [rows]) is True]
        groups = self._groups(select, found)
        if select.having is not None:
            having = select.having
            groups = [group for group in groups if self._holds(having, group, select) is True]
        outputs = self._outputs(select)
        lines = [(tuple(value(group) for _, value in outputs), group) for group in groups]
        if select.distinct:
            lines = list({line: (line, group) for line, group in reversed(lines)}.values())
        order = self._order(select, outputs)
        for value, descending in reversed(order):
            known = [line for line in lines if value(line) is not None]
            missing = [line for line in lines if value(line) is None]
            lines = sorted(known, key=value, reverse=descending) + missing
        total = len(lines)
        start = select.offset.value if isinstance(select.offset, ast.Integer) else 0
        stop = start + select.limit.value if isinstance(select.limit, ast.Integer) else total
        return Answer([name for name, _ in outputs], [line for line, _ in lines[start:stop]], total)

    # ------------------------------------------------------------------------- tables

    def _joined(self, found: list[Rows], join: ast.Join) -> Any:
        on = list(join.on)
        position = len(self._sources) - 1
        for rows in found:
            partners = []
            for row in self.tables[join.table]:
                both = (*rows, row)
                equal = all(
                    (a := self._column(left, both)) is not None and a == self._column(right, both)
                    for left, right in on
                )
                shared = all(
                    (a := self._column(column, both[:position])) is not None
                    and row[column.name] == a
                    for column in join.using
                )
                if equal and shared:
                    partners.append(both)
            if join.left and not partners:
                partners = [(*rows, None)]
            yield from partners

    def _column(self, column: ast.Column, rows: Rows) -> Any:
        for (name, table), row in zip(self._sources, rows, strict=False):
            if column.table in (None, name) and column.name in self.columns[table]:
                return None if row is None else row[column.name]
        raise AssertionError(f"the generator made an unknown column {column}")

    # ------------------------------------------------------------------------- groups

    def _groups(self, select: ast.Select, found: list[Rows]) -> list[list[Rows]]:
        operands = [i.expression for i in select.items] + [k.operand for k in select.order_by]
        aggregates = any(isinstance(operand, ast.Aggregate) for operand in operands)
        if select.group_by:
            groups: dict[Any, list[Rows]] = {}
            for rows in found:
                key = tuple(self._column(column, rows) for column in select.group_by)
                groups.setdefault(key, []).append(rows)
            return list(groups.values())
        if aggregates or select.having is not None:
            return [found]
        return [[rows] for rows in found]

    def _value(self, operand: Any, group: list[Rows]) -> Any:
        if isinstance(operand, ast.Column):
            return self._column(operand, group[0])
        if isinstance(operand.argument, ast.Star):
            return len(group)
        argument = operand.argument
        values = [v for rows in group if (v := self._column(argument, rows)) is not None]
        if operand.distinct:
            values = list(dict.fromkeys(values))
        match operand.function:
            case ast.Function.COUNT:
                return len(values)
            case ast.Function.SUM:
                return sum(values) if values else None
            case ast.Function.AVG:
                return sum(values) / len(values) if values else None
            case ast.Function.MIN:
                return min(values, default=None)
            case ast.Function.MAX:
                return max(values, default=None)

    # ------------------------------------------------------------------------- columns and order

    def _outputs(self, select: ast.Select) -> list[tuple[str, Callable[[list[Rows]], Any]]]:
        found: list[tuple[str, str | None, Any]] = []
        for item in select.items:
            if isinstance(item.expression, ast.Star):
                once: set[str] = set()
                for name, table in self._sources:
                    for column in self.columns[table]:
                        if column not in once:
                            found.append((column, name, ast.Column(column, name)))
                    once |= set(self.columns[table]) & self._shared
            elif isinstance(item.expression, ast.Column):
                column = item.expression
                owner = next(
                    name
                    for name, table in self._sources
                    if column.table in (None, name) and column.name in self.columns[table]
                )
                found.append((item.alias or column.name, None if item.alias else owner, column))
            else:
                found.append((item.alias or operand_text(item.expression), None, item.expression))
        count = Counter(name for name, owner, _ in found if owner)
        return [
            (f"{owner}.{name}" if count[name] > 1 and owner else name, self._getter(operand))
            for name, owner, operand in found
        ]

    def _getter(self, operand: Any) -> Callable[[list[Rows]], Any]:
        return lambda group: self._value(operand, group)

    def _order(self, select: ast.Select, outputs: Sequence[Any]) -> list[tuple[Any, bool]]:
        keys: list[tuple[Any, bool]] = []
        for key in select.order_by:
            position = self._position(key.operand, outputs)
            down = key.direction is ast.Direction.DESC
            if position is not None:
                keys.append((lambda line, at=position: line[0][at], down))
            else:
                keys.append((lambda line, op=key.operand: self._value(op, line[1]), down))
        if select.distinct:
            keys += [(lambda line, at=at: line[0][at], False) for at in range(len(outputs))]
        elif select.group_by:
            keys += [
                (lambda line, c=column: self._value(c, line[1]), False)
                for column in select.group_by
            ]
        elif keys or select.joins:
            places = [{id(r): n for n, r in enumerate(self.tables[t])} for _, t in self._sources]
            keys += [
                (lambda line, at=at: places[at].get(id(line[1][0][at])) if line[1] else None, False)
                for at in range(len(self._sources))
            ]
        return keys

    @staticmethod
    def _position(operand: Any, outputs: Sequence[Any]) -> int | None:
        if not isinstance(operand, ast.Column) or operand.table is not None:
            return None
        names = [name.lower() for name, _ in outputs]
        return names.index(operand.name) if operand.name in names else None

    # ------------------------------------------------------------------------- conditions

    def _holds(
        self, node: ast.Condition, group: list[Rows], select: ast.Select | None = None
    ) -> bool | None:
        match node:
            case ast.Or():
                parts = [self._holds(part, group, select) for part in node.conditions]
                return True if True in parts else None if None in parts else False
            case ast.And():
                parts = [self._holds(part, group, select) for part in node.conditions]
                return False if False in parts else None if None in parts else True
            case ast.Not():
                inner = self._holds(node.condition, group, select)
                return None if inner is None else not inner
            case ast.IsNull():
                return (self._operand(node.operand, group, select) is None) != node.negated
            case ast.Comparison() | ast.Like() | ast.In() | ast.Between():
                value = self._operand(node.operand, group, select)
                if value is None:
                    return None
                values = value if isinstance(value, tuple) else (value,)
                found = any(_passes(node, each) for each in values)
                return found != (not isinstance(node, ast.Comparison) and node.negated)
            case _:
                assert_never(node)

    def _operand(self, operand: Any, group: list[Rows], select: ast.Select | None) -> Any:
        if select is not None and isinstance(operand, ast.Column) and operand.table is None:
            for item in select.items:
                if (item.alias or "").lower() == operand.name:
                    return self._value(item.expression, group)
        return self._value(operand, group)


def _passes(node: Any, value: Any) -> bool:
    match node:
        case ast.Comparison():
            return COMPARE[node.comparator](value, node.value.value)
        case ast.Like():
            return like(value, node.pattern.value)
        case ast.In():
            return value in [item.value for item in node.values.items]
        case ast.Between():
            return bool(node.low.value <= value <= node.high.value)
        case _:
            raise AssertionError(node)


def like(text: str, pattern: str) -> bool:
    """``%`` is any run of characters, ``_`` one, everything else itself in either case."""
    parts = {"%": ".*", "_": "."}
    wanted = "".join(parts.get(char) or re.escape(_lower(char)) for char in pattern)
    return re.fullmatch(wanted, "".join(map(_lower, text)), re.DOTALL) is not None


def _lower(char: str) -> str:
    lower = char.lower()
    return lower if len(lower) == 1 else char
