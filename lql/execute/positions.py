"""POSITIONS of TRACE: which tokens of a prompt are meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.execute.slots import integer
from lql.syntax_values import range_problem

_TOLD = 40

Wanted = ast.TracePositions | tuple[ast.PositionRange, ...] | None


def only_last(wanted: Wanted) -> bool:
    """Whether nothing but the last position is asked for, in words or by default."""
    return wanted is None or wanted is ast.TracePositions.LAST


def positions_of(wanted: Wanted, count: int, pieces: Sequence[str] = ()) -> tuple[int, ...]:
    """The positions that are meant, ascending, each once.

    Args:
        count: tokens of the prompt, chat template and BOS included.
        pieces: their texts, for messages; empty where they are not known.

    Raises:
        LqlTypeError: one that the prompt does not have, or a range that ends before it begins.
    """
    match wanted:
        case None | ast.TracePositions.LAST:
            return (count - 1,)
        case ast.TracePositions.ALL:
            return tuple(range(count))
        case tuple():
            found: set[int] = set()
            for bounds in wanted:
                found.update(_range(bounds, count, pieces))
            return tuple(sorted(found))
        case _:
            assert_never(wanted)


def _range(bounds: ast.PositionRange, count: int, pieces: Sequence[str]) -> range:
    first, last = (_position(slot, count, pieces) for slot in (bounds.first, bounds.last))
    problem = range_problem(first, last, bounds.span)
    if problem is not None:
        raise LqlTypeError(problem)
    return range(first, last + 1)


def _position(slot: ast.IntegerSlot, count: int, pieces: Sequence[str]) -> int:
    value = integer(slot)
    if -count <= value < count:
        return value % count
    raise LqlTypeError(
        Diagnostic(
            Code.NO_POSITION,
            f"the prompt has no position {value}",
            span=slot.span,
            label=_there(count),
            notes=_listed(pieces),
        )
    )


def _there(count: int) -> str:
    if count == 1:
        return "it has one token: 0, or -1"
    return f"it has {count} tokens: 0-{count - 1}, or -{count} to -1"


def _listed(pieces: Sequence[str]) -> tuple[str, ...]:
    """The tokens with their positions, the first of them where there are many."""
    if not pieces:
        return ()
    told = " ".join(f'{at}:"{piece}"' for at, piece in enumerate(pieces[:_TOLD]))
    more = f" … {len(pieces) - _TOLD} more" if len(pieces) > _TOLD else ""
    return (f"its tokens are {told}{more}",)
