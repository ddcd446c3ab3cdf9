"""Files of ours beside those of a vindex: computed from it once, published whole, sealed with it.

larql reads none of them. Each carries the digest of its own payload and of what it was made for, so
a torn or outdated file is simply not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vindex import commit, files
from vindex.errors import VindexError
from vindex.seal import Seal, SealedFile, dump_seal, read_seal


def read_sidecar(
    path: Path, made_for: str, format_: int, limit: int
) -> tuple[Mapping[str, Any], bytes] | None:
    """The head and the payload of a sidecar, or ``None`` where there is no whole one.

    Args:
        made_for: digest of what it was computed from; one of something else is not this one.
        format_: the version of its layout.
        limit: the most bytes that are read.
    """
    try:
        data = files.read_small(path, limit)
    except VindexError:
        return None
    head, found, payload = data.partition(b"\n")
    try:
        fields = json.loads(head)
        if not found or fields["format"] != format_ or fields["made_for"] != made_for:
            return None
        if fields["sha256"] != hashlib.sha256(payload).hexdigest():
            return None
    except (ValueError, KeyError, TypeError):
        return None
    return fields, payload


def write_sidecar(
    path: Path, made_for: str, format_: int, fields: Mapping[str, Any], payload: bytes
) -> None:
    """Publish a sidecar: whole, or not at all; see ``read_sidecar``.

    Where the vindex is sealed, the file joins the seal. Should the process die between the two
    renames the file is there and unsealed, which nobody minds.

    Raises:
        OSError: the directory cannot be written.
        VindexError: its seal is malformed.
    """
    digest = hashlib.sha256(payload).hexdigest()
    head = {"format": format_, "made_for": made_for, "sha256": digest, **fields}
    data = json.dumps(head).encode() + b"\n" + payload
    directory, name = path.parent, path.name
    with commit.directory_lock(directory):
        seal = read_seal(directory)
        if seal is not None and name in seal.sealed:
            # A sealed file is never replaced under its seal: first it leaves the seal.
            rest = {key: entry for key, entry in seal.sealed.items() if key != name}
            seal = Seal(rest)
            _replace(directory / files.SEAL, dump_seal(seal))
        _replace(path, data)
        if seal is not None:
            entry = SealedFile(len(data), hashlib.sha256(data).hexdigest())
            _replace(directory / files.SEAL, dump_seal(Seal({**seal.sealed, name: entry})))


def _replace(path: Path, data: bytes) -> None:
    """Put a file in place by one rename, on the disk when this returns."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        commit.write_file(staged, data)
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    commit.sync_directory(path.parent)
