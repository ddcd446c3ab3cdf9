"""Qwen 1.5 to 2.5: llama with biases on q, k and v, and sliding windows on the upper layers.

Windows count only with ``use_sliding_window``; without ``layer_types`` they begin at layer
``max_window_layers``.
"""

from __future__ import annotations

from collections.abc import Container

from vindex.families import _larql_index
from vindex.families._assemble import make_layers, make_model
from vindex.families._base import Family, GgufRules, Rebuilt
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._qwen import gguf_config, read_attentions, rebuild
from vindex.index import VindexIndex
from vindex.spec import FfnSpec, ModelSpec, NormKind, NormSpec

_DEFAULTS = Defaults(max_positions=32768)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Qwen 2 configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    attentions = read_attentions(config, geometry, qkv_bias=True)
    ffn = FfnSpec(geometry.intermediate_size, config.activation("hidden_act", "silu"))
    layers = make_layers(attentions, ffn, norm)
    return make_model(config, geometry, layers, family=FAMILY.name, tied=False)


def from_index(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """larql's own extract drops the biases; with them as ``vector`` entries the model is whole."""
    if _larql_index.runs(index) and "layers.0.self_attn.q_proj.bias" not in have_keys:
        raise _larql_index.lossy_error(index, "the q, k and v biases are not in the vindex")
    return rebuild(index, have_keys)


FAMILY = Family(
    name="qwen2",
    model_types=("qwen2",),
    prefixes=("model.",),
    build=build,
    from_index=from_index,
    gguf=GgufRules(architectures=("qwen2",), config=gguf_config),
)
