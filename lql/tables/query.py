"""A SELECT as one SQL query: names resolved, types checked, values bound.

Whatever a statement says about order, the rows have one: a table's rows their natural one, groups
that of their keys, distinct rows that of their values. Missing values come last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlTypeError
from lql.results import Column, Kind
from lql.tables.conditions import condition_sql, where_operands
from lql.tables.engine import Value
from lql.tables.scope import Expression, Scope, Source, Values, aggregate, no_single_value


@dataclass(frozen=True, slots=True)
class Output:
    """A column of the result: how it is called, and what it is."""

    column: Column
    expression: Expression


@dataclass(frozen=True, slots=True)
class Query:
    """SQL that is ready to run.

    Attributes:
        sql: without LIMIT; ``$n`` stand for ``values``.
        count: counts all its rows, with the same values.
        outputs: its columns, in order.
    """

    sql: str
    count: str
    values: tuple[Value, ...]
    outputs: tuple[Output, ...]


def compile_select(
    select: ast.Select,
    scope: Scope,
    relations: Mapping[str, str],
    *,
    layer: int | None = None,
    order: Sequence[str] = (),
) -> Query:
    """Compile a SELECT.

    Args:
        select: without parameters.
        scope: its tables.
        relations: what stands for a mark of a schema, by the source's name and the mark.
        layer: the only layer that ENTITIES counts; ``None`` for all.
        order: SQL to order by before the natural order, where the statement orders nothing.

    Raises:
        LqlNameError, LqlTypeError: what it says does not make sense of these tables.
    """
    return _Compiler(select, scope, relations, layer, order).query()


class _Compiler:
    def __init__(
        self,
        select: ast.Select,
        scope: Scope,
        relations: Mapping[str, str],
        layer: int | None,
        order: Sequence[str],
    ) -> None:
        self._select = select
        self._scope = scope
        self._relations = relations
        self._layer = layer
        self._order = order
        self._values = Values()
        self._keys = [self._key(column) for column in select.group_by]
        self._grouped = bool(select.group_by or select.having) or any(
            isinstance(operand, ast.Aggregate)
            for operand in (
                *(item.expression for item in select.items),
                *(key.operand for key in select.order_by),
            )
        )

    def query(self) -> Query:
        select = self._select
        outputs = self._outputs()
        shown = [f"{output.expression.sql} AS c{i}" for i, output in enumerate(outputs)]
        on = [self._on(join, position) for position, join in enumerate(select.joins, start=1)]
        where = select.where and condition_sql(
            select.where, where_operands(self._scope), self._values
        )
        having = select.having and condition_sql(
            select.having, lambda operand: self._grouped_operand(operand, outputs), self._values
        )
        order = self._ordering(outputs)
        # The tables come last: only now is it known which of their columns are read.
        first, *others = [self._table(source) for source in self._scope.sources]
        joined = [
            f"{'LEFT ' if join.left else ''}JOIN {table} ON {condition}"
            for join, table, condition in zip(select.joins, others, on, strict=True)
        ]
        body = " ".join(
            [
                f"SELECT {'DISTINCT ' if select.distinct else ''}{', '.join(shown)} FROM {first}",
                *joined,
                f"WHERE {where}" if where else "",
                f"GROUP BY {', '.join(key.sql for key in self._keys)}" if self._keys else "",
                f"HAVING {having}" if having else "",
            ]
        )
        return Query(
            sql=f"{body} ORDER BY {', '.join(order)}" if order else body,
            count=f"SELECT count(*) FROM ({body})",
            values=tuple(self._values.bound),
            outputs=outputs,
        )

    # ------------------------------------------------------------------------- tables

    def _table(self, source: Source) -> str:
        """A table with the columns that are read and the number of each row."""
        schema = source.schema
        fields = [field for field in source.fields if field.name in source.used]
        parts = dict.fromkeys(field.part for field in fields if field.part is not None)
        nearest_part = ["nearest"] if source.extra else []
        joins = [self._filled(schema.parts[name], source) for name in (*parts, *nearest_part)]
        columns = [f"{schema.rid} AS rid", *(f'{field.sql} AS "{field.name}"' for field in fields)]
        relation = self._filled(schema.relation, source)
        inner = " ".join([f"SELECT {', '.join(columns)} FROM {relation}", *joins])
        return f"({inner}) AS {source.sql}"

    def _filled(self, sql: str, source: Source) -> str:
        for mark in ("{rows}", "{nearest}"):
            if mark in sql:
                sql = sql.replace(mark, self._relations[source.sql + mark])
        if "{layer}" in sql:
            value = "NULL::BIGINT" if self._layer is None else self._values.bind(self._layer)
            sql = sql.replace("{layer}", value)
        return sql

    def _on(self, join: ast.Join, position: int) -> str:
        pairs = [self._using(column, position) for column in join.using]
        pairs += [
            (self._scope.column(left), self._scope.column(right), left) for left, right in join.on
        ]
        return " AND ".join(_equal(left, right, node) for left, right, node in pairs)

    def _using(
        self, column: ast.Column, position: int
    ) -> tuple[Expression, Expression, ast.Column]:
        """The column of the joined table and of the first table before it that has it."""
        before = Scope(self._scope.sources[:position], [column.name])
        after = Scope(self._scope.sources[position : position + 1], [])
        return before.column(column), after.column(column), column

    # ------------------------------------------------------------------------- columns

    def _outputs(self) -> tuple[Output, ...]:
        found: list[tuple[Output, ast.SelectItem]] = []
        for item in self._select.items:
            match item.expression:
                case ast.Star():
                    found += [(output, item) for output in self._star(item)]
                case operand:
                    expression = self._output(operand)
                    name = item.alias or expression.column.name
                    found.append((Output(_named(expression, name), expression), item))
        return _distinct_names(found)

    def _star(self, item: ast.SelectItem) -> list[Output]:
        if self._grouped:
            raise LqlTypeError(
                Diagnostic(
                    Code.WRONG_TYPE,
                    "* cannot be shown of groups",
                    span=item.span,
                    helps=("name the columns of GROUP BY, and aggregates of the others",),
                )
            )
        once: set[str] = set()  # columns of USING, which are the same in every table
        found: list[Output] = []
        for source in self._scope.sources:
            fields = [f for f in source.fields if f.shown and f.name not in once]
            once.update(field.name for field in fields if field.name in self._scope.shared)
            found += [
                Output(field.column, self._checked(self._scope.expression(source, field), item))
                for field in fields
            ]
        return found

    def _output(self, operand: ast.Operand) -> Expression:
        expression = self._grouped_operand(operand, ()) if self._grouped else self._plain(operand)
        return self._checked(expression, operand)

    def _checked(self, expression: Expression, node: ast.Node) -> Expression:
        if self._select.distinct and expression.items is not None:
            raise no_single_value(expression, node.span)
        return expression

    def _plain(self, operand: ast.Operand) -> Expression:
        assert isinstance(operand, ast.Column), "an aggregate makes groups"
        return self._scope.column(operand)

    def _key(self, column: ast.Column) -> Expression:
        expression = self._scope.column(column)
        if expression.items is not None:
            raise no_single_value(expression, column.span)
        return expression

    def _grouped_operand(self, operand: ast.Operand, outputs: Sequence[Output]) -> Expression:
        """An aggregate, a key of the groups, or the name of an output."""
        if isinstance(operand, ast.Aggregate):
            return aggregate(operand, self._scope)
        named = _output_called(operand, outputs)
        if named is not None:
            return named
        expression = self._scope.column(operand)
        if expression.sql not in {key.sql for key in self._keys}:
            raise LqlTypeError(
                Diagnostic(
                    Code.WRONG_TYPE,
                    f'"{operand.name}" has no single value in a group',
                    span=operand.span,
                    helps=(
                        f"GROUP BY {operand.name} makes it one",
                        f"MIN({operand.name}), MAX({operand.name}) and COUNT({operand.name}) "
                        "have one",
                    ),
                )
            )
        return expression

    # ------------------------------------------------------------------------- order

    def _ordering(self, outputs: Sequence[Output]) -> list[str]:
        select = self._select
        written = [
            f"{self._sort_key(key, outputs)} {key.direction.value} NULLS LAST"
            for key in select.order_by
        ]
        if select.distinct:
            ties = [str(i) for i in range(1, len(outputs) + 1)]
        elif self._grouped:
            ties = [key.sql for key in self._keys]
        else:
            ties = [f"{source.sql}.rid" for source in self._scope.sources]
            written = written or list(self._order)
        return [*written, *(f"{tie} ASC NULLS LAST" for tie in ties)]

    def _sort_key(self, key: ast.SortKey, outputs: Sequence[Output]) -> str:
        expression = _output_called(key.operand, outputs)
        if expression is None:
            if self._grouped:
                expression = self._grouped_operand(key.operand, outputs)
            else:
                expression = self._plain(key.operand)
        if expression.items is not None:
            raise no_single_value(expression, key.span)
        if not self._select.distinct:
            return expression.sql
        for position, output in enumerate(outputs, start=1):
            if output.expression.sql == expression.sql:
                return str(position)
        raise LqlTypeError(
            Diagnostic(
                Code.WRONG_TYPE,
                "SELECT DISTINCT is ordered by what it shows",
                span=key.span,
                label="is not shown",
                helps=("show it as well, or leave DISTINCT out",),
            )
        )


def _output_called(operand: ast.Operand, outputs: Sequence[Output]) -> Expression | None:
    """The output that a name without a table means."""
    if not isinstance(operand, ast.Column) or operand.table is not None:
        return None
    return next((o.expression for o in outputs if o.column.name.lower() == operand.name), None)


def _named(expression: Expression, name: str) -> Column:
    return replace(expression.column, name=name)


def _equal(left: Expression, right: Expression, node: ast.Node) -> str:
    for side in (left, right):
        if side.items is not None:
            raise no_single_value(side, node.span)
    if left.numeric != right.numeric:
        raise LqlTypeError(
            Diagnostic(
                Code.WRONG_TYPE,
                f'"{left.column.name}" and "{right.column.name}" cannot be equal: '
                "one holds numbers, the other text",
                span=node.span,
            )
        )
    return " = ".join(
        f"{side.sql}::INTEGER" if side.column.kind is Kind.BOOLEAN else side.sql
        for side in (left, right)
    )


def _distinct_names(found: Sequence[tuple[Output, ast.SelectItem]]) -> tuple[Output, ...]:
    """Outputs that are called differently: columns of several tables take the table's name.

    Raises:
        LqlNameError: two are called the same.
    """
    count = Counter(output.column.name for output, item in found if item.alias is None)
    named: list[Output] = []
    seen: dict[str, None] = {}
    for output, item in found:
        name, source = output.column.name, output.expression.source
        if count[name] > 1 and item.alias is None and source is not None:
            name = f"{source.name}.{name}"
        if name in seen:
            raise LqlNameError(
                Diagnostic(
                    Code.BAD_COLUMNS,
                    f'two columns are called "{name}"',
                    span=item.span,
                    label="the second one",
                    helps=("AS gives it another name",),
                )
            )
        seen[name] = None
        named.append(replace(output, column=replace(output.column, name=name)))
    return tuple(named)
