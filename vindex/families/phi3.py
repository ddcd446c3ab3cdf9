"""Phi 3 and 3.5, Phi 4 and Phi 4 mini, text only.

Llama whose q, k, v and whose gate, up are fused in the checkpoint; longrope, which early files call
``su`` or ``yarn``; Phi 4 mini turns three quarters of a head.
"""

from __future__ import annotations

from vindex.families import _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family
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
_ROPE = RopeDefaults(
    partial=1.0,
    original=4096,
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


FAMILY = Family(
    name="phi3",
    model_types=("phi3",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("the fused projections and rope factors are not in the vindex"),
)
