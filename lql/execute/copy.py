"""COPY: the rows of a SELECT in a file, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.execute.select import select_rows
from lql.execute.staging import staged, target_path
from lql.results.exact import cell, dumps
from lql.results.table import CopyResult, TableResult
from lql.tables.engine import write_parquet


def run(statement: ast.Copy, context: Context) -> CopyResult:
    """Run COPY."""
    target = target_path(statement.target)
    suffix = target.suffix.lower()
    if suffix not in _WRITERS:
        raise _unknown_format(target, statement.target)
    with staged(target, statement.target, overwrite=statement.overwrite) as stage:
        result = select_rows(statement.query, context, statement.title)
        _WRITERS[suffix](result, stage)
        context.cancel.check("before the file appears")
    return CopyResult(
        path=str(target),
        format=suffix[1:],
        rows_written=len(result.values),
        size_bytes=target.stat().st_size,
    )


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
