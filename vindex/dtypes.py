"""Conversion between float32 and the storage dtypes. IEEE rounding (to nearest, ties to even)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vindex.kinds import StorageDtype

Array = npt.NDArray[np.generic]


def to_float32(values: Array, dtype: StorageDtype) -> npt.NDArray[np.float32]:
    """Decode carrier values to float32, exactly.

    Args:
        values: any shape, in ``dtype.carrier``. May be a read-only map.
        dtype: what the carrier's bytes mean.

    Returns:
        float32 of the same shape: the input itself for f32, a new array otherwise.
    """
    if dtype is StorageDtype.F32:
        return values.astype(np.float32, copy=False)
    if dtype is StorageDtype.F16:
        return values.astype(np.float32)
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


def from_float32(values: npt.NDArray[np.float32], dtype: StorageDtype) -> Array:
    """Encode float32 as carrier values of ``dtype``, rounding to nearest, ties to even.

    Overflow to f16 gives infinity; the caller decides whether that is an error.
    """
    if dtype is StorageDtype.F32:
        return values.astype(np.dtype("<f4"), copy=False)
    if dtype is StorageDtype.F16:
        with np.errstate(over="ignore"):
            return values.astype(np.dtype("<f2"))
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    result = (rounded >> np.uint32(16)).astype(np.dtype("<u2"))
    nan = np.isnan(values)
    if nan.any():
        result[nan] = 0x7FC0
    return result


def convert(values: Array, source: StorageDtype, target: StorageDtype) -> Array:
    """Re-encode carrier values; the identity (no copy) when the dtypes agree."""
    if source is target:
        return values
    return from_float32(to_float32(values, source), target)


_EXPONENT = {StorageDtype.F32: 0x7F800000, StorageDtype.F16: 0x7C00, StorageDtype.BF16: 0x7F80}
_COUNT_BLOCK = 1 << 21


def count_not_finite(values: Array, dtype: StorageDtype) -> int:
    """How many elements are NaN or infinite, told from the exponent bits.

    Args:
        values: C-contiguous, any shape, in ``dtype.carrier``. May be a read-only map.
        dtype: what the carrier's bytes mean.
    """
    bits: npt.NDArray[np.unsignedinteger] = values.reshape(-1).view(f"<u{dtype.itemsize}")
    exponent = bits.dtype.type(_EXPONENT[dtype])
    return sum(
        int(np.count_nonzero((bits[start : start + _COUNT_BLOCK] & exponent) == exponent))
        for start in range(0, bits.size, _COUNT_BLOCK)
    )
