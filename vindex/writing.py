"""Writing the files of a stage: one pass that encodes, checks, hashes and writes.

Every file is hashed while it is written and synced to disk on a thread of its own while the next
is being computed.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from vindex import files, ple
from vindex.checkpoint import Checkpoint
from vindex.checkpoint.cutting import read_rows
from vindex.commit import sync_file
from vindex.dtypes import Array, count_not_finite
from vindex.errors import VindexInvalid
from vindex.kinds import StorageDtype
from vindex.manifest import KIND_TENSOR, KIND_TENSOR_F16, KIND_VECTOR, ManifestEntry
from vindex.seal import Seal, SealedFile
from vindex.spec import TensorSpec

_SCRATCH = ".scratch"
_COPY_BYTES = 16 << 20
LARGEST_F16 = 65504.0
OTHER_DTYPE = "extract with DTYPE bf16 or DTYPE f32"


@dataclass(frozen=True, slots=True)
class Phase:
    """One kind of work: its wall time in seconds and the bytes it handled."""

    name: str
    seconds: float
    bytes: int


class Clock:
    """Seconds and bytes by kind of work. Kinds may nest; each counts its own time only once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}
        self._running: list[tuple[str, float]] = []

    @contextmanager
    def measure(self, kind: str, size: int = 0) -> Iterator[None]:
        """Count the time inside as ``kind``, and ``size`` bytes."""
        now = time.perf_counter()
        self._stop(now)
        self._running.append((kind, now))
        self.bytes[kind] = self.bytes.get(kind, 0) + size
        try:
            yield
        finally:
            now = time.perf_counter()
            self._stop(now)
            self._running.pop()
            if self._running:
                self._running[-1] = (self._running[-1][0], now)

    def phases(self) -> tuple[Phase, ...]:
        """The split so far, longest first; the times are disjoint."""
        order = sorted(self.seconds, key=lambda kind: -self.seconds[kind])
        return tuple(Phase(kind, self.seconds[kind], self.bytes.get(kind, 0)) for kind in order)

    def _stop(self, now: float) -> None:
        if self._running:
            kind, since = self._running[-1]
            self.seconds[kind] = self.seconds.get(kind, 0.0) + now - since
            self._running[-1] = (kind, now)


class StagedFile:
    """One binary file of the stage, written front to back.

    Attributes:
        name: file name.
        size: bytes so far.
    """

    def __init__(self, directory: Path, name: str, clock: Clock) -> None:
        self.name = name
        self.size = 0
        self._clock = clock
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        self._file: BinaryIO = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by finish
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        view = memoryview(data).cast("B")
        with self._clock.measure("hash", view.nbytes):
            self._digest.update(view)
        with self._clock.measure("write", view.nbytes):
            while view.nbytes:
                written = self._file.write(view)
                self.size += written
                view = view[written:]

    def align(self, alignment: int) -> None:
        """Pad with zeros to a multiple of ``alignment``."""
        self.write(b"\0" * (-self.size % alignment))

    def sealed(self) -> SealedFile:
        """Size and digest of what was written."""
        return SealedFile(self.size, self._digest.hexdigest())

    def sync(self) -> None:
        """Force the bytes to disk and close the file, whether or not that succeeds."""
        with self._file:
            sync_file(self._file.fileno())

    def abandon(self) -> None:
        """Close the file without caring for its bytes."""
        self._file.close()


