"""The header of a GGUF file: metadata and tensor table.

Layout (little-endian): magic, ``u32`` version, ``u64`` tensor count, ``u64`` key count, the keys
(string name, ``u32`` type, value), the tensor table (string name, ``u32`` rank, ``u64`` dimensions
fastest first, ``u32`` encoding, ``u64`` offset), padding to the alignment, the data.

``gguf.GGUFReader`` builds an object per element of every array: opening Gemma 3 270M takes it ten
seconds, and it believes every count in the file. The header is therefore read here, with every
count checked against the bytes that are left before anything is allocated.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vindex.checkpoint._mapped import MappedFile
from vindex.errors import CheckpointError, Unsupported
from vindex.families._config import show

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

_VERSIONS = (2, 3)
_MAX_RANK = 4
_MAX_NAME = 1 << 16
_MAX_ALIGNMENT = 1 << 16
_DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "|u1",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One entry of the tensor table.

    Attributes:
        shape: slowest dimension first, as NumPy and Hugging Face have it.
        encoding: how the blocks are encoded.
        offset: bytes from the start of the file.
        row_bytes: bytes of one row, i.e. of the last axis.
    """

    name: str
    shape: tuple[int, ...]
    encoding: GGMLQuantizationType
    offset: int
    row_bytes: int

    @property
    def rows(self) -> int:
        """Number of rows when all but the last axis are flattened."""
        return math.prod(self.shape[:-1])


def read_header(file: MappedFile) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Metadata and tensor table of a mapped file.

    Returns:
        Key to ``int``, ``float``, ``bool``, ``str`` or a list of one of them; tensors by name, in
        file order.

    Raises:
        CheckpointError: the file is malformed or truncated.
        Unsupported: a version, byte order, value type or encoding that is not read.
    """
    cursor = _Cursor(file)
    tensor_count, key_count = _preamble(cursor)
    metadata = _metadata(cursor, key_count)
    return metadata, _tensor_table(cursor, tensor_count, metadata)


class _Cursor:
    """Reads the header front to back; never past the end of the file."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self.path = file.path
        self.position = 0

    @property
    def left(self) -> int:
        return self._file.size - self.position

    def take(self, length: int, what: str) -> bytes:
        if length > self.left:
            raise self.bad(f"ends inside {what}: {length} bytes needed, {self.left} left")
        data = self._file.read(self.position, length)
        self.position += length
        return data

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def text(self, what: str, limit: int | None = None) -> str:
        length = self.u64(what)
        if limit is not None and length > limit:
            raise self.bad(f"has {what} of {length} bytes, more than {limit}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.bad(f"has {what} that is not UTF-8") from error

    def count(self, what: str, smallest: int) -> int:
        """A ``u64`` number of items of which each needs at least ``smallest`` bytes."""
        number = self.u64(what)
        if number * smallest > self.left:
            raise self.bad(f"claims {number} {what} with {self.left} bytes left")
        return number

    def strings(self, count: int, what: str) -> list[str]:
        """``count`` strings; one pass over a copy of what is left of the header's reach."""
        result = []
        unpack = struct.Struct("<Q").unpack
        for _ in range(count):
            (length,) = unpack(self.take(8, what))
            try:
                result.append(self.take(length, what).decode("utf-8"))
            except UnicodeDecodeError as error:
                raise self.bad(f"has {what} with text that is not UTF-8") from error
        return result

    def bad(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path.name} {what}", path=self.path, hint="download the file again"
        )


def _preamble(cursor: _Cursor) -> tuple[int, int]:
    if cursor.take(4, "the magic") != b"GGUF":
        raise CheckpointError(f"{cursor.path.name} is not a GGUF file", path=cursor.path)
    version = cursor.u32("the version")
    if version not in _VERSIONS:
        big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
        what = "is big-endian" if big_endian else f"has GGUF version {version}"
        raise Unsupported(
            f"{cursor.path.name} {what}, supported are little-endian versions 2 and 3",
            path=cursor.path,
        )
    tensors = cursor.count("tensors", 24)
    keys = cursor.count("metadata keys", 13)
    return tensors, keys


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text("a metadata key", _MAX_NAME)
        if key in metadata:
            raise cursor.bad(f"has metadata key {show(key)} twice")
        metadata[key] = _value(cursor, cursor.u32("a value type"), key)
    return metadata


