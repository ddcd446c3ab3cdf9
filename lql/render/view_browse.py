"""Layouts of WALK and DESCRIBE."""

from __future__ import annotations

from collections.abc import Sequence

from lql.render.blocks import Block, Line, rows_of
from lql.render.text import visible
from lql.render.view import lay_out
from lql.results.browse import DescribeResult, WalkResult


@lay_out.register
def _(result: WalkResult) -> Sequence[Block]:
    return (
        Line(f'query: the embedding of "{visible(result.token)}" (token {result.token_id})'),
        rows_of(result),
    )


@lay_out.register
def _(result: DescribeResult) -> Sequence[Block]:
    return (Line(visible(result.entity)), rows_of(result, without=("entity",)))
