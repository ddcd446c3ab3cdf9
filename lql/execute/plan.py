"""EXPLAIN: what a statement would read and compute, told without touching a weight.

``EXPLAIN ANALYZE`` runs it and measures. A statement has at most three steps, which are three
stretches of its time: before the model (or the tables) is asked for, getting it, and everything
after.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast
from lql.context import Context
from lql.errors import LqlError
from lql.execute.failures import translated
from lql.execute.needs import Base, Needs, asks_answers, needs
from lql.execute.planned_steps import Planned, Stage, kept_answers, planned
from lql.execute.residency import resident_bytes
from lql.execute.slots import layer, layer_range
from lql.results import Form, Result
from lql.results.plan import PlanResult, PlanStep
from lql.unparse import unparse
from vindex.errors import VindexError
from vindex.kinds import Quant

if TYPE_CHECKING:
    from lql.inference.model import LoadedModel
    from lql.tables.store import ModelTables
    from vindex.checkpoint import CheckpointSource
    from vindex.kept_answers import KeptAnswers
    from vindex.store import Vindex


def run(statement: ast.Explain, context: Context) -> PlanResult:
    """Run EXPLAIN or EXPLAIN ANALYZE.

    Raises:
        LqlNotAvailableError: a later version runs the statement.
        LqlError: EXPLAIN: a name in it stands for nothing. ANALYZE: it failed.
    """
    analyze, explained = statement.analyze, statement.statement
    while isinstance(explained, ast.Explain):  # the plan of a plan is the plan
        analyze, explained = analyze or explained.analyze, explained.statement
    plan, steps = _plan(explained, context)
    if not analyze:
        return replace(plan, steps=tuple(step.step for step in steps))
    return _analyzed(plan, steps, explained, context)


# --------------------------------------------------------------------------- the plan


def _plan(statement: ast.Statement, context: Context) -> tuple[PlanResult, Sequence[Planned]]:
    from vindex.store import Vindex

    needed = needs(statement)
    source = None if needed.base is Base.NOTHING else context.source()
    obstacle = _obstacle(statement, needed, context)
    runs = _runs(statement, needed, source)
    known = _answered_before(statement, context) if runs and obstacle is None else None
    runs = runs and known is None
    vindex = source if isinstance(source, Vindex) else None
    plan = PlanResult(
        statement=unparse(statement),
        source=None if source is None else source.name,
        model=None if vindex is None else vindex.index.model,
        level_needed=None if needed.base is Base.NOTHING else needed.level.value,
        level=None if vindex is None else vindex.level.value,
        obstacle=None if obstacle is None else obstacle.diagnostic.message,
        device=context.state.device.value if runs else None,
        dtype=None if vindex is None else _dtype(vindex),
        layers=_layers(statement, source),
        steps=(),
    )
    if obstacle is not None:
        return plan, ()  # what cannot run reads nothing, and asking for its parts would fail
    if known is not None and vindex is not None:
        return plan, (kept_answers(known.date, vindex),)
    return plan, planned(statement, source, runs=runs, loaded=context.state.model is not None)


def _answered_before(statement: ast.Statement, context: Context) -> KeptAnswers | None:
    """The answers that DESCRIBE need not ask for, where they are all that it shows."""
    from lql.execute.describe_answer import answered_before

    if not isinstance(statement, ast.Describe) or statement.evidence is ast.Evidence.ALL:
        return None
    return answered_before(statement, context)


def _obstacle(statement: ast.Statement, needed: Needs, context: Context) -> LqlError | None:
    """Why what is in use cannot serve the statement."""
    from vindex.store import Vindex

    source = None if needed.base is Base.NOTHING else context.source()
    try:
        if needed.base is Base.VINDEX:
            context.vindex(statement.title)
        if isinstance(source, Vindex):
            source.require(needed.level, statement.title)
    except (LqlError, VindexError) as error:
        return translated(error)
    return None


def _runs(
    statement: ast.Statement, needed: Needs, source: Vindex | CheckpointSource | None
) -> bool:
    """Whether the model is run; DESCRIBE does where it can."""
    from vindex.footprint import can_run
    from vindex.store import Vindex

    if needed.runs_model or not isinstance(statement, ast.Describe) or source is None:
        return needed.runs_model
    return asks_answers(statement) and (not isinstance(source, Vindex) or can_run(source))


def _dtype(vindex: Vindex) -> str:
    dtype, quant = vindex.index.dtype.value, vindex.index.quant
    return dtype if quant is Quant.NONE else f"{dtype}, {quant.value}"


def _layers(statement: ast.Statement, source: Vindex | CheckpointSource | None) -> str | None:
    """The layers a statement looks at, if it looks at layers."""
    from vindex.store import Vindex

    names = {each.name for each in fields(statement)}
    if source is None or not names & {"layer", "layers"}:
        return None
    count = source.index.num_layers if isinstance(source, Vindex) else source.spec.num_layers
    only = getattr(statement, "layer", None)
    if only is not None:
        return str(layer(only, count))
    chosen = layer_range(getattr(statement, "layers", None), count)
    return f"{chosen[0]}-{chosen[-1]}"


# --------------------------------------------------------------------------- ANALYZE


@dataclass(slots=True)
class _Mark:
    """A moment, and bytes of the source that are in memory; asking for those takes time itself.

    Attributes:
        reached, left: seconds before and after asking.
    """

    reached: float
    resident: int | None
    left: float


@dataclass(slots=True)
class _Watched(Context):
    """A context that notes when the model, or the tables, were asked for and when they were there.

    Attributes:
        place: the files whose pages are counted.
        marks: when the statement began, when it asked, when it was given.
        held: bytes that loading the weights took.
    """

    place: Path | None = None
    marks: list[_Mark] = field(default_factory=list)
    held: int | None = None

    def mark(self) -> None:
        """Note this moment."""
        reached = time.perf_counter()
        resident = None if self.place is None else resident_bytes(self.place)
        self.marks.append(_Mark(reached, resident, time.perf_counter()))

    # Named as a class: @dataclass(slots=True) makes a new one, which bare super() does not know.

    def model(self, title: str) -> LoadedModel:
        """The weights; the first time is a step of its own."""
        if len(self.marks) > 1:
            return Context.model(self, title)
        new = self.state.model is None
        self.mark()
        model = Context.model(self, title)
        self.mark()
        self.held = model.resident_bytes if new else 0
        return model

    def tables(self, title: str) -> ModelTables:
        """The tables; the first time is a step of its own."""
        if len(self.marks) > 1:
            return Context.tables(self, title)
        self.mark()
        tables = Context.tables(self, title)
        self.mark()
        return tables


def _analyzed(
    plan: PlanResult, steps: Sequence[Planned], statement: ast.Statement, context: Context
) -> PlanResult:
    from lql.execute import execute

    source = context.state.source
    if source is not None and plan.source is not None:
        source.release()  # so that pages that come in are this statement's
    watched = _Watched(
        context.state,
        context.cancel,
        context.progress,
        place=None if plan.source is None else Path(plan.source),
    )
    watched.mark()
    result = execute(statement, watched)
    watched.mark()
    context.load_s = watched.load_s
    context.notes += [*result.meta.notes, *watched.notes]
    return replace(
        plan,
        steps=_measured(steps, watched),
        device=watched.device or plan.device,
        analyzed=True,
        rows_given=_rows(result),
    )


def _rows(result: Result) -> int | None:
    return len(result.to_rows()) if result.form is Form.ROWS else None


def _measured(steps: Sequence[Planned], watched: _Watched) -> tuple[PlanStep, ...]:
    """The steps with what was measured; a stretch that no step was planned for is one as well."""
    marks = watched.marks
    split = len(marks) > 2
    by_stage = {each.stage: each.step for each in steps}
    stretches = {Stage.AFTER: (marks[0], marks[-1])}
    if split:
        asked = marks[1] if Stage.BEFORE in by_stage else marks[0]
        stretches = {
            Stage.BEFORE: (marks[0], asked),
            Stage.LOAD: (asked, marks[2]),
            Stage.AFTER: (marks[2], marks[-1]),
        }
    found: list[PlanStep] = []
    for stage, (first, last) in stretches.items():
        if first is last:
            continue
        step = by_stage.get(stage) or PlanStep(_UNPLANNED[stage])
        read = _read(first, last)
        if stage is Stage.LOAD and watched.held is not None:
            read = watched.held
        found.append(
            replace(step, milliseconds=(last.reached - first.left) * 1000, bytes_read=read)
        )
    return tuple(found)


_UNPLANNED = {Stage.BEFORE: "prepare", Stage.LOAD: "load weights", Stage.AFTER: "run"}


def _read(first: _Mark, last: _Mark) -> int | None:
    if first.resident is None or last.resident is None:
        return None
    return max(0, last.resident - first.resident)
