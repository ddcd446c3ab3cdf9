"""Where weights come from, as seen by whoever computes with them.

Both an opened vindex and a bare checkpoint are a ``ModelSource``; the torch backend knows nothing
else. Arrays are read-only views of files wherever possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vindex.dtypes import to_float32
from vindex.kinds import StorageDtype
from vindex.spec import ModelSpec, Role

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vindex.quant import QuantMatrix


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """One tensor as stored.

    Attributes:
        key: manifest key.
        dtype: element type; ``array`` holds it in ``dtype.carrier`` (bf16 as uint16 bits).
        array: read-only, C-contiguous, usually a memory map.
    """

    key: str
    dtype: StorageDtype
    array: npt.NDArray[np.generic]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``array``."""
        return self.array.shape

    def float32(self) -> npt.NDArray[np.float32]:
        """The values in float32: the map itself for f32, a new array otherwise."""
        return to_float32(self.array, self.dtype)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start..stop`` of a matrix in float32; new memory unless stored as f32."""
        return to_float32(self.array[start:stop], self.dtype)

    def columns(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Columns ``start..stop`` of a matrix in float32, ``[rows, stop - start]``."""
        return to_float32(self.array[:, start:stop], self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class QuantTensor:
    """One block-quantised matrix as stored, a view of its file.

    Attributes:
        key: manifest key.
        matrix: its blocks, and how many of the stored columns are real.
    """

    key: str
    matrix: QuantMatrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, without padding."""
        return self.matrix.shape

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start..stop``, decoded; no other row is touched."""
        return self.matrix.decode_rows(start, stop)

    def columns(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Columns ``start..stop``, decoded: ``[rows, stop - start]``; no other block is touched."""
        return self.matrix.decode_columns(start, stop)


@runtime_checkable
class Releasing(Protocol):
    """A source that can give back the memory of file pages already read."""

    def release(self) -> None:
        """Let the system drop those pages; they come back when touched again."""


class ModelSource(Protocol):
    """A model whose tensors can be read: an opened vindex or a checkpoint."""

    @property
    def name(self) -> str:
        """What to call it in messages: a path or a hub id."""

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""

    @property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """``tokenizer_config.json``, empty when absent: special tokens, ``add_bos_token`` …"""

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """``generation_config.json`` (empty when absent): stop ids."""

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's chat template, or ``None``."""

    def has(self, role: Role, layer: int | None = None, expert: int | None = None) -> bool:
        """Whether the tensor is stored."""

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        """The tensor; a missing one is an internal error (validation happened at open)."""

    def matrix(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor | QuantTensor:
        """What a forward pass multiplies by: the quantised matrix where there is one."""

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded once."""
