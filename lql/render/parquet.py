"""Parquet: the exact rows of one result, typed, for other programs. Needs pyarrow."""

from __future__ import annotations

import io
from typing import TextIO

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError
from lql.results import Form, Result


class ParquetRenderer:
    """Writes one result as the bytes of a file.

    Args:
        out: a file or a pipe; its bytes are written, not its text.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._written = False

    def write(self, result: Result) -> None:
        """Write a result's rows.

        Raises:
            LqlUsageError: it is the second one, or nothing that takes bytes would get it.
            LqlCapabilityError: pyarrow is not installed.
        """
        from lql.results.frames import parquet_bytes

        if result.form is Form.STATUS:
            return
        if self._written:
            raise _refused("a Parquet file holds one result, and this is the second one")
        if not isinstance(self._out, io.TextIOWrapper) or self._out.isatty():
            raise _refused("Parquet is no text for a screen")
        data = parquet_bytes(result.columns, result.to_rows())
        self._out.flush()
        self._out.buffer.write(data)
        self._out.flush()
        self._written = True


def _refused(message: str) -> LqlUsageError:
    helps = ("-o FILE writes one result", 'COPY (SELECT …) TO "file.parquet" writes a query')
    return LqlUsageError(Diagnostic(Code.USAGE, message, helps=helps))
