"""A vindex as a directory of safetensors that transformers loads."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vindex import files
from vindex.baking import Rounding, rounding_of
from vindex.checkpoint import balance, open_checkpoint
from vindex.commit import Stage, refuse_existing, sync_file, write_error
from vindex.dtypes import convert, count_not_finite, to_float32
from vindex.errors import TargetExists, VindexError, VindexInvalid
from vindex.export.config import Written, checkpoint_config
from vindex.export.report import ExportReport
from vindex.export.tensors import Assembled, Whole, assemble, checkpoint_tensors
from vindex.extract import check_space
from vindex.families import spec_from_config
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.progress import NullProgress, Progress
from vindex.store import Vindex

MAX_SHARD_BYTES = 5_000_000_000
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

_NAMES = {StorageDtype.F32: "F32", StorageDtype.F16: "F16", StorageDtype.BF16: "BF16"}
_MAX_TEXT = 1 << 30


def export_safetensors(
    source: Vindex,
    out: Path,
    *,
    dtype: StorageDtype | None = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a checkpoint directory.

    Args:
        source: a vindex of level inference, perhaps with edits over its base.
        out: the directory to create.
        dtype: of all tensors; by default that of the model's configuration, and the stored one of
            a tensor that nobody edited and that would lose by it.
        overwrite: replace an existing checkpoint directory, atomically.
        max_shard_bytes: how large a file of weights may become, one tensor apart.
        progress: told about bytes; its ``check`` may raise to cancel.

    Raises:
        TargetExists: ``out`` is taken, or is not a checkpoint.
        LevelTooLow, VindexIncomplete: the vindex does not hold every weight.
        Unsupported: there is no configuration to write.
        VindexInvalid: an edited value does not fit the dtype.
        VindexError: the disk is full or cannot be written. Nothing was published in any case.
    """
    refuse_existing(out, overwrite=overwrite)
    _refuse_foreign(out)
    source.require(ExtractLevel.INFERENCE, "COMPILE INTO MODEL")
    started = time.perf_counter()
    config = checkpoint_config(source)
    job = _Job(source, config, dtype, progress or NullProgress(), max_shard_bytes)
    check_space(out, job.bytes_needed)
    try:
        with Stage(out, overwrite=overwrite) as stage:
            job.write(stage.path)
            _read_back(stage.path, source)
            job.progress.check()
            stage.publish()
    except OSError as error:
        raise write_error(error, out) from error
    return ExportReport(
        path=out,
        files={path.name: path.stat().st_size for path in sorted(out.iterdir())},
        encodings=dict(job.encodings),
        rounding=job.rounding,
        notes=config.notes,
        seconds=time.perf_counter() - started,
    )


def side_files(source: Vindex) -> Iterator[tuple[str, bytes]]:
    """The tokenizer's and the other text files of the model, but for its configuration."""
    for name in files.CARRIED:
        path = source.path / name
        if name != files.CONFIG and path.exists():
            yield name, files.read_small(path, _MAX_TEXT)


def encoded(tensor: Assembled, name: str, wanted: StorageDtype, *, explicit: bool) -> Assembled:
    """A tensor in the dtype it is written in.

    Args:
        name: for the message.
        wanted: the model's dtype.
        explicit: the user asked for it, so it is taken whatever it loses.

    Raises:
        VindexInvalid: a value does not fit.
    """
    if tensor.dtype is wanted:
        return tensor
    array = np.ascontiguousarray(convert(tensor.array, tensor.dtype, wanted))
    keeps = tensor.exact and not explicit
    if keeps and not np.array_equal(convert(array, wanted, tensor.dtype), tensor.array):
        return tensor
    if count_not_finite(array, wanted):
        raise VindexInvalid(
            f"{name} holds values that {wanted.value} does not hold", hint="ask for DTYPE f32"
        )
    return Assembled(array, wanted, tensor.exact)


