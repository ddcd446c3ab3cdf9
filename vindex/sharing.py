"""A file under a second name without a second copy of its bytes, where the filesystem can.

A reflink shares the bytes until one of the two is written to, so it is always safe. A hard link is
the same file: who writes into one in place writes into the other. Everything here that writes into
a vindex replaces files by renaming, so weights, which nobody edits by hand, may be linked; text
files, which people do edit in place, may not.
"""

from __future__ import annotations

import errno
import fcntl
import os
from enum import Enum
from pathlib import Path

from vindex.commit import sync_file
from vindex.files import open_regular

_FICLONE = 0x40049409  # linux/fs.h
_REFUSALS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)
_COPY_BYTES = 16 << 20


class Sharing(Enum):
    """How a file came under its second name."""

    REFLINKED = "reflinked"
    LINKED = "linked"
    COPIED = "copied"


def share(source: Path, target: Path, *, link: bool = True) -> Sharing:
    """Put a regular file under a new name beside others, on the disk when this returns.

    Args:
        source: a regular file, or a hub cache's link to one.
        target: must not exist.
        link: whether a hard link may be made where the filesystem has no reflinks.

    Raises:
        VindexError: the source is missing or no regular file.
        OSError: the filesystem refused.
    """
    descriptor = open_regular(source)
    try:
        if _cloned(descriptor, target):
            return Sharing.REFLINKED
        if link and _linked(source, target):
            return Sharing.LINKED
        _copy(descriptor, target)
        return Sharing.COPIED
    finally:
        os.close(descriptor)


def _cloned(source: int, target: Path) -> bool:
    with open(target, "xb") as file:
        try:
            fcntl.ioctl(file.fileno(), _FICLONE, source)
        except OSError:
            pass
        else:
            sync_file(file.fileno())
            return True
    target.unlink()
    return False


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(os.path.realpath(source), target)
    except OSError as error:
        if error.errno in _REFUSALS:
            return False
        raise
    return True


def _copy(source: int, target: Path) -> None:
    os.lseek(source, 0, os.SEEK_SET)
    with open(target, "xb") as file:
        while block := os.read(source, _COPY_BYTES):
            file.write(block)
        file.flush()
        sync_file(file.fileno())
