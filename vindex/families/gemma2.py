"""Gemma 2: four ``1 + w`` norms per layer, soft caps on scores and logits, even layers slide."""

from __future__ import annotations

import math
from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import layer_kinds, make_layers, make_model, read_attention
from vindex.families._base import Family, GgufFacts, GgufRules
from vindex.families._config import MAX_POSITIONS, ConfigReader
from vindex.families._geometry import Defaults, Geometry, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import FOUR_NORMS
from vindex.spec import (
    AttentionKind,
    AttentionSpec,
    FfnSpec,
    ModelSpec,
    NormKind,
    NormSpec,
    Placement,
)

_DEFAULTS = Defaults(max_positions=8192, vocab_size=256000, heads=8, kv_heads=4, head_size=256)
_DEFAULT_WINDOW = 4096
_ATTENTION_CAP = 50.0
_FINAL_CAP = 30.0
_LAYERS_27B = 46


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Gemma 2 configuration."""
    geometry = read_geometry(config, _DEFAULTS)
    config.must_be_default("use_bidirectional_attention", False)
    norm = NormSpec(NormKind.RMS_OFFSET, config.number("rms_norm_eps", 1e-6, high=1.0))
    attention = {kind: _attention(config, geometry, kind) for kind in AttentionKind}
    kinds = layer_kinds(config, geometry.num_layers, lambda index: index % 2 == 0)
    ffn = FfnSpec(
        geometry.intermediate_size, config.activation("hidden_activation", "gelu_pytorch_tanh")
    )
    return make_model(
        config,
        geometry,
        make_layers([attention[kind] for kind in kinds], ffn, norm, Placement.SANDWICH),
        family=FAMILY.name,
        tied=True,
        naming=FOUR_NORMS,
        embed_scale=math.sqrt(geometry.hidden_size),
        logit_softcap=_cap(config, "final_logit_softcapping", _FINAL_CAP),
    )


def _attention(config: ConfigReader, geometry: Geometry, kind: AttentionKind) -> AttentionSpec:
    bias = config.flag("attention_bias", False)
    window = config.integer("sliding_window", _DEFAULT_WINDOW, high=MAX_POSITIONS)
    return read_attention(
        config,
        geometry,
        kind=kind,
        rope=RopeDefaults(),
        scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5,
        window=window if kind is AttentionKind.SLIDING else None,
        softcap=_cap(config, "attn_logit_softcapping", _ATTENTION_CAP),
        qkv_bias=bias,
        output_bias=bias,
    )


def _cap(config: ConfigReader, key: str, default: float) -> float | None:
    """A soft cap: null is none, absent the default."""
    if config.states(key) and not config.has(key):
        return None
    return config.number(key, default)


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``gemma2``."""
    config = _gguf_config.common(facts)
    own = _gguf_config.reader(facts)
    config["model_type"] = "gemma2"
    # llama.cpp decides by the layer count as well: only the 27B scales by D / H.
    is_27b = config["num_hidden_layers"] == _LAYERS_27B
    config["query_pre_attn_scalar"] = (
        config["hidden_size"] / config["num_attention_heads"] if is_27b else config["head_dim"]
    )
    config["sliding_window"] = own.integer(
        "attention.sliding_window", _DEFAULT_WINDOW, high=MAX_POSITIONS
    )
    config["attn_logit_softcapping"] = own.number("attn_logit_softcapping", _ATTENTION_CAP)
    config["final_logit_softcapping"] = own.number("final_logit_softcapping", _FINAL_CAP)
    config["rope_scaling"] = _gguf_config.rope_scaling(facts)
    return config


FAMILY = Family(
    name="gemma2",
    model_types=("gemma2",),
    prefixes=("model.",),
    build=build,
    from_index=_larql_index.lossy("the soft cap of attention scores is not recorded"),
    gguf=GgufRules(
        architectures=("gemma2",),
        config=gguf_config,
        norm_offset=True,
        known=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
    ),
)
