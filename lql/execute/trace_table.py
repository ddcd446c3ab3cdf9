"""The table TRACE: the rows of the saved trace that is in use, for SELECT.

What the lens says needs the model, so it is read only where a statement names such a column; how a
target stands, only for the targets that WHERE names, as EDGES do with entities.
"""

from __future__ import annotations

from collections.abc import Sequence

from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.execute.trace import lens_model
from lql.execute.trace_rows import saved_rows
from lql.results import Value
from lql.span import Span

_STANDING = frozenset({"rank", "probability", "logit"})
TRACE_LENS = _STANDING | {"lens", "lens_probability"}
"""The columns that the model is needed for."""


def trace_rows(
    names: Sequence[str],
    targets: Sequence[str] | None,
    context: Context,
    *,
    span: Span,
    lens: bool,
) -> list[tuple[Value, ...]]:
    """The rows: layers ascending, positions within; once for each target.

    Args:
        names: of the columns.
        targets: what WHERE allows; ``None`` where it says nothing, and then there is none.
        span: of the statement.
        lens: whether a column of ``TRACE_LENS`` is read.

    Raises:
        LqlRuntimeError: no trace is in use, or a target is asked for without its model.
    """
    file = context.state.trace
    if file is None:
        raise LqlRuntimeError(
            Diagnostic(
                Code.NO_TRACE,
                "FROM TRACE reads a saved trace, and none is in use",
                span=span,
                helps=(
                    'TRACE "prompt" POSITIONS ALL SAVE "x.safetensors"; saves one',
                    'USE TRACE "x.safetensors"; opens it',
                ),
            )
        )
    model = None
    if lens:
        needed_for = None if targets is None else "the standing of a target"
        model = lens_model(file, context, "SELECT … FROM TRACE", needed_for, span)
    found: list[tuple[Value, ...]] = []
    for target in [None] if targets is None else targets:
        rows, _ = saved_rows(file, None if model is None else target, model, context.cancel)
        found += [
            tuple(target if name == "target" else getattr(row, name) for name in names)
            for row in rows
        ]
    return found
