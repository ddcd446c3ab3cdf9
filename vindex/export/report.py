"""What an export wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vindex.baking import Rounding


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        path: directory or file.
        files: name -> bytes.
        encodings: how many tensors are stored in which way, e.g. ``bf16`` or ``q8_0``.
        rounding: how far values are from what could be stored of them.
        notes: what the user should know.
        seconds: wall time.
    """

    path: Path
    files: Mapping[str, int]
    encodings: Mapping[str, int]
    rounding: Rounding
    notes: tuple[str, ...]
    seconds: float

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())
