"""Writing the block-quantised matrices of a vindex: which format, from what, into which file.

Attention q, k, o and FFN gate, up and the head become Q4_K; v and down, whose errors reach the
residual stream undamped, Q6_K; experts as other FFNs, but for those in files of their layers, which
larql reads as Q4_K alone (see ``vindex.layer_files``). Blocks that the checkpoint already has (a
GGUF file's) are copied where a row is whole blocks: quantising them again would only add error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vindex import files, kquant
from vindex.checkpoint import Checkpoint
from vindex.checkpoint.cutting import read_blocks, read_rows
from vindex.errors import NotEncodable, VindexInvalid
from vindex.kinds import StorageDtype
from vindex.kquant import QuantEntry
from vindex.layer_files import WRITTEN, in_layer_file, layout_of
from vindex.manifest import ManifestEntry
from vindex.quant import BlockFormat, QuantMatrix, encode_rows, q6_k
from vindex.spec import DOWN_ROLES, AttentionSpec, ModelSpec, Role, TensorSpec
from vindex.writing import StagedFile, StageWriter

Bytes = npt.NDArray[np.uint8]

_SLAB_ELEMENTS = 1 << 22
_FINER = DOWN_ROLES | {Role.V}


class QuantWriter:
    """The quantised matrices of one stage.

    Args:
        down_q4k: keep down matrices in Q4_K as well: a tenth smaller, and less exact.
    """

    def __init__(
        self, checkpoint: Checkpoint, spec: ModelSpec, writer: StageWriter, *, down_q4k: bool
    ) -> None:
        self._checkpoint = checkpoint
        self._spec = spec
        self._writer = writer
        self._coarser: frozenset[Role] = DOWN_ROLES if down_q4k else frozenset()
        self._entries: dict[str, list[QuantEntry]] = {
            name: [] for name in (kquant.ATTENTION, kquant.FFN, kquant.EXPERTS)
        }
        self._head: QuantEntry | None = None

    def write(self, tensor: TensorSpec, name: str) -> Iterator[int]:
        """Append a matrix to its file, some rows at a time.

        Args:
            tensor: of a role in ``QUANTISED``.
            name: of the checkpoint tensor that it is or is cut from.

        Yields:
            Bytes written since the last time.

        Raises:
            VindexInvalid: values that are not finite or too large for the format.
        """
        if in_layer_file(tensor, self._spec):
            yield from self._write_to_layer(tensor, name)
            return
        wanted = self._wanted(tensor.role)
        file = self._writer.file(kquant.FILE_OF_ROLE[tensor.role])
        yield from self._append(tensor, tensor.key, name, wanted, file)
        # larql's readers find matrices by position: four to a layer.
        if tensor.role is Role.K and self._attention(tensor).values_are_keys:
            key = tensor.key.replace("k_proj", "v_proj")
            yield from self._append(tensor, key, name, self._wanted(Role.V), file)
        if tensor.role is Role.Q and self._attention(tensor).kv_source is not None:
            for role, letter in ((Role.K, "k"), (Role.V, "v")):
                yield self._hold_place(tensor, tensor.key.replace("q_proj", f"{letter}_proj"), role)

    def _write_to_layer(self, tensor: TensorSpec, name: str) -> Iterator[int]:
        """Append an expert's matrix to its layer's file: gate, up and down, expert by expert."""
        assert tensor.layer is not None
        assert tensor.expert is not None
        layout = layout_of(self._spec, tensor.layer)
        assert layout is not None, "asked before"
        file = self._writer.file(files.layer_name(tensor.layer))
        if file.size == 0:
            file.write(layout.header())
        assert file.size == layout.offset(tensor.role, tensor.expert), "gate, up, down; ascending"
        for blocks in self._rows(tensor, name, WRITTEN):
            file.write(blocks.data.cast("B"))
            yield blocks.nbytes
        if file.size == layout.size:
            self._writer.finish(file.name)

    def finish(self) -> ManifestEntry | None:
        """Write the manifests; the head's entry of ``weight_manifest.json``, if there is one."""
        for file, entries in self._entries.items():
            if entries:
                self._writer.finish(file)
                self._writer.whole(kquant.manifest_name(file), kquant.dump_manifest(entries))
        if self._head is None:
            return None
        self._writer.finish(kquant.HEAD)
        return kquant.head_manifest_entry(self._head)

    def _wanted(self, role: Role) -> BlockFormat:
        finer = role in _FINER and role not in self._coarser
        return BlockFormat.Q6_K if finer else BlockFormat.Q4_K

    def _attention(self, tensor: TensorSpec) -> AttentionSpec:
        assert tensor.layer is not None, "attention belongs to a layer"
        return self._spec.layers[tensor.layer].attention

    def _hold_place(self, query: TensorSpec, key: str, role: Role) -> int:
        """Append zeros where a layer that reads an earlier layer's keys has none; their bytes.

        larql writes what such a layer's checkpoint has there, which nobody reads.
        """
        attention = self._attention(query)
        block_format = self._wanted(role)
        file = self._writer.file(kquant.ATTENTION)
        rows = attention.kv_heads * attention.head_size
        cols = block_format.padded_cols(query.shape[1])
        entry = QuantEntry(key, block_format, rows, cols, file.size, file.name)
        file.write(bytes(entry.span.length))
        self._entries[file.name].append(entry)
        return entry.span.length

    def _append(
        self, tensor: TensorSpec, key: str, name: str, wanted: BlockFormat, file: StagedFile
    ) -> Iterator[int]:
        block_format = self._copied_format(tensor, name, wanted) or wanted
        rows, cols = tensor.shape
        entry = QuantEntry(
            key, block_format, rows, block_format.padded_cols(cols), file.size, file.name
        )
        for blocks in self._rows(tensor, name, wanted):
            file.write(blocks.data.cast("B"))
            yield blocks.nbytes
        if tensor.role is Role.HEAD:
            self._head = entry
        else:
            self._entries[file.name].append(entry)

    def _rows(self, tensor: TensorSpec, name: str, wanted: BlockFormat) -> Iterator[Bytes]:
        """A matrix in blocks, some rows at a time."""
        rows, cols = tensor.shape
        copied = self._copied_format(tensor, name, wanted)
        step = max(1, _SLAB_ELEMENTS // cols)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            if copied:
                blocks = self._copied(tensor, name, start, stop)
            else:
                blocks = self._encoded(tensor, name, start, stop, wanted)
            yield np.ascontiguousarray(blocks)

    def _copied_format(
        self, tensor: TensorSpec, name: str, wanted: BlockFormat
    ) -> BlockFormat | None:
        """The format of the checkpoint's own blocks, where they are taken over as they are."""
        stored = read_blocks(self._checkpoint, tensor, name, 0, 0)
        return None if stored is None else _copied_as(stored[0], wanted)

    def _copied(self, tensor: TensorSpec, name: str, start: int, stop: int) -> Bytes:
        """Rows of the checkpoint's own blocks, checked to decode to finite values."""
        with self._writer.clock.measure("read"):
            found = read_blocks(self._checkpoint, tensor, name, start, stop)
            assert found is not None, "asked before"
            block_format, blocks = found
            if block_format is BlockFormat.GGML_Q6_K:
                block_format = BlockFormat.Q6_K
                size = block_format.block_bytes
                blocks = q6_k.from_ggml(blocks.reshape(-1, size)).reshape(blocks.shape)
            matrix = QuantMatrix(block_format, stop - start, tensor.shape[1], blocks)
            if not np.isfinite(matrix.decode_rows(0, stop - start)).all():
                raise VindexInvalid(f"{name} holds NaN or infinity; the checkpoint is damaged")
        return blocks

    def _encoded(
        self, tensor: TensorSpec, name: str, start: int, stop: int, block_format: BlockFormat
    ) -> Bytes:
        clock = self._writer.clock
        with clock.measure("read", (stop - start) * tensor.shape[1] * 4):
            values = read_rows(self._checkpoint, tensor, name, start, stop, StorageDtype.F32)
        with clock.measure("encode", values.nbytes):
            try:
                return encode_rows(values.astype(np.float32, copy=False), block_format)
            except NotEncodable as error:
                raise VindexInvalid(
                    f"{name}, from row {start}: {error.message}", hint=error.hint
                ) from error


def quantised_bytes(tensor: TensorSpec) -> int:
    """What a matrix takes in blocks, at most."""
    rows, cols = tensor.shape
    return rows * max(each.row_bytes(cols) for each in (BlockFormat.Q4_K, BlockFormat.Q6_K))


def _copied_as(stored: BlockFormat, wanted: BlockFormat) -> BlockFormat | None:
    """The format in which stored blocks go into a vindex as they are, or ``None``.

    Coarser ones than wanted are copied too: their values cannot become better.
    """
    if stored is BlockFormat.Q4_K:
        return BlockFormat.Q4_K
    if stored is BlockFormat.GGML_Q6_K and wanted is BlockFormat.Q6_K:
        return BlockFormat.Q6_K
    return None
