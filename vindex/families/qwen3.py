"""Qwen 3, dense: Qwen 2 without its biases, with norms on the heads of q and k."""

from __future__ import annotations

from collections.abc import Container

from vindex.families._assemble import make_layers, make_model
from vindex.families._base import Family, GgufRules, Rebuilt
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._qwen import gguf_config, read_attentions, rebuild
from vindex.index import VindexIndex
from vindex.spec import FfnSpec, ModelSpec, NormKind, NormSpec

_DEFAULTS = Defaults(max_positions=32768, head_size=128)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Qwen 3 configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    bias = config.flag("attention_bias", False)
    attentions = read_attentions(config, geometry, qk_norm=norm, qkv_bias=bias, output_bias=bias)
    ffn = FfnSpec(geometry.intermediate_size, config.activation("hidden_act", "silu"))
    layers = make_layers(attentions, ffn, norm)
    return make_model(config, geometry, layers, family=FAMILY.name, tied=False)


def from_index(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """larql records everything of a Qwen 3 but rope scaling and biases, which no release has."""
    return rebuild(index, have_keys)


FAMILY = Family(
    name="qwen3",
    model_types=("qwen3",),
    prefixes=("model.",),
    build=build,
    from_index=from_index,
    gguf=GgufRules(architectures=("qwen3",), config=gguf_config),
)
