"""VERIFY: read every byte of a vindex and report everything that is wrong with it.

Opening compares sizes; this compares contents. A vindex with a seal has every file checked against
its SHA-256; one written by larql only those that larql hashes, and the report names the others. A
sidecar that is gone is not missed: it is computed again when it is needed.
Then every stored number is checked to be finite, and every token id to be in the vocabulary.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from vindex import files
from vindex.commit import directory_lock
from vindex.downmeta import present, used_slots
from vindex.dtypes import count_not_finite
from vindex.errors import VerifyFailed, VindexError, VindexIncomplete, VindexNotFound
from vindex.index import read_index
from vindex.progress import NullProgress, Progress
from vindex.seal import read_seal
from vindex.source import StoredTensor
from vindex.store import Vindex, open_vindex

_READ_BYTES = 8 << 20


class Status(Enum):
    """What became of one file."""

    OK = "ok"
    UNSEALED = "not covered by any checksum"
    DAMAGED = "damaged"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class FileStatus:
    """One file of the directory.

    Attributes:
        size: bytes; 0 when missing.
        detail: what exactly is wrong, empty when nothing is.
    """

    name: str
    size: int
    status: Status
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether the file makes the vindex unfit for use."""
        return self.status in (Status.DAMAGED, Status.MISSING)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Everything found.

    Attributes:
        sealed: whether every file is covered; larql's checksums leave most of the small ones out.
        files: one entry per file, by name.
        problems: what is wrong beyond the bytes: what opening refuses, numbers that are not finite,
            token ids outside the vocabulary. One sentence each.
    """

    path: Path
    sealed: bool
    files: tuple[FileStatus, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(file.failed for file in self.files)

    def raise_if_damaged(self) -> None:
        """Raise ``VerifyFailed`` with every finding, if there is one."""
        if self.ok:
            return
        findings = [f"{file.name}: {file.detail}" for file in self.files if file.failed]
        findings += self.problems
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise VerifyFailed(
            f"{self.path} is damaged: {findings[0]}{more}",
            hint="extract it again, or copy it again from where it came",
            path=self.path,
            details=findings,
        )


def verify(path: str | Path, progress: Progress | None = None) -> VerifyReport:
    """Check a vindex to the last byte.

    Args:
        path: the directory.
        progress: told about bytes hashed; its ``check`` may raise to cancel.

    Raises:
        VindexNotFound: there is no directory with an ``index.json``. All else is in the report.
    """
    path = Path(path)
    if not (path / files.INDEX).exists():
        raise VindexNotFound(f"{path} is not a vindex: it has no {files.INDEX}", path=path)
    progress = progress or NullProgress()
    problems: list[str] = []
    sealed, expected = _expected(path, problems)
    present_files = files.stored_names(path)
    progress.phase("verify", sum(files.stored_sizes(path).values()))
    needed = {name for name in expected if not files.is_sidecar(name)}
    statuses = [
        _check_sidecar(path, name, progress)
        if files.is_sidecar(name)
        else _check_file(path, name, expected.get(name), progress)
        for name in sorted({*present_files, *needed})
        if name != files.SEAL
    ]
    try:
        with open_vindex(path) as vx:
            problems += _check_numbers(vx, progress)
    except VindexError as error:
        problems.append(error.message)
    return VerifyReport(path, sealed, tuple(statuses), tuple(problems))


def _expected(path: Path, problems: list[str]) -> tuple[bool, Mapping[str, tuple[int | None, str]]]:
    """Size (where known) and digest of every file that has one; whether a seal gave them."""
    try:
        seal = read_seal(path)
        if seal is not None:
            return True, {name: (file.size, file.sha256) for name, file in seal.sealed.items()}
        checksums = read_index(path).checksums or {}
    except VindexError as error:
        problems.append(error.message)
        return False, {}
    return False, {name: (None, digest) for name, digest in checksums.items()}


def _check_file(
    path: Path, name: str, expected: tuple[int | None, str] | None, progress: Progress
) -> FileStatus:
    if not files.is_stored_name(name):
        return FileStatus(name, 0, Status.DAMAGED, "not a file name of a vindex")
    try:
        size, digest = _digest(path / name, progress)
    except VindexError as error:
        missing = not (path / name).exists()
        return FileStatus(name, 0, Status.MISSING if missing else Status.DAMAGED, error.message)
    if expected is None:
        return FileStatus(name, size, Status.UNSEALED)
    if expected[0] is not None and size != expected[0]:
        detail = f"{size:,} bytes, sealed with {expected[0]:,}"
        return FileStatus(name, size, Status.DAMAGED, detail)
    if digest != expected[1]:
        return FileStatus(name, size, Status.DAMAGED, "its SHA-256 differs")
    return FileStatus(name, size, Status.OK)


def _check_sidecar(path: Path, name: str, progress: Progress) -> FileStatus:
    """A file that another process may be replacing: with the seal that it has at this moment."""
    with directory_lock(path):
        return _check_file(path, name, _expected(path, [])[1].get(name), progress)


def _digest(path: Path, progress: Progress) -> tuple[int, str]:
    """Size and SHA-256 of a regular file."""
    digest = hashlib.sha256()
    size = 0
    with os.fdopen(files.open_regular(path), "rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            size += len(block)
            progress.advance(len(block))
            progress.check()
    return size, digest.hexdigest()


def _check_numbers(vx: Vindex, progress: Progress) -> Iterator[str]:
    """What is wrong with the numbers of a vindex that opens."""
    for stored in _tensors(vx):
        progress.check()
        bad = count_not_finite(stored.array, stored.dtype)
        if bad:
            yield f"{stored.key} holds {bad:,} values that are NaN or infinite"
    for key in vx.quantised_keys:
        progress.check()
        bad = vx.quantised(key).matrix.count_not_finite()
        if bad:
            yield f"{key} holds {bad:,} values that are NaN or infinite"
    try:
        vx.require(vx.level, "VERIFY")
    except VindexIncomplete as error:
        yield error.message
    except VindexError:
        pass  # a kind of vindex that this version only browses is not damaged for that
    try:
        meta = vx.down_meta
        tokenizer_size = vx.tokenizer().get_vocab_size()
    except VindexError as error:
        yield error.message
        return
    if tokenizer_size == 0:
        yield f"{files.TOKENIZER} has no tokens"
    for layer in range(meta.num_layers):
        records = meta.records(layer)
        top = records["top"]
        beyond = (top["token"] >= vx.index.vocab_size) & used_slots(records)
        if beyond.any() or (records["token"] >= vx.index.vocab_size).any():
            yield f"{files.DOWN_META} names tokens outside the vocabulary at layer {layer}"
        if not np.isfinite(records["score"]).all() or not np.isfinite(top["score"]).all():
            yield f"{files.DOWN_META} holds scores that are NaN or infinite at layer {layer}"
        filled = present(records)
        if top.shape[1] and (top["token"][:, 0] != records["token"])[filled].any():
            yield f"{files.DOWN_META} contradicts itself about the first tokens of layer {layer}"


def _tensors(vx: Vindex) -> Iterator[StoredTensor]:
    yield vx.embeddings
    for layer in vx.layers if vx.gate_vectors.in_file else ():
        yield vx.gate(layer)
    for key in vx.stored_keys:
        yield vx.stored(key)
