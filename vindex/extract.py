"""EXTRACT: a checkpoint into a vindex, one layer at a time.

::

    checkpoint -> spec -> ledger (refuses before anything is written)
      -> embeddings.bin -> weights, layer by layer -> down_meta.bin -> tokenizer -> index.json
      -> seal.json -> one rename

Nothing bears the target's name before everything is on the disk. Peak memory is the embeddings and
one layer, whatever the model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vindex import files, tokens
from vindex.checkpoint import Checkpoint, Dropped, Ledger, balance
from vindex.checkpoint.cutting import read_tensor
from vindex.commit import Stage, refuse_existing, write_error, write_file
from vindex.describing import describe
from vindex.downmeta import DownMetaWriter, down_meta_bytes, make_records
from vindex.dtypes import convert, to_float32
from vindex.errors import CheckpointError, Unsupported, VindexError
from vindex.families import spec_from_config
from vindex.files import MappedFile
from vindex.index import LayerInfo, dump_index
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.manifest import ManifestEntry, dump_manifest
from vindex.progress import NullProgress, Progress
from vindex.scoring import Embeddings, NumpyScorer, TokenScorer
from vindex.seal import dump_seal
from vindex.spec import ModelSpec, Role, StorageFile, TensorSpec
from vindex.store import open_vindex
from vindex.writing import (
    Clock,
    Phase,
    StageWriter,
    check_finite,
    contiguous,
    encode_rows,
    entry_for,
    peak_rss_bytes,
    trim_heap,
)

DOWN_TOP_K = 10

_SPARE_BYTES = 64 << 20  # room that must stay free on the disk
#: Manifest order of the files; up and down matrices alternate, as in larql.
_MANIFEST_ORDER = {
    StorageFile.ATTENTION: 0,
    StorageFile.UP: 1,
    StorageFile.DOWN: 1,
    StorageFile.NORMS: 2,
    StorageFile.HEAD: 3,
    StorageFile.POSITIONS: 4,
}


@dataclass(frozen=True, slots=True)
class ExtractReport:
    """What an extract wrote.

    Attributes:
        path: the vindex.
        num_features: gate rows over all layers.
        files: every file with its bytes.
        dropped: checkpoint tensors left out on purpose.
        notes: what the user should know.
        phases: the measured split; the times are disjoint and sum to nearly ``seconds``.
        seconds: wall time.
        peak_rss_bytes: of the process, so far; 0 where the system does not say.
    """

    path: Path
    model: str
    family: str
    level: ExtractLevel
    dtype: StorageDtype
    num_layers: int
    num_features: int
    files: Mapping[str, int]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    phases: tuple[Phase, ...]
    seconds: float
    peak_rss_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def extract(
    checkpoint: Checkpoint,
    out: Path,
    *,
    level: ExtractLevel = ExtractLevel.INFERENCE,
    dtype: StorageDtype = StorageDtype.F16,
    quant: Quant = Quant.NONE,
    overwrite: bool = False,
    scorer: TokenScorer | None = None,
    progress: Progress | None = None,
) -> ExtractReport:
    """Write a vindex.

    Args:
        checkpoint: an open checkpoint.
        out: the directory to create.
        level: how much to store.
        dtype: element type of weights; biases are always f32.
        quant: must be ``NONE`` in this version.
        overwrite: replace an existing vindex, atomically.
        scorer: the kernel of down_meta; the result is the same with any.
        progress: told about phases; its ``check`` may raise to cancel.

    Raises:
        TargetExists: ``out`` exists and ``overwrite`` is false.
        LedgerRefusal: the checkpoint's tensors do not account for the model.
        Unsupported: the model, or block quantisation.
        CheckpointError: no tokenizer.
        VindexInvalid: a tensor is not finite or does not fit ``dtype``, or the tokenizer does not
            load or has more tokens than the embedding.
        VindexError: the disk is full or cannot be written. Nothing was published in any case.
    """
    if quant is not Quant.NONE:
        raise Unsupported("quantised vindexes come with a later version", hint="leave out QUANT")
    refuse_existing(out, overwrite=overwrite)
    clock = Clock()
    with clock.measure("other"):
        spec = spec_from_config(checkpoint.config)
        job = _Extraction(
            checkpoint=checkpoint,
            spec=spec,
            ledger=balance(checkpoint, spec),
            side_files=_side_files(checkpoint),
            level=level,
            dtype=dtype,
            scorer=scorer or NumpyScorer(),
            progress=progress or NullProgress(),
            clock=clock,
        )
        job.check_space(out)
        with Stage(out, overwrite=overwrite) as stage, _explained(out):
            with StageWriter(stage.path, clock) as writer:
                job.write(writer)
            open_vindex(stage.path).close()
            job.progress.check()
            with clock.measure("sync"):
                stage.publish()
    return job.report(out)


@dataclass(frozen=True, slots=True, eq=False)
class _Extraction:
    """One extract: what is read, how it is written, where time is booked."""

    checkpoint: Checkpoint
    spec: ModelSpec
    ledger: Ledger
    side_files: Mapping[str, bytes]
    level: ExtractLevel
    dtype: StorageDtype
    scorer: TokenScorer
    progress: Progress
    clock: Clock

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
        return StorageDtype.F32 if tensor.role.is_bias else self.dtype

    def check_space(self, out: Path) -> None:
        """Refuse before starting when the disk cannot hold the result.

        Raises:
            VindexError: with the bytes needed and free.
        """
        embed, _ = self._embed
        stored = [(embed, ""), *self._stored()]
        needed = sum(
            files.tensor_bytes(tensor.shape, self._dtype_of(tensor).itemsize)
            for tensor, _ in stored
        )
        if self._needs_scratch:
            needed += files.tensor_bytes(embed.shape, self._exact_dtype.itemsize)
        needed += down_meta_bytes([layer.ffn.width for layer in self.spec.layers], DOWN_TOP_K)
        needed += 3 * sum(len(data) for data in self.side_files.values())
        parent = Path(os.path.abspath(out)).parent
        try:
            free = shutil.disk_usage(parent).free
        except OSError as error:
            raise write_error(error, out) from error
        if free < needed + _SPARE_BYTES:
            raise VindexError(
                f"{out} needs {needed / 1e9:.2f} GB, {parent} has {free / 1e9:.2f} GB free",
                hint="free space or choose a path on another filesystem",
                path=out,
            )

    def write(self, writer: StageWriter) -> None:
        """Write every file of the stage, the seal last."""
        for name, data in self.side_files.items():
            writer.whole(name, data)
        blank = self._write_token_texts(writer)
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
            down_top_k=DOWN_TOP_K,
        )
        checksums = writer.checksums(files.LARQL_CHECKSUMMED)
        writer.whole(files.INDEX, dump_index(index.with_checksums(checksums)))
        writer.settle()
        write_file(writer.directory / files.SEAL, dump_seal(writer.seal()))

    def _write_token_texts(self, writer: StageWriter) -> npt.NDArray[np.bool_]:
        """``token_texts.bin``; which tokens have no text, ``[V]``."""
        path = Path(self.checkpoint.name, files.TOKENIZER)
        tokenizer = tokens.load_tokenizer(self.side_files[files.TOKENIZER], path)
        tokens.check_vocabulary(tokenizer, self.spec.vocab_size, path)
        texts = tokens.decode_all(tokenizer, self.spec.vocab_size)
        writer.whole(tokens.FILE, tokens.token_texts_bytes(texts))
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
        self.progress.phase(
            "weights",
            sum(files.tensor_bytes(t.shape, self._dtype_of(t).itemsize) for t, _ in stored),
        )
        layers: list[LayerInfo] = []
        entries: list[tuple[int, ManifestEntry]] = []
        for tensor, name in stored:
            dtype = self._dtype_of(tensor)
            file = writer.file(tensor.file.value)
            file.align(dtype.itemsize)
            entry = entry_for(tensor.key, tensor.shape, file, dtype.itemsize)
            if tensor.role is Role.GATE:
                assert tensor.layer is not None, "gate matrices belong to a layer"
                layers.append(LayerInfo(tensor.layer, tensor.shape[0], entry.offset, entry.length))
            else:
                entries.append((_MANIFEST_ORDER[tensor.file], entry))
            for rows in encode_rows(self.checkpoint, tensor, name, dtype, self.clock):
                file.write(contiguous(rows))
                self._step(rows.nbytes)
        for name in {tensor.file.value: None for tensor, _ in stored}:
            writer.finish(name)
        entries.sort(key=lambda item: item[0])
        return layers, [entry for _, entry in entries]

    def _write_down_meta(self, writer: StageWriter, blank: npt.NDArray[np.bool_]) -> None:
        """``down_meta.bin``: the exact best tokens of every down column."""
        down = [item for item in self.ledger.used.items() if item[0].role is Role.DOWN]
        self.progress.phase("features", sum(tensor.shape[1] for tensor, _ in down), "features")
        meta = DownMetaWriter(writer.file(files.DOWN_META).write, self.spec.num_layers, DOWN_TOP_K)
        with self._exact_embeddings(writer) as embeddings:
            with self.clock.measure("score"):
                self.scorer.begin(embeddings)
            for tensor, name in down:
                with self.clock.measure("read", files.tensor_bytes(tensor.shape, 4)):
                    matrix = read_tensor(self.checkpoint, tensor, name, StorageDtype.F32)
                    check_finite(matrix, StorageDtype.F32, name, partial(np.asarray, matrix))
                    columns = np.ascontiguousarray(matrix.T).astype(np.float32, copy=False)
                with self.clock.measure("score", columns.nbytes):
                    best = self.scorer.top(columns, DOWN_TOP_K)
                meta.layer(make_records(best, blank, DOWN_TOP_K))
                self._step(tensor.shape[1])
            self.scorer.end()
        writer.finish(files.DOWN_META)

    @contextmanager
    def _exact_embeddings(self, writer: StageWriter) -> Iterator[Embeddings]:
        """The checkpoint's embedding, mapped from the scratch file or ``embeddings.bin``."""
        tensor, _ = self._embed
        dtype = self._exact_dtype if self._needs_scratch else self.dtype
        name = writer.scratch.name if self._needs_scratch else files.EMBEDDINGS
        mapped = MappedFile(writer.directory, name)
        yield Embeddings(mapped.array(0, tensor.shape, dtype), dtype, release=mapped.release)
        writer.drop_scratch()

    def _step(self, amount: int) -> None:
        """Report progress, give back pages, and stop here if asked to."""
        self.checkpoint.release()
        self.progress.advance(amount)
        self.progress.check()

    def report(self, out: Path) -> ExtractReport:
        """What was written, read back from the published directory."""
        sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
        return ExtractReport(
            path=out,
            model=self.checkpoint.name,
            family=self.spec.family,
            level=self.level,
            dtype=self.dtype,
            num_layers=self.spec.num_layers,
            num_features=sum(layer.ffn.width for layer in self.spec.layers),
            files=sizes,
            dropped=self.ledger.dropped,
            notes=self.ledger.notes,
            phases=self.clock.phases(),
            seconds=sum(self.clock.seconds.values()),
            peak_rss_bytes=peak_rss_bytes(),
        )


def _side_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Configuration and tokenizer files to carry along; the first two are needed."""
    found = checkpoint.files()
    for name in (files.CONFIG, files.TOKENIZER):
        if name not in found:
            raise CheckpointError(
                f"{checkpoint.name} has no {name}",
                hint="save the tokenizer in its fast form with transformers' save_pretrained",
            )
    return {name: found[name] for name in files.CARRIED if name in found}


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing into ``VindexError``."""
    try:
        yield
    except OSError as error:
        raise write_error(error, out) from error
