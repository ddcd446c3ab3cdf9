"""Statements as methods: what a text would say, with typed arguments and typed results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.names import nearest
from lql.results import Result
from lql.syntax_words import Slot

if TYPE_CHECKING:
    from lql.api.conditions import Expression, Where
    from lql.results.browse import DescribeResult, ExplainWalkResult, WalkResult
    from lql.results.edits import EditResult, EditsResult, PatchResult
    from lql.results.forward import ExplainInferResult, InferComparison, InferResult
    from lql.results.lifecycle import ExtractResult, UseResult
    from lql.results.plan import PlanResult
    from lql.results.show import StatsResult
    from lql.results.table import TableResult

R = TypeVar("R", bound=Result)
E = TypeVar("E", bound=Enum)


class Statements(ABC):
    """One method for each statement that has a result worth a type.

    Words of the language (``mode="chat"``, ``evidence="static"``) are given as their enum's member
    or as text in any case. An argument left out is a clause left out.

    Raises:
        LqlTypeError: an argument of the wrong kind, or outside its range.
        LqlError: what the statement raises.
    """

    @abstractmethod
    def execute(self, statement: ast.Statement) -> Result:
        """Run one statement."""

    # ------------------------------------------------------------------- running the model

    def infer(
        self, prompt: str, *, top: int | None = None, mode: ast.PromptMode | str | None = None
    ) -> InferResult:
        """INFER: the most probable next tokens."""
        from lql.results.forward import InferResult

        statement = ast.Infer(
            _slot(prompt, Slot.PROMPT),
            _maybe(top, Slot.TOP),
            prompt_mode=_word(ast.PromptMode, mode),
        )
        return self._run(statement, InferResult)

    def compare(
        self, prompt: str, *, top: int | None = None, mode: ast.PromptMode | str | None = None
    ) -> InferComparison:
        """INFER … COMPARE: the FFN as matrix products beside the FFN feature by feature."""
        from lql.results.forward import InferComparison

        statement = ast.Infer(
            _slot(prompt, Slot.PROMPT),
            _maybe(top, Slot.TOP),
            compare=True,
            prompt_mode=_word(ast.PromptMode, mode),
        )
        return self._run(statement, InferComparison)

    def explain_infer(
        self,
        prompt: str,
        *,
        top: int | None = None,
        layers: tuple[int, int] | None = None,
        band: ast.Band | str | None = None,
        verbose: bool = False,
        mode: ast.PromptMode | str | None = None,
    ) -> ExplainInferResult:
        """EXPLAIN INFER: each layer's features and what the model would say after it."""
        from lql.results.forward import ExplainInferResult

        statement = ast.ExplainInfer(
            _slot(prompt, Slot.PROMPT),
            _maybe(top, Slot.TOP),
            _layers(layers),
            _word(ast.Band, band),
            verbose=verbose,
            prompt_mode=_word(ast.PromptMode, mode),
        )
        return self._run(statement, ExplainInferResult)

    # ------------------------------------------------------------------- browsing

    def walk(
        self,
        prompt: str,
        *,
        top: int | None = None,
        layers: tuple[int, int] | None = None,
        mode: ast.WalkMode | str | None = None,
        compare: bool = False,
    ) -> WalkResult:
        """WALK: the features that answer a prompt's last token. ``layers`` has both ends."""
        from lql.results.browse import WalkResult

        statement = ast.Walk(
            _slot(prompt, Slot.PROMPT),
            _maybe(top, Slot.TOP),
            _layers(layers),
            _word(ast.WalkMode, mode),
            compare,
        )
        return self._run(statement, WalkResult)

    def explain_walk(
        self,
        prompt: str,
        *,
        top: int | None = None,
        layers: tuple[int, int] | None = None,
        band: ast.Band | str | None = None,
        verbose: bool = False,
    ) -> ExplainWalkResult:
        """EXPLAIN WALK: the same with each layer's band and each feature's label."""
        from lql.results.browse import ExplainWalkResult

        statement = ast.ExplainWalk(
            _slot(prompt, Slot.PROMPT),
            _maybe(top, Slot.TOP),
            _layers(layers),
            _word(ast.Band, band),
            verbose=verbose,
        )
        return self._run(statement, ExplainWalkResult)

    def describe(
        self,
        entity: str,
        *,
        evidence: ast.Evidence | str | None = None,
        layer: int | None = None,
        layers: tuple[int, int] | None = None,
        band: ast.Band | str | None = None,
        detail: ast.Detail | str | None = None,
        relations_only: bool = False,
        causal: bool = False,
        limit: int | None = None,
    ) -> DescribeResult:
        """DESCRIBE: what the model says about an entity, and how it is known."""
        from lql.results.browse import DescribeResult

        statement = ast.Describe(
            _slot(entity, Slot.ENTITY),
            layer=_maybe(layer, Slot.LAYER),
            band=_word(ast.Band, band),
            relations_only=relations_only,
            detail=_word(ast.Detail, detail),
            limit=_maybe(limit, Slot.COUNT),
            evidence=_word(ast.Evidence, evidence),
            layers=_layers(layers),
            causal=causal,
        )
        return self._run(statement, DescribeResult)

    def select(
        self,
        *columns: str | Expression,
        table: ast.Table | str,
        where: Where | Mapping[str, object] | None = None,
        group_by: Sequence[str] = (),
        having: Where | None = None,
        order_by: Sequence[str | ast.SortKey] = (),
        nearest_to: tuple[str, int] | None = None,
        distinct: bool = False,
        limit: int | None = None,
        offset: int | None = None,
    ) -> TableResult:
        """SELECT from one table; ``query`` takes a text for what has joins.

        Args:
            columns: names, or expressions of ``lql.col`` and ``lql.count``; none means all.
            where: a condition of ``lql.col``, or columns and the values they must equal.
            nearest_to: an entity and a layer, for NEAREST TO.
        """
        from lql.api.conditions import col
        from lql.results.table import TableResult

        named = [col(each) if isinstance(each, str) else each for each in columns]
        items = tuple(ast.SelectItem(each.operand, each.alias) for each in named)
        nearest = nearest_to and ast.Nearest(
            _slot(nearest_to[0], Slot.ENTITY), _slot(nearest_to[1], Slot.LAYER)
        )
        statement = ast.Select(
            items or (ast.SelectItem(ast.Star()),),
            _required(ast.Table, table),
            distinct=distinct,
            nearest=nearest,
            where=None if where is None else _where(where),
            group_by=tuple(_column(name) for name in group_by),
            having=None if having is None else having.condition,
            order_by=tuple(
                ast.SortKey(_column(key)) if isinstance(key, str) else key for key in order_by
            ),
            limit=_maybe(limit, Slot.COUNT),
            offset=_maybe(offset, Slot.OFFSET),
        )
        return self._run(statement, TableResult)

    def stats(self, path: str | PathLike[str] | None = None) -> StatsResult:
        """STATS of what is in use, or of a vindex elsewhere."""
        from lql.results.show import StatsResult

        return self._run(ast.Stats(_maybe(path, Slot.VINDEX_PATH)), StatsResult)

    def explain(self, statement: ast.Statement | str, *, analyze: bool = False) -> PlanResult:
        """EXPLAIN: what a statement would read and compute; ``analyze`` runs and measures it."""
        from lql.parser import parse
        from lql.results.plan import PlanResult

        if isinstance(statement, str):
            ((statement,),) = (item.statements for item in parse(statement).items)
        return self._run(ast.Explain(statement, analyze), PlanResult)

    # ------------------------------------------------------------------- edits

    def insert(
        self,
        *facts: tuple[str, str, str],
        layer: int | None = None,
        confidence: float | None = None,
        aliases: Sequence[str] = (),
        check: ast.Check | str | None = None,
    ) -> EditResult:
        """INSERT facts: ``session.insert(("Hungary", "capital", "Oslo"))``."""
        from lql.results.edits import EditResult

        if not facts:
            raise _nothing("insert takes facts: (entity, relation, target), …")
        rows = tuple(
            ast.EdgeRow(
                _slot(entity, Slot.ENTITY),
                _slot(relation, Slot.RELATION),
                _slot(target, Slot.TARGET),
            )
            for entity, relation, target in facts
        )
        statement = ast.Insert(
            rows,
            layer=_maybe(layer, Slot.LAYER),
            confidence=_maybe(confidence, Slot.NUMBER),
            aliases=tuple(_slot(name, Slot.ENTITY) for name in aliases),
            check=_word(ast.Check, check),
        )
        return self._run(statement, EditResult)

    def update(
        self,
        where: Where | Mapping[str, object],
        *,
        target: str | None = None,
        confidence: float | None = None,
        features: bool = False,
        check: ast.Check | str | None = None,
    ) -> EditResult:
        """UPDATE inserted facts, or what ``features`` of the model write."""
        from lql.results.edits import EditResult

        new = {"target": target, "confidence": confidence}
        assignments = tuple(
            ast.Assignment(_column(name), _slot(value, Slot.VALUE))
            for name, value in new.items()
            if value is not None
        )
        if not assignments:
            raise _nothing("update sets a target or a confidence")
        statement = ast.Update(
            assignments, _where(where), _edited(features), check=_word(ast.Check, check)
        )
        return self._run(statement, EditResult)

    def delete(
        self,
        where: Where | Mapping[str, object],
        *,
        features: bool = False,
        check: ast.Check | str | None = None,
    ) -> EditResult:
        """DELETE inserted facts, or switch ``features`` of the model off."""
        from lql.results.edits import EditResult

        statement = ast.Delete(_where(where), _edited(features), check=_word(ast.Check, check))
        return self._run(statement, EditResult)

    def undo(self, steps: int = 1) -> PatchResult:
        """UNDO the last statements that edited."""
        from lql.results.edits import PatchResult

        return self._run(ast.Undo(_slot(steps, Slot.STEPS)), PatchResult)

    def edits(self) -> EditsResult:
        """SHOW EDITS."""
        from lql.results.edits import EditsResult

        return self._run(ast.ShowEdits(), EditsResult)

    def apply_patch(self, path: str | PathLike[str], *, force: bool = False) -> PatchResult:
        """APPLY PATCH."""
        from lql.results.edits import PatchResult

        return self._run(ast.ApplyPatch(_slot(path, Slot.PATCH_PATH), force), PatchResult)

    def save_patch(self, path: str | PathLike[str], *, overwrite: bool = False) -> PatchResult:
        """SAVE PATCH."""
        from lql.results.edits import PatchResult

        return self._run(ast.SavePatch(_slot(path, Slot.PATCH_PATH), overwrite), PatchResult)

    # ------------------------------------------------------------------- what is in use

    def use(self, path: str | PathLike[str]) -> UseResult:
        """USE a vindex."""
        from lql.results.lifecycle import UseResult

        return self._run(ast.UseVindex(_slot(path, Slot.VINDEX_PATH)), UseResult)

    def use_model(self, model: str | PathLike[str]) -> UseResult:
        """USE MODEL: a checkpoint, without extraction."""
        from lql.results.lifecycle import UseResult

        return self._run(ast.UseModel(_slot(model, Slot.MODEL)), UseResult)

    def extract(
        self,
        model: str | PathLike[str],
        target: str | PathLike[str],
        *,
        level: ast.ExtractLevel | str | None = None,
        dtype: ast.StorageDtype | str | None = None,
        quant: ast.Quant | str | None = None,
        overwrite: bool = False,
    ) -> ExtractResult:
        """EXTRACT a checkpoint into a new vindex, which is in use then."""
        from lql.results.lifecycle import ExtractResult

        statement = ast.Extract(
            _slot(model, Slot.MODEL),
            _slot(target, Slot.VINDEX_PATH),
            level=_word(ast.ExtractLevel, level),
            dtype=_word(ast.StorageDtype, dtype),
            quant=_word(ast.Quant, quant),
            overwrite=overwrite,
        )
        return self._run(statement, ExtractResult)

    def _run(self, statement: ast.Statement, kind: type[R]) -> R:
        result = self.execute(statement)
        assert isinstance(result, kind), f"{statement.title} gives {kind.__name__}"
        return result


