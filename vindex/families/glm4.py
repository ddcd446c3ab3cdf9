"""GLM 4 (0414): four norms, half of each head turns in adjacent pairs, gate and up are fused."""

from __future__ import annotations

from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family, GgufFacts, GgufRules
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import GATE_UP, LLAMA
from vindex.spec import FfnSpec, ModelSpec, NormKind, NormSpec, Placement, Role

_DEFAULTS = Defaults(max_positions=131072, kv_heads=2, head_size=128)
_NAMING = LLAMA.but(
    {
        Role.ATTN_POST_NORM: "layers.{layer}.post_self_attn_layernorm.weight",
        Role.FFN_NORM: "layers.{layer}.post_attention_layernorm.weight",
        Role.FFN_POST_NORM: "layers.{layer}.post_mlp_layernorm.weight",
    },
    GATE_UP,
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a GLM 4 configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1.5625e-7, high=1.0))
    attention = read_attention(
        config,
        geometry,
        rope=RopeDefaults(partial=0.5, interleaved=True),
        qkv_bias=config.flag("attention_bias", True),
    )
    ffn = FfnSpec(geometry.intermediate_size, config.activation("hidden_act", "silu"))
    return make_model(
        config,
        geometry,
        make_layers([attention] * geometry.num_layers, ffn, norm, Placement.SANDWICH),
        family=FAMILY.name,
        tied=False,
        naming=_NAMING,
    )


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``glm4``."""
    config = _gguf_config.common(facts, turns_partly=True)
    _gguf_config.reader(facts).must_be_default("attention.sliding_window")
    return {
        **config,
        "model_type": "glm4",
        "hidden_act": "silu",
        "attention_bias": facts.has_tensor("blk.0.attn_q.bias"),
        "rope_scaling": _gguf_config.rope_scaling(facts),
    }


FAMILY = Family(
    name="glm4",
    model_types=("glm4",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy(
        "biases, two of four norms and the fused FFN are not in the vindex"
    ),
    gguf=GgufRules(architectures=("glm4",), config=gguf_config),
)