class StageWriter:
    """All files of one stage. A context manager; leaving it closes whatever is open.

    Args:
        directory: the stage.
        clock: where time is booked.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self.clock = clock
        self._open: dict[str, StagedFile] = {}
        self._sealed: dict[str, SealedFile] = {}
        self._syncing: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vindex-sync")

    def __enter__(self) -> StageWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for file in self._open.values():
            file.abandon()

    def file(self, name: str) -> StagedFile:
        """The file of this name, created when first asked for."""
        if name not in self._open:
            self._open[name] = StagedFile(self.directory, name, self.clock)
        return self._open[name]

    def finish(self, name: str) -> None:
        """No more bytes come; seal the file and let it be synced. A file never begun is empty."""
        file = self.file(name)
        del self._open[name]
        self._sealed[name] = file.sealed()
        self._syncing.append(self._pool.submit(file.sync))

    @property
    def scratch(self) -> StagedFile:
        """A file for the writer's own use, which is not published."""
        return self.file(_SCRATCH)

    def drop_scratch(self) -> None:
        """Remove the scratch file, if there is one."""
        scratch = self._open.pop(_SCRATCH, None)
        if scratch is not None:
            scratch.abandon()
            (self.directory / _SCRATCH).unlink()

    def drop(self, name: str) -> None:
        """Remove a finished file again."""
        self.settle()
        del self._sealed[name]
        (self.directory / name).unlink()

    def whole(self, name: str, data: bytes) -> None:
        """Write a small file in one go."""
        self.file(name).write(data)
        self.finish(name)

    def settle(self) -> None:
        """Wait until everything finished is on the disk; a failure to sync is raised here."""
        with self.clock.measure("sync"):
            for future in self._syncing:
                future.result()
        self._syncing.clear()

    def seal(self) -> Seal:
        """The seal of every finished file."""
        return Seal(dict(self._sealed))

    def checksums(self, names: tuple[str, ...]) -> Mapping[str, str]:
        """Digests of those of the named files that were written."""
        return {name: self._sealed[name].sha256 for name in names if name in self._sealed}


def encode_rows(
    checkpoint: Checkpoint,
    tensor: TensorSpec,
    name: str,
    dtype: StorageDtype,
    clock: Clock,
    hint: str = OTHER_DTYPE,
) -> Iterator[Array]:
    """A tensor in ``dtype``'s carrier, some rows at a time, each checked to be finite.

    Args:
        name: of the checkpoint tensor that it is or is cut from.
        hint: what to do about a value that ``dtype`` cannot hold.

    Raises:
        VindexInvalid: the tensor holds NaN or infinity, or a value that ``dtype`` cannot hold.
    """
    rows = tensor.shape[0]
    row_bytes = files.tensor_bytes(tensor.shape[1:], 4)
    step = max(1, _COPY_BYTES // max(1, row_bytes))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        with clock.measure("read", (stop - start) * row_bytes):
            part = read_rows(checkpoint, tensor, name, start, stop, dtype)
            exact = partial(read_rows, checkpoint, tensor, name, start, stop, StorageDtype.F32)
            check_finite(part, dtype, name, exact, hint)
        yield part


def check_finite(
    values: Array,
    dtype: StorageDtype,
    name: str,
    exact: Callable[[], Array],
    hint: str = OTHER_DTYPE,
) -> None:
    """Refuse NaN and infinity, telling what the source had from what the encoding made of it.

    Args:
        values: encoded, in ``dtype``'s carrier.
        name: the tensor, for the message.
        exact: gives the same values in float32.
        hint: what to do about a value that is too large.
    """
    if count_not_finite(values, dtype) == 0:
        return
    source = np.abs(exact().astype(np.float32, copy=False))
    if not np.isfinite(source).all():
        raise VindexInvalid(f"{name} holds NaN or infinity; the checkpoint is damaged")
    raise VindexInvalid(
        f"{name} holds values up to {float(source.max()):g}, beyond {LARGEST_F16:g}, "
        f"the largest {dtype.value} number",
        hint=hint,
    )


def entry_for(key: str, shape: tuple[int, ...], file: StagedFile, itemsize: int) -> ManifestEntry:
    """The manifest entry of a tensor about to be appended to a file."""
    kind = KIND_VECTOR if len(shape) == 1 else KIND_TENSOR
    if file.name == ple.FILE.value:
        kind = KIND_TENSOR_F16
    return ManifestEntry(
        key, kind, shape, file.size, files.tensor_bytes(shape, itemsize), file.name
    )


def contiguous(array: npt.NDArray[np.generic]) -> memoryview:
    """The bytes of an array, copied only if it is not contiguous."""
    return np.ascontiguousarray(array).data.cast("B")


def peak_rss_bytes() -> int:
    """Peak resident memory of this process so far; 0 where the system does not say."""
    try:
        # Not getrusage: that peak is inherited from the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return _peak_of_getrusage()


def _peak_of_getrusage() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
