"""Stored matrices as torch and NumPy see them: joined row-wise, reordered, never copied for it.

Notation: N rows (outputs), C columns (inputs).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vindex.dtypes import to_float32
from vindex.kinds import StorageDtype
from vindex.source import QuantTensor, StoredTensor


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One stored matrix [n, C] whose rows are wanted in a certain order.

    Attributes:
        order: int64 [n], the stored row for each wanted row; ``None`` for as stored.
    """

    stored: StoredTensor | QuantTensor
    order: npt.NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """n."""
        return self.stored.shape[0]

    def tensor(self) -> Tensor:
        """The rows in order, in the stored dtype: the stored memory itself if in stored order.

        Only of float matrices.
        """
        assert isinstance(self.stored, StoredTensor), "blocks have no dtype of torch"
        tensor = as_tensor(self.stored)
        return tensor if self.order is None else tensor[torch.from_numpy(self.order)]

    def float32(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start..stop`` of the wanted order."""
        if isinstance(self.stored, QuantTensor):
            if self.order is None:
                return self.stored.rows(start, stop)
            return self.stored.matrix.take(self.order[start:stop]).decode_rows(0, stop - start)
        array = self.stored.array
        rows = array[start:stop] if self.order is None else array[self.order[start:stop]]
        return to_float32(rows, self.stored.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Matrices that read the same input, as one matrix [N, C]: the parts below each other."""

    parts: Sequence[Part]

    @property
    def count(self) -> int:
        """N."""
        return sum(part.count for part in self.parts)

    @property
    def columns(self) -> int:
        """C."""
        return self.parts[0].stored.shape[1]

    @property
    def all_half(self) -> bool:
        """Whether every part is stored as f16."""
        return all(_dtype(part) is StorageDtype.F16 for part in self.parts)

    @property
    def mapped(self) -> bool:
        """Whether the memory of every part is a file's, which the system may drop and re-read."""
        return all(is_mapped(_memory(part)) for part in self.parts)

    @property
    def quantised(self) -> bool:
        """Whether a part is stored in blocks."""
        return any(isinstance(part.stored, QuantTensor) for part in self.parts)

    def float32(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start..stop`` in float32, [stop - start, C]; new memory unless stored as f32."""
        pieces = []
        for part in self.parts:
            if start < part.count and stop > 0:
                pieces.append(part.float32(max(start, 0), min(stop, part.count)))
            start, stop = start - part.count, stop - part.count
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def single(self) -> Tensor:
        """All rows in float32, [N, C]: the stored memory if that is one f32 part in order."""
        return torch_view(self.float32(0, self.count))

    @property
    def mapped_single(self) -> bool:
        """Whether ``single`` is the memory of a file."""
        part = self.parts[0]
        in_place = len(self.parts) == 1 and part.order is None
        return in_place and _dtype(part) is StorageDtype.F32 and self.mapped


def _dtype(part: Part) -> StorageDtype | None:
    return None if isinstance(part.stored, QuantTensor) else part.stored.dtype


def _memory(part: Part) -> npt.NDArray[Any]:
    stored = part.stored
    return stored.matrix.data if isinstance(stored, QuantTensor) else stored.array


def as_tensor(stored: StoredTensor) -> Tensor:
    """A stored tensor as torch sees it, without copying. It must not be written to."""
    if stored.dtype is StorageDtype.BF16:
        return torch_view(stored.array.view(np.int16)).view(torch.bfloat16)
    return torch_view(stored.array)


def torch_view(array: npt.NDArray[Any]) -> Tensor:
    """``torch.from_numpy`` that takes read-only arrays. The tensor must not be written to."""
    return torch.from_numpy(np.asarray(_Unguarded(array)))


def is_mapped(array: npt.NDArray[Any]) -> bool:
    """Whether an array's memory belongs to a file map."""
    owner: object = array
    while owner is not None:
        if isinstance(owner, (np.memmap, mmap.mmap)):
            return True
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return False


class _Unguarded:
    """The same memory without the read-only flag, which torch has no notion of and warns about.

    NumPy keeps this object, and so the memory's owner, alive as the base of the new array.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.owner = array
        self.__array_interface__ = interface
