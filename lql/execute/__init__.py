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
        case ast.Stats():
            from lql.execute.stats import run as run_stats

            return run_stats(statement, context)
        case (
            ast.Select()
            | ast.ShowModels()
            | ast.ShowLayers()
            | ast.ShowFeatures()
            | ast.ShowEntities()
            | ast.ShowRelations()
            | ast.ShowPatches()
        ):
            from lql.execute.select import run as run_select

            return run_select(statement, context)
        case ast.Copy():
            from lql.execute.copy import run as run_copy

            return run_copy(statement, context)
        case ast.Walk() | ast.ExplainWalk():
            from lql.execute.walk import run as run_walk

            return run_walk(statement, context)
        case ast.Describe():
            from lql.execute.describe import run as run_describe

            return run_describe(statement, context)
        case ast.DefineRelation():
            from lql.execute.define import run as run_define

            return run_define(statement, context)
        case ast.Infer() | ast.ExplainInfer():
            from lql.execute.infer import run as run_infer

            return run_infer(statement, context)
        case (
            ast.Insert()
            | ast.Delete()
            | ast.Update()
            | ast.Undo()
            | ast.ShowEdits()
            | ast.DiscardPatch()
        ):
            from lql.execute.edit import run as run_edit

            return run_edit(statement, context)
        case ast.Rebalance() | ast.CompactMinor() | ast.CompactMajor() | ast.ShowCompactStatus():
            from lql.execute.rebalance import run as run_rebalance

            return run_rebalance(statement, context)
        case ast.BeginPatch() | ast.SavePatch() | ast.ApplyPatch() | ast.RemovePatch():
            from lql.execute.patching import run as run_patching

            return run_patching(statement, context)
        case ast.Diff():
            from lql.execute.diff import run as run_diff

            return run_diff(statement, context)
        case ast.SetOption():
            from lql.execute.settings import run as run_settings

            return run_settings(statement, context)
        case ast.Explain(statement=explained, analyze=analyze):
            title = "EXPLAIN ANALYZE" if analyze else "EXPLAIN"
            raise not_available(f"{title} {explained.title}", statement.span)
        case _:
            raise not_available(statement.title, statement.span)
