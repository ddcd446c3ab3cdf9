"""What the Qwen families share: which layers slide."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from vindex.errors import Unsupported
from vindex.families import _gguf_config, _larql_index
from vindex.families._assemble import layer_kinds, read_attention
from vindex.families._base import GgufFacts, Rebuilt
from vindex.families._config import MAX_LAYERS, MAX_POSITIONS, ConfigReader
from vindex.families._geometry import Geometry
from vindex.families._rope import RopeDefaults
from vindex.index import VindexIndex
from vindex.spec import AttentionKind, AttentionSpec

_DEFAULT_WINDOW = 4096
_DEFAULT_FULL_LAYERS = 28


def read_attentions(
    config: ConfigReader, geometry: Geometry, *, alternating: bool = False, **changes: Any
) -> tuple[AttentionSpec, ...]:
    """The attention of every layer.

    Args:
        alternating: without ``layer_types`` every second layer slides, from the first on, below
            ``max_window_layers``, instead of all from there on.
        changes: fields of ``AttentionSpec`` that the family decides.
    """
    slides = config.flag("use_sliding_window", False) and not (
        config.states("sliding_window") and not config.has("sliding_window")
    )
    full_layers = config.integer("max_window_layers", _DEFAULT_FULL_LAYERS, low=0, high=MAX_LAYERS)

    def slides_at(index: int) -> bool:
        if alternating:
            return slides and index % 2 == 0 and index < full_layers
        return slides and index >= full_layers

    kinds = layer_kinds(config, geometry.num_layers, slides_at)
    window = (
        config.integer("sliding_window", _DEFAULT_WINDOW, high=MAX_POSITIONS) if slides else None
    )
    attentions = {
        kind: read_attention(
            config,
            geometry,
            # Without a window a layer that is listed as sliding sees everything.
            kind=AttentionKind.FULL if window is None else kind,
            rope=RopeDefaults(),
            window=window if kind is AttentionKind.SLIDING else None,
            **changes,
        )
        for kind in AttentionKind
    }
    return tuple(attentions[kind] for kind in kinds)


def rebuild(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
    """What larql records; it keeps the window, but not whether and where it is used.

    Raises:
        Unsupported: there is a window.
    """
    rebuilt = _larql_index.rebuild(index, have_keys, embed_scale=1.0)
    if _larql_index.runs(index) and "sliding_window" in rebuilt.config:
        raise Unsupported(
            "index.json records a sliding window, but not which layers use it",
            hint=_larql_index.SUPPLY_CONFIG,
        )
    return _larql_index.assume_unscaled(rebuilt, index)


def gguf_config(facts: GgufFacts, *, experts: bool = False) -> dict[str, Any]:
    """What ``config.json`` has in common for Qwen's GGUF files, which never slide."""
    config = _gguf_config.common(facts, experts=experts)
    _gguf_config.reader(facts).must_be_default("attention.sliding_window")
    config["model_type"] = facts.architecture
    config["hidden_act"] = "silu"
    config["use_sliding_window"] = False
    config["rope_scaling"] = _gguf_config.rope_scaling(facts)
    return config


def gguf_moe_config(facts: GgufFacts, model_type: str, *, normalised: bool) -> dict[str, Any]:
    """``config.json`` of a GGUF file with experts in every layer.

    Args:
        facts: of the file.
        model_type: of the configuration.
        normalised: what all releases of the family and llama.cpp do with the experts' weights;
            files say nothing about it.
    """
    own = _gguf_config.reader(facts)
    own.must_be_default("expert_weights_norm", normalised)
    config = gguf_config(facts, experts=True) | _gguf_config.expert_counts(own)
    return config | {
        "model_type": model_type,
        "moe_intermediate_size": own.integer("expert_feed_forward_length"),
        "norm_topk_prob": normalised,
    }
