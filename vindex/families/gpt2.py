"""GPT-2: learned positions, LayerNorms, biases, an FFN without gate, matrices as ``[in, out]``.

Some files on the hub lack the ``transformer.`` prefix, and old ones carry the causal mask.
"""

from __future__ import annotations

import re
from typing import Any

from vindex.errors import Unsupported
from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import DropRule, Family, GgufFacts, GgufRules
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._tensors import Fused, Naming
from vindex.spec import FfnSpec, LearnedPositions, ModelSpec, NormKind, NormSpec, Role

_DEFAULTS = Defaults(max_positions=1024)
_OTHER_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
}
_DEFAULT_WIDTH = 4  # times D, where n_inner is null

_NAMING = Naming(
    {
        Role.EMBED: "wte.weight",
        Role.POSITIONS: "wpe.weight",
        Role.FINAL_NORM: "ln_f.weight",
        Role.FINAL_NORM_BIAS: "ln_f.bias",
        Role.HEAD: "lm_head.weight",
        Role.ATTN_NORM: "h.{layer}.ln_1.weight",
        Role.ATTN_NORM_BIAS: "h.{layer}.ln_1.bias",
        Role.FFN_NORM: "h.{layer}.ln_2.weight",
        Role.FFN_NORM_BIAS: "h.{layer}.ln_2.bias",
        Role.Q: "h.{layer}.attn.q_proj.weight",
        Role.K: "h.{layer}.attn.k_proj.weight",
        Role.V: "h.{layer}.attn.v_proj.weight",
        Role.O: "h.{layer}.attn.c_proj.weight",
        Role.Q_BIAS: "h.{layer}.attn.q_proj.bias",
        Role.K_BIAS: "h.{layer}.attn.k_proj.bias",
        Role.V_BIAS: "h.{layer}.attn.v_proj.bias",
        Role.O_BIAS: "h.{layer}.attn.c_proj.bias",
        Role.GATE: "h.{layer}.mlp.gate_proj.weight",
        Role.UP: "h.{layer}.mlp.c_fc.weight",
        Role.UP_BIAS: "h.{layer}.mlp.c_fc.bias",
        Role.DOWN: "h.{layer}.mlp.c_proj.weight",
        Role.DOWN_BIAS: "h.{layer}.mlp.c_proj.bias",
    },
    (
        Fused("h.{layer}.attn.c_attn.weight", (Role.Q, Role.K, Role.V), transposed=True),
        Fused("h.{layer}.attn.c_attn.bias", (Role.Q_BIAS, Role.K_BIAS, Role.V_BIAS)),
        Fused("h.{layer}.attn.c_proj.weight", (Role.O,), transposed=True),
        Fused("h.{layer}.mlp.c_fc.weight", (Role.UP,), transposed=True),
        Fused("h.{layer}.mlp.c_proj.weight", (Role.DOWN,), transposed=True),
    ),
)
_MASKS = DropRule(
    "gpt2-masks",
    re.compile(r"(^|\.)h\.\d+\.attn\.(masked_)?bias$"),
    "the causal mask, which the sequence length determines",
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a GPT-2 configuration."""
    config = config.renamed(_OTHER_KEYS)
    if not config.has("intermediate_size"):
        width = _DEFAULT_WIDTH * config.integer("hidden_size")
        config = ConfigReader({"intermediate_size": width}, config.where).merged_over(config)
    geometry = read_geometry(config, _DEFAULTS)
    for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        config.must_be_default(key, False)
    config.must_be_default("scale_attn_weights", True)
    for key in ("num_key_value_heads", "head_dim"):
        config.must_be_default(key)
    norm = NormSpec(NormKind.LAYER, config.number("layer_norm_epsilon", 1e-5, high=1.0))
    attention = read_attention(config, geometry, rope=None, qkv_bias=True, output_bias=True)
    ffn = FfnSpec(
        geometry.intermediate_size,
        config.activation("activation_function", "gelu_new"),
        gated=False,
        bias=True,
    )
    return make_model(
        config,
        geometry,
        make_layers([attention] * geometry.num_layers, ffn, norm),
        family=FAMILY.name,
        tied=True,
        naming=_NAMING,
        positions=LearnedPositions(geometry.max_positions),
    )


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``gpt2``."""
    config = _gguf_config.common(facts, eps="layer_norm_epsilon", gated=False)
    config["max_position_embeddings"] = facts.rows("position_embd.weight")
    _gguf_config.reader(facts).must_be_default("attention.sliding_window")
    if config["num_key_value_heads"] != config["num_attention_heads"]:
        raise Unsupported(
            "the GGUF file's architecture is gpt2 with fewer key heads than query heads",
            hint=_gguf_config.USE_ORIGINAL,
        )
    for key in ("num_key_value_heads", "head_dim", "rope_theta"):
        del config[key]
    for ours, theirs in _OTHER_KEYS.items():
        config[ours] = config.pop(theirs)
    return {**config, "model_type": "gpt2", "activation_function": "gelu_new"}


FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    prefixes=("transformer.",),
    build=build,
    from_index=_larql_index.lossy(
        "biases, LayerNorm offsets and learned positions are not in the vindex"
    ),
    drops=(_MASKS,),
    gguf=GgufRules(architectures=("gpt2",), config=gguf_config),
)
