"""Layouts of TRACE."""

from __future__ import annotations

from collections.abc import Sequence

from lql.render.blocks import Block, Line, grid, rows_of
from lql.render.text import visible
from lql.render.view import lay_out, say_status
from lql.results import Result
from lql.results.forward import TOKEN_COLUMNS, TokenRow
from lql.results.trace import (
    RunTokenRow,
    TraceDiffResult,
    TraceFeaturesResult,
    TraceHeadsResult,
    TraceResult,
    UseTraceResult,
)


@lay_out.register
def _(result: TraceResult) -> Sequence[Block]:
    prompt = "a saved trace" if result.prompt is None else f'"{visible(result.prompt)}"'
    one_place = len({row.position for row in result.layers}) < 2
    blocks: list[Block] = [Line(prompt + _for(result.target))]
    if result.interventions:
        blocks.append(Line("with " + ", ".join(visible(each) for each in result.interventions)))
    left_out = ["position", "token"] if one_place else []
    if all(row.word_probability == row.probability for row in result.layers):
        left_out.append("word_probability")  # the target is one token
    blocks.append(rows_of(result, without=left_out))
    blocks.append(Line(f"the parts add up to the residual stream within {result.gap:.0e}"))
    if result.constant:
        blocks.append(
            Line(f"biases of the final norm and the head add {result.constant:+.2f} to the logit")
        )
    if result.prediction:
        blocks += [Line("prediction"), _tokens(result.prediction)]
    return blocks


@lay_out.register
def _(result: TraceHeadsResult) -> Sequence[Block]:
    return _shares(result, result.prompt, result.target, "attention heads")


@lay_out.register
def _(result: TraceFeaturesResult) -> Sequence[Block]:
    return _shares(result, result.prompt, result.target, "features")


def _shares(result: Result, prompt: str, target: str | None, what: str) -> Sequence[Block]:
    return (Line(f'{what} of "{visible(prompt)}"{_for(target)}'), rows_of(result))


@lay_out.register
def _(result: TraceDiffResult) -> Sequence[Block]:
    patched = result.patch_layer
    return (
        Line(f'a: "{visible(result.a)}"'),
        Line(f'b: "{visible(result.b)}"'),
        *(() if patched is None else (Line(f"patched: a with b's stream after layer {patched}"),)),
        rows_of(result),
        Line("predictions"),
        grid(
            result.prediction_columns,
            [
                tuple(getattr(row, column.name) for column in result.prediction_columns)
                for row in result.predictions
            ],
        ),
    )


def _for(target: str | None) -> str:
    return "" if target is None else f' for "{visible(target)}"'


def _tokens(tokens: Sequence[TokenRow | RunTokenRow]) -> Block:
    rows = [tuple(getattr(each, column.name) for column in TOKEN_COLUMNS) for each in tokens]
    return grid(TOKEN_COLUMNS, rows)


@say_status.register
def _(result: UseTraceResult) -> str:
    about = "" if result.prompt is None else f' of "{visible(result.prompt)}"'
    model = "" if result.model is None else f", {visible(result.model)}"
    return (
        f"using the trace {result.path}{about}: {result.positions} positions, "
        f"{result.layers} layers of {result.hidden}{model}"
    )
