"""Layouts of WALK and DESCRIBE."""

from __future__ import annotations

from collections.abc import Sequence

from lql.render.blocks import Block, Line, rows_of
from lql.render.text import visible
from lql.render.view import lay_out
from lql.results.browse import DescribeResult, WalkResult


@lay_out.register
def _(result: WalkResult) -> Sequence[Block]:
    token = f'"{visible(result.token)}" (token {result.token_id})'
    queries = {
        "pure": f"the embedding of {token}",
        "hybrid": f"each layer's FFN input at {token}, ranked by gate",
        "dense": f"each layer's FFN input at {token}, ranked by activation",
    }
    query = queries[result.mode]
    if result.compared:
        query = f"{queries['pure']}; {query}"
    return (Line(f"query: {query}"), rows_of(result))


@lay_out.register
def _(result: DescribeResult) -> Sequence[Block]:
    return (Line(visible(result.entity)), rows_of(result, without=("entity",)))
