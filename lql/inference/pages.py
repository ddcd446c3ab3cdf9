"""Memory for weights that every token reads from end to end, in huge pages where there are any.

A processor looks up where each page of memory lies. Pages of 2 MiB instead of 4 KiB make a token of
SmolLM2's quantised weights 9 % faster to read. The system gives them only to memory of that size
that asks, and most matrices are smaller: they are put next to each other.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock

import torch
from torch import Tensor

_BLOCK = 64 << 20  # of addresses; memory is taken as it is written to
_LINE = 64  # bytes that a processor reads at a time; what kernels like matrices to begin at
_HUGE = 2 << 20


class Pages:
    """Where the matrices of one model are put. Threads may share it.

    Memory goes back to the system with the last tensor of a block.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._block: mmap.mmap | None = None
        self._next = 0  # of the block's bytes

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor in it, of any values."""
        count = math.prod(shape)
        size = count * dtype.itemsize
        if not size or not _asks():
            return torch.empty(*shape, dtype=dtype)
        with self._lock:
            if self._block is None or self._next + size > len(self._block):
                self._block = _block(max(size, _BLOCK))
                self._next = _to_huge(self._block)
            start = self._next
            self._next += -(-size // _LINE) * _LINE
            block = self._block
        return torch.frombuffer(block, dtype=dtype, count=count, offset=start).view(*shape)

    def copied(self, tensor: Tensor) -> Tensor:
        """A copy in it, contiguous."""
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor)


def _asks() -> bool:
    """Whether this system has pages to ask for."""
    return sys.platform == "linux" and hasattr(mmap, "MADV_HUGEPAGE")


def _block(size: int) -> mmap.mmap:
    """Fresh memory, a huge page more of it than asked for, so that it can begin with one."""
    block = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them: pages of the usual size do as well
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _to_huge(block: mmap.mmap) -> int:
    """Bytes from a block's beginning to its first huge page."""
    address: int = torch.frombuffer(block, dtype=torch.uint8, count=1).data_ptr()
    return -address % _HUGE
