"""INSERT, UPDATE and DELETE of stored facts; UNDO, SHOW EDITS and DISCARD PATCH."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlRuntimeError, LqlTypeError
from lql.execute.facts import (
    confidence_of,
    fact_of,
    refuse_memit_clauses,
    rows_of,
    store_layer,
)
from lql.execute.measure import Change, Side, check_requirements, enforce, measure
from lql.execute.paging import page
from lql.execute.slots import integer_or, not_available
from lql.execute.where import compile_condition
from lql.names import nearest
from lql.results import Column, Kind, Result
from lql.results.edits import (
    EditResult,
    EditRow,
    EditsResult,
    FactRow,
    Measures,
    PatchResult,
    ProbeRow,
)
from vindex.edits import (
    AnyFact,
    DropFacts,
    Fact,
    FactName,
    Operation,
    PutFact,
    WriteFact,
    WrittenFact,
    fact_name,
)
from vindex.overlay import Edit

if TYPE_CHECKING:
    from vindex.edits import EditView

_Edit = ast.Insert | ast.Delete | ast.Update | ast.Undo | ast.ShowEdits | ast.DiscardPatch

FACT_COLUMNS = (
    Column("entity", Kind.TEXT),
    Column("relation", Kind.TEXT),
    Column("target", Kind.TEXT),
    Column("layer", Kind.INTEGER),
    Column("confidence", Kind.NUMBER),
)
FACT_ALIASES = {"c_score": "confidence", "score": "confidence", "top_token": "target"}
SETTABLE = ("target", "confidence")
MAX_ROWS = 1_000
"""A statement that would touch more facts is refused."""


def run(statement: _Edit, context: Context) -> Result:
    """Run a statement that edits facts or goes back."""
    match statement:
        case ast.Insert():
            return _insert(statement, context)
        case ast.Delete():
            return _delete(statement, context)
        case ast.Update():
            return _update(statement, context)
        case ast.Undo():
            return _undo(statement, context)
        case ast.ShowEdits():
            return _show_edits(statement, context)
        case ast.DiscardPatch():
            return _discard(statement, context)
        case _:
            assert_never(statement)


def _insert(statement: ast.Insert, context: Context) -> EditResult:
    if statement.mode is ast.InsertMode.COMPOSE:
        raise not_available("INSERT … MODE COMPOSE", statement.span, "MODE KNN stores facts")
    if statement.alpha is not None:
        raise not_available("ALPHA, which belongs to MODE COMPOSE,", statement.alpha.span)
    if statement.mode is ast.InsertMode.MEMIT:
        from lql.execute.memit import written_facts

        started = time.perf_counter()
        check_requirements(statement)
        written = written_facts(statement, context)
        title = f"INSERT {written[0]}" if len(written) == 1 else f"INSERT {len(written)} facts"
        return _made(statement, title, [WriteFact(each) for each in written], context, started)
    refuse_memit_clauses(statement)
    check_requirements(statement)
    vindex = context.vindex(statement.title)
    at = store_layer(statement.layer, vindex)
    confidence = confidence_of(statement.confidence)
    rows = rows_of(statement)
    started = time.perf_counter()
    model = context.model(statement.title)
    facts = []
    for number, row in enumerate(rows, 1):
        context.cancel.check(f"fact {number}/{len(rows)}")
        facts.append(fact_of(row, at, confidence, model, context))
    _refuse_two_targets(facts)
    title = f"INSERT {facts[0]}" if len(facts) == 1 else f"INSERT {len(facts)} facts"
    return _made(statement, title, [PutFact(fact) for fact in facts], context, started)


def _refuse_two_targets(facts: Sequence[Fact]) -> None:
    """One statement cannot say two things about one fact."""
    seen: dict[tuple[str, str], Fact] = {}
    for fact in facts:
        first = seen.setdefault(fact.name, fact)
        if first.target != fact.target:
            raise LqlRuntimeError(
                Diagnostic(
                    Code.FACTS_INVALID,
                    f"{fact.entity} —{fact.relation}→ has two targets: "
                    f"{first.target} and {fact.target}",
                )
            )


def _delete(statement: ast.Delete, context: Context) -> EditResult:
    check_requirements(statement)
    started = time.perf_counter()
    found = _matching(statement, context)
    title = f"DELETE {found[0]}" if len(found) == 1 else f"DELETE {len(found)} facts"
    operations = [DropFacts(fact.entity, fact.relation) for fact in found]
    return _made(statement, title, operations, context, started)


def _update(statement: ast.Update, context: Context) -> EditResult:
    check_requirements(statement)
    target, confidence = _assigned(statement)
    started = time.perf_counter()
    found = _matching(statement, context)
    facts = found
    if confidence is not None:
        facts = [replace(fact, confidence=confidence) for fact in found]
    if target is not None and any(isinstance(fact, WrittenFact) for fact in found):
        raise not_available(
            "UPDATE of the target of a fact that MODE MEMIT wrote",
            statement.span,
            "INSERT … MODE MEMIT again replaces it",
        )
    if target is not None and found:
        ids = context.model(statement.title).target_ids(target)
        if not ids:
            raise LqlRuntimeError(
                Diagnostic(Code.FACTS_INVALID, f'the target "{target}" holds no token')
            )
        facts = [
            replace(fact, target=target, target_id=ids[0])
            for fact in facts
            if isinstance(fact, Fact)
        ]
    title = f"UPDATE {facts[0]}" if len(facts) == 1 else f"UPDATE {len(facts)} facts"
    puts = [PutFact(f) if isinstance(f, Fact) else WriteFact(f) for f in facts]
    return _made(statement, title, puts, context, started)


def _assigned(statement: ast.Update) -> tuple[str | None, float | None]:
    """The target and the confidence that UPDATE sets.

    Raises:
        LqlNameError, LqlTypeError: another column, or a value of another type.
    """
    target: str | None = None
    confidence: float | None = None
    for assignment in statement.assignments:
        name = FACT_ALIASES.get(assignment.column.name, assignment.column.name)
        match name, assignment.value:
            case "target", ast.Text(value) if value.strip():
                target = value.strip()
            case "confidence", ast.Number() as number:
                confidence = confidence_of(number)
            case "confidence", ast.Integer(value):
                confidence = confidence_of(ast.Number(float(value), span=assignment.value.span))
            case (("target" | "confidence"), _):
                wanted = "a text" if name == "target" else "a number"
                raise LqlTypeError(
                    Diagnostic(Code.WRONG_TYPE, f"{name} is {wanted}", span=assignment.value.span)
                )
            case _:
                raise LqlNameError(
                    Diagnostic(
                        Code.UNKNOWN_COLUMN,
                        f'UPDATE cannot set "{assignment.column.name}"',
                        span=assignment.column.span,
                        suggestions=nearest(assignment.column.name, SETTABLE),
                        notes=(f"it sets {' and '.join(SETTABLE)} of inserted facts",),
                    )
                )
    return target, confidence


def _matching(statement: ast.Delete | ast.Update, context: Context) -> list[AnyFact]:
    """The facts, stored or written, that WHERE chooses.

    Raises:
        LqlNotAvailableError: WHERE speaks of features of the model.
        LqlRuntimeError: it chooses too many.
    """
    if any(column.name == "feature" for column in _columns(statement.where)):
        raise not_available(
            f"{statement.title} of the model's own features",
            statement.where.span,
            f"{statement.title} reaches facts that INSERT stored",
        )
    context.vindex(statement.title)
    keep = compile_condition(statement.where, FACT_COLUMNS, FACT_ALIASES)
    names = [column.name for column in FACT_COLUMNS]
    found = [
        f
        for f in context.state.overlay.view.every_fact
        if keep({name: getattr(f, name) for name in names})
    ]
    if len(found) > MAX_ROWS:
        raise LqlRuntimeError(
            Diagnostic(
                Code.FAILED,
                f"{statement.title} would touch {len(found):,} facts, more than {MAX_ROWS:,}",
                helps=("narrow WHERE",),
            )
        )
    if not found:
        context.note("no stored fact matches: nothing was changed")
    return found


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


def _made(
    statement: ast.Insert | ast.Delete | ast.Update,
    title: str,
    operations: Sequence[Operation],
    context: Context,
    started: float,
) -> EditResult:
    """Measure an edit, compare it with what is required, and make it."""
    overlay = context.state.overlay
    edit = Edit(title, tuple(operations))
    before, after = overlay.view, overlay.with_edit(edit)
    changes = _changes(operations, before, after)
    check = statement.check or ast.Check.QUICK
    if not changes:
        check = ast.Check.NONE
    measures, probes = Measures(), tuple[ProbeRow, ...]()
    if check is not ast.Check.NONE:
        from lql.inference.knn import FactStore

        old, new = (
            Side(context.model_as(v, statement.title), FactStore(tuple(v.facts.values())))
            for v in (before, after)
        )
        measures, probes = measure(changes, old, new, check, context)
    if changes:
        enforce(statement.require, measures)
        overlay.commit(edit)
    return EditResult(
        statement=statement.title,
        mode="memit" if any(change.is_written for change in changes) else "knn",
        check=check.value.lower(),
        facts=tuple(_fact_row(change) for change in changes),
        measures=measures,
        probes=probes,
        seconds=time.perf_counter() - started,
        size_bytes=sum(_size(change.after) for change in changes),
    )


def _changes(
    operations: Sequence[Operation], before: EditView, after: EditView
) -> tuple[Change, ...]:
    names = dict.fromkeys(
        operation.fact.name if isinstance(operation, PutFact | WriteFact) else _name(operation)
        for operation in operations
    )
    return tuple(Change(before.fact(name), after.fact(name)) for name in names)


def _name(operation: Operation) -> FactName:
    assert isinstance(operation, DropFacts), "statements put facts or drop them"
    return fact_name(operation.entity, operation.relation or "")


def _fact_row(change: Change) -> FactRow:
    fact = change.fact
    return FactRow(
        entity=fact.entity,
        relation=fact.relation,
        target=None if change.after is None else change.after.target,
        replaced=None if change.before is None else change.before.target,
        layer=fact.layer,
        confidence=fact.confidence,
        aliases=fact.aliases,
    )


def _size(fact: AnyFact | None) -> int:
    if fact is None:
        return 0
    texts = sum(len(t.encode()) for t in (fact.entity, fact.relation, fact.target, *fact.aliases))
    if isinstance(fact, Fact):
        return texts + sum(len(key.data) for key in fact.keys)
    return texts + sum(len(p.left.data) + len(p.right.data) for p in fact.pieces)


# --------------------------------------------------------------------------- going back


def _undo(statement: ast.Undo, context: Context) -> PatchResult:
    overlay = context.state.overlay
    steps = integer_or(statement.steps, 1)
    if steps > overlay.depth:
        raise LqlRuntimeError(
            Diagnostic(
                Code.FAILED,
                "there is no edit to undo"
                if not overlay.depth
                else f"there are {overlay.depth} edits to undo, not {steps}",
                span=statement.span,
            )
        )
    gone = overlay.undo(steps)
    return PatchResult(
        statement=statement.title,
        patch=None,
        edits=tuple(edit.title for edit in gone),
        operations=sum(len(edit.operations) for edit in gone),
        left=len(overlay.edits),
    )


def _discard(statement: ast.DiscardPatch, context: Context) -> PatchResult:
    overlay = context.state.overlay
    gone = overlay.discard()
    return PatchResult(
        statement=statement.title,
        patch=None,
        edits=tuple(edit.title for edit in gone),
        operations=sum(len(edit.operations) for edit in gone),
        left=len(overlay.edits),
    )


def _show_edits(statement: ast.ShowEdits, context: Context) -> EditsResult:
    rows = [
        EditRow(number, edit.title, len(edit.operations), edit.patch)
        for number, edit in enumerate(context.state.overlay.edits, 1)
    ]
    shown, meta = page(rows, statement.limit, statement.offset)
    return EditsResult(edits=shown, meta=meta)
