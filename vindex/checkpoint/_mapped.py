"""A read-only map of a whole file whose already read pages can be given back."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vindex.errors import CheckpointError


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, opened for reading; a pipe in its place does not block.

    Raises:
        CheckpointError: there is no such file, it is not regular, or may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise CheckpointError(f"cannot open {path}: {error.strerror}", path=path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} is not a regular file", path=path)
    return descriptor


class MappedFile:
    """The bytes of a regular file, mapped.

    Arrays handed out stay valid after ``close``: the map lives until the last one is gone.

    Raises:
        CheckpointError: the path is no readable, non-empty regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = open_regular(path)
        try:
            self.size = os.fstat(descriptor).st_size
            if self.size == 0:
                raise CheckpointError(f"{path} is empty", path=path)
            self._map: mmap.mmap | None = mmap.mmap(descriptor, self.size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"cannot map {path}: {error}", path=path) from error
        finally:
            os.close(descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """A copy of a byte range."""
        return self._mapped()[offset : offset + length]

    def array(self, offset: int, count: int, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """``count`` elements at a byte offset, as a read-only view of the map."""
        return np.frombuffer(self._mapped(), dtype=dtype, count=count, offset=offset)

    def release(self) -> None:
        """Give back the memory of pages that were read; they are read again when touched."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the map."""
        mapped, self._map = self._map, None
        if mapped is not None:
            try:
                mapped.close()
            except BufferError:  # arrays still point into it; the last one closes it
                return

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            raise CheckpointError(f"{self.path} is closed", path=self.path)
        return self._map
