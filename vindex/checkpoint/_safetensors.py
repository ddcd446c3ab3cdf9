"""One safetensors file: header checked strictly, tensors as views of the map.

Layout: ``u64`` little-endian header length, a JSON object, the data. The object maps a name to
``{"dtype", "shape", "data_offsets": [begin, end)}`` with offsets from the start of the data.
The ``safetensors`` library accepts duplicate keys and aliasing zero-size tensors and copies what
it reads, hence this reader: it refuses more than the library and never accepts more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vindex.checkpoint._base import TensorInfo
from vindex.checkpoint._json import parse_object
from vindex.checkpoint._mapped import MappedFile
from vindex.errors import CheckpointError, Unsupported
from vindex.families._config import show
from vindex.kinds import StorageDtype

_MAX_HEADER = 100_000_000
_MAX_RANK = 8
_MAX_DIMENSION = 1 << 40

_ITEM_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip
_STORAGE = {"F32": StorageDtype.F32, "F16": StorageDtype.F16, "BF16": StorageDtype.BF16}


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An open safetensors file.

    Raises:
        CheckpointError: the header is malformed, or does not describe the file exactly.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        try:
            self._entries, self._data = self._read_header()
        except BaseException:
            self._file.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names in the order of their data."""
        return tuple(self._entries)

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of a tensor; ``Unsupported`` unless it holds floats."""
        entry = self._entries[name]
        storage = _STORAGE.get(entry.dtype)
        if storage is None:
            raise Unsupported(
                f"tensor {show(name)} is stored as {entry.dtype}, supported are"
                f" {', '.join(_STORAGE)}",
                path=self.path,
            )
        return TensorInfo(entry.shape, storage, entry.dtype)

    def array(self, name: str) -> npt.NDArray[np.generic]:
        """A tensor in its own dtype's carrier: a read-only view of the map."""
        info = self.info(name)
        entry = self._entries[name]
        flat = self._file.array(
            self._data + entry.begin, math.prod(entry.shape), info.dtype.carrier
        )
        return flat.reshape(entry.shape)

    def encoding(self, name: str) -> str:
        """The file's own name of a tensor's element type."""
        return self._entries[name].dtype

    def raw(self, name: str) -> npt.NDArray[np.generic]:
        """A tensor of one-byte elements as uint8, one of floats in its carrier; a view."""
        entry = self._entries[name]
        if _ITEM_BITS[entry.dtype] != 8:
            return self.array(name)
        flat = self._file.array(self._data + entry.begin, math.prod(entry.shape), np.uint8)
        return flat.reshape(entry.shape)

    def release(self) -> None:
        """Give back memory of pages already read."""
        self._file.release()

    def close(self) -> None:
        """Let go of the map."""
        self._file.close()

    def _read_header(self) -> tuple[dict[str, _Entry], int]:
        size = self._file.size
        if size < 8:
            raise self._bad(f"has {size} bytes, too few for a safetensors header")
        length = int.from_bytes(self._file.read(0, 8), "little")
        if length > _MAX_HEADER or 8 + length > size:
            raise self._bad(f"claims a header of {length} bytes in a file of {size}")
        raw = self._file.read(8, length)
        if not raw.startswith(b"{"):
            raise self._bad("does not start its header with '{'")
        header = parse_object(raw, self.path)
        header.pop("__metadata__", None)
        entries = {name: self._entry(name, value) for name, value in header.items()}
        ordered = sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
        position = 0
        for name, entry in ordered:
            if entry.begin != position:
                raise self._bad(
                    f"has tensor {show(name)} at offset {entry.begin}, expected {position}:"
                    " tensors overlap or leave a gap"
                )
            position = entry.end
        if 8 + length + position != size:
            raise self._bad(f"has {size} bytes, expected {8 + length + position} from its header")
        return dict(ordered), 8 + length

    def _entry(self, name: str, value: Any) -> _Entry:
        match value:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if (
                len(value) == 3
            ):
                pass
            case _:
                raise self._bad(f"describes tensor {show(name)} as {show(value)}")
        if dtype not in _ITEM_BITS:
            raise self._bad(f"has tensor {show(name)} of unknown dtype {show(dtype)}")
        if len(shape) > _MAX_RANK or not all(_is_count(axis, _MAX_DIMENSION) for axis in shape):
            raise self._bad(f"has tensor {show(name)} of impossible shape {show(shape)}")
        if not _is_count(begin, 1 << 62) or not _is_count(end, 1 << 62) or begin > end:
            raise self._bad(f"has tensor {show(name)} at impossible offsets {show([begin, end])}")
        bits = math.prod(shape) * _ITEM_BITS[dtype]
        if bits != (end - begin) * 8:
            raise self._bad(
                f"has tensor {show(name)} of {end - begin} bytes, expected {bits / 8:g}"
                f" for {dtype} {shape}"
            )
        return _Entry(dtype, tuple(shape), begin, end)

    def _bad(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path.name} {what}", path=self.path, hint="download the file again"
        )


def _is_count(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value < limit
