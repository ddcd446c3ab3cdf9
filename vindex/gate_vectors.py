"""The gate vectors of an open vindex: those of ``gate_vectors.bin``, or what its blocks decode to.

A quantised vindex holds every gate matrix in blocks, for running, and again in floats, for
browsing. The floats may be left out (larql's ``--drop-gate-vectors``): then ``index.layers`` is
filled as ever, the file is absent, and rows are decoded when they are asked for.

Shape legend: D hidden, F features of a layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vindex import files
from vindex.errors import VindexIncomplete, VindexInvalid
from vindex.files import ByteRange, MappedFile
from vindex.index import VindexIndex
from vindex.kinds import Quant, StorageDtype
from vindex.source import StoredTensor
from vindex.spec import (
    GATE_ROLES,
    FfnPart,
    ModelSpec,
    Role,
    TensorIdentity,
    ffn_parts,
    part_roles,
)

if TYPE_CHECKING:
    from vindex.kquant import QuantEntry

_KEPT_BYTES = 256 << 20  # of decoded layers: all of a small model, a few of a large one


@dataclass(slots=True, eq=False)
class GateVectors:
    """Gate rows by layer, or by FFN of a layer.

    Args:
        spec: the model, or ``None`` where it is not known.
        maps: the files of the vindex.
        entries: its quantised matrices.
    """

    index: VindexIndex
    spec: ModelSpec | None
    maps: Mapping[str, MappedFile]
    entries: Mapping[str, QuantEntry]
    _decoded: dict[int, StoredTensor] = field(default_factory=dict)
    _by_layer: list[Mapping[TensorIdentity, tuple[FfnPart, str]]] = field(default_factory=list)

    @property
    def in_file(self) -> bool:
        """Whether they are stored in floats."""
        return files.GATE in self.maps

    def layer(self, layer: int) -> StoredTensor:
        """The rows of a layer, ``[F, D]``, ``[0, D]`` when it has none.

        In the vindex's dtype and a view of the file; decoded ones in float32.
        """
        info = self.index.layer_info(layer)
        keys = self._keys(layer)
        if not self.in_file and info is not None:
            return self._decode(layer, keys)
        rows, offset = (0, 0) if info is None else (info.num_features, info.offset)
        shape, dtype = (rows, self.index.hidden_size), self.index.dtype
        if not self.in_file:
            return StoredTensor(keys[0], dtype, np.empty(shape, dtype.carrier))
        return StoredTensor(keys[0], dtype, self.maps[files.GATE].array(offset, shape, dtype))

    def part(self, role: Role, layer: int, expert: int | None) -> StoredTensor:
        """The gate matrix of one FFN of a layer: some rows of the layer's.

        larql has no gate vectors of experts beside a dense FFN: those are decoded.
        """
        part, key = self._parts(layer)[role, layer, expert]
        info = self.index.layer_info(layer)
        there = 0 if info is None else info.num_features
        if not self.in_file or there < part.first + part.ffn.width:
            return StoredTensor(key, StorageDtype.F32, self._rows(key))
        whole = self.layer(layer)
        rows = whole.array[part.first : part.first + part.ffn.width]
        return StoredTensor(key, whole.dtype, rows)

    def stored_bytes(self, layer: int) -> int:
        """What reading the rows of a layer reads of its file."""
        info = self.index.layer_info(layer)
        if info is None:
            return 0
        if self.in_file:
            return info.length
        return sum(self.entries[key].span.length for key in self._keys(layer))

    def file(self, layer: int) -> str:
        """The file that holds the rows of a layer, or its first ones."""
        return files.GATE if self.in_file else self.entries[self._keys(layer)[0]].file

    def check(self, path: Path, extract_again: str) -> None:
        """Where they are in blocks alone: that every layer's are there.

        Raises:
            VindexIncomplete: they are not.
        """
        for info in () if self.in_file else self.index.layers:
            keys = self._keys(info.layer)
            found = [self.entries[key] for key in keys if key in self.entries]
            whole = all(each.holds((each.rows, self.index.hidden_size)) for each in found)
            rows = sum(each.rows for each in found)
            if len(found) < len(keys) or rows != info.num_features or not whole:
                raise VindexIncomplete(
                    f"{files.GATE} is missing from {path}, and {keys[0]} is not in blocks either",
                    hint=extract_again,
                    path=path,
                )

    def forget(self) -> None:
        """Drop what was decoded."""
        self._decoded.clear()

    def _keys(self, layer: int) -> list[str]:
        """The matrices whose rows are a layer's: as many as the index counts features of."""
        if self.spec is None or layer >= self.spec.num_layers:
            return [f"layers.{layer}.mlp.gate_proj.weight"]
        info = self.index.layer_info(layer)
        there = 0 if info is None else info.num_features
        parts = self._parts(layer).values()
        first, *others = [key for part, key in parts if part.first < max(1, there)]
        return [first, *others]

    def _parts(self, layer: int) -> Mapping[TensorIdentity, tuple[FfnPart, str]]:
        """The FFNs of a layer and the keys of their gate matrices, in the order of features."""
        if not self._by_layer:
            assert self.spec is not None, "only a known model has parts"
            keys = {t.identity: t.key for t in self.spec.tensors if t.role in GATE_ROLES}
            for each in self.spec.layers:
                parts = ffn_parts(each.ffn)
                places = [(part_roles(part.kind)[0], each.index, part.expert) for part in parts]
                self._by_layer.append(
                    {at: (part, keys[at]) for at, part in zip(places, parts, strict=True)}
                )
        return self._by_layer[layer]

    def _decode(self, layer: int, keys: list[str]) -> StoredTensor:
        found = self._decoded.get(layer)
        if found is None:
            parts = [self._rows(key) for key in keys]
            array = parts[0] if len(parts) == 1 else np.concatenate(parts)
            array.flags.writeable = False
            found = StoredTensor(keys[0], StorageDtype.F32, array)
            kept = sum(each.array.nbytes for each in self._decoded.values())
            if kept + array.nbytes <= _KEPT_BYTES:
                self._decoded[layer] = found
        return found

    def _rows(self, key: str) -> npt.NDArray[np.float32]:
        """A gate matrix decoded, ``[F, D]``."""
        from vindex.kquant import matrix  # here: the codecs are no part of reading floats

        blocks = matrix(self.entries[key], self.maps, self.index.hidden_size)
        return blocks.decode_rows(0, blocks.rows)


