"""Files that statements write: whole, by one rename, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError, LqlTypeError
from lql.execute.slots import text
from vindex.commit import sync_directory, sync_file


def target_path(slot: ast.TextSlot) -> Path:
    """The path that a statement names; ``~`` is the home directory.

    Raises:
        LqlTypeError: it is none.
    """
    written = text(slot)
    if "\0" in written:
        raise LqlTypeError(Diagnostic(Code.WRONG_TYPE, "no path holds a NUL", span=slot.span))
    return Path(written).expanduser()


@contextmanager
def staged(target: Path, slot: ast.TextSlot, *, overwrite: bool) -> Iterator[Path]:
    """A file beside the target that takes its place when everything is on the disk.

    Args:
        slot: where the target stands in the statement, for messages.
        overwrite: a file that is there already may be replaced.

    Raises:
        LqlRuntimeError: it is there already.
        OSError: it cannot be written; about the target, not the file beside it.
    """
    if not overwrite:
        _refuse_existing(target, slot)
    stage = target.parent / f".{target.name}.stage-{secrets.token_hex(8)}"
    try:
        open(stage, "xb").close()  # refused here, if at all, and not after a long query
        yield stage
        with open(stage, "rb") as written:
            sync_file(written.fileno())
        if not overwrite:
            _refuse_existing(target, slot)
        os.replace(stage, target)
        sync_directory(target.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error
    finally:
        stage.unlink(missing_ok=True)


def _refuse_existing(target: Path, slot: ast.TextSlot) -> None:
    if os.path.lexists(target):
        raise LqlRuntimeError(
            Diagnostic(
                Code.TARGET_EXISTS,
                f"{target} exists",
                span=slot.span,
                helps=("choose another path, or add OVERWRITE",),
            )
        )
