"""The report of an edit: what it changed and what it damaged, by asking the model before and after.

Success is what the model says, greedily, never the first token alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

import numpy as np
import numpy.typing as npt

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlNameError, LqlRuntimeError, LqlTypeError
from lql.names import nearest
from lql.probes import CONTROLS, canonical, probes_for
from lql.results.edits import COMPARED_TOKENS, FeatureRow, Measures, ProbeRow
from vindex.edits import ForgottenFact

if TYPE_CHECKING:
    from lql.inference.knn import FactStore
    from lql.inference.model import LoadedModel
    from vindex.edits import AnyFact, EditView

Logits = npt.NDArray[np.float32]

MEASURES = ("efficacy", "paraphrases", "neighbours", "controls")
_SPELLINGS = {"neighbors": "neighbours", "paraphrase": "paraphrases", "kl": "controls"}
_ALL = 1 << 30

_QUICK_FACTS = 10
"""Facts of a batch that a quick check asks about; the first of them."""


@dataclass(frozen=True, slots=True)
class Change:
    """A fact before and after an edit; one of the two may be missing.

    Attributes:
        before: a ``ForgottenFact`` where it was the model's own, and is no more.
    """

    before: AnyFact | ForgottenFact | None
    after: AnyFact | None

    @property
    def fact(self) -> AnyFact | ForgottenFact:
        """The fact as it is now, or was."""
        fact = self.after or self.before
        assert fact is not None, "a change has a side"
        return fact

    @property
    def targets(self) -> tuple[str, ...]:
        """What is said of it now, or was: of a fact of the model's own any of its answers."""
        return self.fact.answers if isinstance(self.fact, ForgottenFact) else (self.fact.target,)

    def is_met(self, said: str) -> bool:
        """Whether a text says what is so now, and not what is so no more."""
        if self.after is not None:
            return begins(said, self.after.target)
        if isinstance(self.before, ForgottenFact):
            return not any(mentions(said, answer) for answer in self.before.answers)
        return not begins(said, self.fact.target)

    def row(self) -> ProbeRow:
        """A probe about it, still empty."""
        target = None if self.after is None else self.after.target
        return ProbeRow(self.fact.entity, self.fact.relation, target, "control")


@dataclass(frozen=True, slots=True)
class Side:
    """What is asked before an edit, or after it.

    Attributes:
        model: with its features as they are edited.
        facts: the stored facts that answer in it.
    """

    model: LoadedModel
    facts: FactStore


@dataclass(frozen=True, slots=True)
class Plan:
    """How many prompts of each kind are asked."""

    facts: int
    paraphrases: int
    neighbours: int
    controls: int


def side(view: EditView, context: Context, title: str) -> Side:
    """The model and the stored facts of a view."""
    from lql.inference.knn import FactStore

    return Side(context.model_with(view, title), FactStore(tuple(view.facts.values())))


def says(fact: AnyFact, view: EditView, context: Context, title: str) -> bool:
    """Whether the model with a view says a fact's whole target after its prompt."""
    after = side(view, context, title)
    tokens = len(after.model.target_ids(fact.target)) + 1
    return begins(_text(after, canonical(fact.entity, fact.relation), tokens, context), fact.target)


def unchanged_neighbours(
    fact: AnyFact, before: EditView, after: EditView, context: Context, title: str
) -> float:
    """The share of a fact's neighbours that are answered after an edit as before it."""
    probes = probes_for(fact.entity, fact.relation, paraphrases=0, neighbours=10)
    old, new = (side(view, context, title) for view in (before, after))
    same = [
        _text(old, prompt, COMPARED_TOKENS, context) == _text(new, prompt, COMPARED_TOKENS, context)
        for _, prompt in probes.neighbours
    ]
    return sum(same) / len(same)


