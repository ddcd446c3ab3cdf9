"""The writing of a vindex's files into a stage, one layer at a time.

Order: tokenizer, embeddings, weights, down_meta, index, seal. Peak memory is the embeddings and
one layer: the embedding is scored from a map, in the checkpoint's own precision.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vindex import files, ple, quick_tokenizer, tokens
from vindex.blocks import in_blocks
from vindex.checkpoint import Checkpoint, Ledger
from vindex.checkpoint.cutting import read_tensor
from vindex.commit import write_file
from vindex.describing import describe
from vindex.downmeta import DownMetaWriter, Records, down_meta_bytes, make_records
from vindex.dtypes import convert, to_float32
from vindex.files import MappedFile
from vindex.heap import trim_heap
from vindex.index import LayerInfo, dump_index
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.layer_files import PER_LAYER, in_layer_file, is_flat_router
from vindex.manifest import ManifestEntry, dump_manifest
from vindex.progress import Progress
from vindex.quantising import QuantWriter, quantised_bytes
from vindex.quick_tokenizer import QuickTokenizer
from vindex.scoring import Embeddings, TokenScorer
from vindex.seal import dump_seal
from vindex.spec import (
    DOWN_ROLES,
    GATE_ROLES,
    ModelSpec,
    MoeSpec,
    Role,
    StorageFile,
    TensorSpec,
)
from vindex.writing import (
    OTHER_DTYPE,
    Clock,
    StageWriter,
    check_finite,
    contiguous,
    encode_rows,
    entry_for,
)

DOWN_TOP_K = 10

Columns = npt.NDArray[np.float32]

_SCORED_AT_ONCE = 1024  # features between two reports of progress
#: Manifest order of the files; up and down matrices alternate, as in larql.
_MANIFEST_ORDER = {
    StorageFile.ATTENTION: 0,
    StorageFile.UP: 1,
    StorageFile.DOWN: 1,
    StorageFile.NORMS: 2,
    StorageFile.PLE: 3,
    StorageFile.HEAD: 4,
    StorageFile.POSITIONS: 5,
    StorageFile.PROJECTIONS: 6,
}


@dataclass(frozen=True, slots=True, eq=False)
class Extraction:
    """One extract: what is read, how it is written, where time is booked.

    Attributes:
        ledger: of ``checkpoint`` against ``spec``, balanced.
        side_files: configuration and tokenizer files to carry along, by name.
        scorer: the kernel of down_meta.
        quant: what becomes of matrices; norms and biases of a quantised vindex are f32.
        down_q4k: quantise down matrices as coarsely as the others.
        drop_gate_vectors: keep gate matrices in blocks alone.
        clock: gains the seconds of ``read``, ``hash``, ``write``, ``score`` and ``sync``.
    """

    checkpoint: Checkpoint
    spec: ModelSpec
    ledger: Ledger
    side_files: Mapping[str, bytes]
    level: ExtractLevel
    dtype: StorageDtype
    scorer: TokenScorer
    progress: Progress
    clock: Clock
    quant: Quant = Quant.NONE
    down_q4k: bool = False
    drop_gate_vectors: bool = False

    @property
    def _embed(self) -> tuple[TensorSpec, str]:
        return next(item for item in self.ledger.used.items() if item[0].role is Role.EMBED)

    @property
    def _exact_dtype(self) -> StorageDtype:
        """The element type that holds the checkpoint's embedding without loss."""
        return self.checkpoint.info(self._embed[1]).dtype

    @property
    def _needs_scratch(self) -> bool:
        """Whether ``embeddings.bin`` rounds, so that scoring needs the exact values beside it."""
        return self.dtype not in (StorageDtype.F32, self._exact_dtype)

    def _stored(self) -> list[tuple[TensorSpec, str]]:
        """Tensors to store besides the embedding, with their checkpoint names, model order."""
        return [
            (tensor, name)
            for tensor, name in self.ledger.used.items()
            if tensor.level <= self.level and tensor.role is not Role.EMBED
        ]

    def _dtype_of(self, tensor: TensorSpec) -> StorageDtype:
        if tensor.file is ple.FILE:
            return ple.DTYPE
        exact = tensor.role.is_bias or self._among_norms(tensor)
        return StorageDtype.F32 if exact else self.dtype

    def _file_of(self, tensor: TensorSpec) -> StorageFile:
        return StorageFile.NORMS if self._among_norms(tensor) else tensor.file

    def _among_norms(self, tensor: TensorSpec) -> bool:
        """Whether a quantised vindex keeps a tensor with the norms: vectors, and flat routers."""
        is_vector = len(tensor.shape) == 1 or is_flat_router(tensor, self.spec)
        return is_vector and self.quant is not Quant.NONE

    def _in_blocks(self, tensor: TensorSpec) -> bool:
        """Whether a tensor is kept in blocks, a gate besides its floats."""
        if self.quant is Quant.NONE:
            return False
        below = tensor.role in GATE_ROLES and self.level < ExtractLevel.INFERENCE
        return in_blocks(tensor, self.spec) and not below

    def _in_layer_file(self, tensor: TensorSpec) -> bool:
        in_blocks = tensor.level <= self.level and self._in_blocks(tensor)
        return in_blocks and in_layer_file(tensor, self.spec)

    def _in_floats(self, tensor: TensorSpec) -> bool:
        kept = tensor.role in GATE_ROLES and not self.drop_gate_vectors
        return kept or not self._in_blocks(tensor)

    def bytes_needed(self) -> int:
        """An upper estimate of what the stage takes on the disk, scratch included."""
        embed, _ = self._embed
        total = sum(self._bytes_of(tensor) for tensor, _ in [(embed, ""), *self._stored()])
        if self._needs_scratch:
            total += files.tensor_bytes(embed.shape, self._exact_dtype.itemsize)
        total += down_meta_bytes([layer.ffn.width for layer in self.spec.layers], DOWN_TOP_K)
        return total + 4 * sum(len(data) for data in self.side_files.values())

    def _bytes_of(self, tensor: TensorSpec) -> int:
        """What a tensor takes on the disk, at most."""
        floats = files.tensor_bytes(tensor.shape, self._dtype_of(tensor).itemsize)
        blocks = quantised_bytes(tensor) if self._in_blocks(tensor) else 0
        return blocks + (floats if self._in_floats(tensor) else 0)

    def write(self, writer: StageWriter) -> None:
        """Write every file of the stage, the seal last."""
        for name, data in self.side_files.items():
            writer.whole(name, data)
        blank = self._write_tokens(writer)
        trim_heap()
        self._write_embeddings(writer)
        layers, entries = self._write_weights(writer)
        self._write_down_meta(writer, blank)
        if entries:
            writer.whole(files.MANIFEST, dump_manifest(entries))
        index = describe(
            self.checkpoint,
            self.spec,
            self.ledger,
            layers,
            level=self.level,
            dtype=self.dtype,
            quant=self.quant,
            ffn_layout=PER_LAYER if any(map(self._in_layer_file, self.spec.tensors)) else None,
            down_top_k=DOWN_TOP_K,
        )
        checksums = writer.checksums(files.LARQL_CHECKSUMMED)
        writer.whole(files.INDEX, dump_index(index.with_checksums(checksums)))
        writer.settle()
        write_file(writer.directory / files.SEAL, dump_seal(writer.seal()))

    def _write_tokens(self, writer: StageWriter) -> npt.NDArray[np.bool_]:
        """What browsing needs of the tokenizer; which tokens have no text, ``[V]``."""
        path = Path(self.checkpoint.name, files.TOKENIZER)
        data = self.side_files[files.TOKENIZER]
        tokenizer = tokens.load_tokenizer(data, path)
        tokens.check_vocabulary(tokenizer, self.spec.vocab_size, path)
        texts = tokens.decode_all(tokenizer, self.spec.vocab_size)
        writer.whole(tokens.FILE, tokens.token_texts_bytes(texts))
        parts = quick_tokenizer.tokenizer_parts(data, path)
        if parts is not None:
            writer.whole(quick_tokenizer.FILE, parts)
            quick = QuickTokenizer(MappedFile(writer.directory, quick_tokenizer.FILE))
            if not quick_tokenizer.agrees(quick, tokenizer, texts):
                writer.drop(quick_tokenizer.FILE)
        return tokens.blank_tokens(texts)

    def _write_embeddings(self, writer: StageWriter) -> None:
        """``embeddings.bin``, and the exact values in a scratch file if they differ."""
        tensor, name = self._embed
        exact = self._exact_dtype
        self.progress.phase("embeddings", files.tensor_bytes(tensor.shape, exact.itemsize))
        for rows in encode_rows(self.checkpoint, tensor, name, exact, self.clock):
            if self._needs_scratch:
                with self.clock.measure("write", rows.nbytes):
                    writer.scratch.write(contiguous(rows))
            with self.clock.measure("read"):
                encoded = convert(rows, exact, self.dtype)
                check_finite(encoded, self.dtype, name, partial(to_float32, rows, exact))
            writer.file(files.EMBEDDINGS).write(contiguous(encoded))
            self._step(rows.nbytes)
        writer.finish(files.EMBEDDINGS)

    def _write_weights(self, writer: StageWriter) -> tuple[list[LayerInfo], list[ManifestEntry]]:
        """Every other tensor, model order: where the gate blocks lie, and the manifest."""
        stored = self._stored()
        quantised = QuantWriter(self.checkpoint, self.spec, writer, down_q4k=self.down_q4k)
        self.progress.phase(
            "weights",
            sum(self._bytes_of(tensor) for tensor, _ in stored),
        )
        gates = [(tensor, name) for tensor, name in stored if tensor.role in GATE_ROLES]
        layers = self._gate_blocks([tensor for tensor, _ in gates])
        entries: list[tuple[int, ManifestEntry]] = []
        for tensor, name in stored:
            if self._in_blocks(tensor):
                for count in quantised.write(tensor, name):
                    self._step(count)
            if not self._in_floats(tensor):
                continue
            dtype = self._dtype_of(tensor)
            target = self._file_of(tensor)
            file = writer.file(target.value)
            file.align(dtype.itemsize)
            if tensor.role not in GATE_ROLES:
                flat = (math.prod(tensor.shape),)
                shape = flat if self._among_norms(tensor) else tensor.shape
                entry = entry_for(tensor.key, shape, file, dtype.itemsize)
                entries.append((_MANIFEST_ORDER[target], entry))
            hint = ple.TOO_LARGE if tensor.file is ple.FILE else OTHER_DTYPE
            for rows in encode_rows(self.checkpoint, tensor, name, dtype, self.clock, hint):
                file.write(contiguous(rows))
                self._step(rows.nbytes)
        floats = [tensor for tensor, _ in stored if self._in_floats(tensor)]
        for name in {self._file_of(tensor).value: None for tensor in floats}:
            writer.finish(name)
        entries.sort(key=lambda item: item[0])
        head = quantised.finish()
        if head is not None:
            entries.append((_MANIFEST_ORDER[StorageFile.HEAD], head))
        return layers, [entry for _, entry in entries]

    def _gate_blocks(self, gates: Sequence[TensorSpec]) -> list[LayerInfo]:
        """Where the block of each layer lies in ``gate_vectors.bin``: matrices in model order."""
        layers: list[LayerInfo] = []
        offset = 0
        for layer, group in itertools.groupby(gates, key=lambda tensor: tensor.layer):
            assert layer is not None, "gate matrices belong to a layer"
            rows = sum(tensor.shape[0] for tensor in group)
            length = files.tensor_bytes((rows, self.spec.hidden_size), self.dtype.itemsize)
            ffn = self.spec.layers[layer].ffn
            info = LayerInfo(layer, rows, offset, length)
            if isinstance(ffn, MoeSpec) and ffn.beside is None:
                # larql counts from the block's first row, so not where a dense FFN comes first.
                info = replace(
                    info,
                    num_experts=ffn.routing.experts,
                    num_features_per_expert=ffn.expert.width,
                )
            layers.append(info)
            offset += length
        return layers

    def _write_down_meta(self, writer: StageWriter, blank: npt.NDArray[np.bool_]) -> None:
        """``down_meta.bin``: the exact best tokens of every down column."""
        down = [item for item in self.ledger.used.items() if item[0].role in DOWN_ROLES]
        self.progress.phase("features", sum(tensor.shape[1] for tensor, _ in down), "features")
        meta = DownMetaWriter(writer.file(files.DOWN_META).write, self.spec.num_layers, DOWN_TOP_K)
        projection = self._head_projection()
        with self._exact_embeddings(writer) as embeddings:
            with self.clock.measure("score"):
                self.scorer.begin(embeddings)
            for _, group in itertools.groupby(down, key=lambda item: item[0].layer):
                columns = (self._columns(*item, projection) for item in group)
                meta.layer(np.concatenate(list(self._records(columns, blank))))
        writer.finish(files.DOWN_META)

    def _columns(self, tensor: TensorSpec, name: str, projection: Columns | None) -> Columns:
        """The down columns of an FFN, ``[F, D]``, ready to be compared with embeddings."""
        with self.clock.measure("read", files.tensor_bytes(tensor.shape, 4)):
            matrix = read_tensor(self.checkpoint, tensor, name, StorageDtype.F32)
            check_finite(matrix, StorageDtype.F32, name, partial(np.asarray, matrix))
            columns = np.ascontiguousarray(matrix.T).astype(np.float32, copy=False)
            return columns if projection is None else columns @ projection.T

    def _head_projection(self) -> Columns | None:
        """What turns a down column into something an embedding can be compared with: [E, D]."""
        for tensor, name in self.ledger.used.items():
            if tensor.role is Role.HEAD_PROJECTION:
                matrix = read_tensor(self.checkpoint, tensor, name, StorageDtype.F32)
                return matrix.astype(np.float32, copy=False)
        return None

    def _records(
        self, columns: Iterable[Columns], blank: npt.NDArray[np.bool_]
    ) -> Iterator[Records]:
        """Records of the down columns of a layer's FFNs, so many at a time."""
        for part in _regrouped(columns, _SCORED_AT_ONCE):
            with self.clock.measure("score", part.nbytes):
                best = self.scorer.top(part, DOWN_TOP_K)
            yield make_records(best, blank, DOWN_TOP_K)
            self._step(len(part))

    @contextmanager
    def _exact_embeddings(self, writer: StageWriter) -> Iterator[Embeddings]:
        """The checkpoint's embedding, mapped from the scratch file or ``embeddings.bin``."""
        tensor, _ = self._embed
        dtype = self._exact_dtype if self._needs_scratch else self.dtype
        name = writer.scratch.name if self._needs_scratch else files.EMBEDDINGS
        mapped = MappedFile(writer.directory, name)
        try:
            yield Embeddings(mapped.array(0, tensor.shape, dtype), dtype, release=mapped.release)
        finally:
            self.scorer.end()
        writer.drop_scratch()

    def _step(self, amount: int) -> None:
        """Report progress, give back pages, and stop here if asked to."""
        self.checkpoint.release()
        self.progress.advance(amount)
        self.progress.check()


def _regrouped(parts: Iterable[Columns], rows: int) -> Iterator[Columns]:
    """The same rows in their order, so many at a time whatever the size of the parts."""
    held: Columns | None = None
    for part in parts:
        held = part if held is None else np.concatenate([held, part])
        whole = len(held) - len(held) % rows
        for start in range(0, whole, rows):
            yield held[start : start + rows]
        held = held[whole:] if whole < len(held) else None
    if held is not None:
        yield held
