"""COPY: the rows of a SELECT in a file, whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError, LqlTypeError
from lql.execute.select import select_rows
from lql.execute.slots import text
from lql.results.exact import cell, dumps
from lql.results.table import CopyResult, TableResult
from lql.tables.engine import write_parquet
from vindex.commit import sync_directory, sync_file


def run(statement: ast.Copy, context: Context) -> CopyResult:
    """Run COPY."""
    if "\0" in text(statement.target):
        raise LqlTypeError(
            Diagnostic(Code.WRONG_TYPE, "no path holds a NUL", span=statement.target.span)
        )
    target = Path(text(statement.target)).expanduser()
    suffix = target.suffix.lower()
    if suffix not in _WRITERS:
        raise _unknown_format(target, statement.target)
    if not statement.overwrite:
        _refuse_existing(target, statement.target)
    with _staged(target, statement) as stage:
        result = select_rows(statement.query, context, statement.title)
        _WRITERS[suffix](result, stage)
        context.cancel.check("before the file appears")
    return CopyResult(
        path=str(target),
        format=suffix[1:],
        rows_written=len(result.values),
        size_bytes=target.stat().st_size,
    )


@contextmanager
def _staged(target: Path, statement: ast.Copy) -> Iterator[Path]:
    """A file beside the target that takes its place when everything is on the disk."""
    stage = target.parent / f".{target.name}.stage-{secrets.token_hex(8)}"
    try:
        open(stage, "xb").close()  # refused here, if at all, and not after a long query
        yield stage
        with open(stage, "rb") as written:
            sync_file(written.fileno())
        if not statement.overwrite:
            _refuse_existing(target, statement.target)
        os.replace(stage, target)
        sync_directory(target.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error
    finally:
        stage.unlink(missing_ok=True)


def _csv(result: TableResult, path: Path) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in result.columns])
    writer.writerows([cell(value) for value in row] for row in result.values)
    path.write_bytes(out.getvalue().encode())


def _json(result: TableResult, path: Path) -> None:
    path.write_bytes(f"{dumps(result.to_rows())}\n".encode())


def _jsonl(result: TableResult, path: Path) -> None:
    path.write_bytes("".join(f"{dumps(row)}\n" for row in result.to_rows()).encode())


def _parquet(result: TableResult, path: Path) -> None:
    write_parquet(result.columns, result.values, path)


_WRITERS: Mapping[str, Callable[[TableResult, Path], None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
}


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


def _unknown_format(target: Path, slot: ast.TextSlot) -> LqlTypeError:
    known = ", ".join(_WRITERS)
    what = f'"{target.suffix}"' if target.suffix else "no suffix"
    return LqlTypeError(
        Diagnostic(
            Code.WRONG_TYPE,
            f"COPY tells the format by the file's name, which has {what}",
            span=slot.span,
            label=f"one of {known}",
        )
    )
