"""Everything ``vindex`` raises on purpose.

::

    VindexError
    ├── VindexNotFound        VDX01  the path holds no vindex
    ├── VindexInvalid         VDX02  index.json, a manifest or a file contradicts itself
    ├── VindexIncomplete      VDX03  required tensors or files are missing; says how to mend it
    ├── LevelTooLow           VDX04  the extract level does not hold what was asked for
    ├── Unsupported           VDX05  a family, dtype or layout this version cannot represent exactly
    ├── CheckpointError       VDX06  a checkpoint cannot be found or read
    ├── LedgerRefusal         VDX07  unknown or missing checkpoint tensors; nothing was written
    ├── TargetExists          VDX08  the output path is taken
    ├── VerifyFailed          VDX09  bytes on disk differ from the seal
    ├── Interrupted           VDX10  the caller cancelled; nothing was published
    ├── NotEncodable          VDX11  NaN, infinity or a magnitude beyond a block format
    ├── PatchInvalid          VDX12  a patch file is malformed, or names what the base has not
    ├── OtherBase             VDX13  a patch was made over other weights
    ├── TraceInvalid          VDX16  a file is no trace
    └── OptionsConflict       VDX17  what an extract is asked for does not go together

Facts are attributes; ``str(error)`` is one sentence, ``hint`` the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar


class VindexError(Exception):
    """Root of the package's errors.

    Attributes:
        message: what happened, on what, one sentence without a full stop.
        hint: the next step for the user, or ``None``.
        path: the file or directory concerned, or ``None``.
        details: further lines, e.g. every missing tensor.
    """

    code: ClassVar[str] = "VDX00"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        path: Path | None = None,
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = path
        self.details = tuple(details)


class VindexNotFound(VindexError):
    """No vindex at this path."""

    code = "VDX01"


class VindexInvalid(VindexError):
    """A file of the vindex is malformed or contradicts another."""

    code = "VDX02"


class VindexIncomplete(VindexError):
    """Tensors or files that the model needs are missing."""

    code = "VDX03"


class LevelTooLow(VindexError):
    """The vindex was extracted at a level that does not hold what was asked for."""

    code = "VDX04"


class Unsupported(VindexError):
    """Something that this version cannot represent or run exactly."""

    code = "VDX05"


class CheckpointError(VindexError):
    """A checkpoint cannot be found, resolved or read."""

    code = "VDX06"


class LedgerRefusal(VindexError):
    """The tensor ledger does not balance: unknown or missing tensors."""

    code = "VDX07"


class TargetExists(VindexError):
    """The output path exists and overwriting was not asked for."""

    code = "VDX08"


class VerifyFailed(VindexError):
    """Bytes on disk differ from what the seal recorded."""

    code = "VDX09"


class Interrupted(VindexError):
    """The caller cancelled a long operation; nothing was published."""

    code = "VDX10"


class NotEncodable(VindexError):
    """Values that a block format cannot hold: NaN, infinity, or beyond the range of its scales."""

    code = "VDX11"


class PatchInvalid(VindexError):
    """A patch file is malformed, or does not fit the base; nothing of it was applied."""

    code = "VDX12"


class OtherBase(VindexError):
    """A patch was made over other weights than these; ``details`` says what differs."""

    code = "VDX13"


class TraceInvalid(VindexError):
    """A file is no trace, or contradicts itself."""

    code = "VDX16"


class OptionsConflict(VindexError):
    """What an extract is asked for does not go together; nothing was written."""

    code = "VDX17"
