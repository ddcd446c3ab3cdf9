"""A checkpoint that is in memory: named arrays, a configuration and side files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from vindex.checkpoint._base import Provenance, TensorInfo
from vindex.checkpoint._convert import convert_rows
from vindex.kinds import StorageDtype


@dataclass(frozen=True, slots=True)
class MemoryTensor:
    """One tensor.

    Attributes:
        dtype: element type; ``array`` holds it in ``dtype.carrier`` (bf16 as uint16 bits).
        array: any strides; whoever made it may go on writing it.
    """

    dtype: StorageDtype
    array: npt.NDArray[np.generic]


@dataclass(slots=True)
class MemoryCheckpoint:
    """Arrays that somebody else owns, as a ``Checkpoint``. Nothing is copied before it is read.

    Attributes:
        name: what messages call it.
        config: as in ``config.json``.
        tensors: by the names of the family's checkpoints.
        side_files: tokenizer, generation settings and chat template, by file name.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, MemoryTensor]
    side_files: Mapping[str, bytes] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)

    def names(self) -> Sequence[str]:
        """Tensor names, in the owner's order."""
        return tuple(self.tensors)

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of a tensor."""
        tensor = self.tensors[name]
        return TensorInfo(tensor.array.shape, tensor.dtype, tensor.dtype.value)

    def read(self, name: str, dtype: StorageDtype) -> npt.NDArray[np.generic]:
        """A whole tensor; a view of the owner's array where its dtype is the same."""
        tensor = self.tensors[name]
        return convert_rows(tensor.array, tensor.dtype, dtype).view()

    def read_rows(
        self, name: str, start: int, stop: int, dtype: StorageDtype
    ) -> npt.NDArray[np.generic]:
        """Rows ``start..stop`` of a tensor, likewise."""
        tensor = self.tensors[name]
        if not 0 <= start <= stop <= tensor.array.shape[0]:
            raise IndexError(f"rows {start}..{stop} of {tensor.array.shape[0]}")
        return convert_rows(tensor.array[start:stop], tensor.dtype, dtype).view()

    def release(self) -> None:
        """Nothing is held that could be given back."""

    def files(self) -> Mapping[str, bytes]:
        """The side files."""
        return self.side_files

    def close(self) -> None:
        """The arrays are their owner's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
