"""COMPACT MAJOR: facts that features hold, or all, put into down matrices.

Facts of a layer become the smallest change of its matrix, in the sum of squares, with which the
activations at the ends of the facts' prompts add what their features add there, and those of every
other token nothing. It is made of the down vectors of all features; those of the facts are switched
off and free again.
FULL writes every fact, however it is held, as MODE MEMIT does, all of them together.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.execute.compose import weakest
from lql.execute.facts import Row
from lql.execute.feature_edits import down_vector
from lql.execute.making import switched_off
from lql.execute.measure import says, unchanged_neighbours
from lql.execute.memit import Writing, write
from lql.probes import key_prompts, lessons
from lql.results.composed import BalanceResult, BalanceRow
from vindex.edits import (
    AnyFact,
    ChangeFeature,
    ComposedFact,
    EditView,
    FactName,
    Operation,
    Vector,
    WriteFact,
    with_operations,
)
from vindex.overlay import Edit

RIDGE = 1e-3
"""LAMBDA where none is written; larql's. In shares of the median square of a key's length."""

NEIGHBOURS = 0.9
"""The share of a fact's neighbours that must be answered as before."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What became of a fact that was put into the weights.

    Attributes:
        said: whether its canonical prompt is answered with it.
        probability: of the whole target, on the phrasing where it is least.
        neighbours: the share of its neighbours that are answered as before.
    """

    said: bool
    probability: float
    neighbours: float

    @property
    def holds(self) -> bool:
        return self.said and self.neighbours >= NEIGHBOURS

    def __str__(self) -> str:
        said = "would be said" if self.said else "would not be said"
        return (
            f"in the weights it {said} (probability {self.probability:.1%}), and "
            f"{self.neighbours:.0%} of its neighbours would stay as they are "
            f"({NEIGHBOURS:.0%} are needed)"
        )


@dataclass(frozen=True, slots=True)
class _Solved:
    """What COMPACT MAJOR came to.

    Attributes:
        operations: that put facts into the weights.
        names: of those facts.
        declined: what would have become of the others.
    """

    operations: Sequence[Operation]
    names: Collection[FactName]
    declined: Mapping[FactName, _Verdict]


def compact_major(statement: ast.CompactMajor, context: Context) -> BalanceResult:
    """Put facts into the weights; one that does damage there stays where it is.

    Raises:
        LqlTypeError: LAMBDA is not positive, or stands with FULL.
        LqlCapabilityError: FULL on a layer with experts, or a model on a GPU.
    """
    started = time.perf_counter()
    title = statement.title
    ridge = _ridge(statement)
    context.vindex(title)
    view = context.state.overlay.view
    facts: Sequence[AnyFact]
    if statement.full:
        facts, nothing = view.every_fact, "there is no inserted fact"
        solved = _written(facts, view, Writing(title, statement.span), context)
    else:
        facts = tuple(view.composed.values())
        nothing = "no fact is composed into features: COMPACT MINOR composes stored ones"
        solved = _by_layers(tuple(view.composed.values()), view, ridge, context, title)
    if not facts:
        context.note(nothing)
    after = with_operations(view, solved.operations)
    rows = []
    for fact in facts:
        old, new = (_weakest(fact, each, context, title) for each in (view, after))
        ok = fact.name in solved.names
        if not ok:
            context.note(_declined(fact, solved.declined[fact.name], full=statement.full))
        feature = fact.slots[0][1] if isinstance(fact, ComposedFact) and not ok else None
        words = (fact.entity, fact.relation, fact.target)
        now = after.fact(fact.name) or fact
        rows.append(BalanceRow(*words, now.layer, feature, old, new, ok))
    if solved.operations:
        name = f"COMPACT MAJOR{' FULL' * statement.full} {len(solved.names)} facts"
        context.state.overlay.commit(Edit(name, tuple(solved.operations)))
    seconds = time.perf_counter() - started
    return BalanceResult(statement=title, facts=tuple(rows), rounds=0, seconds=seconds)


def _declined(fact: AnyFact, verdict: _Verdict, *, full: bool) -> str:
    if full:
        way = "INSERT … MODE MEMIT AT LAYERS a-b tries other layers"
    else:
        way = "COMPACT MAJOR FULL tries several layers, LAMBDA another weight"
    return f"{fact} stays as it is: {verdict}; {way}"


def _by_layers(
    facts: Sequence[ComposedFact], view: EditView, ridge: float, context: Context, title: str
) -> _Solved:
    """Composed facts, those of each layer solved together."""
    operations: list[Operation] = []
    solved: set[FactName] = set()
    declined: dict[FactName, _Verdict] = {}
    for layer in sorted({fact.layer for fact in facts}):
        trying = [fact for fact in facts if fact.layer == layer]
        while trying:
            context.cancel.check(f"solving layer {layer}")
            found = _solved(layer, trying, with_operations(view, operations), ridge, context, title)
            after = with_operations(view, [*operations, *found])
            verdicts = {fact.name: _judged(fact, view, after, context, title) for fact in trying}
            kept = [fact for fact in trying if verdicts[fact.name].holds]
            declined |= {name: each for name, each in verdicts.items() if not each.holds}
            if len(kept) == len(trying):
                operations += found
                solved |= {fact.name for fact in kept}
                break
            trying = kept
    return _Solved(operations, solved, declined)


def _written(facts: Sequence[AnyFact], view: EditView, how: Writing, context: Context) -> _Solved:
    """Facts of all kinds, written together; those already written are written anew."""
    trying = list(facts)
    declined: dict[FactName, _Verdict] = {}
    while trying:
        context.cancel.check(f"writing {len(trying)} facts")
        composed = [fact for fact in trying if isinstance(fact, ComposedFact)]
        freed = switched_off(composed, how.title)
        rows = [Row(fact.entity, fact.relation, fact.target, fact.aliases) for fact in trying]
        written = write(rows, how, context, with_operations(view, freed))
        operations: list[Operation] = [
            *freed,
            *(
                WriteFact(replace(new, confidence=fact.confidence))
                for new, fact in zip(written, trying, strict=True)
            ),
        ]
        after = with_operations(view, operations)
        verdicts = {fact.name: _judged(fact, view, after, context, how.title) for fact in trying}
        kept = [fact for fact in trying if verdicts[fact.name].holds]
        declined |= {name: each for name, each in verdicts.items() if not each.holds}
        if len(kept) == len(trying):
            return _Solved(operations, {fact.name for fact in kept}, declined)
        trying = kept
    return _Solved((), (), declined)


def _judged(
    fact: AnyFact, before: EditView, after: EditView, context: Context, title: str
) -> _Verdict:
    """What has become of a fact and its neighbours.

    A sum over all features cannot be shut by a gate: neighbours that are much alike get it too.
    """
    return _Verdict(
        says(fact, after, context, title),
        _weakest(fact, after, context, title),
        unchanged_neighbours(fact, before, after, context, title),
    )


def _weakest(fact: AnyFact, view: EditView, context: Context, title: str) -> float:
    model = context.model_with(view, title)
    row = Row(fact.entity, fact.relation, fact.target)
    return weakest(model, row, model.target_ids(fact.target), context)


def _ridge(statement: ast.CompactMajor) -> float:
    slot = statement.ridge
    if slot is None:
        return RIDGE
    if statement.full:
        raise LqlTypeError(
            Diagnostic(
                Code.CLAUSE_MISPLACED,
                "LAMBDA and FULL exclude each other: FULL weighs facts as MODE MEMIT does",
                span=slot.span,
                helps=("keep one of the two",),
            )
        )
    assert isinstance(slot, ast.Number), "statements are bound before they run"
    if not 0.0 < slot.value < 1e6:
        raise LqlTypeError(
            Diagnostic(Code.OUT_OF_RANGE, "LAMBDA is a positive number", span=slot.span)
        )
    return slot.value


def _solved(
    layer: int,
    facts: Sequence[ComposedFact],
    view: EditView,
    ridge: float,
    context: Context,
    title: str,
) -> list[Operation]:
    """The operations that put facts of one layer into its down matrix."""
    freed = switched_off(facts, title)
    without = with_operations(view, freed)
    model = context.model_with(view, title)
    asked, others = [], []
    for fact in facts:
        ids = model.target_ids(fact.target)
        prompts = [model.encode(each).ids for each in key_prompts(fact.entity, fact.relation)]
        asked += [(*each, *ids[:place]) for each in prompts for place in range(len(ids))]
        others += [(*each, *ids) for each in prompts]
        others += [model.encode(each).ids for each in lessons(fact.entity, fact.relation)]
    slots = [slot for fact in facts for slot in fact.slots]
    change = model.composer().solved(
        context.model_with(without, title).composer(),
        asked,
        others,
        layer,
        [feature for _, feature in slots],
        ridge,
        context.cancel,
    )  # [F, D]
    own = {feature for _, feature in slots}
    operations: list[Operation] = list(freed)
    source = context.state.edited_as(without)
    for feature in np.flatnonzero(change.any(axis=1)).tolist():
        if feature not in own:
            down = down_vector(source, (layer, feature)) + change[feature]
            operations.append(ChangeFeature(layer, feature, down=Vector.of(down)))
    return operations
