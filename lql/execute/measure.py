"""The report of an edit: what it changed and what it damaged, by asking the model before and after.

Success is what the model says, greedily, never the first token alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

import numpy as np

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlRuntimeError, LqlTypeError
from lql.names import nearest
from lql.probes import CONTROLS, probes_for
from lql.results.edits import Measures, ProbeRow
from vindex.edits import Float32, WrittenFact

if TYPE_CHECKING:
    from lql.inference.knn import FactStore
    from lql.inference.model import LoadedModel
    from vindex.edits import AnyFact

MEASURES = ("efficacy", "paraphrases", "neighbours", "controls")
_SPELLINGS = {"neighbors": "neighbours", "paraphrase": "paraphrases", "kl": "controls"}
_TOKENS = 6
"""Tokens of an answer that are compared, or as many as the target has."""

_QUICK_FACTS = 10
"""Facts of a batch that a quick check asks about; the first of them."""


@dataclass(frozen=True, slots=True)
class Change:
    """A fact before and after an edit; one of the two may be missing."""

    before: AnyFact | None
    after: AnyFact | None

    @property
    def fact(self) -> AnyFact:
        """The fact as it is now, or was."""
        fact = self.after or self.before
        assert fact is not None, "a change has a side"
        return fact

    @property
    def is_written(self) -> bool:
        """Whether one of the two is in the weights."""
        return any(isinstance(side, WrittenFact) for side in (self.before, self.after))


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """The model before or after an edit: its weights, and every stored fact."""

    model: LoadedModel
    store: FactStore


@dataclass(frozen=True, slots=True)
class Plan:
    """How many prompts of each kind are asked."""

    facts: int
    paraphrases: int
    neighbours: int
    controls: int


def plan_for(check: ast.Check, facts: int) -> Plan:
    """What a check asks, for an edit of so many facts."""
    match check:
        case ast.Check.NONE:
            return Plan(0, 0, 0, 0)
        case ast.Check.QUICK:
            few = min(facts, _QUICK_FACTS)
            return Plan(few, max(1, 3 // few), max(1, 3 // few), 3)
        case ast.Check.FULL:
            return Plan(facts, 5, 10, len(CONTROLS))
        case _:
            assert_never(check)


def measure(
    changes: Sequence[Change],
    before: Side,
    after: Side,
    check: ast.Check,
    context: Context,
) -> tuple[Measures, tuple[ProbeRow, ...]]:
    """Ask the model before and after an edit.

    Args:
        changes: the facts that the edit touches.
        before, after: the model without and with the edit.

    Raises:
        Cancelled: between prompts and inside them.
    """
    plan = plan_for(check, len(changes))
    asker = _Asker(before, after, context)
    edited = [change.fact.entity for change in changes]
    rows: list[ProbeRow] = []
    for number, change in enumerate(changes[: plan.facts], 1):
        context.cancel.check(f"measuring fact {number}/{len(changes)}")
        fact = change.fact
        probes = probes_for(
            fact.entity,
            fact.relation,
            paraphrases=plan.paraphrases,
            neighbours=plan.neighbours,
            without=edited,
        )
        rows.append(asker.about(change, "canonical", probes.canonical))
        rows += [asker.about(change, "paraphrase", prompt) for prompt in probes.paraphrases]
        rows += [asker.neighbour(change, entity, prompt) for entity, prompt in probes.neighbours]
    if changes and plan.controls:
        rows += [asker.control(changes[0], prompt) for prompt in CONTROLS[: plan.controls]]
    return summary(rows), tuple(rows)


def summary(rows: Sequence[ProbeRow]) -> Measures:
    """The numbers of a report, by the documented meaning of each."""

    def share(kind: str) -> float | None:
        asked = [row.ok for row in rows if row.kind == kind and row.ok is not None]
        return sum(asked) / len(asked) if asked else None

    drifts = [row.divergence for row in rows if row.divergence is not None]
    return Measures(
        efficacy=share("canonical"),
        paraphrases=share("paraphrase"),
        neighbours=share("neighbour"),
        controls=sum(drifts) / len(drifts) if drifts else None,
    )


class _Asker:
    """Asks one prompt twice, the second time only where the edit could make a difference."""

    def __init__(self, before: Side, after: Side, context: Context) -> None:
        self._before = before
        self._after = after
        self._context = context

    def about(self, change: Change, kind: str, prompt: str) -> ProbeRow:
        """A prompt about the fact itself."""
        fact = change.fact
        ids = self._after.model.target_ids(fact.target)
        before, after = self._said(prompt, max(_TOKENS, len(ids)))
        says = _begins(after, fact.target)
        gone = change.after is None
        return self._row(
            change,
            kind,
            prompt,
            before=before,
            after=after,
            probability_before=self._probability(prompt, ids, self._before),
            probability_after=self._probability(prompt, ids, self._after),
            ok=not says if gone else says,
        )

    def neighbour(self, change: Change, entity: str, prompt: str) -> ProbeRow:
        """A prompt about another entity."""
        before, after = self._said(prompt, _TOKENS)
        row = self._row(change, "neighbour", prompt, before=before, after=after, ok=before == after)
        return replace(row, entity=entity)

    def control(self, change: Change, prompt: str) -> ProbeRow:
        """A prompt about nothing of the kind."""
        cancel = self._context.cancel
        old, new = (
            side.model.infer(prompt, top=1, facts=side.store, cancel=cancel)
            for side in (self._before, self._after)
        )
        drift = 0.0
        if new.fact is not None and new.fact != old.fact:
            # All of the probability is on one token: the KL is minus the logarithm it had.
            token = (new.rows[0].token_id,)
            share = self._before.model.probability(prompt, token, cancel=cancel)
            drift = -math.log(max(share, 1e-30))
        elif new.fact is None and self._weights_differ:
            drift = divergence(
                *(
                    side.model.next_logits(new.encoded.ids, cancel=cancel)
                    for side in (self._after, self._before)
                )
            )
        said = (old.rows[0].token, new.rows[0].token)
        row = self._row(change, "control", prompt, before=said[0], after=said[1], divergence=drift)
        same = said[0] == said[1] and (drift == 0.0 or self._weights_differ)
        return replace(row, ok=same)

    def _row(self, change: Change, kind: str, prompt: str, **facts: object) -> ProbeRow:
        fact = change.fact
        target = None if change.after is None else change.after.target
        return replace(ProbeRow(fact.entity, fact.relation, target, kind, prompt), **facts)  # type: ignore[arg-type]

    def _said(self, prompt: str, tokens: int) -> tuple[str, str]:
        """What the model says before and after."""
        after, fired = self._generated(prompt, tokens, self._after)
        if not fired and not self._before.store and not self._weights_differ:
            return after, after
        return self._generated(prompt, tokens, self._before)[0], after

    @property
    def _weights_differ(self) -> bool:
        return self._before.model is not self._after.model

    def _generated(self, prompt: str, tokens: int, side: Side) -> tuple[str, bool]:
        run = side.model.generate(
            prompt, max_tokens=tokens, facts=side.store, cancel=self._context.cancel
        )
        text = "".join(token.text for token in run)
        return text, bool(run.facts)

    def _probability(self, prompt: str, ids: tuple[int, ...], side: Side) -> float:
        """Of the target's tokens after the prompt: 1 where a fact says them, 0 where another."""
        cancel = self._context.cancel
        answer = side.model.infer(prompt, top=1, facts=side.store, cancel=cancel)
        if answer.fact is None:
            return side.model.probability(prompt, ids, cancel=cancel)
        return float(tuple(side.model.target_ids(answer.fact.target)) == ids)


