"""Least-squares searches for the scale (and minimum) of a group of values.

Finding the integer codes and the real scale that minimise the squared error together is not
convex, but each half is easy: given a scale, the nearest codes are best; given codes, the best
scale is linear regression. Each search therefore starts from several scales, fits, and keeps the
group's best start. The error of a fit follows from its sums alone, so no start needs a pass over
the values to measure it.

Values are first scaled to the unit range of their group: the starts are then plain numbers, and
neither tiny nor huge weights can under- or overflow a sum of squares.

Notation: n elements per group, G groups, S starts. ``values`` is element-major ``[n, G]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vindex.quant.codec import Floats

# Errors are differences of sums in float32: what they may be off by, relative to the squares.
_NOISE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class AffineFit:
    """``value ≈ scale · code - minimum`` per group.

    Attributes:
        scale: float32 ``[G]``, >= 0; zero for a group of equal values.
        minimum: float32 ``[G]``, >= 0.
    """

    scale: Floats
    minimum: Floats


def assign(
    values: Floats,
    slope: Floats | np.float32,
    offset: Floats | np.float32,
    highest: int,
    out: Floats,
) -> None:
    """Write the nearest codes, ``round(slope · value + offset)`` clipped to ``0..highest``.

    Args:
        values: float32 ``[n, G]``.
        slope: float32 ``[G]`` or one for all, codes per unit of value.
        offset: float32 ``[G]`` or one for all, the code of the value zero.
        highest: largest code.
        out: float32 ``[n, G]``, overwritten.
    """
    np.multiply(values, slope, out=out)
    np.add(out, offset, out=out)
    np.rint(out, out=out)
    np.clip(out, 0, highest, out=out)


def fit_affine(values: Floats, highest: int, margins: Sequence[float], codes: Floats) -> AffineFit:
    """Find scale and minimum of ``value ≈ scale · code - minimum`` with codes ``0..highest``.

    Each margin gives two starts: the codes span the group's range, shortened by that share
    (lengthened where negative) from above or from below. Shortening clips the outermost values
    and buys finer steps for the rest. Every start is regressed, its codes reassigned and
    regressed again.

    Args:
        values: finite float32 ``[n, G]``.
        highest: largest code, e.g. 15 for four bits.
        margins: shares of the range, each below 1.
        codes: float32 ``[n, G]``, scratch space.

    Returns:
        The fit with the least squared error among the starts. The minimum is subtracted and
        cannot be negative, so the range always includes zero.
    """
    n, groups = values.shape
    low = np.minimum(values.min(axis=0), 0)
    span = values.max(axis=0) - low
    divisor = np.where(span > 0, span, 1)
    unit = values - low
    unit /= divisor
    highest_intercept = -low / divisor

    steps = [highest / (1 - share) for share in margins]
    starts = [(count, 0.0) for count in steps] + [(count, highest - count) for count in steps]
    code_sum, square_sum, product_sum = np.empty((3, len(starts), groups), dtype=np.float32)
    unit_sum = unit.sum(axis=0)

    def measure(start: int) -> None:
        np.add.reduce(codes, axis=0, out=code_sum[start])
        np.einsum("ng,ng->g", codes, codes, out=square_sum[start])
        np.einsum("ng,ng->g", codes, unit, out=product_sum[start])

    def regress() -> tuple[Floats, Floats]:
        spread = square_sum * n - code_sum * code_sum  # exact: integers below 2^24
        intercept = square_sum * unit_sum - code_sum * product_sum
        intercept /= np.where(spread > 0, spread, 1)
        np.minimum(intercept, highest_intercept, out=intercept)
        slope = product_sum - intercept * code_sum
        slope /= np.where(square_sum > 0, square_sum, 1)
        return np.where(slope > 0, slope, 1), intercept  # zero only where all values are equal

    for start, (count, offset) in enumerate(starts):
        assign(unit, np.float32(count), np.float32(offset), highest, codes)
        measure(start)
    slope, intercept = regress()
    for start in range(len(starts)):
        inverse = 1 / slope[start]
        assign(unit, inverse, -intercept[start] * inverse, highest, codes)
        measure(start)
    slope, intercept = regress()

    # Squared error less the constant sum of squares of the unit values.
    error = intercept * (n * intercept - 2 * unit_sum)
    error -= slope * (product_sum - intercept * code_sum)
    # Values decoded from blocks lie on a lattice that both anchors fit. Code zero at the lowest
    # value is how encoders make them, so it wins where the difference is rounding noise.
    error[len(steps) :] += _NOISE * np.einsum("ng,ng->g", unit, unit)
    best = error.argmin(axis=0)[None]
    lowest_value = low + span * np.take_along_axis(intercept, best, axis=0)[0]
    return AffineFit(
        scale=span * np.take_along_axis(slope, best, axis=0)[0],
        minimum=np.maximum(-lowest_value, 0),  # rounding may have left it just below
    )


def fit_symmetric(
    values: Floats, lowest: int, highest: int, starts: Sequence[float], codes: Floats
) -> Floats:
    """Find the signed scale of ``value ≈ scale · code`` with codes ``lowest..highest``.

    Args:
        values: finite float32 ``[n, G]``.
        lowest: smallest code, negative.
        highest: largest code.
        starts: the code, fractions allowed, that each start gives to the value of largest
            magnitude. Negative ones use that the codes reach further down than up.
        codes: float32 ``[n, G]``, scratch space.

    Returns:
        float32 ``[G]``: the scale with the least squared error among the starts; zero for a
        group of zeros.
    """
    least, greatest = values.min(axis=0), values.max(axis=0)
    peak = np.where(-least > greatest, least, greatest)
    unit = values / np.where(peak != 0, peak, 1)

    square_sum, product_sum = np.empty((2, len(starts), values.shape[1]), dtype=np.float32)
    for index, start in enumerate(starts):
        np.multiply(unit, np.float32(start), out=codes)
        np.rint(codes, out=codes)
        np.clip(codes, lowest, highest, out=codes)
        np.einsum("ng,ng->g", codes, codes, out=square_sum[index])
        np.einsum("ng,ng->g", codes, unit, out=product_sum[index])
    scale = product_sum / np.where(square_sum > 0, square_sum, 1)
    best = (scale * product_sum).argmax(axis=0)[None]
    return np.asarray(peak * np.take_along_axis(scale, best, axis=0)[0], dtype=np.float32)
