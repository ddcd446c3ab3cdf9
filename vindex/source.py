"""Where weights come from, as seen by whoever computes with them.

Both an opened vindex and a bare checkpoint are a ``ModelSource``; the torch backend knows nothing
else. Arrays are read-only views of files wherever possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from vindex.dtypes import to_float32
from vindex.kinds import StorageDtype
from vindex.spec import ModelSpec, Role

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded once."""
