"""Q4_K: 256 values in 144 bytes, 4.5 bits each. GGML's layout, also inside a vindex.

====== =============================================================================
bytes  content
====== =============================================================================
0-1    float16 d
2-3    float16 dmin
4-15   eight 6-bit scales sc and eight 6-bit minimums m, packed (below)
16-143 four runs of 32 bytes; run r holds value 64r+i in the low and value 64r+32+i in
       the high nibble of byte i
====== =============================================================================

``value = d·sc[s]·code - dmin·m[s]`` with s = index // 32, code 0..15.

Packing, for j = 0..3: byte 4+j holds sc[j] and, in its top two bits, those of sc[j+4];
byte 8+j the same of m; byte 12+j the low four bits of sc[j+4] and, above them, of m[j+4].

Every product is exact in float32 (11 + 6 + 4 bits), so decoding rounds once, in the subtraction,
and does not depend on the order of operations.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from vindex.quant.fit import assign, fit_affine

BLOCK = 256
GROUP = 32
_GROUPS = BLOCK // GROUP
_HIGHEST_CODE = 15
_HIGHEST_STEP = 63

_LAYOUT = np.dtype(
    [("d", "<f2"), ("dmin", "<f2"), ("steps", "u1", (3, 4)), ("nibbles", "u1", (4, GROUP))]
)
_MARGINS = (-0.05, -0.025, 0.0, 0.025, 0.05, 0.08, 0.11, 0.15)


@dataclass(frozen=True, slots=True, eq=False)
class AffineGroups:
    """Weights as codes with a scale and a minimum per group: ``scale · code - minimum``.

    Exactly what the bytes say: ``d·sc`` and ``dmin·m`` have no rounding in float32.

    Attributes:
        codes: uint8 ``[..., C]``, 0..15, in the order of the values.
        scale: float32 ``[..., C/32]``.
        minimum: float32 ``[..., C/32]``.
    """

    codes: Bytes
    scale: Floats
    minimum: Floats


def split(blocks: Bytes) -> AffineGroups:
    """Take blocks apart without rounding.

    Args:
        blocks: uint8 ``[N, 144]``, C-contiguous; may be a read-only map.

    Returns:
        New arrays: codes ``[N, 256]``, scale and minimum ``[N, 8]``.
    """
    fields = blocks.view(_LAYOUT)[:, 0]
    scale_head, minimum_head, tails = np.moveaxis(fields["steps"], 1, 0)
    steps = np.empty((2, len(fields), _GROUPS), dtype=np.float32)
    for row, head, tail in zip(
        steps, (scale_head, minimum_head), (tails & 0x0F, tails >> 4), strict=True
    ):
        row[:, :4] = head & 0x3F
        row[:, 4:] = tail | (head >> 2) & 0x30
    packed = np.ascontiguousarray(fields["nibbles"])
    codes = np.empty((len(fields), 4, 2, GROUP), dtype=np.uint8)
    codes[:, :, 0] = packed & 0x0F
    codes[:, :, 1] = packed >> 4
    steps[0] *= fields["d"].astype(np.float32)[:, None]
    steps[1] *= fields["dmin"].astype(np.float32)[:, None]
    return AffineGroups(codes=codes.reshape(-1, BLOCK), scale=steps[0], minimum=steps[1])


def decode(blocks: Bytes) -> Floats:
    """Decode uint8 ``[N, 144]`` to float32 ``[N, 256]``."""
    groups = split(blocks)
    values = groups.codes.astype(np.float32).reshape(-1, _GROUPS, GROUP)
    values *= groups.scale[:, :, None]
    values -= groups.minimum[:, :, None]
    return values.reshape(-1, BLOCK)


def encode(values: Floats) -> Bytes:
    """Encode finite float32 ``[N, 256]`` as uint8 ``[N, 144]``.

    Scale and minimum of each group are searched freely first; those of a block fix d and dmin.
    Then the 6-bit pair of least squared error for the codes at hand is chosen, so that one's
    rounding makes up for the other's, and the codes are reassigned.
    """
    groups = to_groups(values, GROUP)
    codes = np.empty_like(groups)
    fit = fit_affine(groups, _HIGHEST_CODE, _MARGINS, codes)
    per_block = (_GROUPS, -1)
    d = shared_scale(fit.scale.reshape(per_block), 0, _HIGHEST_STEP)
    dmin = shared_scale(fit.minimum.reshape(per_block), 0, _HIGHEST_STEP)
    scale_unit = per_group(d.astype(np.float32), _GROUPS)
    minimum_unit = per_group(dmin.astype(np.float32), _GROUPS)

    _assign(groups, np.maximum(fit.scale, scale_unit), fit.minimum, codes)
    scale_step, minimum_step = _best_steps(groups, codes, scale_unit, minimum_unit)
    _assign(groups, scale_step * scale_unit, minimum_step * minimum_unit, codes)
    scale_step *= codes.any(axis=0)  # an unused scale is stored as zero

    result = np.empty((len(values), _LAYOUT.itemsize), dtype=np.uint8)
    fields = result.view(_LAYOUT)[:, 0]
    fields["d"], fields["dmin"] = d, dmin
    sc, m = (steps.astype(np.uint8).reshape(per_block).T for steps in (scale_step, minimum_step))
    fields["steps"][:, 0] = sc[:, :4] | (sc[:, 4:] >> 4) << 6
    fields["steps"][:, 1] = m[:, :4] | (m[:, 4:] >> 4) << 6
    fields["steps"][:, 2] = sc[:, 4:] & 0x0F | (m[:, 4:] & 0x0F) << 4
    nibbles = from_groups(codes, len(values)).reshape(-1, 4, 2, GROUP)
    fields["nibbles"] = nibbles[:, :, 0] | nibbles[:, :, 1] << 4
    return result


def _assign(values: Floats, scale: Floats, minimum: Floats, codes: Floats) -> None:
    """Write the nearest codes 0..15 of ``scale · code - minimum``; zeros where scale is zero."""
    inverse = reciprocal(scale)
    assign(values, inverse, minimum * inverse, _HIGHEST_CODE, codes)


def _best_steps(
    values: Floats, codes: Floats, scale_unit: Floats, minimum_unit: Floats
) -> tuple[Floats, Floats]:
    """Choose the 6-bit scale and minimum of least squared error for given codes.

    Args:
        values: float32 ``[32, G]``.
        codes: float32 ``[32, G]``, integers 0..15.
        scale_unit: float32 ``[G]``, d of the group's block.
        minimum_unit: float32 ``[G]``, dmin of the group's block.

    Returns:
        Two float32 ``[G]`` of integers 0..63. Three scales around the regression are tried, each
        with the minimum that suits it best.
    """
    value_mean = values.mean(axis=0)
    code_mean = codes.mean(axis=0)
    square_mean = np.einsum("ng,ng->g", codes, codes) / GROUP
    product_mean = np.einsum("ng,ng->g", codes, values) / GROUP

    spread = square_mean - code_mean * code_mean
    slope = (product_mean - value_mean * code_mean) / np.where(spread > 0, spread, 1)
    # Where regression wants a minimum below zero, the best line through the origin stands in.
    through_origin = product_mean * reciprocal(square_mean)
    slope = np.where(slope * code_mean < value_mean, through_origin, slope)
    nearest = np.rint(slope * reciprocal(scale_unit))
    # A scale above zero never hurts: code 0 still decodes to the minimum alone.
    scale_steps = np.clip(np.stack([nearest - 1, nearest, nearest + 1]), 1, _HIGHEST_STEP)
    scales = scale_steps * scale_unit
    minimum_steps = np.rint((scales * code_mean - value_mean) * reciprocal(minimum_unit))
    np.clip(minimum_steps, 0, _HIGHEST_STEP, out=minimum_steps)
    minimums = minimum_steps * minimum_unit

    error = scales * (scales * square_mean - 2 * (product_mean + minimums * code_mean))
    error += minimums * (minimums + 2 * value_mean)
    best = error.argmin(axis=0)[None]
    return (
        np.take_along_axis(scale_steps, best, axis=0)[0],
        np.take_along_axis(minimum_steps, best, axis=0)[0],
    )


CODEC = Codec(
    block_elements=BLOCK,
    block_bytes=_LAYOUT.itemsize,
    limit=HALF_MAX * _HIGHEST_STEP,
    decode=decode,
    encode=encode,
)
