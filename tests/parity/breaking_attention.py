"""Ways to break sinks and latents on purpose; see ``breaking``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from tests.parity.breaking import Mistake, SpecChange
from tests.parity.checkpoints import EPS
from tests.parity.reference import Floats
from vindex.source import ModelSource, StoredTensor
from vindex.spec import LatentSpec, LayerSpec, Role


def _each_latent(change: Callable[[LatentSpec], LatentSpec]) -> SpecChange:
    def changed(layer: LayerSpec) -> LayerSpec:
        if layer.attention.latent is None:
            return layer
        latent = change(layer.attention.latent)
        attention = dataclasses.replace(layer.attention, latent=latent)
        return dataclasses.replace(layer, attention=attention)

    return lambda spec: dataclasses.replace(spec, layers=tuple(map(changed, spec.layers)))


def _models_eps(latent: LatentSpec) -> LatentSpec:
    return dataclasses.replace(latent, norm=dataclasses.replace(latent.norm, eps=EPS))


def _no_sinks(_source: ModelSource, stored: StoredTensor) -> Floats:
    """Scores that take nothing of any softmax."""
    return np.full(stored.shape, -1e30, np.float32)


def _mirrored(_source: ModelSource, stored: StoredTensor) -> Floats:
    return stored.float32()[::-1]


def _values_first(source: ModelSource, stored: StoredTensor) -> Floats:
    """Of every head rows of its value, then of its key."""
    own = source.spec.by_key()[stored.key]
    assert own.layer is not None
    attention = source.spec.layers[own.layer].attention
    heads = stored.float32().reshape(attention.heads, -1, stored.shape[1])
    return np.roll(heads, -attention.plain_size, axis=1).reshape(stored.shape)


def _key_first(source: ModelSource, stored: StoredTensor) -> Floats:
    """Rows of the rotated key, then of the latent."""
    own = source.spec.by_key()[stored.key]
    assert own.layer is not None
    turning = source.spec.layers[own.layer].attention.turning_size
    return np.roll(stored.float32(), turning, axis=0)


ATTENTION_MISTAKES = (
    Mistake("sinks left out", tensors={Role.SINKS: _no_sinks}),
    Mistake("sinks of other heads", tensors={Role.SINKS: _mirrored}),
    Mistake("latent norms with the model's eps", _each_latent(_models_eps)),
    Mistake("latents: values before keys", tensors={Role.KV: _values_first}),
    Mistake("latents: rotated key first", tensors={Role.KV_LATENT: _key_first}),
)
