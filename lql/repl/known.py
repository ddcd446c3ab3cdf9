"""What the open vindex knows by name, for completion: gathered in the background, swapped in whole.

The gathering thread opens the vindex a second time, so that USE can close the session's own files
at any moment. Looking names up afterwards is a binary search, never a scan of features.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lql.syntax_words import Slot

if TYPE_CHECKING:
    from lql.session import Session
    from vindex.store import Vindex

_NAME = re.compile(r"[A-Z][^\W\d_]+")
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Term:
    """A name, with a word about it.

    Attributes:
        rank: smaller is offered earlier.
    """

    text: str
    meta: str
    rank: int = 0


class Terms:
    """Names of one kind, by prefix in any case.

    Args:
        terms: the first of a spelling is kept.
    """

    def __init__(self, terms: Iterable[Term] = ()) -> None:
        unique: dict[str, Term] = {}
        for term in terms:
            unique.setdefault(term.text, term)
        self._terms = sorted(unique.values(), key=lambda term: term.text.casefold())
        self._keys = [term.text.casefold() for term in self._terms]

    def __len__(self) -> int:
        return len(self._terms)

    def beginning(self, typed: str, limit: int) -> list[Term]:
        """The names that begin with what is typed, best first."""
        folded = typed.casefold()
        first = bisect_left(self._keys, folded)
        last = bisect_left(self._keys, folded + _LAST, first)
        found = islice(self._terms, first, last)
        return nsmallest(limit, found, key=lambda term: (term.rank, term.text))


@dataclass(frozen=True, slots=True)
class Known:
    """The names that can stand in each slot of the grammar."""

    slots: Mapping[Slot, Terms] = field(default_factory=dict)

    def terms(self, slot: Slot) -> Terms:
        """The names for one slot; none where the vindex has nothing to say."""
        return self.slots.get(slot, _NO_TERMS)


_NO_TERMS = Terms()
NOTHING_KNOWN = Known()


class State(Enum):
    """How far the gathering is; the value is what the toolbar says."""

    NOTHING = ""
    LOADING = "reading names"
    READY = "names ready"
    FAILED = "no names"


class KnownNames:
    """The names of what the session has in use.

    Args:
        session: whose vindex; asked on the thread that types.
        gather: reads the names of a vindex. Called on a thread of its own.
        ready: called on that thread once names are there.
    """

    def __init__(
        self,
        session: Session,
        gather: Callable[[Path], Known] | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._session = session
        self._gather = gather or gathered
        self._ready = ready
        self._path: Path | None = None
        self._known = NOTHING_KNOWN
        self.state = State.NOTHING

    def now(self) -> Known:
        """What is known by now; begins to read another vindex where one was opened."""
        path = _path(self._session)
        if path != self._path:
            self._path, self._known = path, NOTHING_KNOWN
            self.state = State.NOTHING if path is None else State.LOADING
            if path is not None:
                thread = threading.Thread(
                    target=self._read, args=(path,), name="lql-names", daemon=True
                )
                thread.start()
        return self._known

    def _read(self, path: Path) -> None:
        from vindex.errors import VindexError

        try:
            known, state = self._gather(path), State.READY
        except (VindexError, OSError):  # whoever opened it was told; completion goes without
            known, state = NOTHING_KNOWN, State.FAILED
        if path == self._path:  # nothing else was opened meanwhile
            self._known, self.state = known, state
            self._ready()


def _path(session: Session) -> Path | None:
    from vindex.store import Vindex

    source = session.source
    return source.path if isinstance(source, Vindex) else None


def gathered(path: Path) -> Known:
    """Read the names of a vindex.

    Raises:
        VindexError, OSError: it cannot be read.
    """
    from vindex.store import open_vindex

    with open_vindex(path) as vindex:
        entities = Terms(_entities(vindex))
        return Known(
            {
                Slot.ENTITY: entities,
                Slot.TARGET: entities,
                Slot.RELATION: Terms(_relations(vindex)),
                Slot.KIND: Terms(_kinds()),
                Slot.LAYER: Terms(_layers(vindex)),
                Slot.FIELD: Terms(_fields()),
            }
        )


def _entities(vindex: Vindex) -> Iterator[Term]:
    """What SELECT … FROM ENTITIES lists, those that many features write first."""
    import numpy as np

    from lql.tables.schema import BEGINNINGS
    from vindex.downmeta import present

    size = vindex.index.vocab_size
    counts = np.zeros(size, np.int64)
    for layer in range(vindex.index.num_layers):
        if vindex.down_meta.num_features(layer):
            records = vindex.down_meta.records(layer)
            ids = records["token"][present(records)]
            counts += np.bincount(ids[ids < size], minlength=size)
    wanted = np.flatnonzero(counts).tolist()
    features: Counter[str] = Counter()  # several tokens may have one text
    for token_id, text in zip(wanted, vindex.token_texts.texts(wanted), strict=True):
        if len(text.encode()) >= 3 and _NAME.fullmatch(text) and text not in BEGINNINGS:
            features[text] += int(counts[token_id])
    for text, count in features.items():
        yield Term(text, f"{count} feature{'s' * (count != 1)}", -count)


def _relations(vindex: Vindex) -> Iterator[Term]:
    from lql.catalogue import catalogue

    labels = vindex.labels
    for label in [*labels.probes.values(), *labels.clusters.values()]:
        yield Term(label, "label")
    for relation in catalogue().relations:
        yield Term(relation.name, "asked by DESCRIBE", 1)


def _kinds() -> Iterator[Term]:
    from lql.catalogue import catalogue

    for kind in catalogue().kinds.values():
        yield Term(kind.name, kind.noun)


def _layers(vindex: Vindex) -> Iterator[Term]:
    for layer in range(vindex.index.num_layers):
        band = None if vindex.bands is None else vindex.bands.band_of(layer)
        yield Term(str(layer), "" if band is None else band.value, layer)


def _fields() -> Iterator[Term]:
    from lql.tables.schema import SCHEMAS

    tables: dict[str, list[str]] = {}
    for table, schema in SCHEMAS.items():
        for each in schema.fields:
            tables.setdefault(each.name, []).append(table.value)
    for name, where in tables.items():
        yield Term(name, ", ".join(where))
