"""The operations of an overlay: typed, frozen, compared by content.

There is one class per operation of a ``.vlp`` file, two of them in ``vindex.probes``. Folding a
sequence of them over what the base holds gives an ``EditView``, the effective edits; nothing else
decides what an operation means.

Shape legend: D hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from vindex.probes import FeatureLabel, Probe, PutLabel, PutProbe

Float32 = npt.NDArray[np.float32]

FactName: TypeAlias = tuple[str, str]
"""Entity and relation as they are compared: without case, ``-`` and ``_`` read as spaces."""

Slot: TypeAlias = tuple[int, int]
"""Layer and feature."""

_BLANKS = re.compile(r"[\s_-]+")


@dataclass(frozen=True, slots=True)
class Vector:
    """A vector ``[D]`` as little-endian float32 bytes: hashable, and equal only bit for bit."""

    data: bytes

    @staticmethod
    def of(values: npt.ArrayLike) -> Vector:
        """The vector with these values."""
        return Vector(np.ascontiguousarray(values, "<f4").tobytes())

    @property
    def array(self) -> Float32:
        """A read-only view, ``[D]`` float32."""
        return np.frombuffer(self.data, "<f4")

    def __len__(self) -> int:
        return len(self.data) // 4


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of the residual key store (INSERT … MODE KNN).

    Attributes:
        layer: whose FFN input is compared with the keys.
        target: the whole text that the fact forces; ``target_id`` is its first token.
        keys: FFN inputs at the last token of prompts that the target completes, ``[D]`` each; the
            canonical prompt's comes first. Their length carries no meaning, only their direction.
        confidence: 0..1, what the user said.
        aliases: other names of the entity.
    """

    layer: int
    entity: str
    relation: str
    target: str
    target_id: int
    keys: tuple[Vector, ...]
    confidence: float = 1.0
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> FactName:
        """What identifies the fact: an overlay holds one target per name."""
        return fact_name(self.entity, self.relation)

    def __str__(self) -> str:
        return f"{self.entity} —{self.relation}→ {self.target}"


@dataclass(frozen=True, slots=True)
class Piece:
    """What a fact adds to the down matrix of a layer: ``right`` for every key, times ``key·left``.

    Attributes:
        left: ``[F]``, over the features of the layer.
        right: ``[D]``.
    """

    layer: int
    left: Vector
    right: Vector


@dataclass(frozen=True, slots=True)
class WrittenFact:
    """A fact that is written into down matrices (INSERT … MODE MEMIT).

    Attributes:
        pieces: one for each layer, ascending.
        confidence: 0..1, what the user said.
        aliases: other names of the entity.
    """

    entity: str
    relation: str
    target: str
    pieces: tuple[Piece, ...]
    confidence: float = 1.0
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> FactName:
        """What identifies the fact: an overlay holds one target per name."""
        return fact_name(self.entity, self.relation)

    @property
    def layer(self) -> int:
        """The last of its layers."""
        return self.pieces[-1].layer

    def __str__(self) -> str:
        return f"{self.entity} —{self.relation}→ {self.target}"


@dataclass(frozen=True, slots=True)
class ForgottenFact:
    """A fact of the model's own that it no longer says (DELETE of the model's own facts).

    Attributes:
        answers: what it no longer says, each a whole text.
        pieces: one for each layer, ascending.
    """

    entity: str
    relation: str
    answers: tuple[str, ...]
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> FactName:
        """What identifies the fact: an overlay says one thing of a name."""
        return fact_name(self.entity, self.relation)

    @property
    def target(self) -> str:
        """What there is in a target's place, for people."""
        return f"not {' or '.join(self.answers)}"

    @property
    def layer(self) -> int:
        """The last of its layers."""
        return self.pieces[-1].layer

    @property
    def confidence(self) -> float:
        """Nobody doubts a removal."""
        return 1.0

    @property
    def aliases(self) -> tuple[str, ...]:
        """None."""
        return ()

    def __str__(self) -> str:
        return f"{self.entity} —{self.relation}→ {self.target}"


AnyWritten: TypeAlias = WrittenFact | ForgottenFact
"""What down matrices hold of a fact: that it is so, or that it is not."""


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """The token that an edited feature is said to write: text, id and score."""

    token: str
    token_id: int
    score: float


@dataclass(frozen=True, slots=True)
class PutFact:
    """Store a fact, in the place of one with the same name."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class WriteFact:
    """Write a fact, or its absence, into down matrices, in the place of one of the same name."""

    fact: AnyWritten


@dataclass(frozen=True, slots=True)
class DropFacts:
    """Remove the facts of an entity, stored or written: one relation's, or all for ``None``."""

    entity: str
    relation: str | None = None


