"""JSON and JSON Lines: exact values (``lql.results.exact``), stable keys."""

from __future__ import annotations

from typing import TextIO

from lql.results import Form, Result
from lql.results.exact import dumps


class JsonRenderer:
    """One document per result, each on one line: an array of rows, or a record's object."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, result: Result) -> None:
        """Write one document; results that are mere status have none."""
        match result.form:
            case Form.ROWS:
                self._out.write(dumps(result.to_rows()) + "\n")
            case Form.RECORD:
                self._out.write(dumps(result.to_dict()) + "\n")
            case Form.STATUS:
                return
        self._out.flush()


class JsonLinesRenderer:
    """One object per row, each on one line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, result: Result) -> None:
        """Write one line per row."""
        if result.form is Form.STATUS:
            return
        self._out.writelines(dumps(row) + "\n" for row in result.to_rows())
        self._out.flush()
