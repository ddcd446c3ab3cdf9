"""What a model answers to the catalogue's questions about anything: the background of DESCRIBE.

One sidecar a kind, ``lql_answers_<kind>.bin``: a JSON line, then arrays. It carries the digest of
its own payload and of what it was computed for, so a torn or outdated file is simply not there. It
is computed once, published by one rename, and entered into ``seal.json`` where there is one; larql
reads neither file. Bounded: Q questions x ``KEPT`` tokens x 8 bytes, 100 KB a kind.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vindex import commit, files
from vindex.errors import VindexError
from vindex.seal import Seal, SealedFile, dump_seal, read_seal

_FORMAT = 1
_MAX_BYTES = 64 << 20
#: Tokens kept of each question's mean answer.
KEPT = 512


@dataclass(frozen=True, slots=True, eq=False)
class AnswerBackground:
    """The mean answer to each of Q questions over the background entities of a kind.

    Attributes:
        entities: how many, N.
        ids: int32 [Q, K], the most probable tokens, descending.
        shares: float32 [Q, K], their mean probabilities.
        clear: the score that no made-up name's row reached by chance.
    """

    entities: int
    ids: npt.NDArray[np.int32]
    shares: npt.NDArray[np.float32]
    clear: float

    def lookup(self) -> list[dict[int, float]]:
        """Of each question, token id -> mean probability."""
        pairs = zip(self.ids.tolist(), self.shares.tolist(), strict=True)
        return [dict(zip(ids, shares, strict=True)) for ids, shares in pairs]


def file_name(kind: str) -> str:
    """The sidecar of a kind."""
    return f"lql_answers_{kind}.bin"


def read_background(directory: Path, kind: str, made_for: str) -> AnswerBackground | None:
    """The stored background of a kind.

    Args:
        made_for: digest of the questions; one that was computed for others is not this one.

    Returns:
        ``None`` where there is none, or none that is whole and was made for these questions.
    """
    path = directory / file_name(kind)
    try:
        data = files.read_small(path, _MAX_BYTES)
    except VindexError:
        return None
    head, found, payload = data.partition(b"\n")
    try:
        fields = json.loads(head)
        if not found or fields["format"] != _FORMAT or fields["made_for"] != made_for:
            return None
        if fields["sha256"] != hashlib.sha256(payload).hexdigest():
            return None
        shape = (int(fields["questions"]), int(fields["kept"]))
        size = shape[0] * shape[1] * 4
        if len(payload) != 2 * size:
            return None
        return AnswerBackground(
            int(fields["entities"]),
            np.frombuffer(payload[:size], "<i4").reshape(shape),
            np.frombuffer(payload[size:], "<f4").reshape(shape),
            float(fields["clear"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def write_background(
    directory: Path, kind: str, made_for: str, background: AnswerBackground
) -> None:
    """Publish the background of a kind: whole, or not at all.

    Where the vindex is sealed, the file joins the seal. Should the process die between the two
    renames the file is there and unsealed, which nobody minds.

    Raises:
        OSError: the directory cannot be written.
        VindexError: its seal is malformed.
    """
    payload = background.ids.astype("<i4").tobytes() + background.shares.astype("<f4").tobytes()
    head = {
        "format": _FORMAT,
        "made_for": made_for,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "questions": background.ids.shape[0],
        "kept": background.ids.shape[1],
        "entities": background.entities,
        "clear": background.clear,
    }
    data = json.dumps(head).encode() + b"\n" + payload
    name = file_name(kind)
    with commit.directory_lock(directory):
        seal = read_seal(directory)
        if seal is not None and name in seal.sealed:
            # A sealed file is never replaced under its seal: first it leaves the seal.
            rest = {key: entry for key, entry in seal.sealed.items() if key != name}
            seal = Seal(rest)
            _replace(directory / files.SEAL, dump_seal(seal))
        _replace(directory / name, data)
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
