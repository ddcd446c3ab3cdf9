"""STATS and SHOW: what a vindex holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from lql import ast
from lql.context import Context
from lql.execute.bands import band_name, band_rows
from lql.execute.paging import page
from lql.execute.slots import layer, layer_range, text
from lql.execute.where import compile_condition
from lql.results import Result
from lql.results.show import (
    FEATURE_COLUMNS,
    FeatureInfoRow,
    FeaturesResult,
    LayerRow,
    LayersResult,
    ModelRow,
    ModelsResult,
    StatsResult,
)
from vindex.errors import Unsupported, VindexError
from vindex.features import describe_layer, feature_table, token_texts
from vindex.spec import AttentionKind, MoeSpec

if TYPE_CHECKING:
    from vindex.checkpoint import CheckpointSource
    from vindex.store import Vindex

_Show = ast.Stats | ast.ShowModels | ast.ShowLayers | ast.ShowFeatures

FEATURE_ALIASES = {"score": "logit", "c_score": "logit", "top_token": "token"}
"""What larql's users call these columns."""


def run(statement: _Show, context: Context) -> Result:
    """Run STATS, SHOW MODELS, SHOW LAYERS or SHOW FEATURES."""
    match statement:
        case ast.Stats():
            return _stats(statement, context)
        case ast.ShowModels():
            return _models(statement)
        case ast.ShowLayers():
            return _layers(statement, context)
        case ast.ShowFeatures():
            return _features(statement, context)
        case _:
            assert_never(statement)


# --------------------------------------------------------------------------- STATS


def _stats(statement: ast.Stats, context: Context) -> StatsResult:
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


# --------------------------------------------------------------------------- SHOW MODELS


def _models(statement: ast.ShowModels) -> ModelsResult:
    here = sorted(path.parent for path in Path().glob("*/index.json"))
    shown, meta = page([_model(path) for path in here], statement.limit, statement.offset)
    return ModelsResult(models=shown, meta=meta)


def _model(path: Path) -> ModelRow:
    from vindex.store import open_vindex

    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    try:
        with open_vindex(path) as vindex:
            index = vindex.index
            return ModelRow(
                path=str(path),
                model=index.model,
                family=index.family,
                layers=index.num_layers,
                level=vindex.level.value,
                dtype=index.dtype.value,
                size_bytes=size,
                status="ready",
            )
    except VindexError as error:
        return ModelRow(str(path), None, None, None, None, None, size, error.message)


# --------------------------------------------------------------------------- SHOW LAYERS


def _layers(statement: ast.ShowLayers, context: Context) -> LayersResult:
    vindex = context.vindex(statement.title)
    chosen = layer_range(statement.layers, vindex.index.num_layers)
    rows = [_layer(vindex, index) for index in chosen]
    shown, meta = page(rows, statement.limit, statement.offset)
    return LayersResult(layers=shown, meta=meta)


def _layer(vindex: Vindex, index: int) -> LayerRow:
    summary = describe_layer(vindex, index)
    return LayerRow(
        layer=index,
        band=band_name(vindex, index),
        attention=_attention(vindex, index),
        features=summary.features,
        described=summary.described,
        token=summary.token,
        writers=summary.writers if summary.described else None,
    )


def _attention(vindex: Vindex, index: int) -> str | None:
    try:
        kind = vindex.spec.layers[index].attention.kind
    except Unsupported:
        return None
    return "sliding" if kind is AttentionKind.SLIDING else "full"


# --------------------------------------------------------------------------- SHOW FEATURES


def _features(statement: ast.ShowFeatures, context: Context) -> FeaturesResult:
    vindex = context.vindex(statement.title)
    index = layer(statement.layer, vindex.index.num_layers)
    keep = None
    if statement.where is not None:
        keep = compile_condition(statement.where, FEATURE_COLUMNS, FEATURE_ALIASES)
    names = [column.name for column in FEATURE_COLUMNS]
    rows = [
        row
        for row in _described(vindex, index)
        if keep is None or keep({name: getattr(row, name) for name in names})
    ]
    shown, meta = page(rows, statement.limit, statement.offset)
    return FeaturesResult(features=shown, meta=meta)


def _described(vindex: Vindex, index: int) -> Iterator[FeatureInfoRow]:
    """The layer's features that have tokens, ascending."""
    table = feature_table(vindex, index)
    for feature, token_id, logit, also_ids in zip(
        table.features.tolist(),
        table.token_ids.tolist(),
        table.scores.tolist(),
        table.also_ids.tolist(),
        strict=True,
    ):
        label = vindex.labels.of(index, feature)
        texts = token_texts(vindex, [token_id, *(i for i in also_ids if i >= 0)])
        yield FeatureInfoRow(
            layer=index,
            feature=feature,
            token=texts[0],
            token_id=token_id,
            logit=logit,
            relation=None if label is None else label.text,
            also=tuple(texts[1:]),
        )
