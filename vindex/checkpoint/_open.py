"""From what the user wrote to an open checkpoint."""

from __future__ import annotations

from pathlib import Path

from vindex.checkpoint._base import Checkpoint
from vindex.checkpoint._directory import SafetensorsCheckpoint
from vindex.checkpoint.gguf import GgufCheckpoint
from vindex.errors import CheckpointError
from vindex.progress import Progress


def open_checkpoint(ref: str | Path, *, progress: Progress | None = None) -> Checkpoint:
    """Open a checkpoint.

    Args:
        ref: a directory of safetensors, a ``.safetensors`` or ``.gguf`` file, ``org/name[@rev]``
            on the hub, or ``package:NAME/FILE.gguf`` inside an installed Python package.
        progress: told about downloads; ``None`` for nobody.

    Raises:
        CheckpointError: nothing is there, or what is there cannot be read.
        Unsupported: a format or model that is not supported.
    """
    path = Path(ref)
    name = str(ref)
    if path.is_dir():
        return SafetensorsCheckpoint(path, name)
    if path.suffix == ".gguf":
        return GgufCheckpoint(path, name)
    if path.suffix == ".safetensors":
        return SafetensorsCheckpoint(path.parent, name, weights=path)
    raise CheckpointError(f"no checkpoint at {name}")
