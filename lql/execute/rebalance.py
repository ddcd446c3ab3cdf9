"""REBALANCE, COMPACT MINOR and SHOW COMPACT STATUS: facts that features hold, looked after."""

from __future__ import annotations

import time
from typing import assert_never

import numpy as np

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.execute.compose import Composing, composed, weakest
from lql.execute.facts import Row
from lql.execute.measure import says
from lql.execute.slots import integer_or
from lql.results import Result
from lql.results.composed import BalanceResult, BalanceRow, CompactStatusResult
from vindex.edits import (
    ChangeFeature,
    ComposedFact,
    EditView,
    Fact,
    FeatureEdit,
    Operation,
    Vector,
    with_operations,
)
from vindex.overlay import Edit

_Statement = ast.Rebalance | ast.CompactMinor | ast.CompactMajor | ast.ShowCompactStatus

_ROUNDS, _FLOOR, _CEILING = 16, 0.30, 0.90  # larql's, as are the factors
_WEAKER, _STRONGER = 0.85, 1.15


def run(statement: _Statement, context: Context) -> Result:
    """Run a statement about composed facts."""
    match statement:
        case ast.Rebalance():
            return _rebalance(statement, context)
        case ast.CompactMinor():
            return _compact_minor(statement, context)
        case ast.CompactMajor():
            from lql.execute.compact import compact_major

            return compact_major(statement, context)
        case ast.ShowCompactStatus():
            return _status(context, statement.title)
        case _:
            assert_never(statement)


# --------------------------------------------------------------------------- REBALANCE


def _rebalance(statement: ast.Rebalance, context: Context) -> BalanceResult:
    """Make facts weaker or stronger, all at once in each round, until all lie between bounds."""
    started = time.perf_counter()
    context.vindex(statement.title)
    floor, ceiling = _bound(statement.floor, _FLOOR), _bound(statement.ceiling, _CEILING)
    if floor > ceiling:
        raise LqlTypeError(
            Diagnostic(
                Code.INVERTED_RANGE,
                f"FLOOR {floor:g} is above CEILING {ceiling:g}",
                span=statement.span,
            )
        )
    view = context.state.overlay.view
    facts = list(view.composed.values())
    if not facts:
        context.note("no fact is composed into features: there is nothing to balance")
        return BalanceResult(statement=statement.title, facts=(), rounds=0, seconds=0.0)
    limit = integer_or(statement.max_steps, _ROUNDS)
    factors = dict.fromkeys((fact.name for fact in facts), 1.0)
    shares = before = _shares(facts, view, context, statement.title)
    rounds = 0
    while rounds < limit:
        wrong = [
            (fact, _STRONGER if share < floor else _WEAKER)
            for fact, share in zip(facts, shares, strict=True)
            if not floor <= share <= ceiling
        ]
        if not wrong:
            break
        rounds += 1
        context.cancel.check(f"round {rounds}/{limit}")
        for fact, factor in wrong:
            factors[fact.name] *= factor
        now = with_operations(view, _scaled(facts, factors, view).operations)
        shares = _shares(facts, now, context, statement.title)
    if rounds:
        context.state.overlay.commit(_scaled(facts, factors, view))
    if statement.until_converged and not all(floor <= share <= ceiling for share in shares):
        context.note(f"not converged in {rounds} rounds: MAX allows more")
    rows = tuple(
        BalanceRow(
            fact.entity, fact.relation, fact.target, *fact.slots[0], old, new,
            floor <= new <= ceiling,
        )
        for fact, old, new in zip(facts, before, shares, strict=True)
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return BalanceResult(statement=statement.title, facts=rows, rounds=rounds, seconds=seconds)


def _bound(slot: ast.NumberSlot | None, default: float) -> float:
    """A probability.

    Raises:
        LqlTypeError: it is none.
    """
    if slot is None:
        return default
    assert isinstance(slot, ast.Number), "statements are bound before they run"
    if not 0.0 <= slot.value <= 1.0:
        raise LqlTypeError(
            Diagnostic(
                Code.OUT_OF_RANGE, "a bound is a probability, between 0 and 1", span=slot.span
            )
        )
    return slot.value


def _shares(facts: list[ComposedFact], view: EditView, context: Context, title: str) -> list[float]:
    """The probability of each fact's target on the phrasing where it is least."""
    model = context.model_with(view, title)
    return [weakest(model, _row(fact), model.target_ids(fact.target), context) for fact in facts]


def _scaled(
    facts: list[ComposedFact], factors: dict[tuple[str, str], float], view: EditView
) -> Edit:
    """The edit that makes the down vectors of facts so many times as long."""
    operations = []
    for fact in facts:
        factor = factors[fact.name]
        for slot in fact.slots if factor != 1.0 else ():
            down = view.features[slot].down
            if down is not None:
                longer = Vector.of((down.array * factor).astype(np.float32))
                operations.append(ChangeFeature(*slot, down=longer))
    return Edit(f"REBALANCE {len(facts)} facts", tuple(operations))


def _row(fact: ComposedFact | Fact) -> Row:
    return Row(fact.entity, fact.relation, fact.target)


# --------------------------------------------------------------------------- COMPACT


def _compact_minor(statement: ast.CompactMinor, context: Context) -> BalanceResult:
    """Compose every stored fact; one that its features do not answer stays where it is."""
    started = time.perf_counter()
    overlay = context.state.overlay
    facts = list(overlay.view.facts.values())
    if not facts:
        context.note("no fact is stored beside the weights: there is nothing to compose")
    operations: list[Operation] = []
    rows = []
    for number, fact in enumerate(facts, 1):
        context.cancel.check(f"composing fact {number}/{len(facts)}")
        how = Composing(fact.layer, fact.confidence)
        start = with_operations(overlay.view, operations)
        tried = [*operations, *composed([_row(fact)], how, context, statement.title, start)]
        view = with_operations(overlay.view, tried)
        ok = says(fact, view, context, statement.title)
        old, new = (
            weakest(model, _row(fact), model.target_ids(fact.target), context)
            for model in (context.model_with(each, statement.title) for each in (start, view))
        )
        feature = view.composed[fact.name].slots[0][1] if ok else None
        row = (fact.entity, fact.relation, fact.target, fact.layer, feature, old, new, ok)
        rows.append(BalanceRow(*row))
        if ok:
            operations = tried
        else:
            context.note(f"{fact} stays beside the weights: features do not answer it")
        if ok and fact.aliases:
            context.note(f"{fact}: its features do not know the aliases")
    if operations:
        overlay.commit(Edit("COMPACT MINOR", tuple(operations)))
    seconds = time.perf_counter() - started
    return BalanceResult(statement=statement.title, facts=tuple(rows), rounds=0, seconds=seconds)


def _status(context: Context, title: str) -> CompactStatusResult:
    context.vindex(title)
    view = context.state.overlay.view
    held = {slot for fact in view.composed.values() for slot in fact.slots}
    others = {slot: edit for slot, edit in view.features.items() if slot not in held}
    keys = sum(len(key.data) for fact in view.facts.values() for key in fact.keys)
    return CompactStatusResult(
        stored=len(view.facts),
        composed=len(view.composed),
        features=len(held),
        changed=sum(not edit.off for edit in others.values()),
        off=sum(edit.off for edit in others.values()),
        layers=len({layer for layer, _ in view.features}),
        bytes=keys + sum(_bytes(edit) for edit in view.features.values()),
    )


def _bytes(edit: FeatureEdit) -> int:
    return sum(len(each.data) for each in (edit.gate, edit.up, edit.down) if each is not None)
