"""Running statements: one module per family, each function ``(statement, context) -> Result``.

A family's module is imported when its first statement runs, so a script pays only for what it
uses; nothing on the way of a browse statement imports torch. Executors raise typed errors without
a place in the text; ``lql.session`` adds it.
"""

from __future__ import annotations

from lql import ast
from lql.context import Context
from lql.execute.slots import not_available
from lql.results import Result


def execute(statement: ast.Statement, context: Context) -> Result:
    """Run one bound statement.

    Raises:
        LqlNotAvailableError: a later version runs it; nothing was done.
        LqlError, VindexError, InferenceError, Cancelled, OSError: it failed.
    """
    match statement:
        case ast.Extract() | ast.UseVindex() | ast.UseModel():
            from lql.execute.lifecycle import run as run_lifecycle

            return run_lifecycle(statement, context)
        case ast.Stats() | ast.ShowModels() | ast.ShowLayers() | ast.ShowFeatures():
            from lql.execute.show import run as run_show

            return run_show(statement, context)
        case ast.Walk() | ast.ExplainWalk():
            from lql.execute.walk import run as run_walk

            return run_walk(statement, context)
        case ast.Describe():
            from lql.execute.describe import run as run_describe

            return run_describe(statement, context)
        case ast.Infer() | ast.ExplainInfer():
            from lql.execute.infer import run as run_infer

            return run_infer(statement, context)
        case ast.SetOption():
            from lql.execute.settings import run as run_settings

            return run_settings(statement, context)
        case ast.Explain(statement=explained, analyze=analyze):
            title = "EXPLAIN ANALYZE" if analyze else "EXPLAIN"
            raise not_available(f"{title} {explained.title}", statement.span)
        case _:
            raise not_available(statement.title, statement.span)
