"""GPT-NeoX and Pythia: LayerNorms, parallel residual, q, k, v fused head by head, exact GELU."""

from __future__ import annotations

import re
from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import ROTARY_INV_FREQ, DropRule, Family, GgufFacts, GgufRules
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import LLAMA, Fused
from vindex.spec import FfnSpec, ModelSpec, NormKind, NormSpec, Placement, Role

_DEFAULTS = Defaults(max_positions=2048)
_LAYERS_20B = 44
_ROPE = RopeDefaults(theta_key="rotary_emb_base", partial=0.25, partial_key="rotary_pct")
_ATTENTION = "layers.{layer}.attention."
_QKV = (
    Fused(_ATTENTION + "query_key_value.weight", (Role.Q, Role.K, Role.V), per_head=True),
    Fused(
        _ATTENTION + "query_key_value.bias",
        (Role.Q_BIAS, Role.K_BIAS, Role.V_BIAS),
        per_head=True,
    ),
)
_NAMING = LLAMA.but(
    {
        Role.EMBED: "embed_in.weight",
        Role.FINAL_NORM: "final_layer_norm.weight",
        Role.FINAL_NORM_BIAS: "final_layer_norm.bias",
        Role.O: _ATTENTION + "dense.weight",
        Role.O_BIAS: _ATTENTION + "dense.bias",
        Role.UP: "layers.{layer}.mlp.dense_h_to_4h.weight",
        Role.UP_BIAS: "layers.{layer}.mlp.dense_h_to_4h.bias",
        Role.DOWN: "layers.{layer}.mlp.dense_4h_to_h.weight",
        Role.DOWN_BIAS: "layers.{layer}.mlp.dense_4h_to_h.bias",
    },
    *_QKV,
)
_MASKS = DropRule(
    "gpt-neox-masks",
    re.compile(r"\.attention\.(masked_)?bias$"),
    "the causal mask, which the sequence length determines",
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a GPT-NeoX configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    config.must_be_default("num_key_value_heads", geometry.heads)
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_eps", 1e-5, high=1.0))
    bias = config.flag("attention_bias", True)
    attention = read_attention(config, geometry, rope=_ROPE, qkv_bias=bias, output_bias=bias)
    ffn = FfnSpec(
        geometry.intermediate_size,
        config.activation("hidden_act", "gelu"),
        gated=False,
        bias=True,
    )
    parallel = config.flag("use_parallel_residual", True)
    placement = Placement.PARALLEL if parallel else Placement.PRE
    return make_model(
        config,
        geometry,
        make_layers([attention] * geometry.num_layers, ffn, norm, placement),
        family=FAMILY.name,
        tied=False,
        naming=_NAMING,
    )


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``gptneox``.

    It does not name the activation: GPT-NeoX 20B alone has the tanh form, and 44 layers.
    """
    config = _gguf_config.common(facts, eps="layer_norm_eps", turns_partly=True, gated=False)
    own = _gguf_config.reader(facts)
    own.must_be_default("attention.sliding_window")
    config["rotary_pct"] = config.pop("partial_rotary_factor")
    config["rotary_emb_base"] = config.pop("rope_theta")
    return {
        **config,
        "model_type": "gpt_neox",
        "hidden_act": "gelu_fast" if config["num_hidden_layers"] == _LAYERS_20B else "gelu",
        "attention_bias": facts.has_tensor("blk.0.attn_qkv.bias"),
        "use_parallel_residual": own.flag("use_parallel_residual", True),
        "rope_scaling": _gguf_config.rope_scaling(facts),
    }


FAMILY = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    prefixes=("gpt_neox.",),
    build=build,
    from_index=_larql_index.lossy("larql does not know its tensor names, biases and residuals"),
    drops=(ROTARY_INV_FREQ, _MASKS),
    gguf=GgufRules(
        architectures=("gptneox",),
        config=gguf_config,
        known=frozenset({"use_parallel_residual"}),
    ),
    renamed={"embed_out.weight": "lm_head.weight"},
)