class _Job:
    """One export: what is written, and what it took."""

    def __init__(
        self,
        source: Vindex,
        config: Written,
        dtype: StorageDtype | None,
        progress: Progress,
        max_shard_bytes: int,
    ) -> None:
        self.progress = progress
        self.encodings: Counter[str] = Counter()
        self.rounding = Rounding()
        self._source = source
        self._explicit = dtype is not None
        self._dtype = dtype or config.dtype
        self._config = config.in_dtype(self._dtype)
        self._wholes = checkpoint_tensors(source)
        self._max_shard_bytes = max_shard_bytes

    @property
    def bytes_needed(self) -> int:
        """What the weights take, at most."""
        return sum(files.tensor_bytes(whole.shape, 4) for whole in self._wholes)

    def write(self, directory: Path) -> None:
        """Write every file."""
        _write(directory / files.CONFIG, json.dumps(self._config, indent=2).encode())
        for name, data in side_files(self._source):
            _write(directory / name, data)
        shards = self._shards()
        self.progress.phase("weights", self.bytes_needed)
        places: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            name = WEIGHTS
            if len(shards) > 1:
                name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            _write(directory / name, self._header(shard), self._data(shard))
            places |= {whole.name: name for whole in shard}
        if len(shards) > 1:
            total = sum((directory / name).stat().st_size for name in set(places.values()))
            index = {"metadata": {"total_size": total}, "weight_map": places}
            _write(directory / WEIGHTS_INDEX, json.dumps(index, indent=2).encode())

    def _shards(self) -> list[list[Whole]]:
        """The tensors by file, in order."""
        shards: list[list[Whole]] = [[]]
        size = 0
        for whole in self._wholes:
            count = files.tensor_bytes(whole.shape, self._dtype.itemsize)
            if shards[-1] and size + count > self._max_shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append(whole)
            size += count
        return shards

    def _header(self, shard: Sequence[Whole]) -> bytes:
        """What stands before the data. Values are read for it: dtypes may depend on them."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for whole in shard:
            dtype = self._encoded(whole).dtype
            count = files.tensor_bytes(whole.shape, dtype.itemsize)
            header[whole.name] = {
                "dtype": _NAMES[dtype],
                "shape": list(whole.shape),
                "data_offsets": [at, at + count],
            }
            at += count
            self.progress.check()
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def _data(self, shard: Sequence[Whole]) -> Iterator[memoryview]:
        for whole in shard:
            tensor = assemble(self._source, whole)
            made = self._encoded(whole, tensor)
            if made.dtype is not tensor.dtype:
                exact, stored = (to_float32(each.array, each.dtype) for each in (tensor, made))
                self.rounding += rounding_of(exact, stored)
            self.encodings[made.dtype.value] += 1
            data = np.ascontiguousarray(made.array).data.cast("B")
            yield data
            self.progress.advance(data.nbytes)
            self.progress.check()
            self._source.release()

    def _encoded(self, whole: Whole, tensor: Assembled | None = None) -> Assembled:
        tensor = tensor or assemble(self._source, whole)
        return encoded(tensor, whole.name, self._dtype, explicit=self._explicit)


def _write(path: Path, data: bytes, more: Iterable[memoryview] = ()) -> None:
    """A new file, on the disk when this returns."""
    with open(path, "xb") as file:
        file.write(data)
        for view in more:
            file.write(view)
        file.flush()
        sync_file(file.fileno())


def _read_back(directory: Path, source: Vindex) -> None:
    """What was written must be a checkpoint of this model, with every tensor accounted for.

    Raises:
        VindexError: it is not.
    """
    with open_checkpoint(directory) as found:
        ledger = balance(found, spec_from_config(found.config))
    written = {tensor.identity for tensor in ledger.used}
    held = {each.identity for each in source.spec.tensors if source.has(*each.identity)}
    if written != held:
        raise VindexError(f"the checkpoint lacks {len(held - written)} tensors of the model")


def _refuse_foreign(out: Path) -> None:
    """Refuse to overwrite a directory that is neither empty nor a checkpoint.

    Raises:
        TargetExists: somebody else's directory: overwriting would delete what it holds.
    """
    if not out.is_dir():
        return
    names = {path.name for path in out.iterdir()}
    weights = any(name.endswith(".safetensors") for name in names)
    if names and not (files.CONFIG in names and weights):
        raise TargetExists(
            f"{out} is not a checkpoint, so OVERWRITE does not replace it",
            hint="choose another path, or remove the directory yourself",
            path=out,
        )
