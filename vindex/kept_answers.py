"""Answers that a model gave about entities, kept beside its weights, so as not to ask again.

The sidecar ``lql_kept_answers.bin`` holds a line for each entity and way of asking, the one that
was kept first in front: its key, a space, JSON. It is read without a model, and may be deleted at
any time. The oldest lines make room where it would grow beyond ``MAX_BYTES``. Two processes that
keep answers at the same moment may lose one of them, which costs no more than asking again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vindex.sidecar import read_sidecar, write_sidecar
from vindex.signals import Signal

FILE = "lql_kept_answers.bin"
#: Bytes of all kept answers: about a thousand entities.
MAX_BYTES = 2 << 20

_FORMAT = 1
_HEAD_BYTES = 1 << 12


class Answer(Protocol):
    """What is kept of an answer, and told of any."""

    @property
    def relation(self) -> str:
        """What was asked for."""

    @property
    def target(self) -> str:
        """Whole words."""

    @property
    def probability(self) -> float:
        """Of the target, 0..1."""

    @property
    def lift_nats(self) -> float:
        """Log of how many times more probable its first token is than for others."""

    @property
    def score(self) -> float:
        """What answers are ranked by."""

    @property
    def signal(self) -> Signal:
        """How sure it is that the answer is about the entity."""

    @property
    def source(self) -> str:
        """The text that it completes."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """One answer, as plain values; see ``Answer``."""

    relation: str
    target: str
    probability: float
    lift_nats: float
    score: float
    signal: Signal
    source: str


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """What a model said about an entity.

    Attributes:
        date: when it was asked, ``YYYY-MM-DD``.
        kinds: what it took the entity for, most probable first.
        answers: best first.
    """

    date: str
    kinds: tuple[str, ...]
    answers: tuple[Answer, ...]


def key_of(*parts: str) -> str:
    """The key of an entity and a way of asking: everything that the answers depend on."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read_kept(directory: Path, made_for: str, key: str) -> KeptAnswers | None:
    """The kept answers of a key.

    Args:
        made_for: digest of the model and of what it is asked.

    Returns:
        ``None`` where there are none, or the file is not whole or was made for another model.
    """
    return parse_answers(read_value(directory, made_for, key))


def write_kept(directory: Path, made_for: str, key: str, kept: KeptAnswers) -> None:
    """Keep answers under a key, in the place of those that it has.

    Raises:
        OSError: the directory cannot be written.
        VindexError: its seal is malformed.
    """
    write_value(directory, made_for, key, dump_answers(kept))


def read_value(directory: Path, made_for: str, key: str) -> Any:
    """What is kept under a key, as JSON holds it; ``None`` where nothing is."""
    start = f"{key} ".encode()
    line = next((each for each in _lines(directory, made_for) if each.startswith(start)), None)
    try:
        return None if line is None else json.loads(line[len(start) :])
    except ValueError:
        return None


def write_value(directory: Path, made_for: str, key: str, value: Any) -> None:
    """Keep what JSON can hold; see ``write_kept``."""
    start = f"{key} ".encode()
    lines = [each for each in _lines(directory, made_for) if not each.startswith(start)]
    lines.append(start + json.dumps(value).encode())
    size = sum(len(each) + 1 for each in lines)
    while size > MAX_BYTES:
        size -= len(lines.pop(0)) + 1
    payload = b"".join(each + b"\n" for each in lines)
    write_sidecar(directory / FILE, made_for, _FORMAT, {"entries": len(lines)}, payload)


def _lines(directory: Path, made_for: str) -> Sequence[bytes]:
    found = read_sidecar(directory / FILE, made_for, _FORMAT, MAX_BYTES + _HEAD_BYTES)
    return () if found is None else found[1].splitlines()


def dump_answers(kept: KeptAnswers) -> dict[str, Any]:
    """Answers as JSON holds them."""
    return {
        "date": kept.date,
        "kinds": kept.kinds,
        "answers": [
            [a.relation, a.target, a.probability, a.lift_nats, a.score, a.signal.value, a.source]
            for a in kept.answers
        ],
    }


def parse_answers(fields: Any) -> KeptAnswers | None:
    """What ``dump_answers`` made; ``None`` of anything else."""
    try:
        return KeptAnswers(
            str(fields["date"]),
            tuple(map(str, fields["kinds"])),
            tuple(
                KeptAnswer(
                    str(relation),
                    str(target),
                    float(probability),
                    float(lift_nats),
                    float(score),
                    Signal(signal),
                    str(source),
                )
                for relation, target, probability, lift_nats, score, signal, source in fields[
                    "answers"
                ]
            ),
        )
    except (ValueError, KeyError, TypeError):
        return None
