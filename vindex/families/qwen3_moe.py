"""Qwen 3 with experts in the place of its FFNs."""

from __future__ import annotations

from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_mixed_layers, make_model, read_attention
from vindex.families._base import Family, GgufFacts, GgufRules
from vindex.families._config import MAX_POSITIONS, ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._moe import MLP_EXPERTS, read_counts, sparse_layers
from vindex.families._qwen import gguf_moe_config
from vindex.families._rope import RopeDefaults
from vindex.spec import (
    AttentionKind,
    FfnSpec,
    ModelSpec,
    MoeSpec,
    NormKind,
    NormSpec,
    RoutingSpec,
)

_DEFAULTS = Defaults(max_positions=32768, kv_heads=4)
_DEFAULT_WINDOW = 4096


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Qwen 3 MoE configuration.

    Unlike its dense siblings it slides in all layers or in none, and without ``head_dim`` has
    heads of ``D / H``.
    """
    geometry = read_geometry(config, _DEFAULTS)
    config.must_be_default("layer_types")
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    bias = config.flag("attention_bias", False)
    window = None
    if config.flag("use_sliding_window", False) and (
        config.has("sliding_window") or not config.states("sliding_window")
    ):
        window = config.integer("sliding_window", _DEFAULT_WINDOW, high=MAX_POSITIONS)
    attention = read_attention(
        config,
        geometry,
        kind=AttentionKind.FULL if window is None else AttentionKind.SLIDING,
        rope=RopeDefaults(),
        window=window,
        qk_norm=norm,
        qkv_bias=bias,
        output_bias=bias,
    )
    experts, chosen = read_counts(config, ("num_experts", "num_local_experts"), 128, 8)
    moe = MoeSpec(
        RoutingSpec(experts, chosen, normalised=config.flag("norm_topk_prob", False)),
        FfnSpec(
            config.integer("moe_intermediate_size", 768), config.activation("hidden_act", "silu")
        ),
    )
    ffns = sparse_layers(config, geometry, moe)
    layers = make_mixed_layers([attention] * geometry.num_layers, ffns, norm)
    return make_model(config, geometry, layers, family=FAMILY.name, tied=False, naming=MLP_EXPERTS)


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``qwen3moe``."""
    return gguf_moe_config(facts, "qwen3_moe", normalised=True)


FAMILY = Family(
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy(
        "which layers have experts, and how their weights are scaled, is not recorded"
    ),
    gguf=GgufRules(architectures=("qwen3moe",), config=gguf_config, known=_gguf_config.EXPERT_KEYS),
)
