"""How results and errors look in IPython: tables as HTML in a browser, as text in a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lql.diagnostics import render_text
from lql.errors import LqlError
from lql.render import RenderOptions
from lql.render.html import html
from lql.render.table import TableRenderer
from lql.render.view import status
from lql.results import Form, Result
from lql.results.pictures import PlotResult

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def register(shell: InteractiveShell) -> None:
    """Show every ``lql`` result in this notebook as a table, also those that Python code made."""
    display: Any = shell.display_formatter
    display.mimebundle_formatter.for_type(Result, _bundle)


def plain(result: Result) -> str:
    """A result as a terminal shows it, without a line break at its end."""
    if result.form is Form.STATUS:
        return status(result)
    out = io.StringIO()
    TableRenderer(out, RenderOptions()).write(result)
    return out.getvalue().rstrip("\n")


def _bundle(
    result: Result, include: object = None, exclude: object = None
) -> Mapping[str, str | None]:
    """A result by MIME type; a front end takes the richest that it knows."""
    if isinstance(result, PlotResult) and result.svg is not None:
        return {"image/svg+xml": result.svg, "text/plain": plain(result)}
    return {"text/html": html(result), "text/plain": plain(result)}


class CellError(Exception):
    """An error of the language, shown in a notebook as a shell shows it: without Python's frames.

    Attributes:
        error: what was raised; also the cause of this one.
    """

    def __init__(self, error: LqlError) -> None:
        super().__init__(str(error))
        self.error = error

    def _render_traceback_(self) -> list[str]:
        return render_text(self.error.diagnostic).splitlines()
