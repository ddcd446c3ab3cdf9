"""Literals of bound statements as Python values, checked against the model where that matters."""

from __future__ import annotations

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlNotAvailableError, LqlTypeError
from lql.span import Span


def text(slot: ast.TextSlot) -> str:
    """The value of a string slot."""
    if isinstance(slot, ast.Parameter):
        raise AssertionError(f"parameter {slot.name} is not bound")
    return slot.value


def integer(slot: ast.IntegerSlot) -> int:
    """The value of a whole-number slot."""
    if isinstance(slot, ast.Parameter):
        raise AssertionError(f"parameter {slot.name} is not bound")
    return slot.value


def number(slot: ast.NumberSlot) -> float:
    """The value of a number slot."""
    if isinstance(slot, ast.Parameter):
        raise AssertionError(f"parameter {slot.name} is not bound")
    return slot.value


def integer_or(slot: ast.IntegerSlot | None, default: int) -> int:
    """The value of a whole-number slot, or a default where the clause was not written."""
    return default if slot is None else integer(slot)


def layer(slot: ast.IntegerSlot, num_layers: int) -> int:
    """A layer of the model.

    Raises:
        LqlTypeError: the model has no such layer.
    """
    value = integer(slot)
    if not 0 <= value < num_layers:
        raise _no_such_layer(value, num_layers, slot.span)
    return value


def layer_range(slot: ast.LayerRange | None, num_layers: int) -> range:
    """The layers of a range; all of them where none was written.

    Raises:
        LqlTypeError: a bound that the model has not, or the wrong way round.
    """
    if slot is None:
        return range(num_layers)
    first, last = layer(slot.first, num_layers), layer(slot.last, num_layers)
    if first > last:
        raise LqlTypeError(
            Diagnostic(
                Code.INVERTED_RANGE,
                f"the range {first}-{last} ends before it begins",
                span=slot.span,
                suggestions=(f"{last}-{first}",),
            )
        )
    return range(first, last + 1)


def not_available(what: str, span: Span, *helps: str) -> LqlNotAvailableError:
    """The answer to a statement or clause that parses and does not run yet."""
    return LqlNotAvailableError(
        Diagnostic(Code.NOT_AVAILABLE_YET, f"{what} is not available yet", span=span, helps=helps)
    )


def _no_such_layer(value: int, num_layers: int, span: Span) -> LqlTypeError:
    return LqlTypeError(
        Diagnostic(
            Code.OUT_OF_RANGE,
            f"layer {value} does not exist",
            span=span,
            label=f"the model has layers 0-{num_layers - 1}",
        )
    )
