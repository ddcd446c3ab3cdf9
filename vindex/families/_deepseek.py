"""What DeepSeek 2 and 3 share: latent attention, layers with experts, names of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vindex.families._assemble import make_mixed_layers, make_model, read_attention
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, Geometry, read_geometry
from vindex.families._moe import MAX_EXPERTS, MLP_EXPERTS
from vindex.families._rope import RopeDefaults, score_strength
from vindex.families._tensors import Naming
from vindex.spec import (
    AttentionSpec,
    FfnSpec,
    GroupLimit,
    GroupScore,
    LatentSpec,
    ModelSpec,
    MoeSpec,
    NormKind,
    NormSpec,
    Role,
    RoutingSpec,
)

_ATTENTION = "layers.{layer}.self_attn."
_KEYS = {
    Role.Q_LATENT: _ATTENTION + "q_a_proj.weight",
    Role.Q_LATENT_BIAS: _ATTENTION + "q_a_proj.bias",
    Role.Q_LATENT_NORM: _ATTENTION + "q_a_layernorm.weight",
    Role.KV_LATENT: _ATTENTION + "kv_a_proj_with_mqa.weight",
    Role.KV_LATENT_BIAS: _ATTENTION + "kv_a_proj_with_mqa.bias",
    Role.KV_LATENT_NORM: _ATTENTION + "kv_a_layernorm.weight",
    Role.KV: _ATTENTION + "kv_b_proj.weight",
}
_SHARED = "layers.{layer}.mlp.shared_experts."
_EXPERT_KEYS = {
    Role.ROUTER_CORRECTION_BIAS: "layers.{layer}.mlp.gate.e_score_correction_bias",
    Role.SHARED_GATE: _SHARED + "gate_proj.weight",
    Role.SHARED_UP: _SHARED + "up_proj.weight",
    Role.SHARED_DOWN: _SHARED + "down_proj.weight",
}
_NORM = NormSpec(NormKind.RMS, 1e-6)  # of the latents, whatever rms_norm_eps says


def make_latent_model(
    config: ConfigReader,
    family: str,
    routing: Callable[[ConfigReader], RoutingSpec],
    *,
    max_positions: int,
    interleaved: bool,
    ffn_bias: bool,
    first: int,
    width: int,
    shared: int,
) -> ModelSpec:
    """The specification of a model.

    Args:
        family: its family's name.
        routing: reads which experts are visited; not asked where no layer has any.
        max_positions: what the model reads where the config does not say.
        interleaved: which lanes of the rotated part of a head make a pair.
        ffn_bias: whether FFNs have biases.
        first: the first layer with experts where the config does not say.
        width: features of an expert, likewise.
        shared: how many experts every token visits, likewise; they are kept as one wider one.
    """
    geometry = _geometry_of(config, max_positions)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    attention = _latent_attention(config, geometry, interleaved)
    activation = config.activation("hidden_act", "silu")
    dense = FfnSpec(geometry.intermediate_size, activation, bias=ffn_bias)
    count = geometry.num_layers
    return make_model(
        config,
        geometry,
        make_mixed_layers(
            [attention] * count, _mixed(config, count, dense, routing, first, width, shared), norm
        ),
        family=family,
        tied=False,
        naming=_naming_of(attention),
    )


def _geometry_of(config: ConfigReader, max_positions: int) -> Geometry:
    """The sizes. One key head: the latent. ``head_dim``, where stated, is the rotated part."""
    sizes = {
        "head_dim": _plain_size(config) + _rotary_size(config),
        "num_key_value_heads": 1,
    }
    config = ConfigReader(sizes, config.where).merged_over(config)
    return read_geometry(config, Defaults(max_positions))


def _latent_attention(config: ConfigReader, geometry: Geometry, interleaved: bool) -> AttentionSpec:
    bias = config.flag("attention_bias", False)
    latent = LatentSpec(
        rank=config.integer("kv_lora_rank", 512),
        value_size=config.integer("v_head_dim", 128),
        query_rank=_query_rank(config),
        norm=_NORM,
        bias=bias,
    )
    rope = RopeDefaults(interleaved=interleaved)
    turned = replace(geometry, head_size=_rotary_size(config))
    return read_attention(
        config,
        turned,
        rope=rope,
        head_size=geometry.head_size,
        scale=geometry.head_size**-0.5 * score_strength(config, rope),
        output_bias=bias,
        latent=latent,
    )


def _mixed(
    config: ConfigReader,
    count: int,
    dense: FfnSpec,
    routing: Callable[[ConfigReader], RoutingSpec],
    first: int,
    width: int,
    shared: int,
) -> list[FfnSpec | MoeSpec]:
    """The FFNs of all layers: the first ones are dense, the others have experts."""
    first = config.integer("first_k_dense_replace", first, low=0)
    if first >= count:
        return [dense] * count
    config.must_be_default("moe_layer_freq", 1)
    config.must_be_default("mlp_bias", False)  # the shared experts would have biases too
    width = config.integer("moe_intermediate_size", width)
    both = width * config.integer("n_shared_experts", shared, high=MAX_EXPERTS)
    expert = replace(dense, width=width)
    moe = MoeSpec(routing(config), expert, shared=replace(expert, width=both))
    return [dense if index < first else moe for index in range(count)]


def read_groups(
    config: ConfigReader,
    experts: int,
    chosen: int,
    score: GroupScore,
    default: tuple[int, int] | None = None,
) -> GroupLimit | None:
    """Which groups of experts may be chosen from; ``None`` for all.

    Args:
        default: groups and how many of them are kept where the config does not say.
    """
    groups = config.integer("n_group", default[0] if default else None, high=MAX_EXPERTS)
    kept = config.integer("topk_group", default[1] if default else None, high=MAX_EXPERTS)
    if experts % groups or kept > groups or kept * (experts // groups) < chosen:
        config.contradiction(
            f"n_group is {groups} and topk_group {kept} with {chosen} of {experts} experts",
            "equal groups, and enough experts in those that are kept",
        )
    if score is GroupScore.BEST_TWO and experts // groups < 2:
        config.contradiction(f"n_group is {groups} with {experts} experts", "2 or more in a group")
    return GroupLimit(groups, kept, score) if kept < groups else None


def _naming_of(attention: AttentionSpec) -> Naming:
    """Names of a model's tensors: those of q say what it is made of."""
    latent = attention.latent
    naming = MLP_EXPERTS.but(_KEYS).with_experts(_EXPERT_KEYS)
    if latent is None or latent.query_rank is None:
        return naming
    return naming.but({Role.Q: _ATTENTION + "q_b_proj.weight"})


def _plain_size(config: ConfigReader) -> int:
    return config.integer("qk_nope_head_dim", 128)


def _rotary_size(config: ConfigReader) -> int:
    size = config.integer("qk_rope_head_dim", 64, low=2)
    if size % 2:
        config.contradiction(f"qk_rope_head_dim is {size}", "an even number")
    return size


def _query_rank(config: ConfigReader) -> int | None:
    """``null`` means none, and an absent key the default of transformers' class."""
    if config.states("q_lora_rank") and not config.has("q_lora_rank"):
        return None
    return config.integer("q_lora_rank", 1536)
