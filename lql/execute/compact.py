"""COMPACT MAJOR: facts that features hold, solved into the down matrix of their layer.

The smallest change of the matrix, in the sum of squares, with which the activations at the ends of
the facts' prompts add what their features add there, and those of every other token nothing. It
is made of the down vectors of all features; those of the facts are switched off and free again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

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
from lql.execute.slots import not_available
from lql.probes import key_prompts, lessons
from lql.results.composed import BalanceResult, BalanceRow
from vindex.edits import (
    ChangeFeature,
    ComposedFact,
    EditView,
    Operation,
    Vector,
    with_operations,
)
from vindex.overlay import Edit

RIDGE = 1e-3
"""LAMBDA where none is written; larql's. In shares of the median square of a key's length."""

NEIGHBOURS = 0.9
"""The share of a fact's neighbours that must be answered as before."""


def compact_major(statement: ast.CompactMajor, context: Context) -> BalanceResult:
    """Solve composed facts into the weights; one that does damage stays composed.

    Raises:
        LqlTypeError: LAMBDA is not positive.
    """
    started = time.perf_counter()
    title = statement.title
    if statement.full:
        raise not_available("FULL", statement.span, "COMPACT MAJOR; solves every composed fact")
    ridge = _ridge(statement.ridge)
    context.vindex(title)
    view = context.state.overlay.view
    facts = list(view.composed.values())
    if not facts:
        context.note("no fact is composed into features: COMPACT MINOR composes stored ones")
    operations: list[Operation] = []
    solved: set[tuple[str, str]] = set()
    for layer in sorted({fact.layer for fact in facts}):
        trying = [fact for fact in facts if fact.layer == layer]
        while trying:
            context.cancel.check(f"solving layer {layer}")
            found = _solved(layer, trying, with_operations(view, operations), ridge, context, title)
            after = with_operations(view, [*operations, *found])
            kept = [fact for fact in trying if _holds(fact, view, after, context, title)]
            if len(kept) == len(trying):
                operations += found
                solved |= {fact.name for fact in kept}
                break
            trying = kept
    after = with_operations(view, operations)
    rows = []
    for fact in facts:
        row = Row(fact.entity, fact.relation, fact.target)
        old, new = (
            weakest(model, row, model.target_ids(fact.target), context)
            for model in (context.model_with(each, title) for each in (view, after))
        )
        ok = fact.name in solved
        if not ok:
            context.note(
                f"{fact} stays in features of its own: solved into the weights, it would not be "
                "said, or its neighbours would change"
            )
        feature = None if ok else fact.slots[0][1]
        words = (fact.entity, fact.relation, fact.target)
        rows.append(BalanceRow(*words, fact.layer, feature, old, new, ok))
    if operations:
        context.state.overlay.commit(Edit(f"COMPACT MAJOR {len(solved)} facts", tuple(operations)))
    seconds = time.perf_counter() - started
    return BalanceResult(statement=title, facts=tuple(rows), rounds=0, seconds=seconds)


def _holds(
    fact: ComposedFact, before: EditView, after: EditView, context: Context, title: str
) -> bool:
    """Whether a solved fact is said and leaves its neighbours as they are.

    A sum over all features cannot be shut by a gate: neighbours that are much alike get it too.
    """
    said = says(fact, after, context, title)
    return said and unchanged_neighbours(fact, before, after, context, title) >= NEIGHBOURS


def _ridge(slot: ast.NumberSlot | None) -> float:
    if slot is None:
        return RIDGE
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
