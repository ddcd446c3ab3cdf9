"""Gemma 4 configurations for the parity rows: every released plan, small, each special path on.

What is shared with other rows (sizes, vocabulary, epsilon) is added by ``checkpoints``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

Config = dict[str, Any]

# What a vindex keeps in f16 whatever its dtype.
SIDECAR = re.compile(r"per_layer_(model_projection|input_gate|projection)\.|embed_tokens_per_layer")

_TYPES = {"S": "sliding_attention", "F": "full_attention"}
_ROPE: Config = {
    "full_attention": {
        "rope_type": "proportional",
        "partial_rotary_factor": 0.25,
        "rope_theta": 1000000.0,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}


def config(pattern: str, **changes: Any) -> Config:
    """A text configuration in the hub's spelling, without what all rows share.

    Args:
        pattern: S or F for each layer.
        changes: further keys.
    """
    return {
        "model_type": "gemma4_text",
        "num_hidden_layers": len(pattern),
        "layer_types": [_TYPES[letter] for letter in pattern],
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": 8,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 384,
        "final_logit_softcapping": 1.5,
        "tie_word_embeddings": True,
        "rope_parameters": _ROPE,
        **changes,
    }


def hub_spelling(text: Config) -> None:
    """Change a text configuration saved by transformers 5 to the keys of released files."""
    full = [index for index, name in enumerate(text["layer_types"]) if name == _TYPES["F"]]
    overrides = text.pop("per_layer_config")[str(full[0])]
    text["global_head_dim"] = overrides["head_dim"]
    text["num_global_key_value_heads"] = overrides.get("num_key_value_heads")


def multimodal(text: Config) -> Config:
    """The text model inside an image-and-text model."""
    return {
        "model_type": "gemma4",
        "text_config": {**text, "pad_token_id": 0},  # in place of images
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "position_embedding_size": 16,
        },
        "audio_config": None,
    }


def stale_keys(
    saved: Mapping[str, torch.Tensor], random: torch.Generator
) -> dict[str, torch.Tensor]:
    """Noise as k and v of the layers that have none, as released files hold left-overs."""
    found = {}
    for name, query in saved.items():
        match = re.search(r"^(.*self_attn\.)q_proj\.weight$", name)
        if match is None or f"{match[1]}k_proj.weight" in saved:
            continue
        size = saved[f"{match[1]}q_norm.weight"].shape[0]
        for part in ("k_proj", "v_proj"):
            found[f"{match[1]}{part}.weight"] = torch.randn(
                2 * size, query.shape[1], generator=random
            )
        found[f"{match[1]}k_norm.weight"] = torch.randn(size, generator=random)
    return found
