"""LQL: a query language, interpreter and REPL over the weights of language models.

::

    import lql

    with lql.open("smollm2.vindex") as session:
        for row in session.query('INFER "The capital of France is" TOP 5').rows:
            print(row["token"], row["probability"])

The names below are loaded when they are first used: importing ``lql`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lql.api.conditions import col, count
    from lql.api.models import from_transformers
    from lql.cancel import CancelToken
    from lql.errors import LqlError
    from lql.parser import parse
    from lql.results import Result
    from lql.session import Session, connect
    from lql.session import open_session as open
    from lql.unparse import unparse

__all__ = [
    "CancelToken",
    "LqlError",
    "Result",
    "Session",
    "col",
    "connect",
    "count",
    "from_transformers",
    "open",
    "parse",
    "unparse",
]

_HOMES = {
    "CancelToken": "lql.cancel:CancelToken",
    "LqlError": "lql.errors:LqlError",
    "Result": "lql.results:Result",
    "Session": "lql.session:Session",
    "col": "lql.api.conditions:col",
    "connect": "lql.session:connect",
    "load_ipython_extension": "lql.notebook:load_ipython_extension",  # %load_ext lql
    "count": "lql.api.conditions:count",
    "from_transformers": "lql.api.models:from_transformers",
    "open": "lql.session:open_session",
    "parse": "lql.parser:parse",
    "unparse": "lql.unparse:unparse",
}


def __getattr__(name: str) -> Any:
    """Load a public name."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
