"""Qwen 1.5 and 2 with experts: Qwen 2 with a shared expert behind a sigmoid beside the others."""

from __future__ import annotations

from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_mixed_layers, make_model
from vindex.families._base import Family, GgufFacts, GgufRules
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._moe import MLP_EXPERTS, read_counts, sparse_layers
from vindex.families._qwen import gguf_moe_config, read_attentions
from vindex.spec import FfnSpec, ModelSpec, MoeSpec, NormKind, NormSpec, Role, RoutingSpec

_DEFAULTS = Defaults(max_positions=32768, kv_heads=16)
_NAMING = MLP_EXPERTS.with_experts(
    {
        Role.SHARED_GATE: "layers.{layer}.mlp.shared_expert.gate_proj.weight",
        Role.SHARED_UP: "layers.{layer}.mlp.shared_expert.up_proj.weight",
        Role.SHARED_DOWN: "layers.{layer}.mlp.shared_expert.down_proj.weight",
        Role.SHARED_SWITCH: "layers.{layer}.mlp.shared_expert_gate.weight",
    }
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Qwen 2 MoE configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    attentions = read_attentions(
        config, geometry, alternating=True, qkv_bias=config.flag("qkv_bias", True)
    )
    experts, chosen = read_counts(config, ("num_experts", "num_local_experts"), 60, 4)
    activation = config.activation("hidden_act", "silu")
    moe = MoeSpec(
        RoutingSpec(experts, chosen, normalised=config.flag("norm_topk_prob", False)),
        FfnSpec(config.integer("moe_intermediate_size", 1408), activation),
        shared=FfnSpec(config.integer("shared_expert_intermediate_size", 5632), activation),
        shared_switch=True,
    )
    layers = make_mixed_layers(attentions, sparse_layers(config, geometry, moe), norm)
    return make_model(config, geometry, layers, family=FAMILY.name, tied=False, naming=_NAMING)


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``qwen2moe``."""
    shared = facts.rows("blk.0.ffn_up_shexp.weight")
    return gguf_moe_config(facts, "qwen2_moe", normalised=False) | {
        "shared_expert_intermediate_size": shared,
        "qkv_bias": facts.has_tensor("blk.0.attn_q.bias"),
    }


FAMILY = Family(
    name="qwen2_moe",
    model_types=("qwen2_moe",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("the shared experts and the biases are not in the vindex"),
    gguf=GgufRules(architectures=("qwen2moe",), config=gguf_config, known=_gguf_config.EXPERT_KEYS),
)
