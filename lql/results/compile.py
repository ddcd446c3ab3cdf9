"""Results of COMPILE and MERGE: what was written, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lql.results.base import Record, fields_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileModelResult(Record):
    """The checkpoint that was written.

    Attributes:
        source: what was compiled.
        path: a directory, or a GGUF file.
        format: ``safetensors`` or ``gguf``.
        files: their sizes in bytes.
        encodings: how many tensors are stored in which way.
        conflicts: features that patches did not agree about.
        rounding: the largest error of a stored value; ``rounding_relative`` the norm's.
    """

    source: str
    path: str
    format: str
    files: dict[str, int]
    encodings: dict[str, int]
    conflicts: int
    size_bytes: int
    rounding: float
    rounding_relative: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult(Record):
    """What one vindex took over from another.

    Attributes:
        target: ``CURRENT`` for the session, else the vindex or patch that was written.
        on_conflict: who won where both sides had something.
        facts, features: how many were taken.
        conflicts: facts and features that both sides had, differently.
        kept: of these, those where the target's stayed.
    """

    source: str
    target: str
    on_conflict: str
    facts: int
    features: int
    conflicts: int
    kept: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileVindexResult(Record):
    """The vindex that was written.

    Attributes:
        source: what was compiled; ``CURRENT`` with how many edits.
        rewritten: files with other bytes than the source's.
        shared: the other files, and how: ``linked``, ``reflinked`` or ``copied``.
        left_out: files of the source that were not taken along: caches, and what is not known.
        facts: stored facts that it holds beside its weights.
        probes: entities and relations that it holds answers about (PROBE).
        conflicts: facts and features that patches did not agree about.
        new_bytes: of files that share no bytes with the source.
        edited_values: values that were stored anew, as floats.
        rounding: their largest error against the edit.
        requantised_values: values in blocks that had to be made anew.
        requantised_error: their largest error; ``requantised_relative`` the norm's.
    """

    source: str
    path: str
    rewritten: tuple[str, ...]
    shared: dict[str, str]
    left_out: tuple[str, ...]
    facts: int
    probes: int
    conflicts: int
    size_bytes: int
    new_bytes: int
    edited_values: int
    rounding: float
    requantised_values: int
    requantised_error: float
    requantised_relative: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))
