"""Q8_0: 32 values in 34 bytes, 8.5 bits each. GGML's layout, also inside a vindex.

===== ==================================
bytes content
===== ==================================
0-1   float16 d
2-33  32 int8 codes, in the values' order
===== ==================================

``value = d·code``, code -127..127 (a decoder accepts -128).
"""

from __future__ import annotations

import numpy as np

from vindex.quant.codec import HALF_MAX, Bytes, Codec, Floats, half_scale, reciprocal, to_groups

BLOCK = 32
_HIGHEST_CODE = 127
_LAYOUT = np.dtype([("d", "<f2"), ("codes", "i1", (BLOCK,))])


def decode(blocks: Bytes) -> Floats:
    """Decode uint8 ``[N, 34]`` to float32 ``[N, 32]``."""
    fields = blocks.view(_LAYOUT)[:, 0]
    values = fields["codes"].astype(np.float32)
    values *= fields["d"].astype(np.float32)[:, None]
    return values


def encode(values: Floats) -> Bytes:
    """Encode finite float32 ``[N, 32]`` as uint8 ``[N, 34]``.

    Codes are chosen for d as stored, after its rounding to float16.
    """
    groups = to_groups(values, BLOCK)
    d = half_scale(np.abs(groups).max(axis=0) / _HIGHEST_CODE)
    groups *= reciprocal(d.astype(np.float32))
    np.rint(groups, out=groups)
    np.clip(groups, -_HIGHEST_CODE, _HIGHEST_CODE, out=groups)

    result = np.empty((len(values), _LAYOUT.itemsize), dtype=np.uint8)
    fields = result.view(_LAYOUT)[:, 0]
    fields["d"], fields["codes"] = d, groups.T
    return result


CODEC = Codec(BLOCK, _LAYOUT.itemsize, HALF_MAX * _HIGHEST_CODE, decode, encode)
