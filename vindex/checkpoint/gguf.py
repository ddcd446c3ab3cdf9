"""A GGUF file as a Hugging Face checkpoint.

Tensor names, row order and norm weights are converted back to what the original checkpoint held,
and ``config.json`` and the tokenizer are rebuilt from the metadata, so nothing downstream knows
that the weights came from GGUF.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from vindex.checkpoint._base import Provenance, TensorInfo
from vindex.checkpoint._convert import convert_rows
from vindex.checkpoint._gguf_file import GgufFile
from vindex.checkpoint._gguf_header import GgufTensor
from vindex.checkpoint._gguf_tokenizer import GgufTokenizer
from vindex.dtypes import to_float32
from vindex.errors import CheckpointError, Unsupported
from vindex.families import Family, GgufRules, gguf_family, spec_from_config
from vindex.families._config import show
from vindex.files import CONFIG
from vindex.kinds import StorageDtype
from vindex.spec import ModelSpec, Role, TensorSpec

if TYPE_CHECKING:
    from vindex.quant import BlockFormat

_BLOCK_ELEMENTS = 1 << 22

_GGUF_NAMES: Mapping[Role, str] = {
    Role.EMBED: "token_embd.weight",
    Role.FINAL_NORM: "output_norm.weight",
    Role.HEAD: "output.weight",
    Role.ATTN_NORM: "blk.{layer}.attn_norm.weight",
    Role.ATTN_POST_NORM: "blk.{layer}.post_attention_norm.weight",
    Role.FFN_NORM: "blk.{layer}.ffn_norm.weight",
    Role.FFN_POST_NORM: "blk.{layer}.post_ffw_norm.weight",
    Role.Q: "blk.{layer}.attn_q.weight",
    Role.K: "blk.{layer}.attn_k.weight",
    Role.V: "blk.{layer}.attn_v.weight",
    Role.O: "blk.{layer}.attn_output.weight",
    Role.Q_BIAS: "blk.{layer}.attn_q.bias",
    Role.K_BIAS: "blk.{layer}.attn_k.bias",
    Role.V_BIAS: "blk.{layer}.attn_v.bias",
    Role.O_BIAS: "blk.{layer}.attn_output.bias",
    Role.Q_NORM: "blk.{layer}.attn_q_norm.weight",
    Role.K_NORM: "blk.{layer}.attn_k_norm.weight",
    Role.GATE: "blk.{layer}.ffn_gate.weight",
    Role.UP: "blk.{layer}.ffn_up.weight",
    Role.DOWN: "blk.{layer}.ffn_down.weight",
    Role.GATE_BIAS: "blk.{layer}.ffn_gate.bias",
    Role.UP_BIAS: "blk.{layer}.ffn_up.bias",
    Role.DOWN_BIAS: "blk.{layer}.ffn_down.bias",
}
_NORMS = frozenset(
    {
        Role.ATTN_NORM,
        Role.ATTN_POST_NORM,
        Role.FFN_NORM,
        Role.FFN_POST_NORM,
        Role.FINAL_NORM,
        Role.Q_NORM,
        Role.K_NORM,
    }
)


@dataclass(frozen=True, slots=True)
class _Mapped:
    """A tensor under its Hugging Face name.

    Attributes:
        permuted: head count whose rows are interleaved in the file, or 0.
        offset: what the file added to every value.
    """

    tensor: GgufTensor
    permuted: int = 0
    offset: float = 0.0


class _Facts:
    """What a family may ask while it rebuilds the configuration."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self._file = file
        self.architecture = architecture

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


class GgufCheckpoint:
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
            self.config: Mapping[str, Any] = rules.config(_Facts(self._file, architecture))
            spec = spec_from_config(self.config, path.name)
            self._tensors = _map_names(self._file, family, rules, spec)
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
        if mapped.offset:
            return TensorInfo(info.shape, StorageDtype.F32, info.stored)
        return info

    def read(self, name: str, dtype: StorageDtype) -> npt.NDArray[np.generic]:
        """A whole tensor, decoded."""
        mapped = self._mapped(name)
        return self._decode(mapped, 0, mapped.tensor.rows, dtype).reshape(mapped.tensor.shape)

    def read_rows(
        self, name: str, start: int, stop: int, dtype: StorageDtype
    ) -> npt.NDArray[np.generic]:
        """Rows ``start..stop`` of a tensor, decoded; no other row is touched."""
        mapped = self._mapped(name)
        shape = mapped.tensor.shape
        if not 0 <= start <= stop <= shape[0]:
            raise IndexError(f"rows {start}..{stop} of {shape[0]}")
        if len(shape) == 1:
            return self._decode(mapped, 0, 1, dtype)[0, start:stop]
        inner = mapped.tensor.rows // shape[0]
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
        if block_format is None or mapped.offset or len(mapped.tensor.shape) != 2:
            return None
        rows: slice | npt.NDArray[np.intp] = slice(start, stop)
        if mapped.permuted:
            rows = _file_rows(mapped.tensor.rows, mapped.permuted)[start:stop]
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

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

    def _mapped(self, name: str) -> _Mapped:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.name} has no tensor {show(name)}") from None

    def _decode(
        self, mapped: _Mapped, start: int, stop: int, dtype: StorageDtype
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
        self, mapped: _Mapped, start: int, stop: int, dtype: StorageDtype
    ) -> npt.NDArray[np.generic]:
        stored = self._file.info(mapped.tensor).dtype
        if mapped.permuted and len(mapped.tensor.shape) == 1:
            order = _file_rows(mapped.tensor.shape[0], mapped.permuted)
            values = self._file.decode(mapped.tensor, slice(None))[:, order]
        elif mapped.permuted:
            order = _file_rows(mapped.tensor.rows, mapped.permuted)[start:stop]
            values = self._file.decode(mapped.tensor, order)
        else:
            values = self._file.decode(mapped.tensor, slice(start, stop))
        if mapped.offset:
            exact = to_float32(values, stored)
            values, stored = exact - np.float32(mapped.offset), StorageDtype.F32
        return convert_rows(values, stored, dtype)


def _map_names(
    file: GgufFile, family: Family, rules: GgufRules, spec: ModelSpec
) -> dict[str, _Mapped]:
    wanted: dict[str, TensorSpec] = {
        _GGUF_NAMES[tensor.role].format(layer=tensor.layer): tensor for tensor in spec.tensors
    }
    result: dict[str, _Mapped] = {}
    for name, tensor in file.tensors.items():
        target = wanted.get(name)
        if target is None:
            result[name] = _Mapped(tensor)
            continue
        permuted = 0
        if target.role in rules.permuted and target.layer is not None:
            attention = spec.layers[target.layer].attention
            query = target.role in (Role.Q, Role.Q_BIAS)
            permuted = attention.heads if query else attention.kv_heads
        offset = 1.0 if rules.norm_offset and target.role in _NORMS else 0.0
        result[family.checkpoint_name(target.key)] = _Mapped(tensor, permuted, offset)
    return result


def _file_rows(rows: int, heads: int) -> npt.NDArray[np.intp]:
    """Which file row holds each Hugging Face row of a q or k matrix.

    The file has each head's rows as ``[S / 2, 2]`` (rope pairs adjacent), Hugging Face as
    ``[2, S / 2]`` (pairs half a head apart).
    """
    if rows % (2 * heads):
        raise CheckpointError(f"a matrix of {rows} rows cannot belong to {heads} heads")
    order = np.arange(rows, dtype=np.intp).reshape(heads, rows // heads // 2, 2)
    return order.swapaxes(1, 2).reshape(rows)