@dataclass(frozen=True, slots=True)
class PutFeature:
    """Write a fact into a feature's vectors; a vector that is ``None`` stays as it is."""

    layer: int
    feature: int
    entity: str
    target: str
    relation: str | None = None
    confidence: float | None = None
    gate: Vector | None = None
    up: Vector | None = None
    down: Vector | None = None
    writes: WrittenToken | None = None


@dataclass(frozen=True, slots=True)
class ChangeFeature:
    """Replace vectors of a feature, or what it is said to write; ``None`` leaves as it is."""

    layer: int
    feature: int
    gate: Vector | None = None
    up: Vector | None = None
    down: Vector | None = None
    writes: WrittenToken | None = None


@dataclass(frozen=True, slots=True)
class DropFeature:
    """Switch a feature off: it responds to nothing and writes nothing."""

    layer: int
    feature: int
    reason: str | None = None


FeatureOperation: TypeAlias = PutFeature | ChangeFeature | DropFeature
Operation: TypeAlias = PutFact | WriteFact | DropFacts | FeatureOperation | PutProbe | PutLabel


@dataclass(frozen=True, slots=True)
class FeatureEdit:
    """What the operations on one feature come to.

    Attributes:
        off: the feature was switched off.
        gate, up, down: vectors in the place of the stored ones, or ``None``.
        writes: token in the place of the described one, or ``None``.
        relation: the relation of the fact that was written into it, or ``None``.
        entity, target, confidence: likewise; ``entity`` is ``None`` where no fact was written.
    """

    off: bool = False
    gate: Vector | None = None
    up: Vector | None = None
    down: Vector | None = None
    writes: WrittenToken | None = None
    relation: str | None = None
    entity: str | None = None
    target: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class ComposedFact:
    """A fact that features hold (INSERT … MODE COMPOSE).

    Attributes:
        slots: its features, one for each token of the target, ascending.
    """

    entity: str
    relation: str
    target: str
    confidence: float
    slots: tuple[Slot, ...]

    @property
    def layer(self) -> int:
        """Where its features are."""
        return self.slots[0][0]

    @property
    def aliases(self) -> tuple[str, ...]:
        """None: features answer to what is like the prompts they were made for."""
        return ()

    @property
    def name(self) -> FactName:
        """What identifies the fact."""
        return fact_name(self.entity, self.relation)

    def __str__(self) -> str:
        return f"{self.entity} —{self.relation}→ {self.target}"


AnyFact: TypeAlias = Fact | WrittenFact | ComposedFact
"""A fact, however it is held."""


@dataclass(frozen=True, slots=True)
class EditView:
    """The effective edits over a base: what every statement reads.

    Attributes:
        facts: stored facts by name, in the order in which they were first stored.
        features: edited features by (layer, feature).
        probes: kept answers by entity and relation, in the order in which they were first kept.
        labels: labels of features by (layer, feature), over those of the base.
        written: facts in down matrices by name, forgotten ones among them; no name is in
            ``facts`` as well.
    """

    facts: Mapping[FactName, Fact]
    features: Mapping[Slot, FeatureEdit]
    probes: Mapping[FactName, Probe] = field(default_factory=dict)
    labels: Mapping[Slot, FeatureLabel] = field(default_factory=dict)
    written: Mapping[FactName, AnyWritten] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.facts or self.probes or self.labels or self.changes_weights)

    @property
    def composed(self) -> Mapping[FactName, ComposedFact]:
        """The facts that edited features hold, by name; by their features, ascending.

        Two targets under one name, which only a patch from elsewhere holds, are one fact with the
        later feature's target.
        """
        found: dict[FactName, ComposedFact] = {}
        for slot, edit in sorted(self.features.items(), key=lambda item: item[0]):
            if edit.entity is None or edit.target is None:
                continue
            confidence = 1.0 if edit.confidence is None else edit.confidence
            fact = ComposedFact(edit.entity, edit.relation or "", edit.target, confidence, (slot,))
            known = found.get(fact.name)
            if known is not None:
                fact = replace(fact, slots=(*known.slots, slot))
            found[fact.name] = fact
        return found

    @property
    def weights(self) -> tuple[Mapping[Slot, FeatureEdit], Mapping[FactName, AnyWritten]]:
        """What a forward pass computes with in the place of the base's weights."""
        return self.features, self.written

    @property
    def changes_weights(self) -> bool:
        """Whether a forward pass computes with other weights than the base's."""
        return any(self.weights)

    @property
    def every_fact(self) -> tuple[AnyFact, ...]:
        """The stored facts, then the written ones, then those that features hold."""
        written = (each for each in self.written.values() if isinstance(each, WrittenFact))
        return (*self.facts.values(), *written, *self.composed.values())

    @property
    def forgotten(self) -> tuple[ForgottenFact, ...]:
        """The facts of the model's own that it no longer says, in the order of their removal."""
        return tuple(each for each in self.written.values() if isinstance(each, ForgottenFact))

    def fact(self, name: FactName) -> AnyFact | None:
        """The fact of that name, however it is held."""
        said = self.saying(name)
        return None if isinstance(said, ForgottenFact) else said

    def saying(self, name: FactName) -> AnyFact | ForgottenFact | None:
        """What the edits say of a name: a fact, or that it is forgotten."""
        return self.facts.get(name) or self.written.get(name) or self.composed.get(name)


