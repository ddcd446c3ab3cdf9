"""INSERT … MODE COMPOSE: facts as features of the model, one for each token of a target.

Each fact is learnt over the model as the facts before it have made it. Its features are the
layer's quietest, and only where switching those off changes next to nothing, unless EVICT is
written. Their strength is the least that makes the model say the target.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlCapabilityError, LqlRuntimeError, LqlTypeError
from lql.execute.facts import Row
from lql.execute.making import made, switched_off
from lql.probes import CONTROLS, ORDINARY, canonical, key_prompts, lessons
from lql.results.edits import EditResult
from vindex.edits import (
    ComposedFact,
    DropFacts,
    EditView,
    Fact,
    FeatureEdit,
    Operation,
    PutFeature,
    Slot,
    Vector,
    WrittenToken,
    fact_name,
    with_operations,
)
from vindex.features import embedding_rows

if TYPE_CHECKING:
    from lql.inference.compose import Composer, Detector, Ids, Pull
    from lql.inference.model import LoadedModel

Floats = npt.NDArray[np.float32]

CONFIDENCE = 0.9
"""Of a composed fact where none is said; larql's."""

SAID = 0.5
"""The probability of the whole target from which on a strength is enough."""

_UNUSED = 1e-3
"""Nats by which the next token of ordinary text may drift, on average, without a free feature."""

_ROUNDS = 16
_STRONGER = 1.4  # each step of balancing is as many times the one before
_CAREFUL = 0.2  # a step where growing did not help, as a share of what there is


@dataclass(frozen=True, slots=True)
class Composing:
    """How facts are composed.

    Attributes:
        layer: of the features.
        alpha: their strength, in median lengths of the layer's down vectors; found if ``None``.
        evict: take features that the model uses, where no others are left.
    """

    layer: int
    confidence: float
    alpha: float | None = None
    evict: bool = False


@dataclass(slots=True)
class _Part:
    """What one token of a target needs: a feature, while its down vector is being found.

    Attributes:
        asked: the prompts, as far as the target is said before the token.
        tried: the down vector to be looked at next, ``[D]`` float32.
        down: the best so far.
        share: the token's least probability with it.
        stuck: that growing did not help any more.
    """

    slot: Slot
    token: int
    asked: list[Ids]
    detector: Detector
    tried: Floats
    down: Floats
    share: float = -1.0
    stuck: bool = False

    def learn(self, pull: Pull, wanted: float, step: float) -> None:
        """Keep what was tried if it is better, and say what to try next."""
        if pull.share > self.share:
            self.down, self.share = self.tried, pull.share
        elif self.share < wanted:
            self.stuck = True
        if pull.share >= wanted:
            return
        if not self.stuck:
            self.tried = self.tried + pull.plain.array * np.float32(step)
        elif pull.share < self.share / 2:  # overshot: half way back to the best
            self.tried = (self.tried + self.down) * np.float32(0.5)
        else:
            length = _CAREFUL * max(float(np.linalg.norm(self.tried)), step / _STRONGER)
            self.tried = self.tried + pull.steepest.array * np.float32(length)


def insert(
    statement: ast.Insert, rows: Sequence[Row], how: Composing, context: Context
) -> EditResult:
    """Compose facts and report what that changed.

    Raises:
        LqlRuntimeError: no feature is free, or a requirement is not met.
        LqlCapabilityError: the layer has experts.
    """
    started = time.perf_counter()
    only = f"{rows[0].entity} —{rows[0].relation}→ {rows[0].target}"
    title = f"INSERT {only}" if len(rows) == 1 else f"INSERT {len(rows)} facts"
    operations = composed(rows, how, context, statement.title)
    result = made(statement, title, operations, context, started, mode="compose")
    _explain(result, context)
    return result


def alpha_of(slot: ast.NumberSlot | None) -> float | None:
    """The value of ALPHA.

    Raises:
        LqlTypeError: it is not positive.
    """
    if slot is None:
        return None
    assert isinstance(slot, ast.Number), "statements are bound before they run"
    if not 0.0 < slot.value < 1e6:
        raise LqlTypeError(
            Diagnostic(Code.OUT_OF_RANGE, "ALPHA is a positive number", span=slot.span)
        )
    return slot.value


