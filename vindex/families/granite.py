"""Granite 3: llama with multipliers on embeddings, scores, residual additions and logits."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import ROTARY_INV_FREQ, Family, GgufFacts, GgufRules, Rebuilt
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.index import VindexIndex
from vindex.spec import FfnSpec, ModelSpec, NormKind, NormSpec, Role

_DEFAULTS = Defaults(max_positions=2048)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Granite configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    norm = NormSpec(NormKind.RMS, config.number("rms_norm_eps", 1e-6, high=1.0))
    bias = config.flag("attention_bias", False)
    attention = read_attention(
        config,
        geometry,
        rope=RopeDefaults(),
        scale=config.number("attention_multiplier", 1.0),
        qkv_bias=bias,
        output_bias=bias,
    )
    ffn = FfnSpec(
        geometry.intermediate_size,
        config.activation("hidden_act", "silu"),
        bias=config.flag("mlp_bias", False),
    )
    layers = make_layers(
        [attention] * geometry.num_layers,
        ffn,
        norm,
        residual_multiplier=config.number("residual_multiplier", 1.0),
    )
    return make_model(
        config,
        geometry,
        layers,
        family=FAMILY.name,
        tied=False,
        embed_scale=config.number("embedding_multiplier", 1.0),
        logit_divisor=config.number("logits_scaling", 1.0),
    )


def from_index(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """larql records the multipliers, and everything else but rope scaling, which no release has."""
    rebuilt = _larql_index.rebuild(index, have_keys, embed_scale=None, has_multipliers=True)
    recorded = index.model_config
    assert recorded is not None  # rebuild refuses an index without it
    multipliers = {
        "embedding_multiplier": index.embed_scale,
        "attention_multiplier": recorded.attention_multiplier,
        "residual_multiplier": recorded.residual_multiplier,
        "logits_scaling": recorded.logits_scaling,
        "attention_bias": "layers.0.self_attn.q_proj.bias" in have_keys,
        "mlp_bias": "layers.0.mlp.gate_proj.bias" in have_keys,
    }
    config = {**rebuilt.config, **multipliers}
    return _larql_index.assume_unscaled(Rebuilt(config, rebuilt.notes), index)


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``granite``.

    A file without ``attention.scale`` is refused: the model's own default is another than that of
    llama.cpp.
    """
    config = _gguf_config.common(facts)
    own = _gguf_config.reader(facts)
    own.must_be_default("attention.sliding_window")
    multipliers = {
        "attention_multiplier": own.number("attention.scale"),
        "embedding_multiplier": own.number("embedding_scale", 1.0),
        "residual_multiplier": own.number("residual_scale", 1.0),
        "logits_scaling": own.number("logit_scale", 1.0),
    }
    scaling = _gguf_config.llama3_scaling(facts, config) or _gguf_config.rope_scaling(facts)
    return {
        **config,
        **multipliers,
        "model_type": "granite",
        "hidden_act": "silu",
        "attention_bias": facts.has_tensor("blk.0.attn_q.bias"),
        "mlp_bias": facts.has_tensor("blk.0.ffn_gate.bias"),
        "rope_scaling": scaling,
    }


FAMILY = Family(
    name="granite",
    model_types=("granite",),
    prefixes=("model.",),
    build=build,
    from_index=from_index,
    drops=(ROTARY_INV_FREQ, _gguf_config.ROPE_FREQS),
    gguf=GgufRules(
        architectures=("granite",),
        config=gguf_config,
        permuted=frozenset({Role.Q, Role.K, Role.Q_BIAS, Role.K_BIAS}),
        known=frozenset({"attention.scale", "embedding_scale", "residual_scale", "logit_scale"}),
    ),
)