def _value(cursor: _Cursor, kind: int, key: str) -> Any:
    what = f"the value of {show(key)}"
    if kind == _STRING:
        return cursor.text(what)
    if kind in _SCALARS:
        dtype = np.dtype(_SCALARS[kind])
        return _numbers(cursor.take(dtype.itemsize, what), kind)[0]
    if kind != _ARRAY:
        raise Unsupported(
            f"{cursor.path.name} has metadata key {show(key)} of type {kind}", path=cursor.path
        )
    item = cursor.u32(what)
    if item == _STRING:
        return cursor.strings(cursor.count(f"strings in {show(key)}", 8), what)
    if item not in _SCALARS:
        raise Unsupported(
            f"{cursor.path.name} has metadata key {show(key)}, an array of type {item}",
            path=cursor.path,
        )
    size = np.dtype(_SCALARS[item]).itemsize
    length = cursor.count(f"values in {show(key)}", size)
    return _numbers(cursor.take(length * size, what), item)


def _numbers(data: bytes, kind: int) -> list[Any]:
    raw = np.frombuffer(data, dtype=_SCALARS[kind])
    values: list[Any] = (raw != 0).tolist() if kind == _BOOL else raw.tolist()
    return values


def _tensor_table(cursor: _Cursor, count: int, metadata: dict[str, Any]) -> dict[str, GgufTensor]:
    entries = [_table_entry(cursor) for _ in range(count)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    valid = type(alignment) is int and 1 <= alignment <= _MAX_ALIGNMENT
    if not valid or alignment & (alignment - 1):
        raise cursor.bad(f"has an alignment of {show(alignment)}")
    start = cursor.position + -cursor.position % alignment
    size = cursor.position + cursor.left
    tensors: dict[str, GgufTensor] = {}
    for name, shape, raw_encoding, offset in entries:
        if name in tensors:
            raise cursor.bad(f"has tensor {show(name)} twice")
        encoding, row_bytes = _row_layout(cursor, name, shape, raw_encoding)
        tensor = GgufTensor(name, shape, encoding, start + offset, row_bytes)
        if offset % alignment:
            raise cursor.bad(f"has tensor {show(name)} at the unaligned offset {offset}")
        if tensor.offset + tensor.rows * row_bytes > size:
            raise cursor.bad(f"ends inside the data of tensor {show(name)}")
        tensors[name] = tensor
    position = start
    for tensor in sorted(tensors.values(), key=lambda each: each.offset):
        if tensor.offset < position:
            raise cursor.bad(f"has tensor {show(tensor.name)} overlapping another")
        position = tensor.offset + tensor.rows * tensor.row_bytes
    return tensors


def _table_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.text("a tensor name", _MAX_NAME)
    rank = cursor.u32("a tensor rank")
    if not 1 <= rank <= _MAX_RANK:
        raise cursor.bad(f"has tensor {show(name)} of rank {rank}")
    dimensions = struct.unpack(f"<{rank}Q", cursor.take(8 * rank, "a tensor shape"))
    if 0 in dimensions:
        raise cursor.bad(f"has tensor {show(name)} with an empty dimension")
    encoding = cursor.u32("a tensor encoding")
    return name, tuple(reversed(dimensions)), encoding, cursor.u64("a tensor offset")


def _row_layout(
    cursor: _Cursor, name: str, shape: tuple[int, ...], raw: int
) -> tuple[GGMLQuantizationType, int]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        encoding = GGMLQuantizationType(raw)
        block, size = GGML_QUANT_SIZES[encoding]
    except (ValueError, KeyError) as error:
        raise Unsupported(
            f"{cursor.path.name} has tensor {show(name)} of encoding {raw}, which is not known",
            path=cursor.path,
        ) from error
    if shape[-1] % block:
        raise cursor.bad(
            f"has tensor {show(name)} with rows of {shape[-1]} values, which is no multiple of"
            f" {encoding.name}'s block of {block}"
        )
    return encoding, shape[-1] // block * size
