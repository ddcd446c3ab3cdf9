"""A decoder's weights with some layers' FFNs prepared again, from a source that differs there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from lql.inference.decoder import Decoder, Weights
from lql.inference.precision import ComputeDtype
from lql.inference.weights import Loader, workers
from vindex.source import ModelSource


def with_feed_forwards(
    decoder: Decoder, source: ModelSource, layers: Collection[int], dtype: ComputeDtype
) -> Weights:
    """The weights of a decoder, with the FFNs of some layers as another source holds them.

    Args:
        dtype: how matrices are multiplied; edited ones are float32 and stay so.
    """
    weights = decoder.weights
    with workers() as pool:
        loader = Loader(source, dtype, pool, decoder.device)
        pending = {index: loader.feed_forward(source.spec.layers[index]) for index in layers}
        fresh = {index: finish() for index, finish in pending.items()}
    return replace(
        weights,
        layers=tuple(
            replace(layer, feed_forward=fresh[layer.index]) if layer.index in fresh else layer
            for layer in weights.layers
        ),
    )
