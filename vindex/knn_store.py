"""``knn_store.bin``: the facts that larql's COMPILE INTO VINDEX keeps beside the weights.

Layout (vindex-format.md 15): ``LKNN``, u32 version 1, u32 dimension, u32 number of layers; per
layer u32 layer, u32 n, n keys of float16 ``[n, D]``, n u32 target ids, and n times u32 length and a
JSON object. All little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NoReturn

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
        found: list[Fact] = []
        for _ in range(layers):
            found += self._layer(size)
        if self._at != len(self._data):
            self._refuse(f"{len(self._data) - self._at:,} bytes follow the last layer")
        return tuple(found)

    def _layer(self, size: int) -> list[Fact]:
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

    def _fact(self, layer: int, key: Float32, token: int) -> Fact:
        if token >= self._index.vocab_size:
            self._refuse(f"target token {token:,} of {self._index.vocab_size:,}")
        fields = Fields(load(self._take(self._number()), self._path), self._path, "fact")
        return Fact(
            layer=layer,
            entity=fields.text_or_none("entity") or "",
            relation=fields.text_or_none("relation") or "",
            target=fields.text_or_none("target_token") or "",
            target_id=token,
            keys=(Vector.of(key),),
            confidence=1.0 if (c := fields.number_or_none("confidence")) is None else c,
        )

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
