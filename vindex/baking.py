"""What edits make of the files of a vindex: the ranges of bytes that are others than the base's.

Tensors are read only through the methods of ``Vindex``, so whatever stands over the base, replaced
rows or whole matrices, is found by what those methods give.

Shape legend: D hidden, F features of a layer, R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from vindex import files
from vindex.dtypes import count_not_finite, from_float32, to_float32
from vindex.errors import NotEncodable, Unsupported, VindexInvalid
from vindex.kinds import StorageDtype
from vindex.kquant import QuantEntry
from vindex.quant import encode_rows
from vindex.source import QuantTensor, StoredTensor
from vindex.spec import GATE_ROLES, Role, TensorSpec
from vindex.store import Vindex

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far edited values lie from what could be stored of them.

    Attributes:
        values: how many were edited and stored anew.
        largest: the largest absolute error.
        squared_error, squared: sums of squares, of the errors and of the values.
    """

    values: int = 0
    largest: float = 0.0
    squared_error: float = 0.0
    squared: float = 0.0

    @property
    def relative(self) -> float:
        """The error's norm by the values' norm."""
        return float(np.sqrt(self.squared_error / self.squared)) if self.squared else 0.0

    def __add__(self, other: Rounding) -> Rounding:
        return Rounding(
            self.values + other.values,
            max(self.largest, other.largest),
            self.squared_error + other.squared_error,
            self.squared + other.squared,
        )


def rounding_of(wanted: Floats, stored: Floats) -> Rounding:
    """The error of storing some values."""
    if not wanted.size:
        return Rounding()
    error = wanted.astype(np.float64) - stored
    return Rounding(
        wanted.size,
        float(np.abs(error).max()),
        float(np.square(error).sum()),
        float(np.square(wanted.astype(np.float64)).sum()),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Baked:
    """New bytes for a range of a file.

    Attributes:
        data: of the whole tensor, as the file has it.
        floats, blocks: errors of values stored as floats, and as blocks.
    """

    data: bytes
    floats: Rounding = Rounding()
    blocks: Rounding = Rounding()


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A tensor that is not the base's.

    Attributes:
        file: where the base has it.
        offset: there, in bytes.
        bake: makes the new bytes, as many as the old; called once.
    """

    file: str
    offset: int
    bake: Callable[[], Baked]


def changes(source: Vindex) -> Iterator[Change]:
    """Every tensor that differs from the files of the base.

    Args:
        source: a vindex, perhaps with edits over its base.

    Raises:
        Unsupported: a tensor that the base does not keep in its own files was edited.
    """
    base = source.base
    if source is base:
        return
    for info in base.index.layers if base.gate_vectors.in_file else ():
        old, new = base.gate(info.layer), source.gate(info.layer)
        if not same(old, new):
            yield Change(files.GATE, info.offset, partial(_floats, old, new))
    for key, entry in base.entries.items():
        old, new = base.stored(key), source.stored(key)
        if not same(old, new):
            yield Change(entry.file, entry.offset, partial(_floats, old, new))
    spec = base.known_spec
    for tensor in () if spec is None else spec.tensors:
        quantised = base.quant_entries.get(tensor.key)
        if quantised is not None:
            yield from _quantised(source, tensor, quantised)
        elif tensor.key not in base.entries:
            _refuse_foreign(source, tensor)


def _quantised(source: Vindex, tensor: TensorSpec, entry: QuantEntry) -> Iterator[Change]:
    """The blocks of a matrix; those that no edit touches stay as they are."""
    old = source.base.quantised(tensor.key, tensor.shape[1])
    new = source.matrix(*tensor.identity)
    if not (isinstance(new, QuantTensor) and _address(new) == _address(old)):
        yield Change(entry.file, entry.offset, partial(_blocks, old, new))


def _refuse_foreign(source: Vindex, tensor: TensorSpec) -> None:
    """A tensor that no file of the base holds must not be an edited one."""
    base = source.base
    if tensor.role in GATE_ROLES or tensor.role is Role.EMBED or not base.has(*tensor.identity):
        return
    if not same(base.tensor(*tensor.identity), source.tensor(*tensor.identity)):
        raise Unsupported(
            f"{tensor.key} was edited, and {base.path} has it from a checkpoint (CONFIG)",
            hint="extract the checkpoint, and edit that vindex",
            path=base.path,
        )


def same(old: StoredTensor, new: StoredTensor) -> bool:
    """Whether two tensors are the same bytes of the same file, or hold the same values."""
    if old.dtype is new.dtype and _address(old) == _address(new):
        return True
    return bool(np.array_equal(old.float32(), new.float32()))


def _address(tensor: StoredTensor | QuantTensor) -> int:
    array = tensor.matrix.data if isinstance(tensor, QuantTensor) else tensor.array
    return array.ctypes.data


def _floats(old: StoredTensor, new: StoredTensor) -> Baked:
    values = new.float32()
    encoded = encode(values, old.dtype, new.key)
    edited = values != old.float32()
    return Baked(
        np.ascontiguousarray(encoded).tobytes(),
        floats=rounding_of(values[edited], to_float32(encoded, old.dtype)[edited]),
    )


def encode(values: Floats, dtype: StorageDtype, name: str) -> npt.NDArray[np.generic]:
    """Values in a dtype's carrier.

    Raises:
        VindexInvalid: one is not finite, or too large for the dtype.
    """
    encoded = np.ascontiguousarray(from_float32(values, dtype))
    if count_not_finite(encoded, dtype):
        largest = float(np.abs(values).max())
        raise VindexInvalid(
            f"the edited {name} holds values up to {largest:g}, which {dtype.value} does not hold",
            hint="undo the edit, or make it over a vindex of DTYPE bf16 or f32",
        )
    return encoded


def _blocks(old: QuantTensor, new: StoredTensor | QuantTensor) -> Baked:
    matrix = old.matrix
    rows, cols = matrix.shape
    values = new.rows(0, rows)
    size, elements = matrix.block_format.block_bytes, matrix.block_format.block_elements
    edited: Mask = np.zeros((rows, matrix.padded_cols), np.bool_)
    edited[:, :cols] = values != old.rows(0, rows)
    touched = _any(edited.reshape(rows, -1, elements), axis=2)  # [R, blocks of a row]
    where = np.flatnonzero(_any(touched, axis=1))
    data = np.array(matrix.data).reshape(rows, -1, size)
    try:
        made = encode_rows(values[where], matrix.block_format).reshape(len(where), -1, size)
    except NotEncodable as error:
        raise VindexInvalid(f"the edited {old.key}: {error.message}", hint=error.hint) from error
    data[where] = np.where(touched[where, :, None], made, data[where])
    stored = type(matrix)(matrix.block_format, rows, cols, data.reshape(-1)).decode_rows(0, rows)
    asked = np.repeat(touched, elements, axis=1)[:, :cols]
    return Baked(data.tobytes(), blocks=rounding_of(values[asked], stored[asked]))


def _any(mask: Mask, axis: int) -> Mask:
    return np.asarray(mask.any(axis=axis))
