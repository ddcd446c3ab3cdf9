"""What a statement needs before it can begin: for EXPLAIN, and for ``--check``.

Told from the statement alone. Whether it is there is asked of the vindex by who needs to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lql import ast
from lql.execute.slots import not_available
from vindex.kinds import ExtractLevel


class Base(Enum):
    """What must be in use."""

    NOTHING = "nothing"
    MODEL = "a vindex or a model"
    VINDEX = "a vindex"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a statement needs.

    Attributes:
        base: what must be in use.
        level: the lowest extract level that holds what it reads, of a vindex.
    """

    base: Base
    level: ExtractLevel = ExtractLevel.BROWSE

    @property
    def runs_model(self) -> bool:
        """Whether the weights of the forward pass are needed."""
        return self.level >= ExtractLevel.INFERENCE


_NOTHING = Needs(Base.NOTHING)
_BROWSED = Needs(Base.VINDEX)
_RUN = Needs(Base.MODEL, ExtractLevel.INFERENCE)
_RUN_VINDEX = Needs(Base.VINDEX, ExtractLevel.INFERENCE)


OF_NO_VINDEX = frozenset({ast.Table.MODELS, ast.Table.TRACE})
"""Tables whose rows come from elsewhere."""


def needs(statement: ast.Statement) -> Needs:
    """What a statement needs.

    Raises:
        LqlNotAvailableError: a later version runs it.
    """
    match statement:
        case ast.Infer() | ast.ExplainInfer() | ast.Probe():
            return _RUN
        case ast.Trace(prompt=prompt):  # without one it is of a file
            return _NOTHING if prompt is None else _RUN
        case ast.Walk(mode=None | ast.WalkMode.PURE, compare=False):
            return _BROWSED
        case ast.Walk():
            return _RUN_VINDEX
        case ast.Describe():
            return _describe(statement)
        case ast.Select():
            return _select(statement)
        case ast.Copy(query=query):
            return _select(query)
        case ast.Assert(subject=subject):
            return _select(subject) if isinstance(subject, ast.Select) else _RUN
        case ast.Insert() | ast.Rebalance() | ast.CompactMajor():
            return _RUN_VINDEX
        case ast.Delete(check=check) | ast.Update(check=check):
            return _BROWSED if check is ast.Check.NONE else _RUN_VINDEX
        case ast.Stats(path=None):
            return Needs(Base.MODEL)
        case (
            ast.ExplainWalk()
            | ast.ShowLayers()
            | ast.ShowFeatures()
            | ast.ShowEntities()
            | ast.ShowRelations()
            | ast.ShowPatches()
            | ast.ShowCompactStatus()
            | ast.CompactMinor()
            | ast.BeginPatch()
            | ast.SavePatch()
            | ast.ApplyPatch()
        ):
            return _BROWSED
        case ast.Diff(left=left, right=right):
            current = isinstance(left, ast.Current) or isinstance(right, ast.Current)
            return _BROWSED if current else _NOTHING
        case ast.CompileVindex(source=source):
            return _BROWSED if isinstance(source, ast.Current) else _NOTHING
        case ast.CompileModel(source=source):
            return _RUN_VINDEX if isinstance(source, ast.Current) else _NOTHING
        case ast.Merge(target=target):
            return _BROWSED if isinstance(target, ast.Current | None) else _NOTHING
        case ast.LabelFeatures(path=path):
            return _RUN_VINDEX if path is None else _BROWSED
        case ast.Explain(statement=inner) | ast.Plot(statement=inner):
            return needs(inner)
        case (
            ast.Extract()
            | ast.UseVindex()
            | ast.UseModel()
            | ast.UseTrace()
            | ast.Stats()
            | ast.ShowModels()
            | ast.ShowEdits()
            | ast.RemovePatch()
            | ast.DiscardPatch()
            | ast.Undo()
            | ast.DefineRelation()
            | ast.SetOption()
            | ast.Include()
        ):
            return _NOTHING
        case _:
            raise not_available(statement.title, statement.span)


def asks_answers(statement: ast.Describe) -> bool:
    """Whether DESCRIBE asks the model itself, if there is one that can run."""
    if statement.evidence is None:
        return (statement.layer, statement.layers, statement.band) == (None, None, None)
    return statement.evidence is not ast.Evidence.STATIC


def _describe(statement: ast.Describe) -> Needs:
    match statement.evidence:
        case ast.Evidence.ANSWER:
            return _RUN
        case ast.Evidence.ALL:
            return _RUN_VINDEX
        case ast.Evidence.STATIC:
            return _BROWSED
        case None:  # static evidence where the model cannot be asked
            return Needs(Base.MODEL)


def _select(statement: ast.Select) -> Needs:
    tables = {statement.table, *(join.table for join in statement.joins)}
    return _BROWSED if tables - OF_NO_VINDEX else _NOTHING
