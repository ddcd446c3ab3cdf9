"""JSON and JSON Lines: exact values, stable keys.

Not-a-number and infinities, which JSON cannot spell, become ``null``. Control characters beyond
ASCII are escaped, so that a document shown on a terminal cannot steer it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TextIO

from lql.results import Form, Result

# DEL, C1 controls, line and paragraph separators, bidi controls and lone surrogates.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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


def dumps(value: Any) -> str:
    """``value`` as one line of strict JSON."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value
