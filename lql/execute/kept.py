"""Answers that need not be asked for again: the vindex keeps them, or else the session.

An answer depends on the weights, on what is asked, and on how it is computed. All of that is in the
key under which it is kept, so answers of another model or catalogue are simply not there. Reading
them loads no model. Where edits change the model, nothing is read and nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lql import catalogue
from lql.context import Context
from lql.execute.asking import METHOD
from vindex.errors import VindexError
from vindex.index import dump_index
from vindex.kept_answers import (
    Answer,
    KeptAnswers,
    dump_answers,
    key_of,
    parse_answers,
    read_value,
    write_value,
)
from vindex.store import Vindex

if TYPE_CHECKING:
    from lql.inference.answers import Meaning

#: Changes with the way answers are found, so that kept ones are asked for anew, as with ``METHOD``.
_METHOD = "1"
#: Entities that a session without a place to write remembers.
_REMEMBERED = 512


@dataclass(slots=True)
class Answers:
    """The answers of one model.

    Attributes:
        directory: of the vindex that keeps them, or ``None``: the session does.
        made_for: digest of the model and the catalogue.
        remembered: by key, where there is no directory.
    """

    directory: Path | None
    made_for: str
    remembered: dict[str, Any] = field(default_factory=dict)

    def read(self, key: str) -> Any:
        """What is kept under a key, or ``None``."""
        if self.directory is None:
            return self.remembered.get(key)
        return read_value(self.directory, self.made_for, key)

    def write(self, key: str, value: Any) -> None:
        """Keep what JSON can hold; where the vindex cannot be written, for this session only."""
        if self.directory is not None:
            try:
                write_value(self.directory, self.made_for, key, value)
            except (OSError, VindexError):
                self.directory = None
        if self.directory is None:
            self.remembered[key] = value
            while len(self.remembered) > _REMEMBERED:
                del self.remembered[next(iter(self.remembered))]


def kept(entity: str, least: float, context: Context) -> KeptAnswers | None:
    """What the model in use said about an entity when it was asked last.

    Args:
        entity: a name, without line breaks.
        least: answers of a lower score were not wanted.
    """
    answers = _answers(context)
    return None if answers is None else parse_answers(answers.read(_key(entity, least, context)))


def keep(
    entity: str,
    least: float,
    kinds: Sequence[str],
    answers: Sequence[Answer],
    context: Context,
) -> None:
    """Keep what the model in use says about an entity; see ``kept``."""
    place = _answers(context)
    if place is not None:
        today = datetime.now(UTC).date().isoformat()
        key = _key(entity, least, context)
        place.write(key, dump_answers(KeptAnswers(today, tuple(kinds), tuple(answers))))


def kept_meanings(
    word: str, about: str, relations: Sequence[str], context: Context
) -> tuple[str, list[Meaning]] | None:
    """What a word means to the model in use, as it was found before; see ``keep_meanings``."""
    from lql.inference.answers import Meaning

    answers = _answers(context)
    value = None if answers is None else answers.read(key_of("meaning", word, about, *relations))
    try:
        return None if value is None else (str(value[0]), [Meaning(*each) for each in value[1]])
    except (TypeError, IndexError, KeyError):
        return None


def keep_meanings(
    word: str,
    about: str,
    relations: Sequence[str],
    kind: str,
    found: Sequence[Meaning],
    context: Context,
) -> None:
    """Keep what a word means.

    Args:
        about: the entity or kind that was asked about.
        relations: that were compared.
        kind: that the word was tried on.
        found: the likeliest of them, best first.
    """
    answers = _answers(context)
    if answers is not None:
        value = [
            kind,
            [[each.relation, each.similarity, each.agreement, each.called] for each in found],
        ]
        answers.write(key_of("meaning", word, about, *relations), value)


def _answers(context: Context) -> Answers | None:
    """Those of the model in use; ``None`` while edits make it another one."""
    state = context.state
    if state.overlay.view.changes_weights:
        return None
    if state.answers is None:
        source = context.source()
        # What a checkpoint completes has no digest of its own.
        model = _identity(source) if type(source) is Vindex else None
        known = f"{_METHOD} {METHOD} {catalogue.digest()} {model}"
        state.answers = Answers(
            directory=source.path if isinstance(source, Vindex) and model is not None else None,
            made_for=hashlib.sha256(known.encode()).hexdigest(),
        )
    return state.answers


def _identity(vindex: Vindex) -> str | None:
    """What tells the model of a vindex, as it was opened, from any other, if something does."""
    if vindex.seal is not None:
        return vindex.seal.weights_digest()
    if not vindex.index.checksums:
        return None
    return hashlib.sha256(dump_index(vindex.index)).hexdigest()


def _key(entity: str, least: float, context: Context) -> str:
    defined = [asdict(relation) for relation in context.state.defined.values()]
    return key_of(
        entity, repr(least), json.dumps(defined, sort_keys=True), context.state.device.value
    )
