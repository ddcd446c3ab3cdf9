"""What every block codec is made of: its description, its group layout and its f16 scales.

Notation: N blocks, E elements per block, P bytes per block; a block is cut into groups of n
elements that share a scale, G groups in all.

Encoders work *element-major*: a group is a column of an ``[n, G]`` array. Sums over a group are
then vertical additions over long contiguous rows, which NumPy vectorises; the same sums over the
last axis of ``[G, n]`` would cost an inner loop of n elements each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]

HALF_MAX = 65504.0
"""The largest finite float16: the ceiling of every stored scale."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One block format.

    Attributes:
        block_elements: E, values per block.
        block_bytes: P, bytes per block.
        limit: largest magnitude that :attr:`encode` accepts; above it a scale would not fit.
        decode: uint8 ``[N, P]`` -> float32 ``[N, E]``; reads the bytes, never writes them.
        encode: finite float32 ``[N, E]`` within ``limit`` -> uint8 ``[N, P]``.
    """

    block_elements: int
    block_bytes: int
    limit: float
    decode: Callable[[Bytes], Floats]
    encode: Callable[[Floats], Bytes]


def to_groups(values: Floats, size: int) -> Floats:
    """Rearrange blocks into element-major groups.

    Args:
        values: float32 ``[N, E]``.
        size: n, elements per group; divides E.

    Returns:
        float32 ``[n, (E/n)·N]``, a new array. Column ``g·N + b`` is group g of block b, so a
        per-group vector reshaped to ``[E/n, N]`` has one column per block.
    """
    blocks, elements = values.shape
    grouped = values.reshape(blocks, elements // size, size).transpose(2, 1, 0)
    return np.ascontiguousarray(grouped).reshape(size, -1)


def from_groups(codes: Floats, blocks: int) -> Bytes:
    """Bring element-major integer codes back to block order.

    Args:
        codes: float32 ``[n, G]`` of integers 0..255, columns ordered as by :func:`to_groups`.
        blocks: N.

    Returns:
        uint8 ``[N, E]``, a new array.
    """
    size = codes.shape[0]
    small = codes.astype(np.uint8).reshape(size, -1, blocks)
    return np.ascontiguousarray(small.transpose(2, 1, 0)).reshape(blocks, -1)


def per_group(shared: Floats, groups: int) -> Floats:
    """Repeat a per-block vector ``[N]`` for each of the ``groups`` groups of a block: ``[G]``."""
    return np.tile(shared, groups)


def half_scale(scales: Floats) -> Halves:
    """Round scales to float16, never losing range.

    Among subnormals rounding to nearest may shrink a scale by up to its whole value, and the
    largest codes would be clipped. Those are rounded away from zero instead.

    Args:
        scales: finite float32, any shape; magnitudes above ``HALF_MAX`` saturate.

    Returns:
        float16 of the same shape and signs, within 2^-11 of the input for normal numbers.
    """
    rounded: Halves = np.clip(scales, -HALF_MAX, HALF_MAX).astype(np.float16)
    tolerance = np.float32(1 + 2**-10)
    shrunk = np.abs(rounded.astype(np.float32)) * tolerance < np.minimum(np.abs(scales), HALF_MAX)
    away = np.where(scales < 0, np.float16(-np.inf), np.float16(np.inf))
    np.nextafter(rounded, away, out=rounded, where=shrunk)
    return rounded


def reciprocal(values: Floats) -> Floats:
    """``1/x`` where x is not zero, else zero: a zero scale sends every value to code zero."""
    result = np.zeros_like(values)
    np.divide(1, values, out=result, where=values != 0)
    return result


def shared_scale(scales: Floats, lowest: int, highest: int) -> Halves:
    """Choose the unit in which the scales of a block are stored as small integers.

    The largest scale may become ``highest`` steps or a few less, or ``lowest`` where steps may be
    negative. Of these units the one is taken that the block's scales are closest to whole
    multiples of.

    Args:
        scales: float32 ``[E/n, N]``, the groups of a block in a column.
        lowest: smallest number of steps, 0 or negative.
        highest: largest number of steps.

    Returns:
        float16 ``[N]``, of either sign where ``lowest`` is negative; zero where all scales are.
    """
    least, greatest = scales.min(axis=0), scales.max(axis=0)
    peak = np.where(-least > greatest, least, greatest)
    peak_steps = [highest, highest - 1, highest - 2, highest - 3, *([lowest] if lowest else [])]
    candidates = half_scale(peak / np.array(peak_steps, dtype=np.float32)[:, None])
    units = candidates.astype(np.float32)[:, None]  # [candidates, 1, N]
    steps = np.clip(np.rint(scales * reciprocal(units)), lowest, highest)
    error = np.square(steps * units - scales).sum(axis=1)
    best: Halves = np.take_along_axis(candidates, error.argmin(axis=0)[None], axis=0)[0]
    return best
