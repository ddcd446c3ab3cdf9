"""``down_meta.bin``: for every feature, the tokens it writes most strongly.

Layout (little-endian): magic, version 1, number of layers, k, each u32; then per layer a u32 count
of features and that many records of ``8 + 8 k`` bytes::

    u32 top_token_id | f32 c_score | k x { u32 token_id, f32 logit }

Unused slots are zero, an all-zero record is a feature without tokens. ``logit`` is the raw product
``E . W_down[:, f]`` (no embedding scale, no norm); ``c_score`` is the logit of the first slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vindex import files
from vindex.errors import VindexInvalid
from vindex.files import ByteRange, MappedFile

if TYPE_CHECKING:
    from vindex.scoring import TopTokens

MAGIC = b"TEMD"  # 0x444D4554 written little-endian
_MAGICS = (MAGIC, b"DMET")
_VERSION = 1
_HEADER = np.dtype([("magic", "S4"), ("version", "<u4"), ("layers", "<u4"), ("top_k", "<u4")])
_COUNT_BYTES = 4
_MAX_TOP_K = 1 << 12
_MAX_LAYERS = 1 << 16

Records = npt.NDArray[np.void]


def record_dtype(top_k: int) -> np.dtype[np.void]:
    """One feature's record: ``token`` u4, ``score`` f4, ``top`` [k] of ``token``, ``score``."""
    slot = np.dtype([("token", "<u4"), ("score", "<f4")])
    return np.dtype([("token", "<u4"), ("score", "<f4"), ("top", slot, (top_k,))])


def down_meta_bytes(num_features: Sequence[int], top_k: int) -> int:
    """Size of the file for these feature counts per layer."""
    records = sum(num_features) * record_dtype(top_k).itemsize
    return _HEADER.itemsize + len(num_features) * _COUNT_BYTES + records


class DownMeta:
    """A mapped ``down_meta.bin``.

    Attributes:
        top_k: slots per record.

    Args:
        mapped: the file.

    Raises:
        VindexInvalid: too short, another magic or version, or records that end beyond the file.
    """

    def __init__(self, mapped: MappedFile) -> None:
        self._mapped = mapped
        if mapped.size < _HEADER.itemsize:
            self._refuse(f"{mapped.size} bytes are too short for a header")
        header = mapped.view(0, (1,), _HEADER)[0]
        magic = bytes(header["magic"])
        if magic not in _MAGICS:
            self._refuse(f"it starts with {magic!r}, expected {MAGIC!r}")
        if header["version"] != _VERSION:
            self._refuse(f"version {header['version']}, expected {_VERSION}")
        self.top_k = int(header["top_k"])
        if self.top_k > _MAX_TOP_K or header["layers"] > _MAX_LAYERS:
            self._refuse(f"{header['layers']:,} layers of {self.top_k:,} slots a record")
        self._record = record_dtype(self.top_k)
        self._offsets: list[tuple[int, int]] = []
        offset = _HEADER.itemsize
        for layer in range(int(header["layers"])):
            if not mapped.holds(ByteRange(offset, _COUNT_BYTES)):
                self._refuse(f"it ends before layer {layer}")
            count = int(mapped.view(offset, (1,), np.dtype("<u4"))[0])
            offset += _COUNT_BYTES
            if not mapped.holds(ByteRange(offset, count * self._record.itemsize)):
                self._refuse(f"it ends inside layer {layer}, which has {count:,} features")
            self._offsets.append((offset, count))
            offset += count * self._record.itemsize
        if offset != mapped.size:
            self._refuse(f"{mapped.size - offset:,} bytes follow the last layer")

    def _refuse(self, reason: str) -> None:
        raise VindexInvalid(f"{files.DOWN_META}: {reason}", path=self._mapped.path)

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self._offsets)

    def num_features(self, layer: int) -> int:
        """Records of a layer; 0 when the layer has none or does not exist."""
        return self._offsets[layer][1] if 0 <= layer < len(self._offsets) else 0

    def records(self, layer: int) -> Records:
        """All records of a layer, ``[F]`` of ``record_dtype(top_k)``: a read-only view."""
        offset, count = self._offsets[layer]
        return self._mapped.view(offset, (count,), self._record)


def present(records: Records) -> npt.NDArray[np.bool_]:
    """Which records hold tokens, ``[F]`` (vindex-format.md 9.2)."""
    return np.asarray((records["token"] != 0) | (records["score"] != 0))


def used_slots(records: Records) -> npt.NDArray[np.bool_]:
    """Which slots of each record are used, ``[F, k]``."""
    top = records["top"]
    return np.asarray((top["token"] != 0) | (top["score"] != 0))


def make_records(best: TopTokens, blank: npt.NDArray[np.bool_], top_k: int) -> Records:
    """Records of one layer from its top tokens, blank ones dropped and not replaced.

    Args:
        best: the best tokens of each feature, at most ``top_k``.
        blank: ``[V]``, whether a token's decoded text is empty after trimming.
        top_k: slots per record.

    Returns:
        ``[F]`` of ``record_dtype(top_k)``; unused slots at the end, zero.
    """
    count, given = best.ids.shape
    keep = ~blank[best.ids]
    order = np.argsort(~keep, axis=1, kind="stable")
    kept = np.take_along_axis(keep, order, axis=1)
    records = np.zeros(count, record_dtype(top_k))
    top = records["top"][:, :given]
    top["token"] = np.where(kept, np.take_along_axis(best.ids, order, axis=1), 0)
    top["score"] = np.where(kept, np.take_along_axis(best.scores, order, axis=1), 0)
    records["token"] = records["top"]["token"][:, 0]
    records["score"] = records["top"]["score"][:, 0]
    return records


class DownMetaWriter:
    """Writes the file layer by layer, ascending.

    Args:
        write: takes the bytes, in order.
        num_layers, top_k: for the header.
    """

    def __init__(self, write: Callable[[bytes], object], num_layers: int, top_k: int) -> None:
        self._write = write
        self._record = record_dtype(top_k)
        header = np.array([(MAGIC, _VERSION, num_layers, top_k)], _HEADER)
        write(header.tobytes())

    def layer(self, records: Records) -> None:
        """Append the records of the next layer, ``[F]`` (empty for a layer without features)."""
        if records.dtype != self._record:
            raise ValueError("records of another k")
        self._write(len(records).to_bytes(_COUNT_BYTES, "little"))
        self._write(records.tobytes())