# --------------------------------------------------------------------------- arguments


def _slot(value: object, slot: Slot) -> Any:
    """The literal for a value at its place, checked as one in a text is."""
    from lql.params import bind

    name = slot.value.replace(" ", "_")
    return bind(ast.Parameter(name, slot), {name: value})  # type: ignore[dict-item]


def _maybe(value: object, slot: Slot) -> Any:
    return None if value is None else _slot(value, slot)


def _layers(layers: tuple[int, int] | None) -> ast.LayerRange | None:
    """A range; its ends are compared by the executor."""
    if layers is None:
        return None
    first, last = (_slot(each, Slot.LAYER) for each in layers)
    return ast.LayerRange(first, last)


def _required(words: type[E], value: E | str) -> E:
    found = _word(words, value)
    assert found is not None, "a value was given"
    return found


def _word(words: type[E], value: E | str | None) -> E | None:
    """The member that a word of the language means.

    Raises:
        LqlTypeError: there is none.
    """
    if value is None or isinstance(value, words):
        return value
    known = {member.name: member for member in words}
    found = known.get(str(value).upper())
    if found is None:
        raise LqlTypeError(
            Diagnostic(
                Code.WRONG_TYPE,
                f"{value!r} is not one of {', '.join(known)}",
                suggestions=nearest(str(value), known),
            )
        )
    return found


def _nothing(message: str) -> LqlTypeError:
    return LqlTypeError(Diagnostic(Code.WRONG_TYPE, message))


def _column(name: str) -> ast.Column:
    from lql.api.conditions import col

    operand = col(name).operand
    assert isinstance(operand, ast.Column), "col gives a column"
    return operand


def _edited(features: bool) -> ast.Table:
    return ast.Table.FEATURES if features else ast.Table.EDGES


def _where(where: Where | Mapping[str, object]) -> ast.Condition:
    if not isinstance(where, Mapping):
        return where.condition
    from lql.api.conditions import literal

    equal = tuple(
        ast.Comparison(_column(name), ast.Comparator.EQ, literal(value))
        for name, value in where.items()
    )
    return equal[0] if len(equal) == 1 else ast.And(equal)
