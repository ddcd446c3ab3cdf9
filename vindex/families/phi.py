"""Phi 1, 1.5 and 2: one LayerNorm for attention and FFN in parallel, biases, half a head turns."""

from __future__ import annotations

from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family, GgufFacts, GgufRules
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import LLAMA
from vindex.spec import FfnSpec, ModelSpec, NormKind, NormSpec, Placement, Role

_DEFAULTS = Defaults(max_positions=2048)
_NAMING = LLAMA.but(
    {
        Role.FINAL_NORM: "final_layernorm.weight",
        Role.FINAL_NORM_BIAS: "final_layernorm.bias",
        Role.O: "layers.{layer}.self_attn.dense.weight",
        Role.O_BIAS: "layers.{layer}.self_attn.dense.bias",
        Role.Q_NORM: "layers.{layer}.self_attn.q_layernorm.weight",
        Role.Q_NORM_BIAS: "layers.{layer}.self_attn.q_layernorm.bias",
        Role.K_NORM: "layers.{layer}.self_attn.k_layernorm.weight",
        Role.K_NORM_BIAS: "layers.{layer}.self_attn.k_layernorm.bias",
        Role.UP: "layers.{layer}.mlp.fc1.weight",
        Role.UP_BIAS: "layers.{layer}.mlp.fc1.bias",
        Role.DOWN: "layers.{layer}.mlp.fc2.weight",
        Role.DOWN_BIAS: "layers.{layer}.mlp.fc2.bias",
    }
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Phi configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_eps", 1e-5, high=1.0))
    attention = read_attention(
        config,
        geometry,
        rope=RopeDefaults(partial=0.5),
        qk_norm=norm if config.flag("qk_layernorm", False) else None,
        qkv_bias=True,
        output_bias=True,
    )
    ffn = FfnSpec(
        geometry.intermediate_size,
        config.activation("hidden_act", "gelu_new"),
        gated=False,
        bias=True,
    )
    layers = make_layers([attention] * geometry.num_layers, ffn, norm, Placement.PARALLEL_SHARED)
    return make_model(
        config,
        geometry,
        layers,
        family=FAMILY.name,
        tied=False,
        naming=_NAMING,
        head_bias=True,
    )


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``phi2``."""
    config = _gguf_config.common(facts, eps="layer_norm_eps", turns_partly=True, gated=False)
    _gguf_config.reader(facts).must_be_default("attention.sliding_window")
    return {
        **config,
        "model_type": "phi",
        "hidden_act": "gelu_new",
        "rope_scaling": _gguf_config.rope_scaling(facts),
    }


FAMILY = Family(
    name="phi",
    model_types=("phi",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("biases, LayerNorm offsets and the FFN are not in the vindex"),
    gguf=GgufRules(architectures=("phi2",), config=gguf_config),
)
