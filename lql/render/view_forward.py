"""Layouts of INFER … COMPARE and EXPLAIN INFER."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lql.render.blocks import Block, Grid, Heading, Line, grid
from lql.render.text import cell, duration, is_numeric, visible
from lql.render.view import lay_out
from lql.results import Column, Kind, Value
from lql.results.forward import TOKEN_COLUMNS, ExplainInferResult, InferComparison, TokenRow


@lay_out.register
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


@lay_out.register
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
        *_attention(result),
        Line("prediction"),
        Grid(_token_headings(), tuple(_tokens(result.prediction))),
        Line(f"computed with {result.compute}"),
    )


def _attention(result: ExplainInferResult) -> Sequence[Block]:
    if result.attention is None:
        return ()
    headings = (Heading("layer", True), Heading("head", True), Heading("attends to"))
    rows = [
        (
            str(head.layer),
            str(head.head),
            ", ".join(
                f"{visible(token)} ({position}) {share:.0%}"
                for token, position, share in zip(
                    head.tokens, head.positions, head.shares, strict=True
                )
            )
            + (f", sink {head.sink:.0%}" if head.sink else ""),
        )
        for head in result.attention
    ]
    return (Line("attention of the last token, by head"), Grid(headings, tuple(rows)))


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
