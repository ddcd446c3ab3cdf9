"""Paths that could complete what is typed, with a word about what each of them is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path

MAX_SCANNED = 2000
"""Entries of a directory that are looked at: a keystroke must not wait for a huge directory."""


class PathKind(Enum):
    """What a path should be of."""

    VINDEX = "vindex"
    MODEL = "model"
    PATCH = "patch"
    ANY = "any"


class Meta(Enum):
    """What a path is."""

    VINDEX = "vindex"
    DIRECTORY = "directory"
    GGUF = "GGUF"
    SAFETENSORS = "safetensors"
    PATCH = "patch"
    FILE = "file"

    @property
    def ends_path(self) -> bool:
        """Whether the path is whole with it, so that its quote can be closed."""
        return self is not Meta.DIRECTORY


_OFFERED = {
    PathKind.VINDEX: (Meta.VINDEX, Meta.DIRECTORY),
    PathKind.MODEL: (Meta.GGUF, Meta.SAFETENSORS, Meta.DIRECTORY),
    PathKind.PATCH: (Meta.PATCH, Meta.DIRECTORY),
    PathKind.ANY: (Meta.FILE, Meta.DIRECTORY),
}
_SUFFIXES = {".gguf": Meta.GGUF, ".safetensors": Meta.SAFETENSORS, ".vlp": Meta.PATCH}


@dataclass(frozen=True, slots=True)
class PathEntry:
    """The last part of a path, and what it is of."""

    name: str
    meta: Meta


def entries(typed: str, kind: PathKind, directory: Path) -> list[PathEntry]:
    """The entries whose names begin with the last part of what is typed.

    Args:
        typed: a path that need not be whole; ``~`` is the home directory.
        directory: relative paths are looked up in it.

    Returns:
        What is of the kind first, then directories to go on in; by name. Nothing where the
        directory cannot be read.
    """
    head, _, last = typed.rpartition("/")
    parent = directory / Path(head + "/" if head or typed.startswith("/") else ".").expanduser()
    found = [
        PathEntry(entry.name, meta)
        for entry in _scan(parent)
        if entry.name.startswith(last)
        and (last.startswith(".") or not entry.name.startswith("."))
        and (meta := _meta(entry, kind)) in _OFFERED[kind]
    ]
    return sorted(found, key=lambda entry: (entry.meta is Meta.DIRECTORY, entry.name))


def _scan(parent: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(parent) as scanned:
            yield from islice(scanned, MAX_SCANNED)
    except OSError:
        return


def _meta(entry: os.DirEntry[str], kind: PathKind) -> Meta:
    try:
        is_directory = entry.is_dir()
    except OSError:
        is_directory = False
    if not is_directory:
        if kind is PathKind.ANY:
            return Meta.FILE
        return _SUFFIXES.get(os.path.splitext(entry.name)[1].lower(), Meta.FILE)
    is_vindex = os.path.isfile(os.path.join(entry.path, "index.json"))
    return Meta.VINDEX if is_vindex and kind is PathKind.VINDEX else Meta.DIRECTORY
