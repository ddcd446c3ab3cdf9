"""The tensors of a checkpoint, put together from those of a vindex: ``Cut`` undone.

The specification says where in a checkpoint every tensor of the model comes from; the same says
where it belongs.

Shape legend: E experts, F features, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vindex.baking import same
from vindex.checkpoint._scaled import BLOCKS
from vindex.checkpoint.cutting import source_key, ways
from vindex.dtypes import to_float32
from vindex.errors import VindexIncomplete
from vindex.families import family_of
from vindex.families._tensors import dense_ffn
from vindex.kinds import StorageDtype
from vindex.source import QuantTensor, StoredTensor
from vindex.spec import Cut, ModelSpec, Role, TensorSpec
from vindex.store import Vindex

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor of a checkpoint.

    Attributes:
        name: as transformers calls it.
        shape: as it is there.
        parts: the tensors of the model that it holds.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Assembled:
    """The values of a tensor of a checkpoint.

    Attributes:
        array: C-contiguous, in ``dtype``'s carrier.
        exact: they are the ones that were extracted: neither edited nor decoded from blocks.
    """

    array: Array
    dtype: StorageDtype
    exact: bool

    def float32(self) -> npt.NDArray[np.float32]:
        """The values in float32."""
        return to_float32(self.array, self.dtype)


def checkpoint_tensors(source: Vindex) -> tuple[Whole, ...]:
    """Every tensor of the checkpoint that this vindex makes, in model order.

    Raises:
        VindexIncomplete: one that the model needs is not stored.
    """
    spec, family = source.spec, family_of(source.spec)
    groups: dict[str, list[TensorSpec]] = {}
    for tensor in spec.tensors:
        if not source.has(*tensor.identity):
            if tensor.optional:
                continue
            raise VindexIncomplete(f"{tensor.key} is missing from {source.path}", path=source.path)
        if not _is_copy(tensor, spec):
            placed = next(way for way in ways(tensor) if not source_key(way).endswith(BLOCKS))
            groups.setdefault(source_key(placed), []).append(placed)
    return tuple(
        Whole(family.checkpoint_name(key), _shape(parts[0]), tuple(parts))
        for key, parts in groups.items()
    )


def assemble(source: Vindex, whole: Whole) -> Assembled:
    """The values of a tensor of a checkpoint; a view of the vindex where it is one tensor there."""
    first = whole.parts[0]
    if len(whole.parts) == 1 and first.cut is None:
        stored, exact = _read(source, first)
        return Assembled(stored.array, stored.dtype, exact)
    dtypes, all_exact = set(), True
    for part in whole.parts:
        stored, exact = _read(source, part)
        dtypes.add(stored.dtype)
        all_exact &= exact
    dtype = dtypes.pop() if len(dtypes) == 1 else StorageDtype.F32
    filled = _Filled(whole.shape, first.cut, dtype)
    for part in whole.parts:
        assert part.cut is not None, "only cuts share a tensor"
        stored, _ = _read(source, part)
        filled.put(part.cut, stored.array if stored.dtype is dtype else stored.float32())
    return Assembled(filled.whole(whole.name), dtype, all_exact)


class _Filled:
    """A checkpoint tensor being filled with its parts, turned over as the model has them."""

    def __init__(self, shape: Sequence[int], cut: Cut | None, dtype: StorageDtype) -> None:
        assert cut is not None, "a whole tensor needs no filling"
        self._turned, self._stacked = cut.transposed, cut.slab is not None
        stacks, part = (shape[:1], shape[1:]) if self._stacked else ((1,), shape)
        rows = part[::-1] if self._turned else part
        self._values = np.zeros((*stacks, *rows), dtype.carrier)  # [E or 1, rows, ...]
        self._left = math.prod(shape)

    def put(self, cut: Cut, values: Array) -> None:
        """Put a part in its place."""
        slab = self._values[cut.slab or 0]
        blocks = slab.reshape(cut.blocks, -1, *slab.shape[1:])  # a view: the slab is contiguous
        blocks[:, cut.start : cut.stop] = values.reshape(cut.blocks, -1, *values.shape[1:])
        self._left -= values.size

    def whole(self, name: str) -> Array:
        """The tensor as the checkpoint has it."""
        assert self._left == 0, f"{name}: {self._left} values come from nowhere"
        values = self._values if self._stacked else self._values[0]
        return np.ascontiguousarray(values.swapaxes(-1, -2) if self._turned else values)


def _shape(tensor: TensorSpec) -> tuple[int, ...]:
    return tensor.shape if tensor.cut is None else tensor.cut.shape


def _is_copy(tensor: TensorSpec, spec: ModelSpec) -> bool:
    """Whether it is the gate matrix of an FFN without gates: its up rows once more."""
    if tensor.role is not Role.GATE or tensor.layer is None:
        return False
    ffn = dense_ffn(spec.layers[tensor.layer])
    return ffn is not None and not ffn.gated


def _read(source: Vindex, tensor: TensorSpec) -> tuple[StoredTensor, bool]:
    """A tensor, and whether it is as it was extracted."""
    place = tensor.identity
    if tensor.key in source.base.quant_entries:
        matrix = source.matrix(*place)
        if isinstance(matrix, QuantTensor):
            values = matrix.rows(0, matrix.shape[0])
            return StoredTensor(tensor.key, StorageDtype.F32, values), False
        return matrix, False
    stored = source.tensor(*place)
    return stored, source.base is source or same(source.base.tensor(*place), stored)
