"""What every checkpoint reader provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from vindex.kinds import StorageDtype

if TYPE_CHECKING:
    from vindex.quant import BlockFormat


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint.

    Attributes:
        shape: as in the Hugging Face model; matrices are ``[out, in]``.
        dtype: the element type that a lossless read has; ``F32`` for dequantised blocks.
        stored: the file's own name of its encoding, e.g. ``BF16`` or ``Q4_K``.
    """

    shape: tuple[int, ...]
    dtype: StorageDtype
    stored: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a checkpoint came from.

    Attributes:
        repo: hub id, ``None`` for local files.
        revision: the hub commit, when known.
        sha256: file name to lowercase hex digest, for files whose digest is known for free.
    """

    repo: str | None = None
    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


class Checkpoint(Protocol):
    """Named tensors, a configuration and a tokenizer, read lazily. A context manager."""

    @property
    def name(self) -> str:
        """What the user wrote."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's ``config.json``; rebuilt from metadata for GGUF."""

    @property
    def provenance(self) -> Provenance:
        """Where the files came from."""

    def names(self) -> Sequence[str]:
        """Tensor names, Hugging Face spelling."""

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of a tensor.

        Raises:
            Unsupported: the tensor's encoding cannot be read as floats.
        """

    def read(self, name: str, dtype: StorageDtype) -> npt.NDArray[np.generic]:
        """A whole tensor in ``dtype``'s carrier, rounded to nearest even where it narrows."""

    def read_rows(
        self, name: str, start: int, stop: int, dtype: StorageDtype
    ) -> npt.NDArray[np.generic]:
        """Rows ``start..stop`` of a tensor, likewise."""

    def release(self) -> None:
        """Give back memory of pages already read."""

    def files(self) -> Mapping[str, bytes]:
        """The side files (tokenizer, configurations, chat template) by name."""

    def close(self) -> None:
        """Let go of the files."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class BlockReader(Protocol):
    """A checkpoint that stores matrices in blocks."""

    def blocks(
        self, name: str, start: int, stop: int
    ) -> tuple[BlockFormat, npt.NDArray[np.uint8]] | None:
        """Rows ``start..stop`` of a matrix as stored, uint8 ``[stop - start, row bytes]``.

        Rows of a stack of matrices are counted through.

        Returns:
            ``None`` where the rows are no whole blocks of a format that vindexes know, or their
            values are others than the blocks say.
        """
