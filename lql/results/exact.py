"""Values exactly, as programs read them: strict JSON and delimited cells.

Not-a-number and infinities, which JSON cannot spell, become ``null``. Control characters beyond
ASCII are escaped, so that a document shown on a terminal cannot steer it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from lql.results.base import Value

# DEL, C1 controls, line and paragraph separators, bidi controls and lone surrogates.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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


def cell(value: Value) -> str:
    """A value as a cell of CSV or TSV; nothing for a missing one, a list as JSON."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value)
        case tuple():
            return dumps(list(value))
        case _:
            return str(value)
