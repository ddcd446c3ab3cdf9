"""JSON objects of a checkpoint, through the strict parser of ``vindex.strict_json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vindex import strict_json
from vindex.checkpoint._mapped import open_regular
from vindex.errors import CheckpointError, VindexInvalid
from vindex.families._config import show

MAX_JSON = 64 << 20


def parse_object(data: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object: no duplicate keys, no NaN, no absurd numbers or nesting.

    Args:
        data: the text, UTF-8.
        path: where it came from, for messages.

    Raises:
        CheckpointError: not one well-formed object.
    """
    try:
        value = strict_json.load(data, path)
    except VindexInvalid as error:
        raise CheckpointError(error.message, path=path) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} holds {show(value)}, expected an object", path=path)
    return value


def read_limited(path: Path, limit: int = MAX_JSON) -> bytes:
    """The bytes of a small file.

    Raises:
        CheckpointError: it cannot be read, or has more than ``limit`` bytes.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}", path=path) from error
    if len(data) > limit:
        raise CheckpointError(f"{path.name} is larger than {limit:,} bytes", path=path)
    return data


def read_object(path: Path) -> dict[str, Any]:
    """Read and parse a JSON object of at most 64 MiB."""
    return parse_object(read_limited(path), path)
