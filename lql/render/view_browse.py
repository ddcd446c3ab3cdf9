"""Layouts of the results of statements that only read files."""

from __future__ import annotations

from collections.abc import Sequence

from lql.render.blocks import Block, Line, facts, rows_of
from lql.render.text import size, visible
from lql.render.view import lay_out
from lql.results.browse import DescribeResult, StatsResult, WalkResult


@lay_out.register
def _(result: WalkResult) -> Sequence[Block]:
    return (Line(f"query: the embedding of {visible(result.token)}"), rows_of(result))


@lay_out.register
def _(result: DescribeResult) -> Sequence[Block]:
    return (Line(visible(result.entity)), rows_of(result, without=("entity",)))


@lay_out.register
def _(result: StatsResult) -> Sequence[Block]:
    pairs = [
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
    pairs += [
        (
            f"band {band.name}",
            f"layers {band.first_layer}-{band.last_layer}, {band.features:,} features",
        )
        for band in result.bands
    ]
    return (facts(pairs),)


def _features(result: StatsResult) -> str:
    described = "" if result.described is None else f", {result.described:,} with tokens"
    return f"{result.features:,}{described}"