def divergence(ours: Float32, theirs: Float32) -> float:
    """KL of the distribution of some logits from that of others, in nats; both float32 [V]."""
    p, q = (
        values - np.logaddexp.reduce(values)
        for values in (ours.astype(float), theirs.astype(float))
    )
    return float(max(0.0, (np.exp(p) * (p - q)).sum()))


def _begins(said: str, target: str) -> bool:
    """Whether a text begins with the target as whole words."""
    text, wanted = said.strip(), target.strip()
    rest = text[len(wanted) :]
    return text.startswith(wanted) and not (rest[:1].isalnum() and wanted[-1:].isalnum())


# --------------------------------------------------------------------------- REQUIRE


def check_requirements(statement: ast.Insert | ast.Delete | ast.Update) -> None:
    """Refuse requirements that cannot be measured, before anything runs.

    Raises:
        LqlNameError: no such measure.
        LqlTypeError: nothing is measured, CHECK NONE.
    """
    for requirement in statement.require:
        name = requirement.measure.name
        if _SPELLINGS.get(name, name) not in MEASURES:
            raise LqlNameError(
                Diagnostic(
                    Code.UNKNOWN_COLUMN,
                    f'unknown measure "{name}"',
                    span=requirement.measure.span,
                    suggestions=nearest(name, MEASURES),
                    notes=(f"the measures are {', '.join(MEASURES)}",),
                )
            )
        if statement.check is ast.Check.NONE:
            raise LqlTypeError(
                Diagnostic(
                    Code.WRONG_TYPE,
                    "REQUIRE needs a measurement, and CHECK NONE makes none",
                    span=requirement.span,
                    helps=("write CHECK QUICK or CHECK FULL, or leave CHECK out",),
                )
            )


def enforce(require: Sequence[ast.Requirement], measures: Measures) -> None:
    """Compare what was measured with what the statement requires.

    Raises:
        LqlRuntimeError: something is not met; the edit must not be made.
    """
    failed = []
    for requirement in require:
        name = _SPELLINGS.get(requirement.measure.name, requirement.measure.name)
        found: float | None = getattr(measures, name)
        assert isinstance(requirement.value, ast.Number), "statements are bound before they run"
        wanted = requirement.value.value
        if found is None or not _holds(found, requirement.comparator, wanted):
            shown = "not measured" if found is None else f"{found:.4g}"
            failed.append(f"{name} {requirement.comparator.value} {wanted:g}: {shown}")
    if failed:
        raise LqlRuntimeError(
            Diagnostic(
                Code.NOT_MET,
                f"the edit was rolled back: {failed[0]}",
                notes=tuple(failed[1:]),
                helps=("without REQUIRE the edit is made, and the report says what it does",),
            )
        )


def _holds(found: float, comparator: ast.Comparator, wanted: float) -> bool:
    match comparator:
        case ast.Comparator.GE:
            return found >= wanted
        case ast.Comparator.GT:
            return found > wanted
        case ast.Comparator.LE:
            return found <= wanted
        case ast.Comparator.LT:
            return found < wanted
        case _:
            raise AssertionError(f"REQUIRE has no {comparator.value}")
