"""STATS: what a vindex or model holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lql import ast
from lql.context import Context
from lql.execute.bands import band_rows
from lql.execute.slots import text
from lql.results.show import StatsResult
from vindex.features import describe_layer
from vindex.spec import MoeSpec

if TYPE_CHECKING:
    from vindex.checkpoint import CheckpointSource
    from vindex.store import Vindex


def run(statement: ast.Stats, context: Context) -> StatsResult:
    """Run STATS."""
    from vindex.store import Vindex, open_vindex

    if statement.path is not None:
        with open_vindex(Path(text(statement.path)).expanduser()) as opened:
            return _vindex_stats(opened)
    source = context.source()
    return _vindex_stats(source) if isinstance(source, Vindex) else _model_stats(source)


def _vindex_stats(vindex: Vindex) -> StatsResult:
    index = vindex.index
    moe = None if index.model_config is None else index.model_config.moe
    described = (describe_layer(vindex, layer).described for layer in vindex.layers)
    return StatsResult(
        path=str(vindex.path),
        model=index.model,
        family=index.family,
        level=vindex.level.value,
        dtype=index.dtype.value,
        layers=index.num_layers,
        hidden=index.hidden_size,
        vocabulary=index.vocab_size,
        features=index.num_features,
        described=sum(described),
        labelled=len(vindex.labels.probes),
        clusters=len(vindex.labels.clusters),
        bands=band_rows(vindex),
        size_bytes=vindex.size_bytes(),
        experts=None if moe is None else moe.num_experts,
        experts_per_token=None if moe is None else moe.top_k,
    )


def _model_stats(source: CheckpointSource) -> StatsResult:
    spec = source.spec
    mixtures = (each.ffn.routing for each in spec.layers if isinstance(each.ffn, MoeSpec))
    routing = next(mixtures, None)
    return StatsResult(
        path=source.name,
        model=source.name,
        family=spec.family,
        level=None,
        dtype=None,
        layers=spec.num_layers,
        hidden=spec.hidden_size,
        vocabulary=spec.vocab_size,
        features=sum(each.ffn.width for each in spec.layers),
        described=None,
        labelled=0,
        clusters=0,
        bands=(),
        size_bytes=None,
        experts=None if routing is None else routing.experts,
        experts_per_token=None if routing is None else routing.chosen,
    )
