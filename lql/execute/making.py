"""Making an edit: measure it, compare it with what is required, commit it, report it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from lql import ast
from lql.context import Context
from lql.execute.measure import Change, enforce, measure, side
from lql.results.edits import EditResult, FactRow, FeatureRow, Measures, ProbeRow
from vindex.edits import (
    ChangeFeature,
    ComposedFact,
    DropFacts,
    DropFeature,
    FactName,
    ForgottenFact,
    Operation,
    PutFact,
    PutFeature,
    WriteFact,
    fact_name,
)
from vindex.overlay import Edit

if TYPE_CHECKING:
    from vindex.edits import AnyFact, EditView

Editing = ast.Insert | ast.Delete | ast.Update


def made(
    statement: Editing,
    title: str,
    operations: Sequence[Operation],
    context: Context,
    started: float,
    *,
    mode: str = "knn",
    features: Sequence[FeatureRow] = (),
    own: Mapping[FactName, str] = MappingProxyType({}),
) -> EditResult:
    """Measure an edit, compare it with what is required, and make it.

    Args:
        title: of the edit, for people.
        started: when the statement began, by ``time.perf_counter``.
        mode: see ``EditResult``.
        features: those that the statement is about.
        own: what the model itself said of facts that are changed.

    Raises:
        LqlRuntimeError: a requirement is not met; nothing was made.
    """
    overlay = context.state.overlay
    edit = Edit(title, tuple(operations))
    before, after = overlay.view, overlay.with_edit(edit)
    changes = changes_of(operations, before, after)
    check = statement.check or ast.Check.QUICK
    if not operations:
        check = ast.Check.NONE
    measures, probes = Measures(), tuple[ProbeRow, ...]()
    if check is not ast.Check.NONE:
        old, new = (side(view, context, statement.title) for view in (before, after))
        measures, probes = measure(changes, old, new, check, context, features)
    if operations:
        enforce(statement.require, measures)
        overlay.commit(edit)
    return EditResult(
        statement=statement.title,
        mode=mode,
        check=check.value.lower(),
        facts=tuple(_fact_row(change, own) for change in changes),
        features=tuple(features),
        measures=measures,
        probes=probes,
        seconds=time.perf_counter() - started,
        size_bytes=sum(_size(operation) for operation in operations),
    )


def switched_off(facts: Sequence[ComposedFact], reason: str) -> list[DropFeature]:
    """What takes composed facts away: their features answer nothing."""
    return [DropFeature(*slot, reason) for fact in facts for slot in fact.slots]


def changes_of(
    operations: Sequence[Operation], before: EditView, after: EditView
) -> tuple[Change, ...]:
    """The facts that an edit touches, as they were and as they are."""
    names: dict[FactName, None] = {}
    for operation in operations:
        match operation:
            case PutFact(fact):
                names[fact.name] = None
            case WriteFact(written):
                names[written.name] = None
            case DropFacts(entity, relation):
                names[fact_name(entity, relation or "")] = None
            case _:
                pass
    old, new = before.composed, after.composed
    names |= {name: None for name in {**old, **new} if old.get(name) != new.get(name)}
    changes = [_change(name, before, after) for name in names]
    return tuple(each for each in changes if each.before or each.after)


def _change(name: FactName, before: EditView, after: EditView) -> Change:
    """A fact before and after; one that is forgotten was the model's own before."""
    now = after.saying(name)
    if isinstance(now, ForgottenFact):
        return Change(now, None)
    return Change(before.fact(name), now)


def _fact_row(change: Change, own: Mapping[FactName, str]) -> FactRow:
    fact = change.fact
    before = None if change.before is None else change.before.target
    return FactRow(
        entity=fact.entity,
        relation=fact.relation,
        target=None if change.after is None else change.after.target,
        replaced=own.get(fact.name, before),
        layer=fact.layer,
        confidence=fact.confidence,
        aliases=fact.aliases,
        own=fact.name in own,
    )


def _size(operation: Operation) -> int:
    """What an operation holds: vectors and texts."""
    match operation:
        case PutFact(fact):
            return _texts(fact) + sum(len(key.data) for key in fact.keys)
        case WriteFact(fact):
            return _texts(fact) + sum(len(p.left.data) + len(p.right.data) for p in fact.pieces)
        case PutFeature() | ChangeFeature():
            vectors = (operation.gate, operation.up, operation.down)
            return sum(len(vector.data) for vector in vectors if vector is not None)
        case _:
            return 0


def _texts(fact: AnyFact | ForgottenFact) -> int:
    texts = (fact.entity, fact.relation, fact.target, *fact.aliases)
    return sum(len(text.encode()) for text in texts)
