"""What a model answers to the catalogue's questions about anything: the background of DESCRIBE.

One sidecar a kind, ``lql_answers_<kind>.bin``: a JSON line, then arrays. It carries the digest of
its own payload and of what it was computed for, so a torn or outdated file is simply not there. It
is computed once, published by one rename, and entered into ``seal.json`` where there is one; larql
reads neither file. Bounded: Q questions x ``KEPT`` tokens x 8 bytes, 100 KB a kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vindex.sidecar import read_sidecar, write_sidecar

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
    found = read_sidecar(directory / file_name(kind), made_for, _FORMAT, _MAX_BYTES)
    if found is None:
        return None
    fields, payload = found
    try:
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
    except (ValueError, KeyError, TypeError):
        return None


def write_background(
    directory: Path, kind: str, made_for: str, background: AnswerBackground
) -> None:
    """Publish the background of a kind: whole, or not at all.

    Raises:
        OSError: the directory cannot be written.
        VindexError: its seal is malformed.
    """
    payload = background.ids.astype("<i4").tobytes() + background.shares.astype("<f4").tobytes()
    fields = {
        "questions": background.ids.shape[0],
        "kept": background.ids.shape[1],
        "entities": background.entities,
        "clear": background.clear,
    }
    write_sidecar(directory / file_name(kind), made_for, _FORMAT, fields, payload)
