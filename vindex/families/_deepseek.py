"""What DeepSeek 2 and 3 share: latent attention, and names of its tensors."""

from __future__ import annotations

from dataclasses import replace

from vindex.families._assemble import read_attention
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, Geometry, read_geometry
from vindex.families._rope import RopeDefaults, score_strength
from vindex.families._tensors import LLAMA, Naming
from vindex.spec import AttentionSpec, LatentSpec, NormKind, NormSpec, Role

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
_NORM = NormSpec(NormKind.RMS, 1e-6)  # of the latents, whatever rms_norm_eps says


def geometry_of(config: ConfigReader, max_positions: int) -> Geometry:
    """The sizes. One key head: the latent. ``head_dim``, where stated, is the rotated part."""
    sizes = {
        "head_dim": _plain_size(config) + _rotary_size(config),
        "num_key_value_heads": 1,
    }
    config = ConfigReader(sizes, config.where).merged_over(config)
    return read_geometry(config, Defaults(max_positions))


def latent_attention(
    config: ConfigReader, geometry: Geometry, *, interleaved: bool
) -> AttentionSpec:
    """Attention of every layer.

    Args:
        interleaved: which lanes of the rotated part make a pair.
    """
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


def naming_of(attention: AttentionSpec) -> Naming:
    """Names of a model's tensors: those of q say what it is made of."""
    latent = attention.latent
    if latent is None or latent.query_rank is None:
        return LLAMA.but(_KEYS)
    return LLAMA.but({**_KEYS, Role.Q: _ATTENTION + "q_b_proj.weight"})


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