def _text(of: Side, prompt: str, tokens: int, context: Context) -> str:
    run = of.model.generate(prompt, max_tokens=tokens, facts=of.facts, cancel=context.cancel)
    return "".join(token.text for token in run)


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
    features: Sequence[FeatureRow] = (),
) -> tuple[Measures, tuple[ProbeRow, ...]]:
    """Ask the model before and after an edit.

    Args:
        changes: the facts that the edit touches.
        before, after: the model and every stored fact, without and with the edit.
        features: the features that it touches, facts aside.

    Raises:
        Cancelled: between prompts and inside them.
    """
    plan = plan_for(check, len(changes) + len(features))
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
    for feature in features[: max(0, plan.facts - len(changes))]:
        context.cancel.check(f"measuring {feature.name}")
        rows.append(asker.feature(feature))
    about = changes[0].row() if changes else ProbeRow(features[0].name, None, None, "control")
    rows += [asker.control(about, prompt) for prompt in CONTROLS[: plan.controls]]
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
        ids = [self._after.model.target_ids(target) for target in change.targets]
        before, after = self._said(prompt, max(COMPARED_TOKENS, *map(len, ids)))

        def probability(side: Side) -> float:
            return sum(self._probability(prompt, each, side) for each in ids)

        return replace(
            change.row(),
            kind=kind,
            prompt=prompt,
            before=before,
            after=after,
            probability_before=probability(self._before),
            probability_after=probability(self._after),
            ok=change.is_met(after),
        )

    def neighbour(self, change: Change, entity: str, prompt: str) -> ProbeRow:
        """A prompt about another entity."""
        before, after = self._said(prompt, COMPARED_TOKENS)
        return replace(
            change.row(),
            entity=entity,
            kind="neighbour",
            prompt=prompt,
            before=before,
            after=after,
            ok=before == after,
        )

    def feature(self, feature: FeatureRow) -> ProbeRow:
        """The unrelated prompt at whose end a feature did most, and its token there."""
        prompt = self._strongest(feature)
        before, after = self._said(prompt, 1)
        token = feature.after or feature.before
        ids = () if token is None else self._after.model.target_ids(token)[:1]
        row = ProbeRow(feature.name, None, feature.after, "feature", prompt, before, after)
        if not ids:
            return row
        return replace(
            row,
            probability_before=self._probability(prompt, ids, self._before),
            probability_after=self._probability(prompt, ids, self._after),
        )

    def _strongest(self, feature: FeatureRow) -> str:
        def strength(prompt: str) -> float:
            hits = self._before.model.features(
                prompt,
                layers=[feature.layer],
                per_layer=_ALL,
                cancel=self._context.cancel,
            ).hits[feature.layer]
            return max((abs(h.activation) for h in hits if h.feature == feature.feature), default=0)

        return max(CONTROLS, key=strength)

    def control(self, about: ProbeRow, prompt: str) -> ProbeRow:
        """A prompt about nothing of the kind."""
        cancel = self._context.cancel
        old, new = (
            side.model.infer(prompt, top=1, facts=side.facts, cancel=cancel)
            for side in (self._before, self._after)
        )
        drift = 0.0
        targets = [None if each.fact is None else each.fact.target for each in (old, new)]
        if targets[1] is not None and targets[0] != targets[1]:
            # All of the probability is on one token: the KL is minus the logarithm it had.
            forced = (new.rows[0].token_id,)
            share = self._before.model.probability(prompt, forced, cancel=cancel)
            drift = -math.log(max(share, 1e-30))
        elif new.fact is None and self._before.model is not self._after.model:
            ids = new.encoded.ids
            ours = self._before.model.next_logits(ids, cancel=cancel)
            theirs = self._after.model.next_logits(ids, cancel=cancel)
            drift = divergence(theirs, ours)
        said = (old.rows[0].token, new.rows[0].token)
        same = said[0] == said[1] and targets[0] == targets[1]
        return replace(
            about,
            kind="control",
            prompt=prompt,
            before=said[0],
            after=said[1],
            divergence=drift,
            ok=same,
        )

    def _said(self, prompt: str, tokens: int) -> tuple[str, str]:
        """What the model says before and after."""
        after, fired = self._generated(prompt, tokens, self._after)
        same = self._before.model is self._after.model
        if same and not fired and not self._before.facts:
            return after, after
        return self._generated(prompt, tokens, self._before)[0], after

    def _generated(self, prompt: str, tokens: int, side: Side) -> tuple[str, bool]:
        run = side.model.generate(
            prompt, max_tokens=tokens, facts=side.facts, cancel=self._context.cancel
        )
        text = "".join(token.text for token in run)
        return text, bool(run.facts)

    def _probability(self, prompt: str, ids: tuple[int, ...], side: Side) -> float:
        """Of the target's tokens after the prompt: 1 where a fact says them, 0 where another."""
        cancel = self._context.cancel
        answer = side.model.infer(prompt, top=1, facts=side.facts, cancel=cancel)
        if answer.fact is None:
            return side.model.probability(prompt, ids, cancel=cancel)
        return float(tuple(side.model.target_ids(answer.fact.target)) == ids)


def divergence(of: Logits, from_: Logits) -> float:
    """KL of one next-token distribution from another, in nats.

    Args:
        of, from_: logits, float32 [V].
    """
    p, q = (_log_shares(each) for each in (of, from_))
    return max(0.0, float((np.exp(p) * (p - q)).sum()))


def _log_shares(logits: Logits) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max()
    return wide - math.log(float(np.exp(wide).sum()))


def begins(said: str, target: str) -> bool:
    """Whether a text begins with the target as whole words."""
    text, wanted = said.strip(), target.strip()
    rest = text[len(wanted) :]
    return text.startswith(wanted) and not (rest[:1].isalnum() and wanted[-1:].isalnum())


def mentions(said: str, answer: str) -> bool:
    """Whether a text holds an answer as whole words, case aside."""
    return mentioned(said, answer) is not None


def mentioned(said: str, answer: str) -> int | None:
    """Where a text first holds an answer as whole words, case aside."""
    folded = re.escape(answer.casefold())
    found = re.search(rf"(?<!\w){folded}(?!\w)", said.casefold())
    return None if found is None else found.start()


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
