"""INSERT, UPDATE and DELETE of stored facts; UNDO, SHOW EDITS and DISCARD PATCH."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlRuntimeError, LqlTypeError
from lql.execute.chosen import check_columns, chosen_facts, is_of_features
from lql.execute.facts import (
    Row,
    confidence_of,
    fact_of,
    refuse_memit_clauses,
    rows_of,
    store_layer,
)
from lql.execute.making import made, switched_off
from lql.execute.measure import check_requirements
from lql.execute.memit import Writing
from lql.execute.own_facts import OwnFact
from lql.execute.paging import page
from lql.execute.slots import integer_or, not_available
from lql.names import nearest
from lql.results import Result
from lql.results.edits import EditResult, EditRow, EditsResult, PatchResult
from lql.tables.schema import FACTS
from vindex.edits import (
    AnyFact,
    ComposedFact,
    DropFacts,
    EditView,
    Fact,
    FactName,
    Operation,
    PutFact,
    WriteFact,
    WrittenFact,
    fact_name,
    with_operations,
)

_Edit = ast.Insert | ast.Delete | ast.Update | ast.Undo | ast.ShowEdits | ast.DiscardPatch

SETTABLE = ("target", "confidence")


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
        return _compose(statement, context)
    for clause, written in (("ALPHA", statement.alpha is not None), ("EVICT", statement.evict)):
        if written:
            raise LqlTypeError(
                Diagnostic(
                    Code.WRONG_TYPE,
                    f"{clause} belongs to MODE COMPOSE",
                    span=statement.span,
                    helps=("write MODE COMPOSE, or leave it out",),
                )
            )
    if statement.mode is ast.InsertMode.MEMIT:
        return _memit(statement, context)
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
    composed = context.state.overlay.view.composed
    replaced = [composed[fact.name] for fact in facts if fact.name in composed]
    operations: list[Operation] = [
        *switched_off(replaced, title),
        *(PutFact(fact) for fact in facts),
    ]
    return made(statement, title, operations, context, started)


def _memit(statement: ast.Insert, context: Context) -> EditResult:
    from lql.execute.memit import written_facts

    started = time.perf_counter()
    check_requirements(statement)
    written = written_facts(statement, context)
    title = f"INSERT {written[0]}" if len(written) == 1 else f"INSERT {len(written)} facts"
    composed = context.state.overlay.view.composed
    replaced = [composed[fact.name] for fact in written if fact.name in composed]
    operations: list[Operation] = [
        *switched_off(replaced, title),
        *(WriteFact(fact) for fact in written),
    ]
    return made(statement, title, operations, context, started, mode="memit")


def _compose(statement: ast.Insert, context: Context) -> EditResult:
    from lql.execute.compose import CONFIDENCE, Composing, alpha_of, insert

    refuse_memit_clauses(statement)
    check_requirements(statement)
    if statement.aliases:
        raise not_available(
            "ALIAS with MODE COMPOSE", statement.aliases[0].span, "MODE KNN takes aliases"
        )
    confidence = confidence_of(statement.confidence)
    how = Composing(
        layer=store_layer(statement.layer, context.vindex(statement.title)),
        confidence=CONFIDENCE if statement.confidence is None else confidence,
        alpha=alpha_of(statement.alpha),
        evict=statement.evict,
    )
    rows = rows_of(statement)
    _refuse_two_targets(rows)
    return insert(statement, rows, how, context)


def _refuse_two_targets(facts: Sequence[Fact | Row]) -> None:
    """One statement cannot say two things about one fact."""
    seen: dict[tuple[str, str], Fact | Row] = {}
    for fact in facts:
        first = seen.setdefault(fact_name(fact.entity, fact.relation), fact)
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
    if is_of_features(statement):
        from lql.execute.feature_edits import delete

        return delete(statement, context)
    chosen = chosen_facts(statement, context)
    found = chosen.inserted
    title = f"DELETE {chosen.one or f'{len(chosen)} facts'}"
    operations: list[Operation] = [
        DropFacts(fact.entity, fact.relation)
        for fact in found
        if isinstance(fact, Fact | WrittenFact)
    ]
    composed = [fact for fact in found if isinstance(fact, ComposedFact)]
    operations += switched_off(composed, title)
    if chosen.own:
        from lql.execute.forgetting import forgotten_facts

        how = Writing(statement.title, statement.span)
        operations += [WriteFact(fact) for fact in forgotten_facts(chosen.own, how, context)]
    mode = _mode(found) if found else "memit"
    return made(statement, title, operations, context, started, mode=mode, own=_said(chosen.own))


def _said(facts: Sequence[OwnFact]) -> dict[FactName, str]:
    """What the model itself says of facts."""
    return {fact.name: " or ".join(fact.answers) for fact in facts}


def _mode(facts: Sequence[AnyFact]) -> str:
    """How facts are held, all of them or the first."""
    match facts[0] if facts else None:
        case ComposedFact():
            return "compose"
        case WrittenFact():
            return "memit"
        case _:
            return "knn"


def _update(statement: ast.Update, context: Context) -> EditResult:
    check_requirements(statement)
    if is_of_features(statement):
        from lql.execute.feature_edits import update

        return update(statement, context)
    target, confidence = _assigned(statement)
    started = time.perf_counter()
    chosen = chosen_facts(statement, context)
    found = facts = [fact for fact in chosen.inserted if isinstance(fact, Fact)]
    composed = [fact for fact in chosen.inserted if isinstance(fact, ComposedFact)]
    written = [fact for fact in chosen.inserted if isinstance(fact, WrittenFact)]
    if confidence is not None:
        facts = [replace(fact, confidence=confidence) for fact in found]
        written = [replace(fact, confidence=confidence) for fact in written]
    if target is not None and found:
        ids = context.model(statement.title).target_ids(target)
        if not ids:
            raise LqlRuntimeError(
                Diagnostic(Code.FACTS_INVALID, f'the target "{target}" holds no token')
            )
        facts = [replace(fact, target=target, target_id=ids[0]) for fact in facts]
    if target is not None:
        written = _rewritten(written, chosen.own, target, confidence, statement, context)
    elif chosen.own:
        raise LqlTypeError(
            Diagnostic(
                Code.WRONG_TYPE,
                "a fact of the model's own has no confidence to set",
                span=statement.span,
                helps=('SET target = "…" gives it another answer',),
            )
        )
    operations: list[Operation] = [PutFact(fact) for fact in facts]
    operations += [WriteFact(fact) for fact in written]
    for fact in composed:
        view = with_operations(context.state.overlay.view, operations)
        operations += _recomposed(fact, target, confidence, view, statement, context)
    title = f"UPDATE {len(chosen)} facts"
    if chosen.one is not None:
        one = chosen.one
        new = target or (one.target if not isinstance(one, OwnFact) else "")
        title = f"UPDATE {one.entity} —{one.relation}→ {new}"
    mode = _mode(chosen.inserted) if chosen.inserted else "memit"
    return made(statement, title, operations, context, started, mode=mode, own=_said(chosen.own))


def _rewritten(
    written: Sequence[WrittenFact],
    own: Sequence[OwnFact],
    target: str,
    confidence: float | None,
    statement: ast.Update,
    context: Context,
) -> list[WrittenFact]:
    """Written facts, and facts of the model's own, with another target, solved together."""
    from lql.execute.memit import write

    rows = [Row(fact.entity, fact.relation, target, fact.aliases) for fact in written]
    rows += [Row(fact.entity, fact.relation, target) for fact in own]
    if not rows:
        return []
    shares = [fact.confidence for fact in written]
    shares += [1.0 if confidence is None else confidence] * len(own)
    found = write(rows, Writing(statement.title, statement.span), context)
    return [replace(fact, confidence=share) for fact, share in zip(found, shares, strict=True)]


