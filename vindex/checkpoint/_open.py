"""From what the user wrote to an open checkpoint."""

from __future__ import annotations

from pathlib import Path

from vindex.checkpoint import _hub, _package
from vindex.checkpoint._base import Checkpoint
from vindex.checkpoint._directory import PICKLES, SafetensorsCheckpoint, refuse_pickle
from vindex.checkpoint.gguf import GgufCheckpoint
from vindex.errors import CheckpointError
from vindex.families._config import show
from vindex.files import CONFIG
from vindex.progress import NullProgress, Progress

_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_WEIGHT_SUFFIXES = (".gguf", ".safetensors", *PICKLES)


def open_checkpoint(ref: str | Path, *, progress: Progress | None = None) -> Checkpoint:
    """Open a checkpoint.

    Args:
        ref: a directory of safetensors, a ``.safetensors`` or ``.gguf`` file, ``org/name[@rev]``
            or ``org/name/FILE.gguf[@rev]`` on the hub (``hf://`` may precede), or
            ``package:NAME/FILE.gguf`` inside an installed Python package. A path that exists wins.
        progress: told about downloads; ``None`` for nobody.

    Raises:
        CheckpointError: nothing is there, or what is there cannot be read.
        Unsupported: a format or model that is not supported.
    """
    name = str(ref)
    if name.startswith(_package.PREFIX):
        return _open_file(_package.package_file(name), name)
    path = _local(ref)
    if path is None:
        return _open_hub(name, progress or NullProgress())
    return _open_directory(path, name) if path.is_dir() else _open_file(path, name)


def _local(ref: str | Path) -> Path | None:
    """The local path that is meant, or ``None`` for something on the hub."""
    name = str(ref)
    if name.startswith(_hub.PREFIX):
        return None
    try:
        path = Path(ref).expanduser()
        if path.exists():
            return path
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{show(name)} is no usable path: {error}") from error
    hub = None if isinstance(ref, Path) else _hub.parse_hub_ref(name)
    if hub is None or (hub.file is None and hub.repo.endswith(_WEIGHT_SUFFIXES)):
        raise CheckpointError(
            f"there is no checkpoint at {show(name, 200)}",
            hint="give a directory, a .gguf or .safetensors file, or a hub id such as org/name",
        )
    return None


def _open_hub(name: str, progress: Progress) -> Checkpoint:
    ref = _hub.parse_hub_ref(name)
    if ref is None:
        raise CheckpointError(f"{show(name)} is no hub id, expected org/name or org/name@revision")
    folder, provenance = _hub.fetch(ref, progress)
    if ref.file is not None:
        return GgufCheckpoint(folder / ref.file, name, provenance=provenance)
    return SafetensorsCheckpoint(folder, name, provenance=provenance)


def _open_directory(path: Path, name: str) -> Checkpoint:
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs and not (path / CONFIG).is_file():
        if len(ggufs) > 1:
            raise CheckpointError(
                f"{name} holds {len(ggufs)} GGUF files",
                hint=f"name one of them: {', '.join(each.name for each in ggufs[:4])}",
                path=path,
            )
        return GgufCheckpoint(ggufs[0], name)
    return SafetensorsCheckpoint(path, name)


def _open_file(path: Path, name: str) -> Checkpoint:
    """By the first bytes rather than the name: a renamed pickle stays a pickle."""
    if not path.is_file():
        raise CheckpointError(f"{path} is neither a directory nor a regular file", path=path)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", path=path) from error
    if magic == b"GGUF" or path.suffix == ".gguf":
        return GgufCheckpoint(path, name)
    if magic.startswith(_PICKLE_MAGIC) or path.suffix in PICKLES:
        raise refuse_pickle(path)
    if path.suffix == ".safetensors":
        return SafetensorsCheckpoint(path.parent, name, weights=path)
    raise CheckpointError(
        f"{path.name} is neither a GGUF nor a safetensors file",
        hint="give a directory, a .gguf or a .safetensors file",
        path=path,
    )
