"""Running statements: one module per family, each function ``(statement, context) -> Result``.

A family's module is imported when its first statement runs, so a script pays only for what it
uses; nothing on the way of a browse statement imports torch. Executors raise typed errors without
a place in the text; ``lql.session`` adds it.
"""

from __future__ import annotations

from lql import ast
from lql.codes import Code
from lql.context import Context
from lql.diagnostics import Diagnostic
from lql.errors import LqlUsageError
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
        case ast.Plot():
            from lql.execute.plot import run as run_plot

            return run_plot(statement, context)
        case ast.Walk() | ast.ExplainWalk():
            from lql.execute.walk import run as run_walk

            return run_walk(statement, context)
        case ast.Describe():
            from lql.execute.describe import run as run_describe

            return run_describe(statement, context)
        case ast.DefineRelation():
            from lql.execute.define import run as run_define

            return run_define(statement, context)
        case ast.Probe():
            from lql.execute.probe import run as run_probe

            return run_probe(statement, context)
        case ast.LabelFeatures():
            from lql.execute.label import run as run_label

            return run_label(statement, context)
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
        case ast.CompileVindex() | ast.CompileModel():
            from lql.execute.compile import run as run_compile

            return run_compile(statement, context)
        case ast.Merge():
            from lql.execute.merge import run as run_merge

            return run_merge(statement, context)
        case ast.Diff():
            from lql.execute.diff import run as run_diff

            return run_diff(statement, context)
        case ast.Trace() | ast.UseTrace():
            from lql.execute.trace import run as run_trace

            return run_trace(statement, context)
        case ast.SetOption():
            from lql.execute.settings import run as run_settings

            return run_settings(statement, context)
        case ast.Assert():
            from lql.execute.asserting import run as run_assert

            return run_assert(statement, context)
        case ast.Include():
            raise LqlUsageError(
                Diagnostic(
                    Code.USAGE,
                    "INCLUDE has no meaning outside a script",
                    helps=("Session.run and Session.prepare read the files of a text",),
                )
            )
        case ast.Explain():
            from lql.execute.plan import run as run_plan

            return run_plan(statement, context)
        case _:
            raise not_available(statement.title, statement.span)
