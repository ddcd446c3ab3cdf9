"""Phi 3 and 3.5, Phi 4 and Phi 4 mini, text only.

Llama whose q, k, v and whose gate, up are fused in the checkpoint; longrope, which early files call
``su`` or ``yarn``; Phi 4 mini turns three quarters of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import ROTARY_INV_FREQ, Family, GgufFacts, GgufRules
from vindex.families._config import MAX_POSITIONS, ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import GATE_UP, LLAMA, Fused
from vindex.spec import (
    AttentionKind,
    FfnSpec,
    ModelSpec,
    NormKind,
    NormSpec,
    Role,
    RopeScaling,
)

_DEFAULTS = Defaults(max_positions=4096)
_TRAINED = 4096
_FLOAT32 = 1e-6  # what the metadata loses
_ROPE = RopeDefaults(
    partial=1.0,
    original=_TRAINED,
    aliases={"su": RopeScaling.LONGROPE, "yarn": RopeScaling.LONGROPE},
)
_QKV = Fused("layers.{layer}.self_attn.qkv_proj.weight", (Role.Q, Role.K, Role.V))


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Phi 3 configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    config.must_be_default("attention_bias", False)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-5, high=1.0))
    slides = config.has("sliding_window")
    attention = read_attention(
        config,
        geometry,
        kind=AttentionKind.SLIDING if slides else AttentionKind.FULL,
        rope=_ROPE,
        window=config.integer("sliding_window", high=MAX_POSITIONS) if slides else None,
    )
    ffn = FfnSpec(geometry.intermediate_size, config.activation("hidden_act", "silu"))
    return make_model(
        config,
        geometry,
        make_layers([attention] * geometry.num_layers, ffn, norm),
        family=FAMILY.name,
        tied=False,
        naming=LLAMA.but({}, _QKV, GATE_UP),
    )


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``phi3``; a window of 0 is none."""
    config = _gguf_config.common(facts, turns_partly=True)
    own = _gguf_config.reader(facts)
    window = own.integer("attention.sliding_window", 0, low=0, high=MAX_POSITIONS)
    if own.has("rope.scaling.original_context_length"):
        config["original_max_position_embeddings"] = own.integer(
            "rope.scaling.original_context_length", high=MAX_POSITIONS
        )
    return {
        **config,
        "model_type": "phi3",
        "hidden_act": "silu",
        "sliding_window": window or None,
        "rope_scaling": _longrope(facts, config) or _gguf_config.rope_scaling(facts),
    }


def _longrope(facts: GgufFacts, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The two tables of factors and the strength; the metadata does not name the rule."""
    tables = {"short_factor": "rope_factors_short", "long_factor": "rope_factors_long"}
    if not any(facts.has_tensor(f"{name}.weight") for name in tables.values()):
        return None
    own = _gguf_config.reader(facts)
    result: dict[str, Any] = {"rope_type": RopeScaling.LONGROPE.value}
    for key, name in tables.items():
        facts.rows(f"{name}.weight")  # names the one that is missing
        result[key] = [_gguf_config.shortest(each) for each in facts.vector(f"{name}.weight")]
    trained = config.get("original_max_position_embeddings", _TRAINED)
    stretch = config["max_position_embeddings"] / trained
    stretches = stretch > 1 and trained > 1
    inferred = math.sqrt(1 + math.log(stretch) / math.log(trained)) if stretches else 1.0
    stated = own.number("rope.scaling.attn_factor", inferred)
    if not math.isclose(stated, inferred, rel_tol=_FLOAT32):
        result["attention_factor"] = stated
    return result


FAMILY = Family(
    name="phi3",
    model_types=("phi3",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("the fused projections and rope factors are not in the vindex"),
    drops=(ROTARY_INV_FREQ, _gguf_config.ROPE_FACTORS),
    gguf=GgufRules(
        architectures=("phi3",),
        config=gguf_config,
        known=frozenset({"rope.scaling.attn_factor"}),
    ),
)
