"""Second moments of FFN keys, kept in the vindex: what edits of down matrices are weighed against.

One sidecar a layer, ``lql_moments_L<layer>_<text>.bin``: the lower triangle of C [F, F] as float32,
row by row. ``own`` is the model's own text, ``user`` that of the last STATISTICS FROM.

Shape legend: F features of a layer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from vindex.sidecar import read_sidecar, write_sidecar

_FORMAT = 1
_MAX_BYTES = 4 << 30

Float32 = npt.NDArray[np.float32]


def moments_path(directory: Path, layer: int, *, own: bool) -> Path:
    """The sidecar of a layer."""
    return directory / f"lql_moments_L{layer:02}_{'own' if own else 'user'}.bin"


def read_moments(
    directory: Path, layer: int, width: int, made_for: str, *, own: bool
) -> Float32 | None:
    """The stored moments of a layer, ``[F, F]``, or ``None`` where there are none for this text."""
    found = read_sidecar(moments_path(directory, layer, own=own), made_for, _FORMAT, _MAX_BYTES)
    if found is None or len(found[1]) != width * (width + 1) // 2 * 4:
        return None
    below = np.tril_indices(width)
    moments = np.zeros((width, width), np.float32)
    moments[below] = np.frombuffer(found[1], "<f4")
    moments.T[below] = moments[below]
    return moments


def write_moments(
    directory: Path, layer: int, moments: Float32, made_for: str, *, own: bool
) -> None:
    """Publish the moments of a layer ``[F, F]``.

    Raises:
        OSError: the directory cannot be written.
        VindexError: its seal is malformed.
    """
    below = np.tril_indices(len(moments))
    payload = moments[below].astype("<f4").tobytes()
    path = moments_path(directory, layer, own=own)
    write_sidecar(path, made_for, _FORMAT, {"layer": layer, "features": len(moments)}, payload)
