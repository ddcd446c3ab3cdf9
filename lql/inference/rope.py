"""Rotary position embedding.

Lane pairs (a, b) of a head turn by the angle ``position * frequency``: as complex numbers, a + ib
times e^(i angle). The pairs therefore lie next to each other here. Models of the half layout,
whose pairs are (i, i + rotary_size / 2), have the rows of W_q and W_k reordered when they are
loaded (``lane_order``): q and k are permuted alike, so their products stay what they were.

Shape legend: T tokens, N heads (of q and k together), S head size, R rotary size.
"""

from __future__ import annotations

import math
from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vindex.spec import RopeScaling, RopeSpec


class Rope:
    """The rotations of one ``RopeSpec``; layers that share the spec share the object."""

    def __init__(self, spec: RopeSpec) -> None:
        self.spec = spec
        # Also refuses an unsupported rule before anything runs.
        short = _frequencies(spec, 1)
        self._constant = None if _depends_on_length(spec) else short

    def table(self, start: int, stop: int, length: int | None = None) -> Tensor:
        """The rotations of positions ``start..stop`` in a sequence that ends at ``length``.

        Args:
            length: at least ``stop``, which is also its default.

        Returns:
            complex64 [T, 1, R / 2]. Their magnitude is 1, or the rule's attention factor.
        """
        return self.table_at(torch.arange(start, stop), length or stop)

    def table_at(self, positions: Tensor, length: int) -> Tensor:
        """The rotations of any positions [T] in a sequence that ends at ``length``."""
        frequencies = self._constant
        if frequencies is None:
            frequencies = _frequencies(self.spec, length)
        angles = torch.outer(positions.float(), frequencies)  # [T, R / 2]
        magnitude = torch.full_like(angles, self.spec.attention_factor)
        return torch.polar(magnitude, angles).unsqueeze(1)

    def changes_between(self, before: int, after: int) -> bool:
        """Whether growing from ``before`` to ``after`` positions changes earlier rotations.

        Keys that were rotated for the shorter sequence are then of no use.
        """
        match self.spec.scaling:
            case RopeScaling.DYNAMIC:
                return after > before and after > _original(self.spec)
            case RopeScaling.LONGROPE:
                return before <= _original(self.spec) < after
            case _:
                return False


def rotate_(lanes: Tensor, table: Tensor) -> None:
    """Rotate the first R lanes of heads, [T, N, R], in place by ``table`` [T, 1, R / 2]."""
    pairs = torch.unflatten(lanes, -1, (-1, 2))  # [T, N, R / 2, 2], a view
    torch.view_as_complex(pairs).mul_(table)


def lane_order(
    spec: RopeSpec | None, heads: int, head_size: int, first: int = 0
) -> npt.NDArray[np.int64] | None:
    """For each row of q or k as computed here, the row it is stored as; ``None`` if the same.

    Args:
        heads: how many heads the rows make up.
        head_size: S, rows per head.
        first: the first lane that turns.
    """
    if spec is None or spec.interleaved:
        return None
    half = spec.rotary_size // 2
    lanes = np.arange(head_size)
    turning = lanes[first : first + 2 * half]  # a view
    turning[0::2], turning[1::2] = np.split(turning.copy(), 2)
    return (np.arange(heads)[:, None] * head_size + lanes).ravel()


def _depends_on_length(spec: RopeSpec) -> bool:
    return spec.scaling in (RopeScaling.DYNAMIC, RopeScaling.LONGROPE)


def _original(spec: RopeSpec) -> int:
    assert spec.original_max_positions is not None  # the family module sets it for this rule
    return spec.original_max_positions


def _frequencies(spec: RopeSpec, length: int) -> Tensor:
    """Radians per position of each lane pair, float32 [R / 2], for a sequence of ``length``."""
    size = spec.rotary_size
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    base = 1.0 / torch.pow(spec.theta, exponents)
    factor = spec.factor or 1.0
    match spec.scaling:
        case RopeScaling.NONE:
            return base
        case RopeScaling.LINEAR:
            return base / factor
        case RopeScaling.LLAMA3:
            # Full turns within the original context: few, and the pair is stretched; many, and it
            # is left alone; in between, a blend.
            low, high = spec.low_freq_factor, spec.high_freq_factor
            assert low is not None
            assert high is not None
            turns = _original(spec) * base / (2 * math.pi)
            blend = ((turns - low) / (high - low)).clamp(0.0, 1.0)
            return (1 - blend) * base / factor + blend * base
        case RopeScaling.DYNAMIC:
            original = _original(spec)
            if length <= original:
                return base
            stretch = factor * length / original - (factor - 1)
            theta = spec.theta * stretch ** (size / (size - 2))
            return 1.0 / torch.pow(theta, exponents)
        case RopeScaling.YARN:
            low, high = spec.low_dim, spec.high_dim
            assert low is not None
            assert high is not None
            stretched = ((torch.arange(size // 2) - low) / (high - low)).clamp(0.0, 1.0)
            return base * (1 - stretched) + base / factor * stretched
        case RopeScaling.LONGROPE:
            factors = spec.short_factors if length <= _original(spec) else spec.long_factors
            assert factors is not None
            return base / torch.tensor(factors)
        case RopeScaling.PROPORTIONAL:
            still = torch.zeros_like(base)
            turning = spec.turning_pairs
            assert turning is not None  # the family module sets it for this rule
            still[:turning] = base[:turning] / factor
            return still
        case _:
            assert_never(spec.scaling)
