"""``knn_store.bin``: the facts that larql's COMPILE INTO VINDEX keeps beside the weights.

Layout (vindex-format.md 15): ``LKNN``, u32 version 1, u32 dimension, u32 number of layers; per
layer u32 layer, u32 n, n keys of float16 ``[n, D]``, n u32 target ids, and n times u32 length and a
JSON object. All little-endian.

An entry is a key. A fact with several is as many entries, which larql reads as facts of their own;
what makes them one again, its aliases, and the keys as they are before float16, stand in ``lql`` of
the JSON object, which larql ignores.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vindex import files
from vindex.edits import Fact, Float32, Vector
from vindex.errors import VindexInvalid
from vindex.index import VindexIndex
from vindex.strict_json import Fields, load

FILE = "knn_store.bin"
_MAGIC = b"LKNN"
_VERSION = 1
_MAX_BYTES = 1 << 30
_MAX_FACTS = 1_000_000
_SAME_DIRECTION = 0.999  # cosine of a key and of what float16 made of it


def read_knn_store(directory: Path, index: VindexIndex) -> tuple[Fact, ...]:
    """The stored facts of a vindex; none when it has no such file.

    Raises:
        VindexInvalid: the file is malformed, or speaks of layers, tokens or sizes that the model
            does not have.
    """
    path = directory / FILE
    if not path.exists():
        return ()
    return _Reader(files.read_small(path, _MAX_BYTES), path, index).facts()


def knn_store_bytes(facts: Iterable[Fact]) -> bytes:
    """The file that holds these facts, in their order.

    Keys are stored normalised: only their direction has a meaning.
    """
    entries: dict[int, list[tuple[Vector, Fact, int]]] = defaultdict(list)
    for number, fact in enumerate(facts):
        for key in fact.keys:
            entries[fact.layer].append((key, fact, number))
    size = max((len(key) for group in entries.values() for key, _, _ in group), default=0)
    parts = [_MAGIC, struct.pack("<III", _VERSION, size, len(entries))]
    for layer, group in sorted(entries.items()):
        parts.append(struct.pack("<II", layer, len(group)))
        parts += [_unit(key.array).astype("<f2").tobytes() for key, _, _ in group]
        parts.append(np.array([fact.target_id for _, fact, _ in group], "<u4").tobytes())
        for key, fact, number in group:
            document = json.dumps(_described(key, fact, number), ensure_ascii=False).encode()
            parts += [struct.pack("<I", len(document)), document]
    return b"".join(parts)


def _described(key: Vector, fact: Fact, number: int) -> dict[str, Any]:
    return {
        "target_token": fact.target,
        "entity": fact.entity,
        "relation": fact.relation,
        "confidence": fact.confidence,
        "lql": {
            "fact": number,
            "key": base64.b64encode(key.data).decode(),
            "aliases": list(fact.aliases),
        },
    }


def _unit(key: Float32) -> Float32:
    size = np.float32(np.linalg.norm(key.astype(np.float64)))
    return key / size if size else key


@dataclass(frozen=True, slots=True)
class _Entry:
    """One key, as a fact, and which fact of the file it belongs to; ``None`` for larql's."""

    fact: Fact
    number: int | None


class _Reader:
    def __init__(self, data: bytes, path: Path, index: VindexIndex) -> None:
        self._data = data
        self._path = path
        self._index = index
        self._at = 0

    def facts(self) -> tuple[Fact, ...]:
        if self._take(4) != _MAGIC or self._number() != _VERSION:
            self._refuse(f"it does not begin with {_MAGIC!r} and version {_VERSION}")
        size, layers = self._number(), self._number()
        if layers and size != self._index.hidden_size:
            self._refuse(f"keys of {size:,} numbers, the model has {self._index.hidden_size:,}")
        found: list[_Entry] = []
        for _ in range(layers):
            found += self._layer(size)
        if self._at != len(self._data):
            self._refuse(f"{len(self._data) - self._at:,} bytes follow the last layer")
        return (*self._joined(found), *(e.fact for e in found if e.number is None))

    def _joined(self, entries: list[_Entry]) -> Iterable[Fact]:
        """Our facts, each with all its keys, in the order in which they were written."""
        ours = sorted(
            ((entry.number, entry.fact) for entry in entries if entry.number is not None),
            key=lambda item: item[0],
        )
        for number, group in itertools.groupby(ours, key=lambda item: item[0]):
            first, *more = (fact for _, fact in group)
            keys = first.keys
            for fact in more:
                if replace(fact, keys=first.keys) != first:
                    self._refuse(f"the keys of fact {number:,} name different facts")
                keys += fact.keys
            yield replace(first, keys=keys)

    def _layer(self, size: int) -> list[_Entry]:
        layer, count = self._number(), self._number()
        if layer >= self._index.num_layers:
            self._refuse(f"layer {layer:,} of {self._index.num_layers}")
        keys = np.frombuffer(self._take(2 * count * size), "<f2").reshape(count, size)
        ids = np.frombuffer(self._take(4 * count), "<u4").tolist()
        if not np.isfinite(keys).all():
            self._refuse(f"the keys of layer {layer} hold NaN or infinity")
        return [
            self._fact(layer, key.astype("<f4"), token)
            for key, token in zip(keys, ids, strict=True)
        ]

    def _fact(self, layer: int, key: Float32, token: int) -> _Entry:
        if token >= self._index.vocab_size:
            self._refuse(f"target token {token:,} of {self._index.vocab_size:,}")
        fields = Fields(load(self._take(self._number()), self._path), self._path, "fact")
        own = fields.child("lql")
        fact = Fact(
            layer=layer,
            entity=fields.text_or_none("entity") or "",
            relation=fields.text_or_none("relation") or "",
            target=fields.text_or_none("target_token") or "",
            target_id=token,
            keys=(Vector.of(key) if own is None else self._exact(own, key),),
            confidence=1.0 if (c := fields.number_or_none("confidence")) is None else c,
            aliases=() if own is None else self._aliases(own),
        )
        return _Entry(fact, None if own is None else own.integer("fact", high=_MAX_FACTS))

    def _exact(self, own: Fields, rounded: Float32) -> Vector:
        """The key in float32, which must be the one that larql reads."""
        try:
            vector = Vector(base64.b64decode(own.text("key"), validate=True))
        except (binascii.Error, ValueError):
            own.refuse("key", "not base64")
        if len(vector.data) != 4 * len(rounded):
            own.refuse("key", f"{len(vector.data):,} bytes for {len(rounded):,} numbers")
        exact = vector.array
        if not np.isfinite(exact).all():
            own.refuse("key", "holds NaN or infinity")
        cosine = float(_unit(exact) @ _unit(rounded))
        if exact.any() != rounded.any() or (exact.any() and cosine < _SAME_DIRECTION):
            own.refuse("key", "is not the key of its entry")
        return vector

    def _aliases(self, own: Fields) -> tuple[str, ...]:
        aliases = own.array("aliases", 1_000)
        if not all(type(alias) is str for alias in aliases):
            own.refuse("aliases", "expected strings")
        return tuple(aliases)

    def _take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            self._refuse(f"it ends at byte {len(self._data):,}, in the middle of a layer")
        self._at += count
        return part

    def _number(self) -> int:
        value: int = struct.unpack("<I", self._take(4))[0]
        return value

    def _refuse(self, reason: str) -> NoReturn:
        raise VindexInvalid(f"{FILE}: {reason}", path=self._path)
