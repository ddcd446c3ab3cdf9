"""What the names of a SELECT stand for, and the values it binds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlTypeError
from lql.names import nearest
from lql.results import Column, Kind
from lql.span import Span
from lql.tables.engine import Value
from lql.tables.schema import Field, TableSchema


@dataclass(slots=True)
class Source:
    """A table of FROM.

    Attributes:
        schema: of the table.
        name: what its columns may be qualified with: its alias, else its name.
        sql: its name in the query.
        extra: columns beyond the schema's.
        used: names of the columns that the statement reads.
    """

    schema: TableSchema
    name: str
    sql: str
    extra: tuple[Field, ...] = ()
    used: set[str] = field(default_factory=set)

    def field(self, name: str) -> Field | None:
        """The column of a name."""
        own = next((each for each in self.extra if each.name == name), None)
        return own or self.schema.field(name)

    @property
    def fields(self) -> tuple[Field, ...]:
        """Every column."""
        return (*self.schema.fields, *self.extra)


@dataclass(frozen=True, slots=True)
class Expression:
    """Something that has a value in every row.

    Attributes:
        sql: of the value; of a list of tokens, of the number of its row.
        column: its kind and unit, and the name it has where nothing else is said.
        source, field: where it stands in a table; ``None`` for an aggregate.
    """

    sql: str
    column: Column
    source: Source | None = None
    field: Field | None = None

    @property
    def items(self) -> str | None:
        """The relation of its tokens, if it is a list of them."""
        return None if self.field is None else self.field.items

    @property
    def numeric(self) -> bool:
        """Whether it compares with numbers; truth values do, as 0 and 1."""
        return self.column.kind in (Kind.INTEGER, Kind.NUMBER, Kind.BOOLEAN)


class Values:
    """The values of a query, in the order in which they are bound."""

    def __init__(self) -> None:
        self.bound: list[Value] = []

    def bind(self, value: Value) -> str:
        """Add a value; return what stands for it in the SQL."""
        kind = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE"}[type(value)]
        self.bound.append(value)
        return f"${len(self.bound)}::{kind}"


class Scope:
    """The tables of a statement.

    Args:
        sources: in the order of FROM and JOIN.
        shared: columns of USING, which need no qualifier: the first table's is meant.
    """

    def __init__(self, sources: Sequence[Source], shared: Iterable[str]) -> None:
        self.sources = tuple(sources)
        self.shared = frozenset(shared)

    def column(self, column: ast.Column) -> Expression:
        """What a name stands for.

        Raises:
            LqlNameError: no table has it, or several have.
        """
        found = [
            (source, field)
            for source in self.sources
            if column.table in (None, source.name)
            if (field := source.field(column.name)) is not None
        ]
        if not found:
            raise self._unknown(column)
        if len(found) > 1 and column.name not in self.shared:
            raise _ambiguous(column, [source.name for source, _ in found])
        return self.expression(*found[0])

    def expression(self, source: Source, field: Field) -> Expression:
        """A column of a table; from here on the statement reads it."""
        source.used.add(field.name)
        return Expression(f'{source.sql}."{field.name}"', field.column, source, field)

    def _unknown(self, column: ast.Column) -> LqlNameError:
        if column.table is not None and all(column.table != s.name for s in self.sources):
            names = [source.name for source in self.sources]
            return LqlNameError(
                Diagnostic(
                    Code.UNKNOWN_COLUMN,
                    f'"{column.table}" is no table of this statement',
                    span=column.span,
                    suggestions=nearest(column.table, names),
                    notes=(f"the tables are {', '.join(names)}",),
                )
            )
        known: dict[str, None] = {}
        for source in self.sources:
            if column.table in (None, source.name):
                known.update(dict.fromkeys(field.name for field in source.fields))
        ranks = column.name == "gate" and any(s.schema.parts.get("nearest") for s in self.sources)
        helps = ('NEAREST TO "entity" AT LAYER n gives FEATURES a gate',) if ranks else ()
        return LqlNameError(
            Diagnostic(
                Code.UNKNOWN_COLUMN,
                f'unknown column "{column.name}"',
                span=column.span,
                suggestions=() if ranks else nearest(column.name, known),
                helps=helps,
                notes=(f"the columns are {', '.join(known)}",),
            )
        )


def _ambiguous(column: ast.Column, tables: Sequence[str]) -> LqlNameError:
    return LqlNameError(
        Diagnostic(
            Code.UNKNOWN_COLUMN,
            f'"{column.name}" is a column of {" and ".join(tables)}',
            span=column.span,
            label="which of them?",
            suggestions=tuple(f"{table}.{column.name}" for table in tables),
        )
    )


def aggregate(node: ast.Aggregate, scope: Scope) -> Expression:
    """What an aggregate computes.

    Raises:
        LqlTypeError: of a column that has no sum, order or values to tell apart.
        LqlNameError: of no column.
    """
    from lql.unparse import operand_text

    name, function = operand_text(node), node.function
    if isinstance(node.argument, ast.Star):
        return Expression("count(*)", Column(name, Kind.INTEGER))
    inner = scope.column(node.argument)
    column, distinct = inner.column, "DISTINCT " if node.distinct else ""
    counts = function is ast.Function.COUNT
    if column.kind is Kind.TOKENS and (node.distinct or not counts):
        raise no_single_value(inner, node.span)
    match function:
        case ast.Function.COUNT:
            return Expression(f"count({distinct}{inner.sql})", Column(name, Kind.INTEGER))
        case ast.Function.MIN | ast.Function.MAX:
            sql = f"{function.value.lower()}({inner.sql})"
            return Expression(sql, Column(name, column.kind, column.unit))
        case ast.Function.SUM | ast.Function.AVG:
            if column.kind not in (Kind.INTEGER, Kind.NUMBER):
                raise LqlTypeError(
                    Diagnostic(
                        Code.WRONG_TYPE,
                        f'{function.value} adds numbers, and "{column.name}" holds none',
                        span=node.span,
                        helps=("COUNT, MIN and MAX take any column",),
                    )
                )
            sums = function is ast.Function.SUM
            if sums and column.kind is Kind.INTEGER:
                return Expression(f"sum({distinct}{inner.sql})", Column(name, Kind.INTEGER))
            # fsum and favg add up without losing digits, whatever the order of the rows.
            sql = f"{'fsum' if sums else 'favg'}({distinct}CAST({inner.sql} AS DOUBLE))"
            return Expression(sql, Column(name, Kind.NUMBER, column.unit))


def no_single_value(expression: Expression, span: Span) -> LqlTypeError:
    """A list of tokens stands where one value is needed."""
    return LqlTypeError(
        Diagnostic(
            Code.WRONG_TYPE,
            f'"{expression.column.name}" is a list of tokens',
            span=span,
            label="one value is needed here",
            helps=(
                "it can be shown, and =, LIKE and IN hold when they hold for any of its tokens",
            ),
        )
    )
