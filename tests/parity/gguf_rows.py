"""The rows that a GGUF file can hold, each as a configuration that llama.cpp's converter keeps.

The others differ in what the converter leaves out: windows of mistral, qwen2, qwen3 and starcoder2,
Gemma 3's pattern of layers, scales of scores that are not the head size's, dynamic rope, key heads
of phi.
"""

from __future__ import annotations

from typing import Any

from tests.parity.checkpoints import PLAIN_ROPE, Row
from tests.parity.rows import ROWS

_BY_NAME = {row.name: row for row in ROWS}
_AS_THEY_ARE = (
    "llama",
    "llama-tied",
    "llama-head-dim",
    "llama-linear-rope",
    "llama-biases",
    "llama-bf16",
    "mistral-full",
    "qwen2-bf16",
    "qwen2-yarn",
    "qwen3",
    "gemma",
    "granite",
    "olmo2",
    "phi3",
    "phi3-short",
    "phi3-sliding",
    "glm4",
    "gpt-neox",
    "gpt-neox-sequential",
    "gpt2",
    "gemma4-keys-are-values",
    "gemma4-e2b",
    "gemma4-e4b-multimodal",
    "gemma4-per-layer",
    "gemma4-unified",
    "gemma4-all-at-once",
    "gemma4-bf16",
    "mixtral",
    "mixtral-bf16",
    "qwen3-moe-bf16",
)


def like(name: str, suffix: str, **changes: Any) -> Row:
    """A row with another configuration, and so other weights."""
    row = _BY_NAME[name]
    return Row(
        f"{name}-{suffix}",
        {**row.config, **changes},
        offset_norms=row.offset_norms,
        dtype=row.dtype,
        listed=row.listed,
    )


_LLAMA3: dict[str, Any] = dict(_BY_NAME["llama-llama3-rope"].config["rope_parameters"])

GGUF_ROWS = (
    *(_BY_NAME[name] for name in _AS_THEY_ARE),
    like(
        "llama-llama3-rope",
        "8192",
        rope_parameters={**_LLAMA3, "original_max_position_embeddings": 8192},
    ),
    like("qwen2-moe", "all-sparse", mlp_only_layers=[]),
    like("qwen3-moe", "all-sparse", mlp_only_layers=[]),
    like("granite", "biases", attention_bias=True, mlp_bias=True),
    like("gemma2", "head-size", query_pre_attn_scalar=24),
    like("gemma3", "every-sixth", query_pre_attn_scalar=24, sliding_window_pattern=6),
    like("starcoder2", "full", sliding_window=None),
    like("phi", "as-many-keys", num_key_value_heads=4),
    like("gpt2", "narrow", n_inner=80),
    like(
        "gpt-neox",
        "odd-share",
        hidden_size=176,  # heads of 44 values, of which 30 turn: 30 / 44 * 44 is less than 30
        rope_parameters={**PLAIN_ROPE, "partial_rotary_factor": 0.69},
    ),
)
