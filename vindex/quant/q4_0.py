"""Q4_0: 32 values in 18 bytes, 4.5 bits each, in two layouts.

===== ================================= =================================
bytes larql's layout (inside a vindex)  GGML's layout (inside GGUF files)
===== ================================= =================================
0-1   float16 d                         the same
2-17  byte j: value 2j in the low,      byte j: value j in the low,
      value 2j+1 in the high nibble     value j+16 in the high nibble
===== ================================= =================================

``value = d·(code - 8)``, code 0..15. As with Q6_K, one decoder reads the other's bytes as noise
without an error; :func:`to_ggml` and :func:`from_ggml` convert.
"""

from __future__ import annotations

import numpy as np

from vindex.quant.codec import (
    HALF_MAX,
    Bytes,
    Codec,
    Floats,
    from_groups,
    half_scale,
    reciprocal,
    to_groups,
)
from vindex.quant.fit import fit_symmetric

BLOCK = 32
_LOWEST, _HIGHEST = -8, 7
_LAYOUT = np.dtype([("d", "<f2"), ("nibbles", "u1", (BLOCK // 2,))])
_STARTS = (
    *(-6.5, -6.75, -7.0, -7.25, -7.5, -7.75, -8.0, -8.25, -8.5, -8.75, -9.0, -9.25),
    *(6.5, 6.75, 7.0, 7.25, 7.5, 7.75, 8.0),
)


def decode(blocks: Bytes) -> Floats:
    """Decode larql's layout, uint8 ``[N, 18]``, to float32 ``[N, 32]``."""
    return _scaled(_codes(blocks), blocks)


def decode_ggml(blocks: Bytes) -> Floats:
    """Decode GGML's layout, uint8 ``[N, 18]``, to float32 ``[N, 32]``."""
    return _scaled(_ggml_codes(blocks), blocks)


def encode(values: Floats) -> Bytes:
    """Encode finite float32 ``[N, 32]`` as uint8 ``[N, 18]`` in larql's layout."""
    groups = to_groups(values, BLOCK)
    codes = np.empty_like(groups)
    d = half_scale(fit_symmetric(groups, _LOWEST, _HIGHEST, _STARTS, codes))
    np.multiply(groups, reciprocal(d.astype(np.float32)), out=codes)
    np.rint(codes, out=codes)
    np.clip(codes, _LOWEST, _HIGHEST, out=codes)
    codes -= _LOWEST

    result = np.empty((len(values), _LAYOUT.itemsize), dtype=np.uint8)
    result.view(_LAYOUT)[:, 0]["d"] = d
    _pack(from_groups(codes, len(values)), result)
    return result


def encode_ggml(values: Floats) -> Bytes:
    """Encode finite float32 ``[N, 32]`` as uint8 ``[N, 18]`` in GGML's layout."""
    return to_ggml(encode(values))


def to_ggml(blocks: Bytes) -> Bytes:
    """Rearrange larql's layout, uint8 ``[N, 18]``, into GGML's: a new array, the same values."""
    result = blocks.copy()
    codes = _codes(blocks)
    result.view(_LAYOUT)[:, 0]["nibbles"] = codes[:, :16] | codes[:, 16:] << 4
    return result


def from_ggml(blocks: Bytes) -> Bytes:
    """Rearrange GGML's layout into larql's; the inverse of :func:`to_ggml`."""
    result = blocks.copy()
    _pack(_ggml_codes(blocks), result)
    return result


def _scaled(codes: Bytes, blocks: Bytes) -> Floats:
    """Apply the scales of ``blocks`` to codes 0..15, uint8 ``[N, 32]``."""
    values = codes.astype(np.float32)
    values += _LOWEST
    values *= blocks.view(_LAYOUT)[:, 0]["d"].astype(np.float32)[:, None]
    return values


def _codes(blocks: Bytes) -> Bytes:
    """Codes 0..15 of larql's layout: uint8 ``[N, 32]`` in the order of the values."""
    pairs = blocks.view(_LAYOUT)[:, 0]["nibbles"].astype("<u2")
    return np.asarray(((pairs | pairs << 4) & 0x0F0F).view(np.uint8))


def _pack(codes: Bytes, blocks: Bytes) -> None:
    """Write codes 0..15, uint8 ``[N, 32]``, into ``blocks`` in larql's layout."""
    pairs = codes.view("<u2")
    blocks.view(_LAYOUT)[:, 0]["nibbles"] = (pairs | pairs >> 4) & 0xFF


def _ggml_codes(blocks: Bytes) -> Bytes:
    """Codes 0..15 of GGML's layout: uint8 ``[N, 32]`` in the order of the values."""
    nibbles = blocks.view(_LAYOUT)[:, 0]["nibbles"]
    return np.concatenate([nibbles & 0x0F, nibbles >> 4], axis=1)


_LIMIT = HALF_MAX * _HIGHEST
CODEC = Codec(BLOCK, _LAYOUT.itemsize, _LIMIT, decode, encode)
GGML_CODEC = Codec(BLOCK, _LAYOUT.itemsize, _LIMIT, decode_ggml, encode_ggml)
