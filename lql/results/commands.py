"""Results of what the command does besides statements: ``lql verify`` and ``lql --info``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lql.results.base import Column, Kind, Record, Result, Unit, fields_of


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file of a vindex; ``status`` is ``ok`` or what is wrong."""

    file: str
    size_bytes: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult(Result):
    """Every file of a vindex against its seal."""

    path: str
    files: tuple[FileRow, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """One row per file."""
        return (
            Column("file", Kind.TEXT),
            Column("size_bytes", Kind.INTEGER, Unit.BYTES),
            Column("status", Kind.TEXT),
        )

    def records(self) -> Sequence[FileRow]:
        """Files by name."""
        return self.files


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoResult(Record):
    """``lql --info``: what runs here, for bug reports.

    Attributes:
        packages: versions by name; ``None`` for one that is not installed.
        device: what the model is computed on.
        cores: processors that this process may use.
    """

    lql: str
    python: str
    platform: str
    device: str
    cores: int
    packages: dict[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """The facts."""
        return fields_of(self, without=("meta",))