def _recomposed(
    fact: ComposedFact,
    target: str | None,
    confidence: float | None,
    view: EditView,
    statement: ast.Update,
    context: Context,
) -> list[Operation]:
    """A composed fact with another target or confidence, in features of the same layer."""
    from lql.execute.compose import Composing, composed

    if target is None:
        raise not_available(
            "UPDATE of the confidence alone of a fact that features hold", statement.span
        )
    row = Row(fact.entity, fact.relation, target)
    share = fact.confidence if confidence is None else confidence
    return composed([row], Composing(fact.layer, share), context, statement.title, view)


def _assigned(statement: ast.Update) -> tuple[str | None, float | None]:
    """The target and the confidence that UPDATE sets.

    Raises:
        LqlNameError, LqlTypeError: another column, or a value of another type.
    """
    target: str | None = None
    confidence: float | None = None
    for assignment in statement.assignments:
        name = FACTS.aliases.get(assignment.column.name, assignment.column.name)
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


def check_names(statement: ast.Insert | ast.Delete | ast.Update) -> None:
    """Look up the columns and measures of a statement that edits, for ``--check``.

    Raises:
        LqlNameError, LqlTypeError, LqlNotAvailableError: as running it would.
    """
    check_requirements(statement)
    if isinstance(statement, ast.Insert):
        return
    check_columns(statement)
    if isinstance(statement, ast.Update):
        if is_of_features(statement):
            from lql.execute.feature_edits import target_of

            target_of(statement)
        else:
            _assigned(statement)


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
