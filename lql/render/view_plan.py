"""Layout of EXPLAIN statement."""

from __future__ import annotations

from collections.abc import Sequence

from lql.render.blocks import Block, facts, rows_of
from lql.render.text import printable, size
from lql.render.view import lay_out
from lql.results.plan import PlanResult


@lay_out.register
def _(result: PlanResult) -> Sequence[Block]:
    level = result.level_needed or ""
    if result.level is not None and level:
        level = f"{level} (here: {result.level})"
    pairs = [
        ("statement", printable(result.statement)),
        ("reads", printable(result.source or "")),
        ("model", printable(result.model or "")),
        ("level", level),
        ("device", result.device or ""),
        ("dtype", result.dtype or ""),
        ("layers", result.layers or ""),
        ("bytes", size(result.bytes) if result.bytes else ""),
        ("cannot run", printable(result.obstacle or "")),
        ("gave", "" if result.rows_given is None else f"{result.rows_given} rows"),
    ]
    return (facts(pairs), rows_of(result)) if result.steps else (facts(pairs),)
