"""Gemma 3 text models, alone (``gemma3_text``) or inside the multimodal ``gemma3``.

Four ``1 + w`` norms per layer, per-head norms on q and k, two ropes (scaled for full layers, plain
with a base of its own for sliding ones), embeddings times sqrt(D), tied head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container
from typing import Any

from vindex.errors import Unsupported
from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import layer_kinds, make_layers, make_model, read_attention
from vindex.families._base import (
    ROTARY_INV_FREQ,
    DropRule,
    Family,
    GgufFacts,
    GgufRules,
    Rebuilt,
)
from vindex.families._config import MAX_POSITIONS, ConfigReader
from vindex.families._geometry import Defaults, Geometry, read_geometry
from vindex.families._rope import RopeDefaults
from vindex.families._tensors import FOUR_NORMS
from vindex.index import VindexIndex
from vindex.spec import (
    AttentionKind,
    AttentionSpec,
    FfnSpec,
    ModelSpec,
    NormKind,
    NormSpec,
    Placement,
)

# Released multimodal configs leave these out and rely on transformers' class defaults.
_DEFAULTS = Defaults(max_positions=131072, vocab_size=262208, heads=8, kv_heads=4, head_size=256)
_DEFAULT_WINDOW = 4096
_DEFAULT_PATTERN = 6
_LAYERS_27B = 62
_STRETCHED_LAYERS = (34, 48, _LAYERS_27B)  # 4B, 12B, 27B
_THETA = 1000000.0
_LOCAL_ROPE = RopeDefaults(local_theta_key="rope_local_base_freq")

_VISION = DropRule(
    "gemma3-vision-tower",
    re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\."),
    "image input is not part of the text model",
)


def build(config: ConfigReader) -> ModelSpec:
    """The specification of a Gemma 3 configuration, multimodal or text-only."""
    text = config.section("text_config")
    if text is not None:
        config = text.merged_over(config)
    geometry = read_geometry(config, _DEFAULTS)
    config.must_be_default("use_bidirectional_attention", False)
    norm = NormSpec(NormKind.RMS_OFFSET, config.number("rms_norm_eps", 1e-6, high=1.0))
    ffn = FfnSpec(
        width=geometry.intermediate_size,
        activation=config.activation("hidden_activation", "gelu_pytorch_tanh"),
    )
    attention = {kind: _attention(config, geometry, kind, norm) for kind in AttentionKind}
    pattern = config.integer("sliding_window_pattern", _DEFAULT_PATTERN)
    kinds = layer_kinds(config, geometry.num_layers, lambda index: bool((index + 1) % pattern))
    return make_model(
        config,
        geometry,
        make_layers([attention[kind] for kind in kinds], ffn, norm, Placement.SANDWICH),
        family=FAMILY.name,
        tied=True,
        naming=FOUR_NORMS,
        embed_scale=math.sqrt(geometry.hidden_size),
        logit_softcap=config.number_or_none("final_logit_softcapping"),
    )


def _attention(
    config: ConfigReader, geometry: Geometry, kind: AttentionKind, norm: NormSpec
) -> AttentionSpec:
    bias = config.flag("attention_bias", False)
    sliding = kind is AttentionKind.SLIDING
    window = config.integer("sliding_window", _DEFAULT_WINDOW, high=MAX_POSITIONS)
    return read_attention(
        config,
        geometry,
        kind=kind,
        rope=_LOCAL_ROPE if sliding else RopeDefaults(theta=_THETA),
        scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5,
        window=window if sliding else None,
        qk_norm=norm,
        qkv_bias=bias,
        output_bias=bias,
    )


def from_index(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """larql records everything of a Gemma 3 but the linear rope factor of 4B and larger.

    Those releases are known by their layer count. A rope base other than Gemma 3's means that
    larql could not read the config's spelling and wrote its own default.
    """
    rebuilt = _larql_index.rebuild(
        index, have_keys, embed_scale=math.sqrt(index.hidden_size), tied_by_family=True
    )
    if not _larql_index.runs(index):
        return rebuilt
    theta = rebuilt.config["rope_theta"]
    if theta != _THETA:
        raise Unsupported(
            f"index.json: rope_base is {theta:g}, expected {_THETA:g} for Gemma 3",
            hint=_larql_index.SUPPLY_CONFIG,
        )
    if index.num_layers in _STRETCHED_LAYERS:
        rebuilt.config["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
        note = (
            "index.json does not record rope scaling; the factor 8 of the released Gemma 3 with"
            f" {index.num_layers} layers is assumed"
        )
    else:
        note = "index.json does not record rope scaling; none is assumed"
    return Rebuilt(rebuilt.config, (*rebuilt.notes, note))


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``gemma3``."""
    config = _gguf_config.common(facts)
    config["model_type"] = "gemma3_text"
    config["hidden_activation"] = "gelu_pytorch_tanh"
    # llama.cpp decides by the layer count as well: only the 27B scales by D / H.
    is_27b = config["num_hidden_layers"] == _LAYERS_27B
    config["query_pre_attn_scalar"] = (
        config["hidden_size"] / config["num_attention_heads"] if is_27b else config["head_dim"]
    )
    own = _gguf_config.reader(facts)
    config["sliding_window"] = own.integer("attention.sliding_window", high=MAX_POSITIONS)
    config["rope_local_base_freq"] = own.number("rope.freq_base_swa", 10000.0)
    if own.has("final_logit_softcapping"):
        config["final_logit_softcapping"] = own.number("final_logit_softcapping")
    slides = own.get("attention.sliding_window_pattern")
    if isinstance(slides, list):
        kinds = [AttentionKind.SLIDING if flag else AttentionKind.FULL for flag in slides]
        config["layer_types"] = [kind.value for kind in kinds]
    else:
        config["sliding_window_pattern"] = _DEFAULT_PATTERN if slides is None else slides
    config["rope_scaling"] = _gguf_config.rope_scaling(facts)
    return config


FAMILY = Family(
    name="gemma3",
    model_types=("gemma3_text", "gemma3"),
    prefixes=("model.language_model.", "language_model.model.", "language_model.", "model."),
    build=build,
    from_index=from_index,
    drops=(ROTARY_INV_FREQ, _VISION),
    gguf=GgufRules(
        architectures=("gemma3",),
        config=gguf_config,
        norm_offset=True,
        known=frozenset(
            {
                "attention.sliding_window_pattern",
                "rope.freq_base_swa",
                "final_logit_softcapping",
            }
        ),
    ),
)
