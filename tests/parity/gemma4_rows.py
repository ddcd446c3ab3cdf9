"""Rows of Gemma 4."""

from __future__ import annotations

from typing import Any

import torch

from tests.parity import gemma4
from tests.parity.checkpoints import COMMON, Config, Row


def _gemma4(pattern: str, **changes: Any) -> Config:
    return {**COMMON, **gemma4.config(pattern, **changes)}


GEMMA4 = (
    Row(
        "gemma4-keys-are-values",
        _gemma4("SSFSSF", attention_k_eq_v=True, num_global_key_value_heads=1),
        listed=True,
        head_norms=0.5,
    ),
    Row(
        "gemma4-e2b",
        _gemma4(
            "SSFSFSSFSF",
            hidden_size_per_layer_input=8,
            num_key_value_heads=1,
            num_kv_shared_layers=5,
            use_double_wide_mlp=True,
        ),
        listed=True,
        head_norms=0.5,
    ),
    Row(
        "gemma4-e4b-multimodal",
        gemma4.multimodal(
            _gemma4("SSFSSSFSF", hidden_size_per_layer_input=12, num_kv_shared_layers=4)
        ),
        listed=True,
        head_norms=0.5,
        multimodal=True,
        stale_keys=True,
    ),
    Row("gemma4-per-layer", _gemma4("SSSSSF", hidden_size_per_layer_input=8), head_norms=0.5),
    Row(
        "gemma4-unified",
        _gemma4(
            "SSFSSF",
            model_type="gemma4_unified_text",
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
        ),
        listed=True,
        head_norms=0.5,
    ),
    Row(
        "gemma4-26b-a4b",
        _gemma4(
            "SSFSSF",
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            enable_moe_block=True,
            num_experts=8,
            top_k_experts=3,
            moe_intermediate_size=24,
        ),
        listed=True,
        head_norms=0.5,
    ),
    Row(
        "gemma4-all-at-once",
        _gemma4(
            "SFSSFSSF",
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=3,
            use_double_wide_mlp=True,
        ),
        listed=True,
        head_norms=0.5,
        stale_keys=True,
    ),
    Row(
        "gemma4-all-and-experts",
        _gemma4(
            "SFSSFSSF",
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=3,
            use_double_wide_mlp=True,
            enable_moe_block=True,
            num_experts=6,
            top_k_experts=2,
            moe_intermediate_size=24,
        ),
        listed=True,
        head_norms=0.5,
        stale_keys=True,
    ),
    Row(
        "gemma4-bf16",
        _gemma4("SSFSSF", hidden_size_per_layer_input=8, num_kv_shared_layers=2),
        listed=True,
        head_norms=0.5,
        dtype=torch.bfloat16,
    ),
)
