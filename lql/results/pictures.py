"""What can be drawn: the numbers of a picture, and which results have them.

A result that can give a ``LensMap`` or ``Contributions`` can be drawn, whatever statement it comes
from: the protocols are all that ``lql.plots`` asks of it.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class HeadShares:
    """What one attention head looks at.

    Attributes:
        shares: of each token, 0..1; what goes to a sink is missing from their sum.
    """

    layer: int
    head: int
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """Attention from one position.

    Attributes:
        title: the prompt.
        tokens: of the prompt, up to the position.
        heads: by layer, then head.
    """

    title: str
    tokens: tuple[str, ...]
    heads: tuple[HeadShares, ...]


class TracedRow(Protocol):
    """One layer at one position of a trace; layer -1 is the embedding.

    Attributes:
        contribution: what the row adds to the target's logit, of which ``…_logit`` are parts.
    """

    @property
    def layer(self) -> int: ...  # noqa: D102
    @property
    def position(self) -> int: ...  # noqa: D102
    @property
    def token(self) -> str | None: ...  # noqa: D102
    @property
    def lens(self) -> str | None: ...  # noqa: D102
    @property
    def lens_probability(self) -> float | None: ...  # noqa: D102
    @property
    def contribution(self) -> float | None: ...  # noqa: D102


_PARTS = {
    "attention": "attention_logit",
    "ffn": "ffn_logit",
    "per-layer embedding": "per_layer_logit",
    "norm": "norm_logit",
    "intervention": "intervention_logit",
}


def traced_lens(title: str, rows: Sequence[TracedRow]) -> LensMap | None:
    """The lens of a trace's layers; ``None`` where a row has none."""
    places = {(row.layer, row.position): row for row in rows if row.layer >= 0}
    layers = sorted({layer for layer, _ in places})
    positions = sorted({position for _, position in places})
    cells = [
        [_lens_cell(places.get((layer, position))) for position in positions] for layer in layers
    ]
    whole = tuple(tuple(cell for cell in row if cell is not None) for row in cells)
    if not whole or any(len(row) < len(positions) for row in whole):
        return None
    tokens = tuple(places[layers[0], position].token or "" for position in positions)
    return LensMap(title, tokens, tuple(layers), whole)


def _lens_cell(row: TracedRow | None) -> LensCell | None:
    if row is None or row.lens is None or row.lens_probability is None:
        return None
    return LensCell(row.lens, row.lens_probability)


def traced_contributions(
    title: str, target: str, rows: Sequence[TracedRow], constant: float | None = None
) -> Contributions | None:
    """What a trace's layers add to the target's logit; ``None`` where no row says it.

    Args:
        constant: what is added after the last layer, whatever the prompt.
    """
    terms: list[Contribution] = []
    for row in sorted(rows, key=lambda row: row.layer):
        if row.contribution is None:
            continue
        if row.layer < 0:
            terms.append(Contribution(None, "embedding", row.contribution))
            continue
        for part, name in _PARTS.items():
            amount = getattr(row, name, None)
            if amount:
                terms.append(Contribution(row.layer, part, amount))
    if not terms:
        return None
    if constant:
        terms.append(Contribution(None, "bias", constant))
    return Contributions(title, target, "logit", tuple(terms))


@runtime_checkable
class HasLens(Protocol):
    """A result that knows the logit lens."""

    def lens_map(self) -> LensMap | None:
        """The lens; ``None`` where this result was made without it."""


@runtime_checkable
class HasAttention(Protocol):
    """A result that knows what attention heads look at."""

    def attention_map(self) -> AttentionMap | None:
        """The shares; ``None`` where this result was made without them."""


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
        kind: which picture: ``lens``, ``waterfall``, ``attention``, ``graph``, ``edit``, ``bars``.
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
