"""LQL: a query language, interpreter and REPL over the weights of language models.

::

    import lql

    with lql.connect("smollm2.vindex") as session:
        (result,) = session.run('INFER "The capital of France is" TOP 5;')
        for row in result.to_rows():
            print(row["token"], row["probability"])

The names below are loaded when they are first used: importing ``lql`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lql.cancel import CancelToken
    from lql.errors import LqlError
    from lql.parser import parse
    from lql.results import Result
    from lql.session import Session, connect
    from lql.unparse import unparse

__all__ = ["CancelToken", "LqlError", "Result", "Session", "connect", "parse", "unparse"]

_HOMES = {
    "CancelToken": "lql.cancel",
    "LqlError": "lql.errors",
    "Result": "lql.results",
    "Session": "lql.session",
    "connect": "lql.session",
    "parse": "lql.parser",
    "unparse": "lql.unparse",
}


def __getattr__(name: str) -> Any:
    """Load a public name."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
