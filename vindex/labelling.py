"""From what features carry to what they are called.

A feature is labelled with a relation where it carries the answers of that relation for entity
after entity, and hardly those of any other. Questions are cut in two: one half chooses the labels,
the other, which had no part in the choice, measures how well they are founded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from vindex.edits import Slot
from vindex.probes import FeatureLabel

LEAST_PRECISION = 0.7
"""A label whose held-out precision is less is not given."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A question that was answered, and the features that carry the answer.

    Attributes:
        answer: what was said; one word said of ten entities supports a label once.
        features: by (layer, feature).
    """

    entity: str
    relation: str
    answer: str
    features: frozenset[Slot]


@dataclass(frozen=True, slots=True)
class Labelling:
    """Labels, and what became of the features that had the support for one.

    Attributes:
        refused: how many had support, and were no better than chance on the held-out half.
    """

    labels: tuple[FeatureLabel, ...]
    refused: int


def label_features(
    asked: Sequence[Carried], relations: Collection[str], *, least_support: int
) -> Labelling:
    """Label features with relations.

    Args:
        asked: questions of these relations and, to compare with, of others.
        relations: those that features are labelled with.
        least_support: different answers that a feature carries in the choosing half.
    """
    choosing, held_out = _halves(asked)
    votes: defaultdict[Slot, Counter[str]] = defaultdict(Counter)
    seen: set[tuple[Slot, str, str]] = set()
    for each in choosing:
        for slot in each.features:
            if each.relation in relations and (slot, each.relation, each.answer) not in seen:
                seen.add((slot, each.relation, each.answer))
                votes[slot][each.relation] += 1
    chosen = Counter(each.relation for each in choosing)
    tested = Counter(each.relation for each in held_out)
    labels, refused = [], 0
    support = _by_relation(asked)
    hits = _by_relation(held_out)
    for slot, counts in sorted(votes.items()):
        enough = [name for name in sorted(counts) if counts[name] >= least_support]
        if not enough:
            continue
        relation = max(enough, key=lambda name: counts[name] / chosen[name])
        precision = _precision(hits[slot], tested, relation)
        if precision is None or precision < LEAST_PRECISION:
            refused += 1
            continue
        labels.append(FeatureLabel(*slot, relation, support[slot][relation], precision))
    return Labelling(tuple(labels), refused)


def _halves(asked: Sequence[Carried]) -> tuple[list[Carried], list[Carried]]:
    """Every other entity of each relation, by name: the same halves whatever the order."""
    places: Counter[str] = Counter()
    halves: tuple[list[Carried], list[Carried]] = ([], [])
    for each in sorted(asked, key=lambda each: (each.relation, each.entity, each.answer)):
        halves[places[each.relation] % 2].append(each)
        places[each.relation] += 1
    return halves


def _by_relation(asked: Iterable[Carried]) -> defaultdict[Slot, Counter[str]]:
    found: defaultdict[Slot, Counter[str]] = defaultdict(Counter)
    for each in asked:
        for slot in each.features:
            found[slot][each.relation] += 1
    return found


def _precision(hits: Counter[str], tested: Counter[str], relation: str) -> float | None:
    """Of the held-out questions that a feature carries, the share of a relation's.

    They are weighed as if the relation were asked as often as all others together; ``None`` where
    there is nothing to compare.
    """
    others = tested.total() - tested[relation]
    if not tested[relation] or not others:
        return None
    own_rate = hits[relation] / tested[relation]
    other_rate = (hits.total() - hits[relation]) / others
    return own_rate / (own_rate + other_rate) if own_rate else 0.0
