"""ABLATE and STEER: what a statement changes in a forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlTypeError
from lql.execute.slots import integer, layer, number, text
from lql.inference.interventions import (
    AblateFeature,
    AblateHead,
    AblateLayer,
    Intervention,
    Steer,
)
from lql.span import Span

if TYPE_CHECKING:
    from lql.inference.model import LoadedModel


@dataclass(frozen=True, slots=True)
class Changes:
    """What is wanted, and how it was written."""

    wanted: tuple[Intervention, ...]
    written: tuple[str, ...]


def changes_of(statement: ast.Infer | ast.Trace, model: LoadedModel) -> Changes:
    """The interventions of a statement, ablations first.

    Raises:
        LqlTypeError: the model has no such layer.
        InterventionInvalid: the two texts of a direction begin alike.
    """
    wanted: list[Intervention] = []
    written: list[str] = []
    layers = model.spec.num_layers
    for ablated in statement.ablate:
        at = layer(ablated.layer, layers)
        index = 0 if ablated.index is None else integer(ablated.index)
        match ablated.kind:
            case ast.Ablated.FEATURE:
                wanted.append(AblateFeature(at, index))
                written.append(f"ABLATE FEATURE {at}:{index}")
            case ast.Ablated.HEAD:
                wanted.append(AblateHead(at, index))
                written.append(f"ABLATE HEAD {at}.{index}")
            case ast.Ablated.LAYER:
                wanted.append(AblateLayer(at))
                written.append(f"ABLATE LAYER {at}")
            case _:
                assert_never(ablated.kind)
    for steered in statement.steer:
        toward, at, by = text(steered.toward), layer(steered.layer, layers), number(steered.amount)
        away = None if steered.away is None else text(steered.away)
        wanted.append(Steer(at, model.direction(toward, away), by))
        less = "" if away is None else f' - "{away}"'
        written.append(f'STEER "{toward}"{less} BY {by:g} AT LAYER {at}')
    return Changes(tuple(wanted), tuple(written))


def refuse_with_changes(statement: ast.Infer) -> None:
    """Refuse clauses of INFER that do not go with ABLATE and STEER."""
    if not statement.ablate and not statement.steer:
        return
    if statement.compare:
        raise excluded("COMPARE", "ABLATE or STEER", statement.span)
    if statement.route is not None:
        raise excluded("ROUTE", "ABLATE or STEER", statement.route.span)


def excluded(one: str, other: str, span: Span) -> LqlTypeError:
    """Two clauses exclude each other."""
    return LqlTypeError(
        Diagnostic(
            Code.TRACE_CLAUSES,
            f"{one} and {other} exclude each other",
            span=span,
            helps=("keep one of the two",),
        )
    )
