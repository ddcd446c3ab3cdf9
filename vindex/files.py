"""File names, byte arithmetic and read-only maps: the only place that computes an offset.

All binary files are little-endian, contiguous and row-major. Every range is checked against the
size of its file before it is touched: reading a mapped page that the file does not back kills the
process. Products are computed with ``math.prod`` on Python integers, which do not wrap.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from vindex.errors import VindexIncomplete, VindexInvalid
from vindex.kinds import StorageDtype

ScalarT = TypeVar("ScalarT", bound=np.generic)

INDEX = "index.json"
SEAL = "seal.json"
MANIFEST = "weight_manifest.json"
GATE = "gate_vectors.bin"
EMBEDDINGS = "embeddings.bin"
DOWN_META = "down_meta.bin"
LEGACY_DOWN_META = "down_meta.jsonl"
ROUTER = "router_weights.bin"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
SPECIAL_TOKENS = "special_tokens_map.json"
FEATURE_LABELS = "feature_labels.json"
RELATION_CLUSTERS = "relation_clusters.json"
FEATURE_CLUSTERS = "feature_clusters.jsonl"
LARQL_CHECKPOINT = ".extract_checkpoint.json"
PROBE_EDGES = "probe_edges.json"
LEGACY_MONOLITH = "model_weights.bin"
#: The only directory inside a vindex: a file for each layer (see ``vindex.layer_files``).
LAYERS = "layers"
SIDECAR_PREFIX = "lql_"

#: Text files of a checkpoint that are carried along unchanged.
CARRIED = (
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    GENERATION_CONFIG,
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
)

#: The files larql hashes into ``index.json``, in its order.
LARQL_CHECKSUMMED = (
    GATE,
    EMBEDDINGS,
    DOWN_META,
    LEGACY_DOWN_META,
    "attn_weights.bin",
    "up_weights.bin",
    "down_weights.bin",
    "norms.bin",
    "lm_head.bin",
)

_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,127}")
_LAYER_NAME = re.compile(rf"{LAYERS}/layer_[0-9]{{2,6}}\.weights")


def is_plain_name(name: str) -> bool:
    """Whether a string from a file may name a file of the directory: one ASCII path component."""
    return _NAME.fullmatch(name) is not None and name.strip(".") != ""


def layer_name(layer: int) -> str:
    """The file of a layer's experts, in larql's spelling: at least two digits."""
    return f"{LAYERS}/layer_{layer:02}.weights"


def is_stored_name(name: str) -> bool:
    """Whether a string names a file of a vindex: a plain name, or the file of a layer."""
    return is_plain_name(name) or _LAYER_NAME.fullmatch(name) is not None


def stored_names(directory: Path) -> list[str]:
    """What a vindex consists of, ascending: all it holds, and all that ``layers/`` holds.

    Directories of other names, and links in the place of that one, are listed as they are.
    """
    names: list[str] = []
    for path in directory.iterdir():
        if path.name == LAYERS and path.is_dir() and not path.is_symlink():
            names += [f"{LAYERS}/{child.name}" for child in path.iterdir()]
        else:
            names.append(path.name)
    return sorted(names)


def stored_sizes(directory: Path) -> dict[str, int]:
    """Bytes of every regular file of a vindex, by name, ascending."""
    sizes: dict[str, int] = {}
    for name in stored_names(directory):
        with suppress(OSError):  # another process has just replaced a sidecar
            status = (directory / name).stat()
            if stat.S_ISREG(status.st_mode):
                sizes[name] = status.st_size
    return sizes


def is_sidecar(name: str) -> bool:
    """Whether a file of that name is a sidecar: computed from the vindex, and never missed."""
    return name.startswith(SIDECAR_PREFIX)


def tensor_bytes(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of a contiguous tensor; exact for any shape."""
    return math.prod(shape) * itemsize


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """A half-open range of bytes in one file."""

    start: int
    length: int

    @property
    def stop(self) -> int:
        """First byte after the range."""
        return self.start + self.length

    def overlaps(self, other: ByteRange) -> bool:
        """Whether the two ranges share a byte."""
        return self.start < other.stop and other.start < self.stop


