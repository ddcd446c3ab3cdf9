"""GPT-OSS: sinks, every other layer slides, biases everywhere, clamped experts kept in MXFP4."""

from __future__ import annotations

from vindex.families import _larql_index
from vindex.families._assemble import layer_kinds, make_layers, make_model, read_attention
from vindex.families._base import Family
from vindex.families._config import MAX_POSITIONS, ConfigReader
from vindex.families._experts import Stacked
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._moe import read_counts
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import LLAMA
from vindex.spec import (
    Activation,
    AttentionKind,
    FfnSpec,
    ModelSpec,
    MoeSpec,
    NormKind,
    NormSpec,
    Role,
    RoutingSpec,
    Scoring,
)

_DEFAULTS = Defaults(max_positions=131072, kv_heads=8, head_size=64)
_WINDOW = 128
# What an absent rope means; files say the same.
_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
_EXPERTS = "layers.{layer}.mlp.experts."
_GATE_UP = (Role.EXPERT_GATE, Role.EXPERT_UP)
_GATE_UP_BIAS = (Role.EXPERT_GATE_BIAS, Role.EXPERT_UP_BIAS)
_NAMING = LLAMA.but({Role.SINKS: "layers.{layer}.self_attn.sinks"}).with_experts(
    {
        Role.ROUTER: "layers.{layer}.mlp.router.weight",
        Role.ROUTER_BIAS: "layers.{layer}.mlp.router.bias",
        Role.EXPERT_GATE: _EXPERTS + "{expert}.gate_proj.weight",
        Role.EXPERT_UP: _EXPERTS + "{expert}.up_proj.weight",
        Role.EXPERT_DOWN: _EXPERTS + "{expert}.down_proj.weight",
        Role.EXPERT_GATE_BIAS: _EXPERTS + "{expert}.gate_proj.bias",
        Role.EXPERT_UP_BIAS: _EXPERTS + "{expert}.up_proj.bias",
        Role.EXPERT_DOWN_BIAS: _EXPERTS + "{expert}.down_proj.bias",
    },
    Stacked(_EXPERTS + "gate_up_proj_blocks", _GATE_UP, alternating=True, released=True),
    Stacked(_EXPERTS + "down_proj_blocks", (Role.EXPERT_DOWN,), released=True),
    Stacked(_EXPERTS + "gate_up_proj", _GATE_UP, alternating=True, transposed=True),
    Stacked(_EXPERTS + "down_proj", (Role.EXPERT_DOWN,), transposed=True),
    Stacked(_EXPERTS + "gate_up_proj_bias", _GATE_UP_BIAS, alternating=True, released=True),
    Stacked(_EXPERTS + "down_proj_bias", (Role.EXPERT_DOWN_BIAS,), released=True),
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a GPT-OSS configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    if not config.has("rope_parameters") and not config.has("rope_scaling"):
        config = ConfigReader({"rope_scaling": _ROPE}, config.where).merged_over(config)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-5, high=1.0))
    bias = config.flag("attention_bias", True)
    window = config.integer("sliding_window", _WINDOW, high=MAX_POSITIONS)
    attentions = [
        read_attention(
            config,
            geometry,
            kind=kind,
            rope=RopeDefaults(theta=150000.0),
            window=window if kind is AttentionKind.SLIDING else None,
            qkv_bias=bias,
            output_bias=bias,
            sinks=True,
        )
        for kind in layer_kinds(config, geometry.num_layers, lambda index: index % 2 == 0)
    ]
    experts, chosen = read_counts(config, ("num_local_experts", "num_experts"), 128, 4)
    config.must_be_default("hidden_act", "silu")  # and the experts' own is this one
    config.must_be_default("swiglu_alpha", 1.702)
    moe = MoeSpec(
        RoutingSpec(experts, chosen, Scoring.SOFTMAX_OF_CHOSEN, bias=True),
        FfnSpec(
            geometry.intermediate_size,
            Activation.GELU_SIGMOID,
            bias=True,
            limit=config.number("swiglu_limit", 7.0),
            up_offset=1.0,
        ),
    )
    layers = make_layers(attentions, moe, norm)
    return make_model(config, geometry, layers, family=FAMILY.name, tied=False, naming=_NAMING)


FAMILY = Family(
    name="gpt_oss",
    model_types=("gpt_oss",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("experts, biases and attention sinks are not in the vindex"),
)