def composed(
    rows: Sequence[Row],
    how: Composing,
    context: Context,
    title: str,
    view: EditView | None = None,
) -> list[Operation]:
    """The operations that compose facts, in the place of inserted ones with the same names.

    Args:
        view: what they are composed over; the view in effect by default.
    """
    view = context.state.overlay.view if view is None else view
    operations: list[Operation] = []
    for row in rows:
        name = fact_name(row.entity, row.relation)
        if name in view.facts:
            operations.append(DropFacts(row.entity, row.relation))
        old = view.composed.get(name)
        if old is not None:
            operations += switched_off([old], f"replaced by {row.target}")
    for number, row in enumerate(rows, 1):
        context.cancel.check(f"composing fact {number}/{len(rows)}")
        now = with_operations(view, operations)
        operations += _Composition(row, how, now, context, title).operations()
    return operations


class _Composition:
    """One fact over one state of the model."""

    def __init__(
        self, row: Row, how: Composing, view: EditView, context: Context, title: str
    ) -> None:
        self._row = row
        self._how = how
        self._view = view
        self._context = context
        self._title = title
        self._model: LoadedModel = context.model_with(view, title)
        self._composer: Composer = self._model.composer()
        self._asked = [self._ids(each) for each in key_prompts(row.entity, row.relation)]

    def operations(self) -> list[PutFeature]:
        """The features of the fact."""
        row, how, composer = self._row, self._how, self._composer
        if not composer.possible_at(how.layer):
            raise LqlCapabilityError(
                Diagnostic(
                    Code.UNSUPPORTED,
                    f"layer {how.layer} has experts, and a fact is composed into one FFN",
                    helps=("MODE KNN stores the fact beside the weights",),
                )
            )
        ids = self._model.target_ids(row.target)
        if not ids:
            raise LqlRuntimeError(
                Diagnostic(Code.FACTS_INVALID, f'the target "{row.target}" holds no token')
            )
        parts = self._parts(ids)
        self._balance(parts)
        return [self._operation(part) for part in parts]

    def _ids(self, prompt: str) -> Ids:
        return self._model.encode(prompt).ids

    def _parts(self, ids: Ids) -> list[_Part]:
        row, how, cancel = self._row, self._how, self._context.cancel
        taught = [self._ids(each) for each in lessons(row.entity, row.relation)]
        inserted: list[Fact | ComposedFact] = [
            *self._view.composed.values(),
            *self._view.facts.values(),
        ]
        for other in inserted:
            if other.name != fact_name(row.entity, row.relation):
                taught += [self._ids(each) for each in key_prompts(other.entity, other.relation)]
        # Each feature says its token once: it keeps shut where the target goes on.
        taught += [(*prompt, *ids) for prompt in self._asked]
        parts = []
        slots = self._free_slots(len(ids))
        for place, (token, slot) in enumerate(zip(ids, slots, strict=True)):
            said = ids[:place]
            asked = [(*prompt, *said) for prompt in self._asked]
            others = taught if not said else [*taught, *((*prompt, *said) for prompt in taught)]
            found = self._composer.detector(asked, others, how.layer, cancel)
            nothing = np.zeros(len(found.gate), np.float32)
            parts.append(_Part(slot, token, asked, found, nothing, nothing))
        return parts

    # ------------------------------------------------------------------------- features

    def _free_slots(self, count: int) -> list[Slot]:
        """The layer's quietest features that hold no edit.

        Raises:
            LqlRuntimeError: the model uses them, or there are none.
        """
        layer, cancel = self._how.layer, self._context.cancel
        texts = [self._ids(each) for each in (*ORDINARY, *CONTROLS)]
        edits = self._view.features
        taken = {f for (at, f), edit in edits.items() if at == layer and not edit.off}
        free = [f for f in self._composer.quietest(texts, layer, cancel) if f not in taken]
        slots = [(layer, feature) for feature in free[:count]]
        if len(slots) == count and self._how.evict:
            return slots
        if len(slots) == count:
            without = self._with({slot: FeatureEdit(off=True) for slot in slots})
            ours = self._composer.next_shares(texts, cancel).double()
            theirs = without.composer().next_shares(texts, cancel).double()
            drift = float((theirs.exp() * (theirs - ours)).sum(dim=1).mean())
            if drift <= _UNUSED:
                return slots
            said = f"without the quietest the next token of ordinary text drifts {drift:.2g} nats"
        else:
            said = f"{len(taken)} of its features hold edits"
        raise LqlRuntimeError(
            Diagnostic(
                Code.NO_FREE_FEATURE,
                f"layer {layer} has no unused feature: {said}",
                helps=(
                    "EVICT takes the quietest features all the same",
                    "AT LAYER n composes into another layer",
                    "MODE KNN stores the fact beside the weights",
                ),
            )
        )

    # ------------------------------------------------------------------------- strength

    def _balance(self, parts: Sequence[_Part]) -> None:
        """Find down vectors with which every phrasing is answered, or the best there are.

        Each grows along the plain direction until its token is probable enough. Where growing
        further does not help, it takes steps along the steepest one, from the best so far.
        """
        layer, cancel = self._how.layer, self._context.cancel
        step = self._composer.median_down(layer)
        wanted = SAID ** (1 / len(parts))
        for number in range(_ROUNDS):
            cancel.check(f"balancing, round {number + 1}/{_ROUNDS}")
            now = self._with({part.slot: _edit(part, part.tried) for part in parts}).composer()
            for part in parts:
                pull = now.pull(part.asked, part.token, layer, cancel)
                if self._how.alpha is not None:
                    part.tried = part.down = pull.plain.array * np.float32(self._how.alpha * step)
                else:
                    part.learn(pull, wanted, step * _STRONGER**number)
            if self._how.alpha is not None:
                return
            if all(part.share >= wanted for part in parts):
                break
        for part in parts:
            part.tried = part.down
            if part.share < wanted:
                token = self._model.token_text(part.token)
                self._context.note(
                    f"{self._row.entity} —{self._row.relation}→ {self._row.target}: no strength "
                    f'gives "{token}" more than {part.share:.0%} on every phrasing'
                )

    def _with(self, edits: dict[Slot, FeatureEdit]) -> LoadedModel:
        view = EditView(self._view.facts, {**self._view.features, **edits})
        return self._context.model_with(view, self._title)

    def _operation(self, part: _Part) -> PutFeature:
        row, how = self._row, self._how
        embedding = embedding_rows(self._context.vindex(self._title), [part.token])[0]
        token = self._model.token_text(part.token).strip() or row.target
        return PutFeature(
            *part.slot,
            entity=row.entity,
            target=row.target,
            relation=row.relation,
            confidence=how.confidence,
            gate=part.detector.gate,
            up=part.detector.up,
            down=Vector.of(part.down),
            writes=WrittenToken(token, part.token, float(embedding @ part.down)),
        )