def check_file(
    path: Path, index: VindexIndex, mapped: MappedFile | None, extract_again: str
) -> None:
    """What the index says of the layers' rows, against their file where there is one.

    Raises:
        VindexIncomplete: the file is missing or too short.
        VindexInvalid: the index contradicts itself or the file.
    """
    if mapped is None and (index.quant is Quant.NONE or files.GATE in (index.checksums or {})):
        raise VindexIncomplete(
            f"{files.GATE} is missing from {path}", hint=extract_again, path=path
        )
    spans: list[tuple[ByteRange, int]] = []
    for info in index.layers:
        expected = files.tensor_bytes((info.num_features, index.hidden_size), index.dtype.itemsize)
        if info.length != expected:
            raise VindexInvalid(
                f"{files.INDEX}: layer {info.layer} has {info.length:,} bytes of gate vectors; "
                f"{info.num_features:,} x {index.hidden_size:,} {index.dtype.value} are "
                f"{expected:,}",
                path=path / files.INDEX,
            )
        if info.offset % index.dtype.itemsize:
            raise VindexInvalid(
                f"{files.INDEX}: layer {info.layer} starts inside an element of {files.GATE}",
                path=path / files.INDEX,
            )
        spans.append((ByteRange(info.offset, info.length), info.layer))
    spans.sort()
    for (span, layer), (after, other) in itertools.pairwise(spans):
        if span.overlaps(after):
            raise VindexInvalid(
                f"{files.INDEX}: layers {layer} and {other} share bytes of {files.GATE}",
                path=path / files.INDEX,
            )
    end = max((span.stop for span, _ in spans), default=0)
    if mapped is not None and end != mapped.size:
        kind = VindexIncomplete if end > mapped.size else VindexInvalid
        raise kind(
            f"{files.GATE} has {mapped.size:,} bytes; {files.INDEX} describes {end:,}",
            path=mapped.path,
        )
