"""Gemma 1: llama with ``1 + w`` norms, tanh GELU, embeddings times sqrt(D) and a tied head."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import make_layers, make_model, read_attention
from vindex.families._base import Family, GgufFacts, GgufRules, Rebuilt
from vindex.families._config import ConfigReader
from vindex.families._geometry import Defaults, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.index import VindexIndex
from vindex.spec import Activation, FfnSpec, ModelSpec, NormKind, NormSpec

_DEFAULTS = Defaults(max_positions=8192, vocab_size=256000, heads=16, head_size=256)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Gemma configuration.

    Releases name the activation ``gelu`` under ``hidden_act`` and mean its tanh form.
    """
    geometry = read_geometry(config, _DEFAULTS)
    config.must_be_default("use_bidirectional_attention", False)
    norm = NormSpec(NormKind.RMS_OFFSET, config.number("rms_norm_eps", 1e-6, high=1.0))
    bias = config.flag("attention_bias", False)
    attention = read_attention(
        config, geometry, rope=RopeDefaults(), qkv_bias=bias, output_bias=bias
    )
    for key in ("hidden_act", "hidden_activation"):
        config.must_be_default(key, "gelu", "gelu_pytorch_tanh")
    ffn = FfnSpec(geometry.intermediate_size, Activation.GELU_TANH)
    return make_model(
        config,
        geometry,
        make_layers([attention] * geometry.num_layers, ffn, norm),
        family=FAMILY.name,
        tied=True,
        embed_scale=math.sqrt(geometry.hidden_size),
    )


def from_index(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """larql records everything of a Gemma 1 but rope scaling, which no release has."""
    return _larql_index.assume_unscaled(
        _larql_index.rebuild(
            index, have_keys, embed_scale=math.sqrt(index.hidden_size), tied_by_family=True
        ),
        index,
    )


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``gemma``."""
    config = _gguf_config.common(facts)
    _gguf_config.reader(facts).must_be_default("attention.sliding_window")
    config["model_type"] = "gemma"
    config["rope_scaling"] = _gguf_config.rope_scaling(facts)
    return config


FAMILY = Family(
    name="gemma",
    model_types=("gemma",),
    prefixes=("model.",),
    build=build,
    from_index=from_index,
    gguf=GgufRules(architectures=("gemma",), config=gguf_config, norm_offset=True),
)