def _edit(part: _Part, down: Floats) -> FeatureEdit:
    return FeatureEdit(gate=part.detector.gate, up=part.detector.up, down=Vector.of(down))


def weakest(model: LoadedModel, row: Row, ids: Ids, context: Context) -> float:
    """The smallest probability of a target over the phrasings that its features learnt from."""
    prompts = key_prompts(row.entity, row.relation)
    return min(model.probability(each, ids, cancel=context.cancel) for each in prompts)


def _explain(result: EditResult, context: Context) -> None:
    """Say why neighbours changed: how far their prompts open the fact's features."""
    share = result.measures.neighbours
    if share is None or share >= 0.9:
        return
    changed = [probe for probe in result.probes if probe.kind == "neighbour" and not probe.ok]
    model = context.model(result.statement)
    held = context.state.overlay.view.composed
    for probe in changed[:5]:
        facts = [each for each in result.facts if each.relation == probe.relation]
        for fact in facts[:1]:
            found = held.get(fact_name(fact.entity, fact.relation))
            if found is None or probe.prompt is None:
                continue
            prompt = canonical(fact.entity, fact.relation)
            own, theirs = (
                _activations(model, each, found, context) for each in (prompt, probe.prompt)
            )
            first = max(own, key=lambda slot: abs(own[slot]))
            far = theirs[first] / own[first] if own[first] else 0.0
            context.note(
                f'"{probe.prompt}" changed: it opens the feature of {fact.entity} '
                f"{far:.0%} as far, and a later token may"
            )


def _activations(
    model: LoadedModel, prompt: str, fact: ComposedFact, context: Context
) -> dict[Slot, float]:
    """How far the end of a prompt opens each feature of a fact."""
    every = 1 << 30
    hits = model.features(prompt, layers=[fact.layer], per_layer=every, cancel=context.cancel)
    found = {(fact.layer, hit.feature): hit.activation for hit in hits.hits[fact.layer]}
    return {slot: found.get(slot, 0.0) for slot in fact.slots}
