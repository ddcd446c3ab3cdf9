"""Q6_K: 256 values in 210 bytes, 6.5625 bits each, in two layouts.

======= ====================================== ============================================
bytes   larql's layout (inside a vindex)       GGML's layout (inside a GGUF file)
======= ====================================== ============================================
0-127   low 4 bits: value i in byte i//2,      half h, byte 64h+i: values 128h+i (low
        even i in the low nibble               nibble) and 128h+64+i (high), i < 64
128-191 high 2 bits: value i in byte 128+i//4, half h, byte 128+32h+i: values 128h+32k+i
        at bit 2·(i % 4)                       at bit 2k, i < 32, k < 4
192-207 16 int8 scales, one per 16 values      the same
208-209 float16 d                              the same
======= ====================================== ============================================

``value = (d·scale[i // 16])·(code - 32)``, code 0..63, multiplied in this order. Sizes and field
positions are the same, so one decoder reads the other's bytes as noise without an error: the
layouts are two members of ``BlockFormat``, and :func:`to_ggml` and :func:`from_ggml` convert.
"""

from __future__ import annotations

import numpy as np

from vindex.quant.codec import (
    HALF_MAX,
    Bytes,
    Codec,
    Floats,
    from_groups,
    per_group,
    reciprocal,
    shared_scale,
    to_groups,
)
from vindex.quant.fit import fit_symmetric

BLOCK = 256
GROUP = 16
_GROUPS = BLOCK // GROUP
_LOWEST, _HIGHEST = -32, 31
_LOWEST_STEP, _HIGHEST_STEP = -128, 127

_LAYOUT = np.dtype(
    [("low", "u1", (128,)), ("high", "u1", (64,)), ("steps", "i1", (_GROUPS,)), ("d", "<f2")]
)
_STARTS = (
    *(-26.0, -26.5, -27.0, -27.5, -28.0, -28.5, -29.0, -29.5, -30.0),
    *(-30.5, -31.0, -31.5, -32.0, -32.5, -33.0, -33.5, -34.0),
)


def decode(blocks: Bytes) -> Floats:
    """Decode larql's layout, uint8 ``[N, 210]``, to float32 ``[N, 256]``."""
    return _scaled(_codes(blocks), blocks)


def decode_ggml(blocks: Bytes) -> Floats:
    """Decode GGML's layout, uint8 ``[N, 210]``, to float32 ``[N, 256]``."""
    return _scaled(_ggml_codes(blocks), blocks)


def encode(values: Floats) -> Bytes:
    """Encode finite float32 ``[N, 256]`` as uint8 ``[N, 210]`` in larql's layout.

    The scale of each group is searched freely; those of a block fix d. Then the better of the two
    neighbouring 8-bit scales is taken, each measured with its own codes.
    """
    groups = to_groups(values, GROUP)
    codes = np.empty_like(groups)
    scale = fit_symmetric(groups, _LOWEST, _HIGHEST, _STARTS, codes)
    d = shared_scale(scale.reshape(_GROUPS, -1), _LOWEST_STEP, _HIGHEST_STEP)
    unit = per_group(d.astype(np.float32), _GROUPS)

    ideal = scale * reciprocal(unit)
    below = np.floor(np.abs(ideal))
    neighbours = np.stack([below, below + 1]) * np.sign(ideal)
    np.clip(neighbours, _LOWEST_STEP, _HIGHEST_STEP, out=neighbours)
    errors = np.empty_like(neighbours)
    for index, stored in enumerate(neighbours * unit):
        _assign(groups, stored, codes)
        square_sum = np.einsum("ng,ng->g", codes, codes)
        product_sum = np.einsum("ng,ng->g", codes, groups)
        errors[index] = stored * (stored * square_sum - 2 * product_sum)
    steps = np.where(errors[0] <= errors[1], *neighbours)
    _assign(groups, steps * unit, codes)
    codes -= _LOWEST

    result = np.empty((len(values), _LAYOUT.itemsize), dtype=np.uint8)
    fields = result.view(_LAYOUT)[:, 0]
    fields["d"] = d
    fields["steps"] = steps.reshape(_GROUPS, -1).T
    _pack(from_groups(codes, len(values)), result)
    return result