class MappedFile:
    """A regular file of the vindex, opened once and mapped read-only without copying.

    Symbolic links are followed only while they stay what a hub cache makes of a download: a link
    to a regular file. Anything that is not a regular file is refused without blocking.

    Args:
        directory: the vindex.
        name: a plain file name, or that of a layer's file.

    Raises:
        VindexIncomplete: the file does not exist.
        VindexInvalid: it is not a regular file, or cannot be opened.
    """

    __slots__ = ("_map", "name", "path", "size")

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.path = directory / name
        descriptor = open_regular(self.path)
        try:
            self.size = os.fstat(descriptor).st_size
            self._map = (
                mmap.mmap(descriptor, self.size, access=mmap.ACCESS_READ) if self.size else None
            )
        except OSError as error:
            raise VindexInvalid(
                f"{name} cannot be mapped: {error.strerror}", path=self.path
            ) from error
        finally:
            os.close(descriptor)

    def holds(self, span: ByteRange) -> bool:
        """Whether the range lies inside the file."""
        return min(span.start, span.length) >= 0 and span.stop <= self.size

    def array(
        self, offset: int, shape: tuple[int, ...], dtype: StorageDtype
    ) -> npt.NDArray[np.generic]:
        """A read-only view of a tensor in its carrier dtype. The range must have been checked."""
        return self.view(offset, shape, np.dtype(dtype.carrier))

    def view(
        self, offset: int, shape: tuple[int, ...], dtype: np.dtype[ScalarT]
    ) -> npt.NDArray[ScalarT]:
        """A read-only view of ``shape`` elements of any dtype. The range must have been checked."""
        count = math.prod(shape)
        if not self.holds(ByteRange(offset, count * dtype.itemsize)):
            raise VindexInvalid(f"{self.path.name}: a range lies outside the file", path=self.path)
        if self._map is None or count == 0:
            return np.empty(shape, dtype)
        return np.frombuffer(self._map, dtype, count, offset).reshape(shape)

    def bytes(self, span: ByteRange) -> bytes:
        """A copy of a range."""
        if not self.holds(span):
            raise VindexInvalid(f"{self.path.name}: a range lies outside the file", path=self.path)
        return b"" if self._map is None else self._map[span.start : span.stop]

    def release(self) -> None:
        """Let the kernel drop the pages read so far; they come back when touched again."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def open_regular(path: Path) -> int:
    """Open a regular file for reading; the caller closes the descriptor.

    Raises:
        VindexIncomplete: it does not exist.
        VindexInvalid: it is a directory, device, pipe or socket, leads out of its directory by a
            symbolic link, or cannot be opened.
    """
    if path.is_symlink():
        _check_link(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise VindexIncomplete(f"{path.name} is missing from {path.parent}", path=path) from None
    except OSError as error:
        raise VindexInvalid(f"{path.name} cannot be opened: {error.strerror}", path=path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VindexInvalid(f"{path.name} is not a regular file", path=path)
    return descriptor


def _check_link(path: Path) -> None:
    """Refuse links, except those of a hub cache: ``snapshots/REV/FILE`` into ``../../blobs``."""
    target = Path(os.path.realpath(path))
    snapshot = Path(os.path.realpath(path.parent))
    if path.parent.name == LAYERS:
        snapshot = snapshot.parent
    if target.parent != snapshot.parent.parent / "blobs":
        raise VindexInvalid(
            f"{path.name} is a symbolic link out of the vindex",
            hint="replace the link by the file itself",
            path=path,
        )


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes.

    Raises:
        VindexIncomplete: it does not exist.
        VindexInvalid: it is not a regular file, too large, or cannot be read.
    """
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise VindexInvalid(
                f"{path.name} is {size:,} bytes; at most {limit:,} are read", path=path
            )
        try:
            return file.read(limit + 1)
        except OSError as error:
            raise VindexInvalid(
                f"{path.name} cannot be read: {error.strerror}", path=path
            ) from error
