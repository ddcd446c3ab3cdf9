"""Which rows UPDATE and DELETE touch: WHERE by the engine of SELECT, over facts or FEATURES."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.execute.own_facts import EVIDENCE, OwnFact, OwnRow, named_pairs, own_facts
from lql.execute.select import scope_of, select_rows
from lql.execute.slots import integer
from lql.tables.query import compile_select
from lql.tables.schema import FACTS
from lql.tables.scope import Scope, Source
from vindex.edits import AnyFact, Slot, fact_name

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


@dataclass(frozen=True, slots=True)
class Chosen:
    """The facts that a statement touches.

    Attributes:
        inserted: by edits, in the order of their insertion.
        own: the model's own.
    """

    inserted: Sequence[AnyFact]
    own: Sequence[OwnFact] = ()

    @property
    def one(self) -> AnyFact | OwnFact | None:
        """The only one, if there is only one."""
        every = (*self.inserted, *self.own)
        return every[0] if len(every) == 1 else None

    def __len__(self) -> int:
        return len(self.inserted) + len(self.own)


def chosen_facts(statement: Changing, context: Context) -> Chosen:
    """The facts that WHERE chooses: inserted ones, and of the model's own those that it names.

    The model's own are reached by entity and relation, and where nobody inserted a fact of that
    name.

    Raises:
        LqlNameError, LqlTypeError: WHERE speaks of what facts do not have.
        LqlRuntimeError: it chooses too many, or only what the model does not clearly know.
    """
    context.vindex(statement.title)
    facts = context.state.overlay.view.every_fact
    rows = [
        (fact.entity, fact.relation, fact.target, fact.layer, fact.confidence, "inserted")
        for fact in facts
    ]
    found = [facts[number] for number in _matching(statement.where, rows, context, statement)]
    held = {fact.name for fact in facts}
    named = named_pairs(statement.where)
    pairs = [pair for pair in named if fact_name(*pair) not in held]
    own: list[OwnFact] = []
    if pairs:
        _allowed(statement, len(found) + len(pairs), "facts")

        def matching(own: Sequence[OwnRow]) -> list[int]:
            asked = [(*row, None, None, EVIDENCE) for row in own]
            return _matching(statement.where, asked, context, statement)

        own = own_facts(pairs, statement, matching, context, alone=not found)
    elif not found:
        context.note(
            "an inserted fact stands there, and WHERE does not match it: nothing was changed"
            if named
            else "no inserted fact matches: nothing was changed; WHERE entity = … AND relation = … "
            "reaches what the model itself knows"
        )
    allowed = _allowed(statement, len(found) + len(own), "facts")
    return Chosen(found[:allowed], own[: max(0, allowed - len(found))])


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
    where: ast.Condition,
    facts: Sequence[tuple[Value, ...]],
    context: Context,
    statement: Changing,
) -> list[int]:
    """The rows that a condition lets through, by number.

    Args:
        facts: entity, relation, target, layer, confidence and evidence of each.
    """
    rows = [(number, *fact) for number, fact in enumerate(facts)]
    query = compile_select(_facts_where(where), _INSERTED, {"t0{rows}": "chosen_facts"})
    tables = context.tables(statement.title)
    tables.register_rows("chosen_facts", FACTS, rows)
    try:
        found = tables.engine.rows(query.sql, query.values, context.cancel)
    finally:
        tables.engine.forget("chosen_facts")
    return [int(number) for (number,) in found]


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
