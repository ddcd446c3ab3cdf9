"""Where a relation is looked up, kept in the vindex: indirect effects of windows of layers.

One sidecar a relation, ``lql_effects_<digest of its name>.bin``: float32, one value a window.

Shape legend: W windows of layers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vindex.sidecar import read_sidecar, write_sidecar

_FORMAT = 1
_MAX_BYTES = 1 << 20

Float32 = npt.NDArray[np.float32]


def effects_path(directory: Path, relation: str) -> Path:
    """The sidecar of a relation."""
    digest = hashlib.sha256(relation.casefold().encode()).hexdigest()
    return directory / f"lql_effects_{digest[:16]}.bin"


def read_effects(directory: Path, relation: str, made_for: str) -> Float32 | None:
    """The stored effects ``[W]``, or ``None`` where there are none of this recipe."""
    found = read_sidecar(effects_path(directory, relation), made_for, _FORMAT, _MAX_BYTES)
    return None if found is None else np.frombuffer(found[1], "<f4").copy()


def write_effects(directory: Path, relation: str, effects: Float32, made_for: str) -> None:
    """Publish the effects of a relation ``[W]``.

    Raises:
        OSError: the directory cannot be written.
        VindexError: its seal is malformed.
    """
    path = effects_path(directory, relation)
    fields = {"relation": relation, "windows": len(effects)}
    write_sidecar(path, made_for, _FORMAT, fields, effects.astype("<f4").tobytes())
