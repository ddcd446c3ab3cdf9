"""CSV and TSV: exact values of ``to_rows``.

CSV follows RFC 4180 with ``\\n`` line ends: a cell with a comma, quote or line break is quoted.
TSV has no quoting: tab, newline, carriage return and backslash inside a cell are written ``\\t``,
``\\n``, ``\\r`` and ``\\\\``, as PostgreSQL's COPY and ClickHouse do; a missing value is ``\\N``.
In CSV a missing value is an empty cell. Lists of tokens are JSON arrays in both.
"""

from __future__ import annotations

import csv
from typing import TextIO

from lql.results import Form, Result, Value
from lql.results.exact import cell


class CsvRenderer:
    """Comma-separated values."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._first = True

    def write(self, result: Result) -> None:
        """Write a header line and the rows."""
        if result.form is Form.STATUS:
            return
        if not self._first:
            self._out.write("\n")
        self._first = False
        writer = csv.writer(self._out, lineterminator="\n")
        writer.writerow([column.name for column in result.columns])
        writer.writerows([cell(value) for value in row.values()] for row in result.to_rows())
        self._out.flush()


class TsvRenderer:
    """Tab-separated values."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._first = True

    def write(self, result: Result) -> None:
        """Write a header line and the rows."""
        if result.form is Form.STATUS:
            return
        if not self._first:
            self._out.write("\n")
        self._first = False
        self._out.write("\t".join(column.name for column in result.columns) + "\n")
        for row in result.to_rows():
            self._out.write("\t".join(_tsv(value) for value in row.values()) + "\n")
        self._out.flush()


_TSV = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})


def _tsv(value: Value) -> str:
    return "\\N" if value is None else cell(value).translate(_TSV)
