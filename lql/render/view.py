"""How people read a result: a few blocks, the same for table, vertical and markdown.

``lay_out`` is open (``functools.singledispatch``): a type without a layout of its own is one grid
of ``to_rows``, so a new result can be read on its first day. The layouts of a module of results
are in the module of the same name beside this one, loaded with the first result that needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from importlib import import_module

from lql.render.blocks import Block, Facts, rows_of
from lql.render.text import cell
from lql.results import Record, Result

_LAYOUTS = {
    "lql.results.browse": "lql.render.view_browse",
    "lql.results.compile": "lql.render.view_compile",
    "lql.results.edits": "lql.render.view_edits",
    "lql.results.forward": "lql.render.view_forward",
    "lql.results.lifecycle": "lql.render.view_lifecycle",
    "lql.results.plan": "lql.render.view_plan",
    "lql.results.scripts": "lql.render.view_scripts",
    "lql.results.show": "lql.render.view_show",
    "lql.results.trace": "lql.render.view_trace",
}


def view(result: Result) -> Sequence[Block]:
    """The blocks of a result, top to bottom."""
    _load_layouts(type(result))
    return lay_out(result)


def status(result: Result) -> str:
    """A STATUS result as one line for standard error."""
    _load_layouts(type(result))
    return say_status(result)


@singledispatch
def lay_out(result: Result) -> Sequence[Block]:
    """A result without a layout of its own: one grid."""
    return (rows_of(result),)


@lay_out.register
def _(result: Record) -> Sequence[Block]:
    column = result.columns[1]
    return (Facts(tuple((leaf.name, cell(leaf.value, column)) for leaf in result.records())),)


@singledispatch
def say_status(result: Result) -> str:
    """A status without words of its own: names and values."""
    return ", ".join(f"{row['name']} {row['value']}" for row in result.to_rows())


def _load_layouts(kind: type[Result]) -> None:
    for base in kind.__mro__:
        if base.__module__ in _LAYOUTS:
            import_module(_LAYOUTS[base.__module__])
