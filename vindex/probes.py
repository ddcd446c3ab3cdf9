"""What was asked of a model and kept: answers by entity, and the labels that follow from them.

Both are edits of the overlay like any other, in effect until they are taken back, though neither
changes what the model computes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """One answer.

    Attributes:
        target: whole words; ``token_id`` is the first token of the answer.
        probability: of the whole target, 0..1.
        lift_nats: log of how many times more probable its first token is than for others.
        signal: ``none``, ``weak`` or ``clear``.
        source: the text that it completes, without the examples before it.
    """

    target: str
    token_id: int
    probability: float
    lift_nats: float
    signal: str
    source: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What a model answered when it was asked for a relation of an entity.

    Attributes:
        kind: the kind of thing that the entity was asked about as.
        templates: of the question, with ``{entity}`` or as lines of a card.
        top: how many answers were asked for; ``answers`` may be fewer, and none at all.
        answers: best first.
    """

    entity: str
    relation: str
    kind: str
    templates: tuple[str, ...]
    top: int
    answers: tuple[ProbeAnswer, ...]

    def __str__(self) -> str:
        said = ", ".join(answer.target for answer in self.answers) or "no answer"
        return f"{self.entity} —{self.relation}→ {said}"


@dataclass(frozen=True, slots=True)
class FeatureLabel:
    """A relation as the name of a feature.

    Attributes:
        support: how many probed entities' answers the feature carries, or ``None`` for a label
            that was read from a file.
        precision: measured on entities that had no part in choosing the label: of the questions
            whose answers the feature carries, were every relation asked as often as all others
            together, the share that ask for this one.
    """

    layer: int
    feature: int
    relation: str
    support: int | None = None
    precision: float | None = None


@dataclass(frozen=True, slots=True)
class PutProbe:
    """Keep a probe, in the place of one of the same entity and relation."""

    probe: Probe


@dataclass(frozen=True, slots=True)
class PutLabel:
    """Label a feature, in the place of the label that it bears."""

    label: FeatureLabel
