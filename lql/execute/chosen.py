"""Which rows UPDATE and DELETE touch: WHERE by the engine of SELECT, over facts or FEATURES."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.execute.select import scope_of, select_rows
from lql.execute.slots import integer, not_available
from lql.tables.conditions import pinned
from lql.tables.query import compile_select
from lql.tables.schema import FACTS
from lql.tables.scope import Scope, Source
from vindex.edits import AnyFact, Slot

if TYPE_CHECKING:
    from lql.results import Value

Changing = ast.Delete | ast.Update

_INSERTED = Scope([Source(FACTS, "edges", "t0")], ())
MAX_ROWS = 1_000
"""A statement that would touch more rows needs LIMIT or ALL."""


def is_of_features(statement: Changing) -> bool:
    """Whether it is about features of the model: FROM FEATURES, or a condition on ``feature``."""
    if statement.table is ast.Table.FEATURES:
        return True
    return any(column.name == "feature" for column in _columns(statement.where))


def chosen_features(statement: Changing, context: Context) -> list[Slot]:
    """The features that WHERE chooses, in their natural order.

    Raises:
        LqlNameError, LqlTypeError: WHERE speaks of what FEATURES does not have.
        LqlRuntimeError: it chooses too many.
    """
    found = select_rows(_features_where(statement), context, statement.title).values
    slots = [(layer, feature) for layer, feature in found if type(layer) is type(feature) is int]
    return slots[: _allowed(statement, len(slots), "features")]


def chosen_facts(statement: Changing, context: Context) -> list[AnyFact]:
    """The inserted facts that WHERE chooses, in the order of their insertion.

    Raises:
        LqlNameError, LqlTypeError: WHERE speaks of what inserted facts do not have.
        LqlRuntimeError: it chooses too many.
        LqlNotAvailableError: it names a fact that was not inserted.
    """
    context.vindex(statement.title)
    facts = context.state.overlay.view.every_fact
    found = [facts[number] for number in _matching(statement.where, facts, context, statement)]
    if not found:
        _refuse_own_fact(statement)
        context.note("no inserted fact matches: nothing was changed")
    return found[: _allowed(statement, len(found), "facts")]


def check_columns(statement: Changing) -> None:
    """Look up the columns of WHERE; nothing is chosen.

    Raises:
        LqlNameError, LqlTypeError: it speaks of what the rows do not have.
    """
    # Relations hold rows, and their names are all that the compiler wants of them.
    names: dict[str, str] = defaultdict(lambda: "nothing")
    if is_of_features(statement):
        select = _features_where(statement)
        compile_select(select, scope_of(select), names)
    else:
        compile_select(_facts_where(statement.where), _INSERTED, names)


def _features_where(statement: Changing) -> ast.Select:
    items = tuple(ast.SelectItem(ast.Column(name)) for name in ("layer", "feature"))
    return ast.Select(items, ast.Table.FEATURES, where=statement.where)


def _facts_where(where: ast.Condition) -> ast.Select:
    return ast.Select((ast.SelectItem(ast.Column("number")),), ast.Table.EDGES, where=where)


def _matching(
    where: ast.Condition, facts: Sequence[AnyFact], context: Context, statement: Changing
) -> list[int]:
    rows: list[tuple[Value, ...]] = [
        (number, fact.entity, fact.relation, fact.target, fact.layer, fact.confidence, "inserted")
        for number, fact in enumerate(facts)
    ]
    query = compile_select(_facts_where(where), _INSERTED, {"t0{rows}": "chosen_facts"})
    tables = context.tables(statement.title)
    tables.register_rows("chosen_facts", FACTS, rows)
    try:
        found = tables.engine.rows(query.sql, query.values, context.cancel)
    finally:
        tables.engine.forget("chosen_facts")
    return [int(number) for (number,) in found]


def _refuse_own_fact(statement: Changing) -> None:
    """A statement that names one fact, which nobody inserted, means the model's own."""

    def only(name: str) -> list[str] | None:
        return pinned(
            statement.where,
            lambda operand: isinstance(operand, ast.Column) and operand.name == name,
        )

    entity, relation, evidence = only("entity"), only("relation"), only("evidence")
    if not entity or not relation or evidence == ["inserted"]:
        return
    raise not_available(
        f"{statement.title} of a fact that the model itself holds",
        statement.where.span,
        f'INSERT INTO EDGES (entity, relation, target) VALUES ("{entity[0]}", "{relation[0]}", '
        '"…"); answers in its place',
    )


def _allowed(statement: Changing, count: int, what: str) -> int:
    """How many of the rows are touched.

    Raises:
        LqlRuntimeError: more than anybody may want who did not say so.
    """
    if statement.limit is not None:
        return min(count, integer(statement.limit))
    if count > MAX_ROWS and not statement.all_rows:
        raise LqlRuntimeError(
            Diagnostic(
                Code.TOO_MANY_ROWS,
                f"{statement.title} would touch {count:,} {what}, more than {MAX_ROWS:,}",
                span=statement.where.span,
                helps=("narrow WHERE", "LIMIT n touches the first n", "ALL touches all of them"),
            )
        )
    return count


def _columns(condition: ast.Condition) -> Iterator[ast.Column]:
    match condition:
        case ast.Or() | ast.And():
            for part in condition.conditions:
                yield from _columns(part)
        case ast.Not():
            yield from _columns(condition.condition)
        case _:
            if isinstance(condition.operand, ast.Column):
                yield condition.operand
