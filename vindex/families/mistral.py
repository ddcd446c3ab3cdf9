"""Mistral 7B and what is built like it.

Llama with a head size of its own. Every layer slides when ``sliding_window`` is not null; a config
without that key means the class default of 4096, while releases since v0.2 write null.
"""

from __future__ import annotations

from collections.abc import Container

from vindex.families import _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family, Rebuilt
from vindex.families._config import MAX_POSITIONS, ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.index import VindexIndex
from vindex.spec import AttentionKind, FfnSpec, ModelSpec, NormKind, NormSpec

_DEFAULTS = Defaults(max_positions=131072, kv_heads=8)
_DEFAULT_WINDOW = 4096


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Mistral configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    config.must_be_default("layer_types")
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    window = (
        None
        if config.states("sliding_window") and not config.has("sliding_window")
        else config.integer("sliding_window", _DEFAULT_WINDOW, high=MAX_POSITIONS)
    )
    attention = read_attention(
        config,
        geometry,
        kind=AttentionKind.FULL if window is None else AttentionKind.SLIDING,
        rope=RopeDefaults(),
        window=window,
    )
    ffn = FfnSpec(geometry.intermediate_size, config.activation("hidden_act", "silu"))
    layers = make_layers([attention] * geometry.num_layers, ffn, norm)
    return make_model(config, geometry, layers, family=FAMILY.name, tied=False)


def from_index(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """larql records everything of a Mistral but rope scaling, which no release has.

    It writes no ``sliding_window`` both for null and for an absent key.
    """
    rebuilt = _larql_index.assume_unscaled(
        _larql_index.rebuild(index, have_keys, embed_scale=1.0), index
    )
    if not _larql_index.runs(index) or "sliding_window" in rebuilt.config:
        return rebuilt
    note = "index.json records no sliding window; full attention is assumed"
    return Rebuilt({**rebuilt.config, "sliding_window": None}, (*rebuilt.notes, note))


FAMILY = Family(
    name="mistral",
    model_types=("mistral",),
    prefixes=("model.",),
    build=build,
    from_index=from_index,
    gguf_as="llama",
)
