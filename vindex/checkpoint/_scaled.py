"""Weights that a checkpoint keeps as small codes beside a tensor of scales.

Two layouts, both of released models. Each pair is shown as one float tensor under the name of its
codes; the scales have no name of their own.

* MXFP4 (gpt_oss): ``X_blocks`` u8 ``[..., G, 16]`` and ``X_scales`` u8 ``[..., G]``. A byte holds
  two codes, the low four bits first; a code is a sign and one of 0, .5, 1, 1.5, 2, 3, 4, 6. A value
  is code times ``2 ** (scale - 127)``, which bf16 holds exactly: ``[..., 32 G]``.
* FP8 (DeepSeek V3): ``X`` f8_e4m3 ``[N, C]`` and ``X_scale_inv`` f32, one for each 128 x 128 values
  or what is left of them at the edges. A value is their product in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vindex.checkpoint._base import TensorInfo
from vindex.kinds import StorageDtype

BLOCKS = "_blocks"  # a tensor whose name ends so holds codes, never floats
_SCALES = "_scales"
_CODES_PER_BLOCK = 32
_SCALE_INV = "_scale_inv"
_TILE = 128

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class Raw(Protocol):
    """A file's tensors as they lie there."""

    def encoding(self, name: str) -> str:
        """The file's own name of a tensor's element type."""

    def raw(self, name: str) -> npt.NDArray[np.generic]:
        """A tensor of one-byte elements as uint8, one of floats in its carrier."""


class Scaled(Protocol):
    """A pair of codes and scales, as a tensor."""

    @property
    def info(self) -> TensorInfo:
        """Its shape, and the dtype that holds its values exactly."""

    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Part of the first axis, in that dtype's carrier; new memory."""


def find_scaled(owners: Mapping[str, Raw]) -> tuple[dict[str, Scaled], frozenset[str]]:
    """The pairs of a checkpoint, by the name of their codes; and the names of their scales.

    Args:
        owners: the file of every tensor.
    """
    pairs: dict[str, Scaled] = {}
    scales: set[str] = set()
    for name, file in owners.items():
        partner, kind = _partner(name, file.encoding(name))
        if kind is None or partner not in owners:
            continue
        pair = kind.of(file.raw(name), owners[partner], partner)
        if pair is not None:
            pairs[name] = pair
            scales.add(partner)
    return pairs, frozenset(scales)


def _partner(name: str, encoding: str) -> tuple[str, type[_Mxfp4] | type[_Fp8] | None]:
    if encoding == "U8" and name.endswith(BLOCKS):
        return name.removesuffix(BLOCKS) + _SCALES, _Mxfp4
    if encoding == "F8_E4M3":
        return name + _SCALE_INV, _Fp8
    return name, None


@dataclass(frozen=True, slots=True, eq=False)
class _Mxfp4:
    blocks: npt.NDArray[np.uint8]  # [..., G, 16]
    scales: npt.NDArray[np.uint8]  # [..., G]

    @staticmethod
    def of(codes: npt.NDArray[np.generic], file: Raw, scales: str) -> _Mxfp4 | None:
        """The pair, or ``None`` if its parts do not fit."""
        if file.encoding(scales) != "U8":
            return None
        of_blocks = file.raw(scales)
        fits = codes.ndim > 1 and codes.shape == (*of_blocks.shape, _CODES_PER_BLOCK // 2)
        return _Mxfp4(codes.view(np.uint8), of_blocks.view(np.uint8)) if fits else None

    @property
    def info(self) -> TensorInfo:
        *rows, groups = self.scales.shape
        shape = (*rows, groups * _CODES_PER_BLOCK)
        return TensorInfo(shape, StorageDtype.BF16, "MXFP4")

    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        blocks = self.blocks[start:stop]
        scales = self.scales[start:stop, ..., None].astype(np.uint16) << 4  # [..., G, 1]
        values = np.empty((*blocks.shape, 2), np.dtype("<u2"))
        table = _mxfp4_values()
        values[..., 0] = table[scales | (blocks & 0xF)]
        values[..., 1] = table[scales | (blocks >> 4)]
        return values.reshape(stop - start, *self.info.shape[1:])


@dataclass(frozen=True, slots=True, eq=False)
class _Fp8:
    codes: npt.NDArray[np.uint8]  # [N, C]
    scales: npt.NDArray[np.float32]  # [ceil(N / 128), ceil(C / 128)]

    @staticmethod
    def of(codes: npt.NDArray[np.generic], file: Raw, scales: str) -> _Fp8 | None:
        """The pair, or ``None`` if its parts do not fit."""
        if file.encoding(scales) != "F32":
            return None
        of_tiles = file.raw(scales)
        tiles = tuple(math.ceil(size / _TILE) for size in codes.shape)
        fits = codes.ndim == 2 and of_tiles.shape == tiles
        return _Fp8(codes.view(np.uint8), of_tiles.view(np.float32)) if fits else None

    @property
    def info(self) -> TensorInfo:
        return TensorInfo(self.codes.shape, StorageDtype.F32, "F8_E4M3")

    def rows(self, start: int, stop: int) -> npt.NDArray[np.generic]:
        columns = self.codes.shape[1]
        values = _fp8_values()[self.codes[start:stop]]
        of_rows = self.scales[np.arange(start, stop) // _TILE]  # [n, ceil(C / 128)]
        values *= np.repeat(of_rows, _TILE, axis=1)[:, :columns]
        return values


def _mxfp4_values() -> npt.NDArray[np.uint16]:
    """The bf16 bits of each scale's 16 values, flat: ``[256 * 16]``.

    What is too large becomes infinite, which no writer lets through. The largest scale, which the
    standard keeps for "not a number", is one like the others, as in transformers.
    """
    magnitudes = np.array(_MAGNITUDES)
    exact = np.ldexp(np.concatenate([magnitudes, -magnitudes]), np.arange(256)[:, None] - 127)
    with np.errstate(over="ignore"):
        values = exact.astype(np.float32)
    bits = values.view(np.uint32) >> np.uint32(16)
    return np.ravel(bits.astype(np.uint16))


def _fp8_values() -> npt.NDArray[np.float32]:
    """The value of each code: sign, four bits of exponent, three of fraction; no infinities."""
    codes = np.arange(256)
    exponent, fraction = (codes >> 3) & 0xF, codes & 0x7
    normal = np.ldexp(1 + fraction / 8, exponent - 7)
    values = np.where(exponent == 0, np.ldexp(fraction / 8, -6), normal)
    values = np.where(codes & 0x7F == 0x7F, np.nan, values)
    return np.where(codes & 0x80, -values, values).astype(np.float32)
