"""PLOT: run a statement and draw its result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlCapabilityError, LqlRuntimeError, LqlTypeError
from lql.execute.staging import staged, target_path
from lql.results.pictures import PlotResult

if TYPE_CHECKING:
    from lql.plots import PictureFormat

SUFFIXES = (".png", ".svg", ".html")


def run(statement: ast.Plot, context: Context) -> PlotResult:
    """Run PLOT. What can be refused is refused before the statement runs."""
    from lql.execute import execute

    _require_matplotlib(statement)
    from lql.plots import encoded, picture_of
    from lql.plots.files import PictureFormat
    from lql.plots.style import styled

    title = f"PLOT {statement.statement.title}"
    with ExitStack() as opened:
        target = stage = None
        chosen = PictureFormat.SVG
        if statement.target is not None:
            target, chosen = _target(statement.target)
            staging = staged(target, statement.target, overwrite=statement.overwrite)
            stage = opened.enter_context(staging)
        elif not context.state.pictures:
            raise _nowhere(statement)
        opened.push(_taking_back(context))
        picture = picture_of(execute(statement.statement, context))
        context.cancel.check("before drawing")
        with styled():
            drawn = encoded(picture.draw(), chosen, title)
        if stage is not None:
            stage.write_bytes(drawn)
            context.cancel.check("before the file appears")
    return PlotResult(
        statement=statement.statement.title,
        kind=picture.kind,
        path=None if target is None else str(target),
        size_bytes=None if target is None else len(drawn),
        svg=drawn.decode() if target is None else None,
    )


def _taking_back(context: Context) -> Callable[..., None]:
    """What a ``with`` calls at its end: an edit whose picture fails is not made."""
    overlay, depth = context.state.overlay, context.state.overlay.depth

    def leave(kind: type[BaseException] | None, *failure: object) -> None:
        if kind is not None and overlay.depth > depth:
            overlay.undo(overlay.depth - depth)

    return leave


def _target(slot: ast.TextSlot) -> tuple[Path, PictureFormat]:
    from lql.plots.files import PictureFormat

    target = target_path(slot)
    suffix = target.suffix.lower()
    if suffix in SUFFIXES:
        return target, PictureFormat(suffix)
    what = f'"{target.suffix}"' if target.suffix else "no suffix"
    raise LqlTypeError(
        Diagnostic(
            Code.WRONG_TYPE,
            f"PLOT tells the format by the file's name, which has {what}",
            span=slot.span,
            label=f"one of {', '.join(SUFFIXES)}",
        )
    )


def _require_matplotlib(statement: ast.Plot) -> None:
    try:
        import lql.plots  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "matplotlib":
            raise
        raise LqlCapabilityError(
            Diagnostic(
                Code.BACKEND_MISSING,
                "PLOT draws with matplotlib, which is not installed",
                span=statement.span,
                helps=('pip install "lql[notebook]"',),
            )
        ) from error


def _nowhere(statement: ast.Plot) -> LqlRuntimeError:
    return LqlRuntimeError(
        Diagnostic(
            Code.PICTURE_NOWHERE,
            "nothing here can show a picture",
            span=statement.span,
            helps=('PLOT … TO "picture.svg" writes it; .png and .html work too',),
        )
    )
