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
from vindex.quant import AffineGroups, BlockFormat, QuantMatrix
from vindex.source import QuantTensor, StoredTensor

_ROUNDED_AT_ONCE = 1 << 19  # values whose codes and products stay in the processor's cache


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

    def round_into(self, target: Tensor, scratch: Tensor) -> None:
        """Write the rows in order, rounded to bfloat16.

        Args:
            target: bfloat16 [n, C].
            scratch: float32, at least n * C elements.
        """
        if isinstance(self.stored, QuantTensor):
            self._round_blocks(self.stored.matrix, target)
            return
        tensor = as_tensor(self.stored)
        if self.order is not None:
            tensor = tensor[torch.from_numpy(self.order)]
        if tensor.dtype is torch.float16:
            # torch converts float16 to bfloat16 one value at a time; through float32 is faster.
            tensor = scratch[: tensor.numel()].view(tensor.shape).copy_(tensor)
        target.copy_(tensor)

    def _round_blocks(self, matrix: QuantMatrix, target: Tensor) -> None:
        step = max(1, _ROUNDED_AT_ONCE // matrix.cols)
        for start in range(0, self.count, step):
            stop = min(start + step, self.count)
            if matrix.block_format is BlockFormat.Q4_K:
                groups = self.affine(start, stop)
                values = torch.from_numpy(groups.codes).to(torch.bfloat16)
                by_group = values.view(stop - start, groups.scale.shape[1], -1)
                by_group.mul_(torch.from_numpy(groups.scale).to(torch.bfloat16).unsqueeze(2))
                by_group.sub_(torch.from_numpy(groups.minimum).to(torch.bfloat16).unsqueeze(2))
                target[start:stop] = values[:, : matrix.cols]
            else:
                target[start:stop] = torch.from_numpy(self.float32(start, stop))

    def affine(self, start: int, stop: int) -> AffineGroups:
        """Rows ``start..stop`` of the wanted order, of a Q4_K matrix; see ``affine_rows``."""
        assert isinstance(self.stored, QuantTensor), "only blocks have scales"
        if self.order is None:
            return self.stored.matrix.affine_rows(start, stop)
        return self.stored.matrix.take(self.order[start:stop]).affine_rows(0, stop - start)

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
