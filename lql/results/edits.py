"""Results of statements that edit: the report of an edit, and lists of edits and patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lql.results.base import Column, Form, Kind, Record, Result, Unit, fields_of

COMPARED_TOKENS = 6
"""Greedy tokens of an answer that a report compares, or as many as the target has."""


@dataclass(frozen=True, slots=True)
class FactRow:
    """A fact that was stored, changed or removed.

    Attributes:
        target: the target now; ``None`` after a removal.
        replaced: the stored target before, or ``None`` where no fact stood.
        confidence: what the user said.
        aliases: other names of the entity.
        own: it was the model's own fact; ``replaced`` is what the model said.
    """

    entity: str
    relation: str
    target: str | None
    replaced: str | None
    layer: int
    confidence: float
    aliases: tuple[str, ...] = ()
    own: bool = False


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature that was changed or switched off.

    Attributes:
        before, after: the token it writes most; ``None`` for none.
    """

    layer: int
    feature: int
    before: str | None
    after: str | None

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"feature {self.layer}:{self.feature}"


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """A prompt before and after an edit.

    Attributes:
        entity: of the fact; of a feature ``feature layer:number``.
        kind: ``canonical``, ``paraphrase``, ``neighbour``, ``control`` or ``feature``, the last at
            the unrelated prompt where the feature did most; ``fact`` where nothing was measured.
        before, after: what the model says, greedily; ``None`` where it was not asked.
        probability_before, probability_after: of the target's tokens (canonical, paraphrase), or
            of the answers that a forgotten fact had; of the token that the feature now writes, or
            wrote (feature).
        divergence: KL of the next token's distribution after from before, in nats (control).
        ok: the target is said, or no longer said after a removal (canonical, paraphrase); the text
            is as before (neighbour, control).
    """

    entity: str
    relation: str | None
    target: str | None
    kind: str
    prompt: str | None = None
    before: str | None = None
    after: str | None = None
    probability_before: float | None = None
    probability_after: float | None = None
    divergence: float | None = None
    ok: bool | None = None


@dataclass(frozen=True, slots=True)
class Measures:
    """An edit in numbers; ``None`` for what was not measured.

    Attributes:
        efficacy: share of the facts whose canonical prompt is answered with the target.
        paraphrases: the same of other prompts.
        neighbours: share of prompts about other entities after which the model says the same
            ``COMPARED_TOKENS`` as before, greedily.
        controls: mean KL on unrelated prompts, in nats.
    """

    efficacy: float | None = None
    paraphrases: float | None = None
    neighbours: float | None = None
    controls: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult(Result):
    """What INSERT, UPDATE or DELETE did, and what it changed and damaged.

    Attributes:
        statement: ``INSERT``, ``UPDATE`` or ``DELETE``.
        mode: how the edit is held: ``knn`` beside the weights, ``compose`` in features of its own,
            ``memit`` in down matrices, ``features`` in the model's features.
        features: the features that a statement about features touched.
        check: how much was measured: ``none``, ``quick`` or ``full``.
        seconds: wall time of edit and measurement.
        size_bytes: what the edit takes in memory: keys and texts.
    """

    form: ClassVar[Form] = Form.RECORD
    statement: str
    mode: str
    check: str
    facts: tuple[FactRow, ...]
    measures: Measures
    probes: tuple[ProbeRow, ...]
    seconds: float
    size_bytes: int
    features: tuple[FeatureRow, ...] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """One row per probe; where nothing was measured, one per fact and feature."""
        return (
            Column("entity", Kind.TEXT),
            Column("relation", Kind.TEXT),
            Column("target", Kind.TEXT),
            Column("kind", Kind.TEXT),
            Column("prompt", Kind.TEXT),
            Column("before", Kind.TOKEN),
            Column("after", Kind.TOKEN),
            Column("probability_before", Kind.NUMBER, Unit.PROBABILITY),
            Column("probability_after", Kind.NUMBER, Unit.PROBABILITY),
            Column("divergence", Kind.NUMBER),
            Column("ok", Kind.BOOLEAN),
        )

    def records(self) -> Sequence[ProbeRow]:
        """The probes, or the facts and features."""
        facts = (ProbeRow(each.entity, each.relation, each.target, "fact") for each in self.facts)
        features = (ProbeRow(each.name, None, each.after, "feature") for each in self.features)
        return self.probes or (*facts, *features)

    def to_dict(self) -> dict[str, Any]:
        """Facts, measures and probes."""
        return {
            "statement": self.statement,
            "mode": self.mode,
            "check": self.check,
            "facts": [fields_of(fact) for fact in self.facts],
            "features": [fields_of(feature) for feature in self.features],
            "measures": fields_of(self.measures),
            "probes": [fields_of(probe) for probe in self.probes],
            "seconds": self.seconds,
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True, slots=True)
class EditRow:
    """An edit in effect.

    Attributes:
        number: from 1, oldest first.
        operations: how many it consists of.
        patch: the file that holds it, or ``None`` while no file does.
    """

    number: int
    edit: str
    operations: int
    patch: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EditsResult(Result):
    """SHOW EDITS."""

    edits: tuple[EditRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """One row per edit."""
        return (
            Column("number", Kind.INTEGER),
            Column("edit", Kind.TEXT),
            Column("operations", Kind.INTEGER),
            Column("patch", Kind.TEXT),
        )

    def records(self) -> Sequence[EditRow]:
        """Oldest first."""
        return self.edits


@dataclass(frozen=True, slots=True)
class ConflictRow:
    """Something that a patch sets otherwise than an edit before it."""

    what: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchResult(Record):
    """What a statement about edits and patches did: APPLY, SAVE, REMOVE, BEGIN, DISCARD, UNDO.

    Attributes:
        patch: the file; ``None`` for UNDO and DISCARD PATCH.
        edits: titles of the edits that were made, written or taken back.
        operations: how many operations those are.
        conflicts: what the patch sets otherwise than before; the patch wins.
        left: edits in effect now.
        size_bytes: of the file that was written, or ``None``.
    """

    statement: str
    patch: str | None
    edits: tuple[str, ...]
    operations: int
    conflicts: tuple[ConflictRow, ...] = ()
    left: int
    size_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The facts, conflicts as objects."""
        facts = fields_of(self, without=("meta", "conflicts"))
        return facts | {"conflicts": [fields_of(each) for each in self.conflicts]}


@dataclass(frozen=True, slots=True)
class DiffRow:
    """A difference between two vindexes.

    Attributes:
        status: ``added``, ``removed`` or ``modified``.
        layer, feature: of a feature; a stored fact has no feature.
        relation: the label or the fact's relation.
        left, right: what each side writes or answers.
        changed: what differs: ``gate``, ``up``, ``down``, ``token``, ``score``, ``fact``.
    """

    status: str
    layer: int
    feature: int | None
    entity: str | None
    relation: str | None
    left: str | None
    right: str | None
    changed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffResult(Result):
    """DIFF.

    Attributes:
        left, right: what was compared.
        differences: facts first, then features ascending.
        patch: the file that was written, or ``None``.
    """

    left: str
    right: str
    differences: tuple[DiffRow, ...]
    patch: str | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """One row per difference."""
        return (
            Column("status", Kind.TEXT),
            Column("layer", Kind.INTEGER),
            Column("feature", Kind.INTEGER),
            Column("entity", Kind.TEXT),
            Column("relation", Kind.TEXT),
            Column("left", Kind.TOKEN),
            Column("right", Kind.TOKEN),
            Column("changed", Kind.TEXT),
        )

    def records(self) -> Sequence[DiffRow]:
        """The differences."""
        return self.differences
