"""What can be drawn: the numbers of a picture, and which results have them.

A result that can give a ``LensMap`` or ``Contributions`` can be drawn, whatever statement it comes
from: the protocols are all that ``lql.plots`` asks of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lql.results.base import Record, fields_of


@dataclass(frozen=True, slots=True)
class LensCell:
    """What the model would say if it stopped at one layer and position.

    Attributes:
        token: the most probable one, its exact text.
        probability: of that token.
    """

    token: str
    probability: float


@dataclass(frozen=True, slots=True)
class LensMap:
    """The logit lens over layers and positions.

    Attributes:
        title: the prompt.
        tokens: of the prompt, one for each position that was looked at.
        layers: ascending.
        cells: [layers, positions].
    """

    title: str
    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    cells: tuple[tuple[LensCell, ...], ...]


@dataclass(frozen=True, slots=True)
class Contribution:
    """One term of a sum.

    Attributes:
        layer: that it comes from; ``None`` for the embedding.
        part: ``embedding``, ``attention``, ``ffn``, or what else adds to the residual stream.
        amount: in the unit of the sum; negative ones count against.
    """

    layer: int | None
    part: str
    amount: float


@dataclass(frozen=True, slots=True)
class Contributions:
    """Terms that add up, in the order in which the model adds them.

    Attributes:
        title: the prompt.
        target: what they contribute to, its exact text.
        unit: of every amount, e.g. ``logit``.
    """

    title: str
    target: str
    unit: str
    terms: tuple[Contribution, ...]


@runtime_checkable
class HasLens(Protocol):
    """A result that knows the logit lens."""

    def lens_map(self) -> LensMap | None:
        """The lens; ``None`` where this result was made without it."""


@runtime_checkable
class HasContributions(Protocol):
    """A result that knows what adds up to a target's logit."""

    def contributions(self) -> Contributions | None:
        """The terms; ``None`` where no target was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotResult(Record):
    """PLOT.

    Attributes:
        statement: what is drawn, e.g. ``EXPLAIN INFER``.
        kind: which picture: ``lens``, ``waterfall``, ``graph``, ``edit``, ``bars``.
        path: the file that was written; ``None`` where the picture is only shown.
        size_bytes: of the file.
        svg: the picture itself, where it is only shown.
    """

    statement: str
    kind: str
    path: str | None
    size_bytes: int | None
    svg: str | None = None

    def to_dict(self) -> dict[str, object]:
        """The facts, without the picture."""
        return fields_of(self, without=("meta", "svg"))

    def _repr_html_(self) -> str | None:
        """The facts, where there is no picture to show."""
        return super(PlotResult, self)._repr_html_() if self.svg is None else None

    def _repr_svg_(self) -> str | None:
        """The picture, as a notebook shows it."""
        return self.svg
