"""Patches that say different things about one fact, feature or probe, and which of them is right.

A source is a patch file, or the session for edits that no file holds. What one source says later
replaces what it said before; that is no conflict.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from vindex.edits import (
    ChangeFeature,
    DropFacts,
    DropFeature,
    Fact,
    FactName,
    ForgottenFact,
    Operation,
    PutFact,
    PutFeature,
    Slot,
    WriteFact,
    fact_name,
)
from vindex.overlay import Edit
from vindex.probes import PutLabel, PutProbe

SESSION = "the session"
_CERTAIN = 1.0  # what an operation without a confidence counts


class _Kind(Enum):
    FACT = "fact"
    FEATURE = "feature"
    PROBE = "probe"
    LABEL = "label"


_Key = tuple[_Kind, FactName | Slot]


@dataclass(frozen=True, slots=True)
class Contest:
    """A fact or feature that several sources set differently.

    Attributes:
        what: its name, for people.
        sayings: each source and what it says last, in the order in which the sources came.
    """

    what: str
    sayings: tuple[tuple[str, Operation], ...]

    @property
    def winner(self) -> str:
        """The source with the highest confidence; of several the last."""
        return max(reversed(self.sayings), key=lambda saying: confidence_of(saying[1]))[0]

    def __str__(self) -> str:
        said = (f"{_said(operation)} ({source})" for source, operation in self.sayings)
        return f"{self.what}: {'; '.join(said)}"


def contests(edits: Iterable[Edit], base: Iterable[Fact]) -> tuple[Contest, ...]:
    """What the edits do not agree about.

    Args:
        edits: in order.
        base: facts that the vindex itself holds.
    """
    return tuple(_contests(tuple(edits), tuple(base)).values())


def most_confident(edits: Iterable[Edit], base: Iterable[Fact]) -> Iterator[Operation]:
    """The operations of the edits, without those that lose a contest."""
    edits, base = tuple(edits), tuple(base)
    names = _names(edits, base)
    winners = {key: contest.winner for key, contest in _contests(edits, base).items()}
    for edit in edits:
        source = edit.patch or SESSION
        for operation in edit.operations:
            touched = _touched(operation, names)
            kept = [key for key in touched if winners.get(key, source) == source]
            if len(kept) == len(touched):
                yield operation
            elif isinstance(operation, DropFacts):
                yield from (DropFacts(*map(str, name)) for _, name in kept)


def confidence_of(operation: Operation) -> float:
    """What an operation says of its own certainty; one that says nothing is certain."""
    match operation:
        case PutFact(fact) | WriteFact(fact):
            return fact.confidence
        case PutFeature(confidence=confidence) if confidence is not None:
            return confidence
        case _:
            return _CERTAIN


def _contests(edits: tuple[Edit, ...], base: tuple[Fact, ...]) -> Mapping[_Key, Contest]:
    names = _names(edits, base)
    said: dict[_Key, dict[str, Operation]] = {}
    for edit in edits:
        for operation in edit.operations:
            for key in _touched(operation, names):
                said.setdefault(key, {})[edit.patch or SESSION] = operation
    return {
        key: Contest(_named(key), tuple(sources.items()))
        for key, sources in said.items()
        if len(set(sources.values())) > 1
    }


def _names(edits: tuple[Edit, ...], base: tuple[Fact, ...]) -> frozenset[FactName]:
    put = {
        operation.fact.name
        for edit in edits
        for operation in edit.operations
        if isinstance(operation, PutFact | WriteFact)
    }
    return frozenset(put | {fact.name for fact in base})


def _touched(operation: Operation, names: Collection[FactName]) -> tuple[_Key, ...]:
    match operation:
        case PutFact(fact):
            return ((_Kind.FACT, fact.name),)
        case WriteFact(written):
            return ((_Kind.FACT, written.name),)
        case DropFacts(entity, str(relation)):
            return ((_Kind.FACT, fact_name(entity, relation)),)
        case DropFacts(entity):
            gone = fact_name(entity, "")[0]
            return tuple((_Kind.FACT, name) for name in sorted(names) if name[0] == gone)
        case PutFeature() | ChangeFeature() | DropFeature():
            return ((_Kind.FEATURE, (operation.layer, operation.feature)),)
        case PutProbe(probe):
            return ((_Kind.PROBE, fact_name(probe.entity, probe.relation)),)
        case PutLabel(label):
            return ((_Kind.LABEL, (label.layer, label.feature)),)
        case _:
            assert_never(operation)


def _named(key: _Key) -> str:
    kind, (first, second) = key
    match kind:
        case _Kind.FACT:
            return f"{first} —{second}→"
        case _Kind.PROBE:
            return f"the probe {first} —{second}→"
        case _Kind.FEATURE:
            return f"feature {first}:{second}"
        case _Kind.LABEL:
            return f"the label of feature {first}:{second}"
        case _:
            assert_never(kind)


def _said(operation: Operation) -> str:
    match operation:
        case WriteFact(ForgottenFact() as forgotten):
            return forgotten.target
        case PutFact(fact) | WriteFact(fact):
            return f"{fact.target} at confidence {fact.confidence:g}"
        case PutFeature():
            return f"{operation.target} at confidence {confidence_of(operation):g}"
        case DropFacts() | DropFeature():
            return "removed"
        case PutProbe(probe):
            return ", ".join(answer.target for answer in probe.answers) or "no answer"
        case PutLabel(label):
            return label.relation
        case _:
            return "changed"
