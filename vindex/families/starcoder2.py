"""StarCoder 2: LayerNorms, biases everywhere, an FFN without gate, sliding windows if set."""

from __future__ import annotations

from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family, GgufFacts, GgufRules
from vindex.families._config import MAX_POSITIONS, ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import LLAMA
from vindex.spec import AttentionKind, FfnSpec, ModelSpec, NormKind, NormSpec, Role

_DEFAULTS = Defaults(max_positions=4096, kv_heads=2)
_RELEASED_WINDOW = 4096
_NAMING = LLAMA.but(
    {
        Role.UP: "layers.{layer}.mlp.c_fc.weight",
        Role.UP_BIAS: "layers.{layer}.mlp.c_fc.bias",
        Role.DOWN: "layers.{layer}.mlp.c_proj.weight",
        Role.DOWN_BIAS: "layers.{layer}.mlp.c_proj.bias",
    }
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a StarCoder 2 configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    norm = NormSpec(NormKind.LAYER, config.number("norm_epsilon", 1e-5, high=1.0))
    bias = config.flag("use_bias", True)
    slides = config.has("sliding_window")
    attention = read_attention(
        config,
        geometry,
        kind=AttentionKind.SLIDING if slides else AttentionKind.FULL,
        rope=RopeDefaults(),
        window=config.integer("sliding_window", high=MAX_POSITIONS) if slides else None,
        qkv_bias=bias,
        output_bias=bias,
    )
    ffn = FfnSpec(
        geometry.intermediate_size,
        config.activation("hidden_act", "gelu_pytorch_tanh"),
        gated=False,
        bias=bias,
    )
    return make_model(
        config,
        geometry,
        make_layers([attention] * geometry.num_layers, ffn, norm),
        family=FAMILY.name,
        tied=True,
        naming=_NAMING,
    )


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``starcoder2``.

    llama.cpp's converter leaves the window out; every release has one of 4096 positions.
    """
    config = _gguf_config.common(facts, eps="norm_epsilon", gated=False)
    own = _gguf_config.reader(facts)
    longer = config["max_position_embeddings"] > _RELEASED_WINDOW
    if own.has("attention.sliding_window") or longer:
        config["sliding_window"] = own.integer(
            "attention.sliding_window", _RELEASED_WINDOW, high=MAX_POSITIONS
        )
    return {
        **config,
        "model_type": "starcoder2",
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": facts.has_tensor("blk.0.attn_q.bias"),
        "rope_scaling": _gguf_config.rope_scaling(facts),
    }


FAMILY = Family(
    name="starcoder2",
    model_types=("starcoder2",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("biases and LayerNorm offsets are not in the vindex"),
    gguf=GgufRules(architectures=("starcoder2",), config=gguf_config),
)
