"""A vindex as a GGUF file that llama.cpp loads.

Names, reordered rows and norm offsets come from the tables of the reader
(``vindex.checkpoint._gguf_names``), applied the other way round.

Shape legend: E experts, F features, D hidden.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vindex import files
from vindex.baking import Rounding, rounding_of
from vindex.checkpoint import balance
from vindex.checkpoint._gguf_names import file_layout, file_name, stack_name
from vindex.checkpoint.gguf import GgufCheckpoint
from vindex.commit import publish_file, refuse_existing_file, staging, sync_file, write_error
from vindex.errors import NotEncodable, Unsupported, VindexError, VindexInvalid
from vindex.export.config import Written, checkpoint_config
from vindex.export.gguf_metadata import (
    PlannedFacts,
    check_metadata,
    gguf_metadata,
    gguf_rules,
    nameless,
)
from vindex.export.gguf_tokenizer import check_tokenizer, tokenizer_metadata
from vindex.export.report import ExportReport
from vindex.export.tensors import Whole, assemble, checkpoint_tensors
from vindex.extract import check_space
from vindex.families import spec_from_config
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.progress import NullProgress, Progress
from vindex.quant import BlockFormat, encode_rows
from vindex.spec import Role, TensorSpec
from vindex.store import Vindex

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

Floats = npt.NDArray[np.float32]


class GgufQuant(Enum):
    """What matrices of a file are stored in."""

    F32 = BlockFormat.F32
    F16 = BlockFormat.F16
    BF16 = BlockFormat.BF16
    Q8_0 = BlockFormat.Q8_0
    Q4_K = BlockFormat.Q4_K

    @staticmethod
    def of(dtype: StorageDtype) -> GgufQuant:
        """The one that stores a dtype as it is."""
        return GgufQuant[dtype.name]


#: Small tensors and those whose errors weigh most stay exact, as in llama.cpp's converter.
_EXACT = frozenset({Role.ROUTER, Role.SHARED_SWITCH, Role.POSITIONS})
#: Of a file in Q4_K, what is kept finer: errors that reach the residual stream undamped.
_FINER = frozenset({Role.EMBED, Role.HEAD, Role.V, Role.DOWN, Role.EXPERT_DOWN, Role.SHARED_DOWN})
_KINDS = {
    BlockFormat.F32: "F32",
    BlockFormat.F16: "F16",
    BlockFormat.BF16: "BF16",
    BlockFormat.Q8_0: "Q8_0",
    BlockFormat.Q4_K: "Q4_K",
    BlockFormat.GGML_Q6_K: "Q6_K",
}
_FILE_TYPES = {  # llama_ftype: what most matrices of the file are
    GgufQuant.F32: 0,
    GgufQuant.F16: 1,
    GgufQuant.Q8_0: 7,
    GgufQuant.Q4_K: 15,
    GgufQuant.BF16: 32,
}
_QUANTIZATION_VERSION = 2
_SLAB_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor of the file.

    Attributes:
        name: in the file.
        shape: there, slowest dimension first.
        wholes: the checkpoint tensor that it is, or those of all experts.
        block_format: what it is stored in.
    """

    name: str
    shape: tuple[int, ...]
    wholes: tuple[Whole, ...]
    block_format: BlockFormat

    @property
    def byte_shape(self) -> tuple[int, ...]:
        """Its shape in bytes."""
        return (*self.shape[:-1], self.block_format.row_bytes(self.shape[-1]))


