"""Unquantised rows, as blocks of one value: float32, float16 and bfloat16, little-endian.

They let a matrix be read through the same view whatever its format. Encoding rounds to nearest,
ties to even.
"""

from __future__ import annotations

import numpy as np

from vindex.dtypes import from_float32, to_float32
from vindex.kinds import StorageDtype
from vindex.quant.codec import Bytes, Codec, Floats

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
# The last float32 values that do not round to infinity: half a step above the largest finite
# number, exclusive. bfloat16 keeps eight significant bits of float32's exponent range.
_LARGEST_TO_F16 = float(np.nextafter(np.float32(65520), np.float32(0)))
_LARGEST_TO_BF16 = float(np.nextafter(np.float32((2 - 2**-8) * 2.0**127), np.float32(0)))


def _codec(dtype: StorageDtype, limit: float) -> Codec:
    def decode(blocks: Bytes) -> Floats:
        return to_float32(blocks.view(dtype.carrier), dtype)

    def encode(values: Floats) -> Bytes:
        return np.ascontiguousarray(from_float32(values, dtype)).view(np.uint8)

    return Codec(
        block_elements=1, block_bytes=dtype.itemsize, limit=limit, decode=decode, encode=encode
    )


F32_CODEC = _codec(StorageDtype.F32, _LARGEST_FLOAT32)
F16_CODEC = _codec(StorageDtype.F16, _LARGEST_TO_F16)
BF16_CODEC = _codec(StorageDtype.BF16, _LARGEST_TO_BF16)
