"""Reading rows of a stored array in another dtype without large temporaries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vindex.dtypes import convert
from vindex.kinds import StorageDtype

_CHUNK_ELEMENTS = 1 << 20


def convert_rows(
    source: npt.NDArray[np.generic], stored: StorageDtype, dtype: StorageDtype
) -> npt.NDArray[np.generic]:
    """``source`` re-encoded, chunk by chunk; a view of the input where nothing changes.

    Args:
        source: any shape, in ``stored``'s carrier.
        stored: element type of ``source``.
        dtype: element type wanted.

    Returns:
        C-contiguous and aligned, in ``dtype``'s carrier.
    """
    if stored is dtype:
        return np.require(source, requirements=["C", "A"])
    flat = source.reshape(-1)
    result = np.empty(flat.shape, dtype=dtype.carrier)
    for start in range(0, flat.size, _CHUNK_ELEMENTS):
        part = slice(start, start + _CHUNK_ELEMENTS)
        result[part] = convert(flat[part], stored, dtype)
    return result.reshape(source.shape)