def export_gguf(
    source: Vindex,
    out: Path,
    *,
    quant: GgufQuant | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a GGUF file.

    Args:
        source: a vindex of level inference, perhaps with edits over its base.
        out: the file to create.
        quant: of matrices; by default what the model's configuration says. Rows that are no whole
            blocks of it become Q8_0 or F16, vectors stay F32.
        overwrite: replace an existing file, atomically.
        progress: told about bytes; its ``check`` may raise to cancel.

    Raises:
        TargetExists: ``out`` is taken.
        LevelTooLow, VindexIncomplete: the vindex does not hold every weight.
        Unsupported: a family without GGUF files, or a model or tokenizer that they cannot say.
        VindexInvalid: a value that the format cannot hold.
        VindexError: the disk is full or cannot be written. Nothing was published in any case.
    """
    refuse_existing_file(out, overwrite=overwrite)
    source.require(ExtractLevel.INFERENCE, "COMPILE INTO MODEL")
    started = time.perf_counter()
    config = checkpoint_config(source)
    job = _Job(source, config, quant or GgufQuant.of(config.dtype), progress or NullProgress(), out)
    job.check()
    check_space(out, job.bytes_needed)
    try:
        with staging(out) as directory:
            stage = directory / out.name
            job.write(stage)
            _read_back(stage, source)
            job.progress.check()
            publish_file(stage, out, overwrite=overwrite)
    except OSError as error:
        raise write_error(error, out) from error
    return ExportReport(
        path=out,
        files={out.name: out.stat().st_size},
        encodings=dict(job.encodings),
        rounding=job.rounding,
        notes=(*config.notes, *job.notes),
        seconds=time.perf_counter() - started,
    )


class _Job:
    """One export: what is written, and what it took."""

    def __init__(
        self, source: Vindex, config: Written, quant: GgufQuant, progress: Progress, out: Path
    ) -> None:
        self.progress = progress
        self.encodings: Counter[str] = Counter()
        self.rounding = Rounding()
        self._source = source
        self._quant = quant
        self._out = out
        self._family, self._rules = gguf_rules(source.spec)
        self._architecture = self._rules.architectures[0]
        own, self._tables = gguf_metadata(source.spec, config.config, self._architecture)
        tokenizer = tokenizer_metadata(source, config.config, self._architecture)
        self.notes = tokenizer.notes
        self._metadata: dict[str, Any] = {
            "general.architecture": self._architecture,
            "general.name": Path(source.index.model).name,
            "general.file_type": _FILE_TYPES[quant],
            "general.quantization_version": _QUANTIZATION_VERSION,
            **{f"{self._architecture}.{key}": value for key, value in own.items()},
            **tokenizer.metadata,
        }
        self._tensors = tuple(self._planned())

    @property
    def bytes_needed(self) -> int:
        """What the tensors take."""
        return sum(files.tensor_bytes(each.byte_shape, 1) for each in self._tensors)

    def check(self) -> None:
        """Refuse a model or a tokenizer that would be read as another.

        Raises:
            Unsupported: it would.
        """
        rows = {each.name: each.shape[0] for each in self._tensors}
        facts = PlannedFacts(self._metadata, rows, self._tables, self._rules, self._architecture)
        check_metadata(self._source.spec, self._rules, facts)
        check_tokenizer(self._source, self._metadata, self._architecture, self._out)

    def write(self, path: Path) -> None:
        """Write the file, and force it to the disk."""
        from gguf import GGUFWriter

        self.progress.phase("weights", self.bytes_needed)
        writer = GGUFWriter(path, self._architecture)
        try:
            for key, value in self._metadata.items():
                if key != "general.architecture":  # the writer has put it there
                    _add(writer, key, value)
            for name, table in self._tables.items():
                writer.add_tensor_info(name, [len(table)], np.dtype(np.float32), 4 * len(table))
            for tensor in self._tensors:
                size = files.tensor_bytes(tensor.byte_shape, 1)
                kind = _ggml(tensor.block_format)
                shape = tensor.byte_shape
                writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), size, kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for table in self._tables.values():
                writer.write_tensor_data(np.array(table, np.float32))
            for tensor in self._tensors:
                writer.write_tensor_data(self._encoded(tensor))
                self.encodings[_KINDS[tensor.block_format].lower()] += 1
                self.progress.advance(files.tensor_bytes(tensor.byte_shape, 1))
                self.progress.check()
                self._source.release()
            writer.flush()
        finally:
            writer.close()
        with open(path, "rb") as file:
            sync_file(file.fileno())

    def _planned(self) -> Iterator[FileTensor]:
        """The tensors of the file, in model order."""
        stacks: dict[str, list[Whole]] = {}
        for whole in _apart(checkpoint_tensors(self._source)):
            first = whole.parts[0]
            name = file_name(whole.parts) if first.expert is None else stack_name(first)
            if name is None:
                raise Unsupported(
                    f"GGUF has no name for {whole.name}",
                    hint="FORMAT safetensors; writes any model",
                )
            if first.expert is None:
                shape = self._file_shape(whole)
                yield FileTensor(name, shape, (whole,), self._format_of(first, shape))
            else:
                stacks.setdefault(name, []).append(whole)
        for name, wholes in stacks.items():
            shape = (len(wholes), *wholes[0].shape)
            wanted = self._format_of(wholes[0].parts[0], shape)
            yield FileTensor(name, shape, tuple(wholes), wanted)

    def _file_shape(self, whole: Whole) -> tuple[int, ...]:
        layout = file_layout(whole.parts, self._rules, self._source.spec, _file_rows(whole))
        shape = whole.shape[1:] if layout.one_row else whole.shape
        return shape[::-1] if layout.transposed else shape

    def _format_of(self, first: TensorSpec, shape: tuple[int, ...]) -> BlockFormat:
        """What a tensor is stored in."""
        if len(shape) == 1 or first.role in _EXACT:
            return BlockFormat.F32
        wanted: BlockFormat = self._quant.value
        if wanted is BlockFormat.Q4_K and first.role in _FINER:
            wanted = BlockFormat.GGML_Q6_K
        for block_format in (wanted, BlockFormat.Q8_0, BlockFormat.F16):
            if shape[-1] % block_format.block_elements == 0:
                return block_format
        raise AssertionError("any row is whole blocks of one value")

    def _encoded(self, tensor: FileTensor) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, ``byte_shape``.

        Raises:
            VindexInvalid: a value that the format cannot hold.
        """
        parts = [self._in_file_order(whole) for whole in tensor.wholes]
        values = parts[0] if len(parts) == 1 and len(tensor.shape) < 3 else np.stack(parts)
        matrix = values.reshape(-1, values.shape[-1])
        block_format = tensor.block_format
        data = np.empty((len(matrix), block_format.row_bytes(matrix.shape[1])), np.uint8)
        step = max(1, _SLAB_ELEMENTS // matrix.shape[1])
        for start in range(0, len(matrix), step):
            slab = matrix[start : start + step]
            try:
                data[start : start + step] = blocks = encode_rows(slab, block_format)
            except NotEncodable as error:
                raise VindexInvalid(f"{tensor.name}: {error.message}", hint=error.hint) from error
            stored = block_format.decode(blocks).reshape(slab.shape)
            self.rounding += rounding_of(slab, stored)
        return data.reshape(tensor.byte_shape)

    def _in_file_order(self, whole: Whole) -> Floats:
        found = assemble(self._source, whole)
        values = found.float32()
        layout = file_layout(whole.parts, self._rules, self._source.spec, _file_rows(whole))
        return layout.to_file(values)


def _file_rows(whole: Whole) -> int:
    """Rows of a tensor in the file, where ``file_layout`` asks for them: matrices as they are."""
    cut = whole.parts[0].cut
    return whole.shape[-1] if cut is not None and cut.transposed else whole.shape[0]


def _apart(wholes: tuple[Whole, ...]) -> Iterator[Whole]:
    """The same, but one for each tensor of an expert."""
    for whole in wholes:
        if whole.parts[0].expert is None:
            yield whole
            continue
        for part in whole.parts:
            yield Whole(part.key, part.shape, (replace(part, cut=None, others=()),))


def _ggml(block_format: BlockFormat) -> GGMLQuantizationType:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[_KINDS[block_format]]


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """A value of the metadata: numbers as llama.cpp expects them, u32, i32 lists and f32."""
    from gguf import GGUFValueType

    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case np.ndarray():
            kind = GGUFValueType.FLOAT32 if value.dtype.kind == "f" else GGUFValueType.INT32
            writer.add_key_value(key, value.tolist(), GGUFValueType.ARRAY, kind)
        case _:
            raise AssertionError(f"{key}: no GGUF value: {type(value)}")


def _read_back(path: Path, source: Vindex) -> None:
    """What was written must be a checkpoint of this model, with every tensor accounted for.

    Raises:
        VindexError: it is not.
    """
    with GgufCheckpoint(path, str(path)) as found:
        spec = spec_from_config(found.config)
        ledger = balance(found, spec)
    if nameless(spec) != nameless(source.spec):
        raise VindexError("the file is read back as another model")
    written = {tensor.identity for tensor in ledger.used}
    held = {each.identity for each in source.spec.tensors if source.has(*each.identity)}
    if written != held:
        raise VindexError(f"the file lacks {len(held - written)} tensors of the model")