def fact_name(entity: str, relation: str) -> FactName:
    """Entity and relation as they are compared."""
    return _BLANKS.sub(" ", entity).strip().casefold(), plain_relation(relation).casefold()


def plain_relation(relation: str) -> str:
    """A relation as words: ``capital-of`` is ``capital of``."""
    return _BLANKS.sub(" ", relation).strip()


def folded(
    base: Iterable[Fact], operations: Iterable[Operation], probes: Iterable[Probe] = ()
) -> EditView:
    """What operations in this order come to, over the facts and probes that the base holds."""
    kept = {fact_name(probe.entity, probe.relation): probe for probe in probes}
    return with_operations(EditView({fact.name: fact for fact in base}, {}, kept), operations)


def with_operations(view: EditView, operations: Iterable[Operation]) -> EditView:
    """What operations in this order come to, over what is in effect."""
    facts = dict(view.facts)
    features = dict(view.features)
    probes = dict(view.probes)
    labels = dict(view.labels)
    written = dict(view.written)
    for operation in operations:
        match operation:
            case PutFact(fact):
                written.pop(fact.name, None)
                facts[fact.name] = fact
            case WriteFact(new):
                facts.pop(new.name, None)
                written[new.name] = new
            case DropFacts(entity, relation) if relation is not None:
                facts.pop(fact_name(entity, relation), None)
                written.pop(fact_name(entity, relation), None)
            case DropFacts(entity):
                gone = fact_name(entity, "")[0]
                facts = {name: fact for name, fact in facts.items() if name[0] != gone}
                written = {name: fact for name, fact in written.items() if name[0] != gone}
            case PutFeature() | ChangeFeature() | DropFeature():
                slot = (operation.layer, operation.feature)
                features[slot] = _edited(features.get(slot, FeatureEdit()), operation)
            case PutProbe(probe):
                probes[fact_name(probe.entity, probe.relation)] = probe
            case PutLabel(label):
                labels[label.layer, label.feature] = label
            case _:
                assert_never(operation)
    return EditView(
        MappingProxyType(facts),
        MappingProxyType(features),
        MappingProxyType(probes),
        MappingProxyType(labels),
        MappingProxyType(written),
    )


def _edited(before: FeatureEdit, operation: FeatureOperation) -> FeatureEdit:
    writes: WrittenToken | None
    match operation:
        case DropFeature():
            return FeatureEdit(off=True)
        case PutFeature():
            writes = operation.writes or WrittenToken(
                operation.target, 0, 0.9 if operation.confidence is None else operation.confidence
            )
            before = replace(
                before,
                off=False,
                relation=operation.relation,
                entity=operation.entity or None,
                target=operation.target,
                confidence=operation.confidence,
            )
        case ChangeFeature():
            writes = operation.writes or before.writes
        case _:
            assert_never(operation)
    return replace(
        before,
        gate=operation.gate or before.gate,
        up=operation.up or before.up,
        down=operation.down or before.down,
        writes=writes,
    )


def compacted(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """The shortest log of the same effect over every base: the last operation on each name.

    Removals come first: larql knows only the removal of all facts of an entity, and a reader that
    takes ours for that still ends with every fact that is stored after it.
    """
    view = folded((), operations := tuple(operations))
    dropped: dict[tuple[str, str | None], DropFacts] = {}
    for operation in operations:
        if isinstance(operation, DropFacts):
            relation = operation.relation
            key = fact_name(operation.entity, relation or "")
            dropped[key[0], None if relation is None else key[1]] = operation
    slots: dict[Slot, list[Operation]] = {}
    for operation in operations:
        if isinstance(operation, PutFeature | ChangeFeature | DropFeature):
            before = slots.setdefault((operation.layer, operation.feature), [])
            if isinstance(operation, DropFeature):
                before.clear()
            before.append(operation)
    return (
        *dropped.values(),
        *(PutFact(fact) for fact in view.facts.values()),
        *(WriteFact(fact) for fact in view.written.values()),
        *(operation for each in slots.values() for operation in each),
        *(PutProbe(probe) for probe in view.probes.values()),
        *(PutLabel(label) for label in view.labels.values()),
    )
