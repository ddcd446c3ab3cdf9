"""Publication of a directory: all of it at once, or nothing.

A ``Stage`` is a directory beside the target, on the same filesystem, named
``.NAME.stage-<32 hex digits>``. Files are written and synced there; ``publish`` syncs the directory
and moves it to the target's name by one rename. A reader therefore finds the old target, no target,
or the whole new one, whatever moment the process dies at.

The writer holds an advisory lock on the stage directory. The kernel drops the lock with the
process, so the next writer can tell a stage that is being written from what a killed one left, and
removes the latter. Correctness does not rest on the lock, only tidiness.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from vindex.errors import TargetExists, VindexError

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


class Stage:
    """A directory being written, to be published under another name. A context manager.

    Leaving the context without ``publish`` removes everything.

    Args:
        target: where the directory will appear.
        overwrite: allow the target to exist; it is swapped out in the same rename.

    Raises:
        TargetExists: the target exists and ``overwrite`` is false.
        VindexError: the parent directory does not exist or cannot be written.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self.target = target = Path(os.path.abspath(target))
        self._overwrite = overwrite
        self._published = False
        refuse_existing(target, overwrite=overwrite)
        with _explained(target):
            remove_leftovers(target)
            self.path, self._lock = _create(target)

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._published:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def publish(self) -> None:
        """Sync the stage and rename it to the target.

        Every file must have been closed. Success is only reported once the rename itself is on the
        disk. If anything fails the target is as it was.

        Raises:
            TargetExists: somebody created the target meanwhile.
            VindexError: the filesystem refused (no space, read-only, an I/O error).
        """
        with _explained(self.target):
            for inner in self.path.iterdir():
                if inner.is_dir():
                    sync_directory(inner)
            sync_directory(self.path)
            exchanged = self._rename()
            self._published = True
            sync_directory(self.target.parent)
        if exchanged:
            shutil.rmtree(self.path, ignore_errors=True)

    def _rename(self) -> bool:
        """Move the stage to the target; whether an old target now bears the stage's name."""
        if not self._overwrite or not os.path.lexists(self.target):
            _rename_new(self.path, self.target)
            return False
        if _renameat2(self.path, self.target, _RENAME_EXCHANGE):
            return True
        _swap(self.path, self.target)
        return False


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raise when the target is taken and may not be replaced, or has nowhere to be.

    Raises:
        TargetExists: it exists, and ``overwrite`` is false or it is no directory.
        VindexError: the directory it belongs into does not exist.
    """
    parent = Path(os.path.abspath(target)).parent
    if not parent.is_dir():
        raise VindexError(
            f"{target} cannot be written: there is no directory {parent}",
            hint=f'make it first: mkdir -p "{parent}"',
            path=target,
        )
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise TargetExists(
            f"{target} exists", hint="choose another path, or add OVERWRITE", path=target
        )
    if target.is_symlink() or not target.is_dir():
        raise TargetExists(
            f"{target} is not a directory, so OVERWRITE does not replace it",
            hint="choose another path",
            path=target,
        )


def refuse_existing_file(target: Path, *, overwrite: bool) -> None:
    """Raise when a file is taken and may not be replaced, or has nowhere to be.

    Raises:
        TargetExists: it exists, and ``overwrite`` is false or it is no regular file.
        VindexError: the directory it belongs into does not exist.
    """
    if overwrite and target.is_file() and not target.is_symlink():
        return
    refuse_existing(target, overwrite=False)


def publish_file(stage: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a finished, synced file to its name; the old file or the new one, at any moment.

    Raises:
        TargetExists: somebody created the target meanwhile.
        VindexError: the filesystem refused.
    """
    with _explained(target):
        if overwrite:
            os.replace(stage, target)
        else:
            _rename_new(stage, target)
        sync_directory(Path(os.path.abspath(target)).parent)


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A directory beside a file that is being written, to be published with ``publish_file``.

    It is removed in the end; what a killed process left is removed by the next one.

    Raises:
        VindexError: the directory of the target cannot be written.
    """
    target = Path(os.path.abspath(target))
    with _explained(target):
        remove_leftovers(target)
        path, lock = _create(target)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_leftovers(target: Path) -> list[Path]:
    """Remove stages of this target whose writer is gone; what was removed."""
    pattern = re.compile(re.escape(f".{target.name}.stage-") + "[0-9a-f]{32}")
    removed: list[Path] = []
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name) is None or path.is_symlink() or not path.is_dir():
            continue
        descriptor = _try_lock(path)
        if descriptor is None:
            continue
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)
        removed.append(path)
    return removed


def sync_file(descriptor: int) -> None:
    """Force a file's bytes to the disk. A failure is final: the call must not be repeated."""
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk, where the filesystem knows how to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def directory_lock(path: Path) -> Iterator[None]:
    """Wait for, and hold, the advisory lock of a directory that is being added to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a filesystem without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Create a new file with these bytes and sync it."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        sync_file(file.fileno())


def _stage_path(target: Path) -> Path:
    return target.parent / f".{target.name}.stage-{secrets.token_hex(16)}"


def _create(target: Path) -> tuple[Path, int]:
    """A new locked stage directory and the descriptor that holds the lock."""
    while True:
        path = _stage_path(target)
        path.mkdir(mode=0o777)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # a tidying writer took it for a leftover
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue  # the tidying writer holds it
        except OSError:
            return path, descriptor  # a filesystem without locks
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the directory's lock, or ``None`` when its writer lives."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _rename_new(source: Path, target: Path) -> None:
    if _renameat2(source, target, _RENAME_NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def _swap(source: Path, target: Path) -> None:
    """Exchange by two renames, for filesystems without an atomic exchange.

    Between the two the target does not exist. A failure of the second puts the old one back.
    """
    old = _stage_path(target)
    os.rename(target, old)
    try:
        os.rename(source, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """``renameat2(2)``; false when the kernel, the C library or the filesystem lacks it."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    result = function(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)
    )
    if result == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(target))


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals into ``VindexError`` with the path."""
    try:
        yield
    except FileExistsError as error:
        raise TargetExists(
            f"{target} was created by another process meanwhile",
            hint="choose another path, or add OVERWRITE",
            path=target,
        ) from error
    except OSError as error:
        raise write_error(error, target) from error


def write_error(error: OSError, target: Path) -> VindexError:
    """The typed form of a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return VindexError(
            f"the disk is full; {target} was not written",
            hint="free space or choose a path on another filesystem",
            path=target,
        )
    return VindexError(f"{target} cannot be written: {error.strerror or error}", path=target)
