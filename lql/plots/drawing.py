"""Which picture a result has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lql.codes import Code
from lql.diagnostics import Diagnostic
from lql.errors import LqlRuntimeError
from lql.plots import attention, bars, edit, graph, lens, waterfall
from lql.plots.style import styled
from lql.results import Result
from lql.results.browse import DescribeResult
from lql.results.edits import EditResult
from lql.results.forward import InferResult
from lql.results.pictures import HasAttention, HasContributions, HasLens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = {
    "lens": "the logit lens: what the model would say after each layer",
    "waterfall": "what adds up to the target's logit",
    "attention": "what each attention head looks at",
    "graph": "what is said of an entity",
    "edit": "what an edit changed",
    "bars": "the candidates for the next token",
}
"""The pictures by name, with what they show."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A result's picture, not drawn yet.

    Attributes:
        kind: its name in ``PICTURES``.
    """

    kind: str
    draw: Callable[[], Figure]


def picture_of(result: Result) -> Picture:
    """The picture of a result; of one that has several, what was asked for most specially.

    Raises:
        LqlRuntimeError: it has none.
    """
    if isinstance(result, HasContributions) and (sums := result.contributions()) is not None:
        return Picture("waterfall", lambda: waterfall.draw(sums))
    if isinstance(result, HasAttention) and (looks := result.attention_map()) is not None:
        return Picture("attention", lambda: attention.draw(looks))
    if isinstance(result, HasLens) and (held := result.lens_map()) is not None:
        return Picture("lens", lambda: lens.draw(held))
    match result:
        case DescribeResult():
            return Picture("graph", lambda: graph.draw(result))
        case EditResult():
            return Picture("edit", lambda: edit.draw(result))
        case InferResult():
            return Picture("bars", lambda: bars.draw(result))
        case _:
            raise LqlRuntimeError(
                Diagnostic(
                    Code.NO_PICTURE,
                    f"{type(result).__name__} has no picture",
                    helps=tuple(f"{name}: {shows}" for name, shows in PICTURES.items()),
                )
            )


def figure(result: Result) -> Figure:
    """Draw a result.

    Raises:
        LqlRuntimeError: it has no picture.
    """
    with styled():
        return picture_of(result).draw()
