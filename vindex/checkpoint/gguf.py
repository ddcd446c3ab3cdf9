"""A GGUF file as a Hugging Face checkpoint.

Tensor names, row order and norm weights are converted back to what the original checkpoint held,
and ``config.json`` and the tokenizer are rebuilt from the metadata, so nothing downstream knows
that the weights came from GGUF.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vindex.checkpoint._base import Provenance, TensorInfo
from vindex.checkpoint._convert import convert_rows
from vindex.checkpoint._gguf_file import GgufFile
from vindex.checkpoint._gguf_names import Mapped, map_names
from vindex.checkpoint._gguf_tokenizer import GgufTokenizer
from vindex.closing import Closing
from vindex.dtypes import to_float32
from vindex.errors import CheckpointError, Unsupported
from vindex.families import Family, GgufRules, gguf_family, spec_from_config
from vindex.families._config import show
from vindex.files import CONFIG
from vindex.kinds import StorageDtype

if TYPE_CHECKING:
    from vindex.quant import BlockFormat

_BLOCK_ELEMENTS = 1 << 22


class _Facts:
    """What a family may ask while it rebuilds the configuration."""

    def __init__(self, file: GgufFile, architecture: str, known: frozenset[str]) -> None:
        self._file = file
        self.architecture = architecture
        self.known = known

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._file.metadata

    def has_tensor(self, name: str) -> bool:
        return name in self._file.tensors

    def vector(self, name: str) -> list[float]:
        tensor = self._file.tensors[name]
        values: list[float] = self._file.decode(tensor, slice(None)).ravel().tolist()
        return values

    def rows(self, name: str) -> int:
        if name not in self._file.tensors:
            raise CheckpointError(
                f"{self._file.path.name} has no tensor {name}", path=self._file.path
            )
        return self._file.tensors[name].rows


class GgufCheckpoint(Closing):
    """A GGUF file, implementing ``Checkpoint``.

    Args:
        path: the file.
        name: what the user wrote.
        provenance: where it came from.

    Raises:
        CheckpointError: the file is malformed.
        Unsupported: an architecture or option that cannot be converted back exactly.
    """

    def __init__(self, path: Path, name: str, *, provenance: Provenance | None = None) -> None:
        self.name = name
        self.provenance = provenance or Provenance()
        self._file = GgufFile(path)
        try:
            family, rules = self._family()
            architecture = self._file.metadata["general.architecture"]
            self.config: Mapping[str, Any] = rules.config(
                _Facts(self._file, architecture, rules.known)
            )
            spec = spec_from_config(self.config, path.name)
            self._tensors = map_names(self._file.tensors, family, rules, spec)
        except BaseException:
            self._file.close()
            raise

    def names(self) -> Sequence[str]:
        """Hugging Face names in file order; tensors without one keep their GGUF name."""
        return tuple(self._tensors)

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of a tensor; F32 where blocks are decoded or an offset is undone."""
        mapped = self._mapped(name)
        info = self._file.info(mapped.tensor)
        dtype = StorageDtype.F32 if mapped.offset else info.dtype
        return TensorInfo(mapped.shape, dtype, info.stored)

    def read(self, name: str, dtype: StorageDtype) -> npt.NDArray[np.generic]:
        """A whole tensor, decoded."""
        mapped = self._mapped(name)
        flat = self._decode(mapped, 0, mapped.rows, dtype)
        if mapped.transposed:
            return np.ascontiguousarray(flat.T)
        return flat.reshape(mapped.shape)

    def read_rows(
        self, name: str, start: int, stop: int, dtype: StorageDtype
    ) -> npt.NDArray[np.generic]:
        """Rows ``start..stop`` of a tensor, decoded; no other row is touched."""
        mapped = self._mapped(name)
        shape = mapped.shape
        if not 0 <= start <= stop <= shape[0]:
            raise IndexError(f"rows {start}..{stop} of {shape[0]}")
        if len(shape) == 1 or mapped.transposed:  # rows go across those of the file
            return np.ascontiguousarray(self.read(name, dtype)[start:stop])
        inner = mapped.rows // shape[0]
        flat = self._decode(mapped, start * inner, stop * inner, dtype)
        return flat.reshape(stop - start, *shape[1:])

    def blocks(
        self, name: str, start: int, stop: int
    ) -> tuple[BlockFormat, npt.NDArray[np.uint8]] | None:
        """Rows ``start..stop`` of a matrix as stored; see ``BlockReader``."""
        from vindex.quant import BlockFormat

        mapped = self._mapped(name)
        formats = {"Q4_K": BlockFormat.Q4_K, "Q6_K": BlockFormat.GGML_Q6_K}
        block_format = formats.get(mapped.tensor.encoding.name)
        as_it_is = not mapped.offset and not mapped.transposed and len(mapped.tensor.shape) > 1
        if block_format is None or not as_it_is:
            return None
        rows: slice | npt.NDArray[np.intp] = slice(start, stop)
        if mapped.order is not None:
            rows = mapped.order[start:stop]
        return block_format, self._file.raw_rows(mapped.tensor, rows)

    def release(self) -> None:
        """Give back memory of pages already read."""
        self._file.release()

    def files(self) -> Mapping[str, bytes]:
        """The side files, rebuilt from the metadata on the first call."""
        return self._side_files

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @cached_property
    def _side_files(self) -> Mapping[str, bytes]:
        tokenizer = GgufTokenizer(
            self._file.metadata,
            architecture=self._file.metadata["general.architecture"],
            vocab_size=self.config["vocab_size"],
            path=self._file.path,
        )
        return {CONFIG: json.dumps(self.config, indent=2).encode(), **tokenizer.files()}

    def _family(self) -> tuple[Family, GgufRules]:
        metadata = self._file.metadata
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str):
            raise CheckpointError(
                f"{self._file.path.name} does not name its architecture", path=self._file.path
            )
        if metadata.get("split.count", 1) != 1:
            raise Unsupported(
                f"{self._file.path.name} is one of {show(metadata['split.count'])} parts",
                hint="merge the parts with llama-gguf-split --merge",
                path=self._file.path,
            )
        family = gguf_family(architecture)
        assert family.gguf is not None
        return family, family.gguf

    def _mapped(self, name: str) -> Mapped:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.name} has no tensor {show(name)}") from None

    def _decode(
        self, mapped: Mapped, start: int, stop: int, dtype: StorageDtype
    ) -> npt.NDArray[np.generic]:
        """Flattened rows ``[stop - start, last axis]`` in Hugging Face order.

        A narrower dtype than the decoded one is filled block by block, so that a large matrix is
        never whole in float32.
        """
        width = mapped.tensor.shape[-1]
        step = max(1, _BLOCK_ELEMENTS // width)
        if stop - start <= step or self._file.info(mapped.tensor).dtype is dtype:
            return self._decode_block(mapped, start, stop, dtype)
        result = np.empty((stop - start, width), dtype=dtype.carrier)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            result[first - start : last - start] = self._decode_block(mapped, first, last, dtype)
        return result

    def _decode_block(
        self, mapped: Mapped, start: int, stop: int, dtype: StorageDtype
    ) -> npt.NDArray[np.generic]:
        tensor, order = mapped.tensor, mapped.order
        stored = self._file.info(tensor).dtype
        if order is None:
            values = self._file.decode(tensor, slice(start, stop))
        elif len(tensor.shape) == 1:
            values = self._file.decode(tensor, slice(None))[:, order]
        else:
            values = self._file.decode(tensor, order[start:stop])
        if mapped.offset:
            exact = to_float32(values, stored)
            values, stored = exact - np.float32(mapped.offset), StorageDtype.F32
        return convert_rows(values, stored, dtype)