def encode_ggml(values: Floats) -> Bytes:
    """Encode finite float32 ``[N, 256]`` as uint8 ``[N, 210]`` in GGML's layout."""
    return to_ggml(encode(values))


def to_ggml(blocks: Bytes) -> Bytes:
    """Rearrange larql's layout into GGML's; the values stay exactly the same.

    Args:
        blocks: uint8 ``[N, 210]``, C-contiguous; not written to.

    Returns:
        uint8 ``[N, 210]``, a new array.
    """
    result = blocks.copy()
    halves = _codes(blocks).reshape(-1, 2, 4, 32)
    fields = result.view(_LAYOUT)[:, 0]
    low = halves & 0x0F
    fields["low"] = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(-1, 128)
    high = halves >> 4
    fields["high"] = (
        high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    ).reshape(-1, 64)
    return result


def from_ggml(blocks: Bytes) -> Bytes:
    """Rearrange GGML's layout into larql's; the inverse of :func:`to_ggml`."""
    result = blocks.copy()
    _pack(_ggml_codes(blocks), result)
    return result


def _assign(values: Floats, scale: Floats, codes: Floats) -> None:
    """Write the nearest codes -32..31 for given scales; zeros where the scale is zero."""
    np.multiply(values, reciprocal(scale), out=codes)
    np.rint(codes, out=codes)
    np.clip(codes, _LOWEST, _HIGHEST, out=codes)


def _scaled(codes: Bytes, blocks: Bytes) -> Floats:
    """Apply the scales of ``blocks`` to codes 0..63, uint8 ``[N, 256]``."""
    fields = blocks.view(_LAYOUT)[:, 0]
    scale = fields["d"].astype(np.float32)[:, None] * fields["steps"].astype(np.float32)
    values = codes.astype(np.float32)
    values += _LOWEST
    grouped = values.reshape(-1, _GROUPS, GROUP)
    grouped *= scale[:, :, None]
    return values


# Larql's layout keeps neighbouring values in neighbouring bits, so a byte of two nibbles spreads
# into a little-endian 16-bit word of two bytes with shifts alone, and one of four 2-bit fields
# into a 32-bit word. That is several times faster than strided assignment.


def _codes(blocks: Bytes) -> Bytes:
    """Codes 0..63 of larql's layout: uint8 ``[N, 256]`` in the order of the values."""
    fields = blocks.view(_LAYOUT)[:, 0]
    low = fields["low"].astype("<u2")
    low = (low | low << 4) & 0x0F0F
    high = fields["high"].astype("<u4") << 4
    high = (high | high << 6 | high << 12 | high << 18) & 0x30303030
    return np.asarray(low.view(np.uint8) | high.view(np.uint8))


def _pack(codes: Bytes, blocks: Bytes) -> None:
    """Write codes 0..63, uint8 ``[N, 256]``, into ``blocks`` in larql's layout."""
    fields = blocks.view(_LAYOUT)[:, 0]
    low = (codes & 0x0F).view("<u2")
    fields["low"] = (low | low >> 4) & 0xFF
    high = (codes >> 4).view("<u4")
    fields["high"] = (high | high >> 6 | high >> 12 | high >> 18) & 0xFF


def _ggml_codes(blocks: Bytes) -> Bytes:
    """Codes 0..63 of GGML's layout: uint8 ``[N, 256]`` in the order of the values."""
    fields = blocks.view(_LAYOUT)[:, 0]
    low = np.ascontiguousarray(fields["low"]).reshape(-1, 2, 2, 32)
    high = np.ascontiguousarray(fields["high"]).reshape(-1, 2, 32)
    codes = np.empty((len(fields), 2, 4, 32), dtype=np.uint8)
    codes[:, :, :2] = low & 0x0F
    codes[:, :, 2:] = low >> 4
    for field in range(4):
        codes[:, :, field] |= (high >> 2 * field & 0x03) << 4
    return codes.reshape(-1, BLOCK)


# The search may give the largest value of a group a code as small as its first start.
_LIMIT = HALF_MAX * _HIGHEST_STEP * -_STARTS[0]
CODEC = Codec(BLOCK, _LAYOUT.itemsize, _LIMIT, decode, encode)
GGML_CODEC = Codec(BLOCK, _LAYOUT.itemsize, _LIMIT, decode_ggml, encode_ggml)
