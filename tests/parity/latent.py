"""Rows of attention that is not grouped queries alone: latents, norms of heads with a mean."""

from __future__ import annotations

from typing import Any

import torch

from tests.parity.checkpoints import COMMON, Config, Row

_YARN: Config = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 16,
}
_LAYERS = 4


def deepseek(version: int, **changes: Any) -> Config:
    """A DeepSeek configuration without experts unless ``first_k_dense_replace`` says so."""
    config = {
        "model_type": f"deepseek_v{version}",
        **COMMON,
        "num_hidden_layers": _LAYERS,
        "first_k_dense_replace": _LAYERS,
        "num_key_value_heads": 4,
        "kv_lora_rank": 24,
        "q_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "moe_intermediate_size": 32,
        "n_routed_experts": 6,
        "tie_word_embeddings": False,
        "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    }
    return {**config, **changes}


_UNEQUAL: Config = {**_YARN, "mscale": 0.707, "mscale_all_dim": 1.1}
_PLAIN: Config = {"rope_type": "default", "rope_theta": 10000.0}

LATENT = (
    Row("deepseek-v2-dense", deepseek(2, q_lora_rank=None, rope_parameters=_UNEQUAL)),
    Row("deepseek-v2-dense-bias", deepseek(2, attention_bias=True, mlp_bias=True)),
    Row("deepseek-v2-dense-bf16", deepseek(2), dtype=torch.bfloat16),
    Row("deepseek-v3-dense", deepseek(3)),
    Row("deepseek-v3-dense-halves", deepseek(3, rope_interleave=False, rope_parameters=_PLAIN)),
)
