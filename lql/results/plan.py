"""Results of EXPLAIN statement: what it would read and compute, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lql.results.base import Column, Form, Kind, Result, Unit, fields_of


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step of a statement.

    Attributes:
        step: what is done.
        detail: how often, or with what.
        files: of the vindex that are mapped and read; a path where it is no vindex.
        bytes: of those files that are expected to be read; ``None`` where nobody can tell.
        multiply_adds: of the model, expected.
        milliseconds: measured, by ANALYZE.
        bytes_read: measured: what came into memory of those files; of loading, the memory that
            the weights take. ``None`` where the system does not tell.
    """

    step: str
    detail: str | None = None
    files: tuple[str, ...] = ()
    bytes: int | None = None
    multiply_adds: int | None = None
    milliseconds: float | None = None
    bytes_read: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult(Result):
    """What a statement does, step by step.

    Attributes:
        statement: as it is understood, in the language's own spelling.
        source: the vindex or model in use, where it reads one.
        level_needed: the lowest extract level that holds what it reads.
        level: of the vindex in use.
        obstacle: why it cannot run here, or ``None``.
        device: where a model runs, for statements that run one.
        dtype: how the weights are stored.
        layers: those it looks at, ``first-last``.
        analyzed: it was run, and the steps hold what was measured.
        rows_given: how many rows it gave, if it was run.
    """

    form: ClassVar[Form] = Form.RECORD
    statement: str
    source: str | None
    model: str | None
    level_needed: str | None
    level: str | None
    obstacle: str | None
    device: str | None
    dtype: str | None
    layers: str | None
    steps: tuple[PlanStep, ...]
    analyzed: bool = False
    rows_given: int | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """A row for each step; what ANALYZE measures only where it was asked."""
        planned = (
            Column("step", Kind.TEXT),
            Column("detail", Kind.TEXT),
            Column("files", Kind.TOKENS),
            Column("bytes", Kind.INTEGER, Unit.BYTES),
            Column("multiply_adds", Kind.INTEGER),
        )
        if not self.analyzed:
            return planned
        measured = (
            Column("milliseconds", Kind.NUMBER),
            Column("bytes_read", Kind.INTEGER, Unit.BYTES),
        )
        return (*planned, *measured)

    @property
    def bytes(self) -> int:
        """Of all files, as far as they can be told."""
        return sum(step.bytes or 0 for step in self.steps)

    def records(self) -> Sequence[PlanStep]:
        """The steps."""
        return self.steps

    def to_dict(self) -> dict[str, Any]:
        """The facts, and the steps in their order."""
        facts = fields_of(self, without=("meta", "steps"))
        return facts | {"bytes": self.bytes, "steps": [fields_of(step) for step in self.steps]}
