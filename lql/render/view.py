"""How people read a result: a few blocks, the same for table, vertical and markdown.

``view`` is open (``functools.singledispatch``): a type without its own view is one grid of
``to_rows``, so a new result can be read on its first day. Cells are already text here
(``text.cell``); the formats only lay blocks out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch

from lql.render.text import cell, duration, is_numeric, number, percent, size, visible
from lql.results import (
    Column,
    DescribeResult,
    ExplainInferResult,
    ExtractResult,
    InferComparison,
    Kind,
    Record,
    Result,
    StatsResult,
    TokenRow,
    UseResult,
    Value,
    WalkResult,
)
from lql.results.forward import TOKEN_COLUMNS


@dataclass(frozen=True, slots=True)
class Heading:
    """One column's title and side."""

    title: str
    right: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows of cells under headings."""

    headings: tuple[Heading, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, one pair a line."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text."""

    text: str


Block = Grid | Facts | Line


@singledispatch
def view(result: Result) -> Sequence[Block]:
    """The blocks of a result, top to bottom."""
    return (grid(result.columns, [tuple(row.values()) for row in result.to_rows()]),)


def grid(columns: Sequence[Column], rows: Sequence[tuple[Value, ...]]) -> Grid:
    """Cells under their columns' names; a column without any value is left out."""
    kept = [
        index
        for index, _ in enumerate(columns)
        if not rows or any(row[index] not in (None, ()) for row in rows)
    ]
    return Grid(
        tuple(Heading(columns[i].name, is_numeric(columns[i])) for i in kept),
        tuple(tuple(cell(row[i], columns[i]) for i in kept) for row in rows),
    )


@view.register
def _(result: Record) -> Sequence[Block]:
    column = result.columns[1]
    return (Facts(tuple((leaf.name, cell(leaf.value, column)) for leaf in result.records())),)


@view.register
def _(result: WalkResult) -> Sequence[Block]:
    return (Line(f"query: the embedding of {visible(result.token)}"), _rows_of(result))


@view.register
def _(result: DescribeResult) -> Sequence[Block]:
    return (Line(visible(result.entity)), _rows_of(result, without=("entity",)))


@view.register
def _(result: InferComparison) -> Sequence[Block]:
    pairs = zip(_tokens(result.dense), _tokens(result.walk), strict=True)
    headings = [
        Heading("rank", right=True),
        *(
            Heading(f"{path} {name}", name != "token")
            for path in ("dense", "walk")
            for name in ("token", "probability", "logit")
        ),
    ]
    rows = [(dense[0], dense[1], *dense[3:], walk[1], *walk[3:]) for dense, walk in pairs]
    difference = (
        f"largest difference over the vocabulary: probability {result.probability_difference:.1e}, "
        f"logit {result.logit_difference:.1e}"
    )
    times = f"forward pass: dense {duration(result.dense_s)}, walk {duration(result.walk_s)}"
    return (Grid(tuple(headings), tuple(rows)), Line(difference), Line(times))


@view.register
def _(result: ExplainInferResult) -> Sequence[Block]:
    tokens = [
        (token.position, token.token, token.token_id, "added" if token.added else None)
        for token in result.prompt_tokens
    ]
    columns = (
        Column("position", Kind.INTEGER),
        Column("token", Kind.TOKEN),
        Column("token_id", Kind.INTEGER),
        Column("origin", Kind.TEXT),
    )
    layers = [tuple(row.values()) for row in result.to_rows()]
    return (
        Line(f"prompt ({result.prompt_mode}), {len(tokens)} tokens"),
        grid(columns, tokens),
        Line("layers: what the model would say after each (lens), and its strongest features"),
        grid(result.columns, list(_first_of_group(layers, key=1, blank=4))),
        Line("prediction"),
        Grid(_token_headings(), tuple(_tokens(result.prediction))),
        Line(f"computed with {result.compute}"),
    )


@view.register
def _(result: StatsResult) -> Sequence[Block]:
    facts = [
        ("model", result.model),
        ("family", result.family),
        ("path", result.path),
        ("level", result.level or "(model, not extracted)"),
        ("dtype", result.dtype or ""),
        ("layers", str(result.layers)),
        ("hidden size", f"{result.hidden:,}"),
        ("vocabulary", f"{result.vocabulary:,}"),
        ("features", _features(result)),
        ("relation labels", f"{result.labelled} probed, {result.clusters} clusters"),
        ("size", "" if result.size_bytes is None else size(result.size_bytes)),
    ]
    facts += [
        (
            f"band {band.name}",
            f"layers {band.first_layer}-{band.last_layer}, {band.features:,} features",
        )
        for band in result.bands
    ]
    return (Facts(tuple((name, value) for name, value in facts if value)),)


def _features(result: StatsResult) -> str:
    described = "" if result.described is None else f", {result.described:,} with tokens"
    return f"{result.features:,}{described}"


@view.register
def _(result: ExtractResult) -> Sequence[Block]:
    dropped = ", ".join(f"{count} by rule {rule}" for rule, count in result.dropped.items())
    facts = [
        ("wrote", result.path),
        ("model", result.model),
        ("family", result.family),
        ("level", result.level),
        ("dtype", result.dtype if result.quant == "none" else f"{result.dtype}, {result.quant}"),
        ("layers", str(result.layers)),
        ("features", f"{result.features:,}"),
        ("size", size(result.size_bytes)),
        ("dropped tensors", dropped),
        ("time", ", ".join(f"{name} {duration(took)}" for name, took in result.seconds.items())),
    ]
    return (Facts(tuple((name, value) for name, value in facts if value)),)


@singledispatch
def status(result: Result) -> str:
    """A STATUS result as one line for standard error."""
    return ", ".join(f"{row['name']} {row['value']}" for row in result.to_rows())


@status.register
def _(result: UseResult) -> str:
    level = f", {result.level} level, {result.dtype}" if result.level else ", not extracted"
    return (
        f"using {result.path}: {result.model} ({result.family}), {result.layers} layers, "
        f"{result.features:,} features{level}"
    )


def _rows_of(result: Result, without: Sequence[str] = ()) -> Grid:
    columns = [column for column in result.columns if column.name not in without]
    rows = [tuple(row[column.name] for column in columns) for row in result.to_rows()]
    return grid(columns, rows)


def _token_headings() -> tuple[Heading, ...]:
    return tuple(Heading(column.name, is_numeric(column)) for column in TOKEN_COLUMNS)


def _tokens(tokens: Iterable[TokenRow]) -> list[tuple[str, ...]]:
    return [
        tuple(cell(getattr(token, column.name), column) for column in TOKEN_COLUMNS)
        for token in tokens
    ]


def _first_of_group(
    rows: Iterable[tuple[Value, ...]], key: int, blank: int
) -> Iterable[tuple[Value, ...]]:
    """Rows with their first ``blank`` cells kept only where the first ``key`` cells change."""
    last: tuple[Value, ...] | None = None
    for row in rows:
        yield (None,) * blank + row[blank:] if row[:key] == last else row
        last = row[:key]


__all__ = [
    "Block",
    "Facts",
    "Grid",
    "Heading",
    "Line",
    "grid",
    "number",
    "percent",
    "status",
    "view",
]
