"""Layout of STATS."""

from __future__ import annotations

from collections.abc import Sequence

from lql.render.blocks import Block, facts
from lql.render.text import size
from lql.render.view import lay_out
from lql.results.show import StatsResult


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
        *_experts(result),
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


def _experts(result: StatsResult) -> Sequence[tuple[str, str]]:
    if result.experts is None:
        return ()
    return (("experts", f"{result.experts:,}, {result.experts_per_token} for each token"),)


def _features(result: StatsResult) -> str:
    described = "" if result.described is None else f", {result.described:,} with tokens"
    return f"{result.features:,}{described}"
