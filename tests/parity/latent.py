"""Rows of DeepSeek 2 and 3 and GPT-OSS: latents and sinks, and the experts of those models."""

from __future__ import annotations

from typing import Any

import torch

from tests.parity.checkpoints import COMMON, WINDOW, Config, Row

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


def _deepseek_v3(**changes: Any) -> Config:
    config = deepseek(
        3,
        first_k_dense_replace=1,
        n_routed_experts=8,
        num_experts_per_tok=3,
        n_group=4,
        topk_group=2,
        n_shared_experts=1,
    )
    return {**config, **changes}


def _gpt_oss(**changes: Any) -> Config:
    return {
        "model_type": "gpt_oss",
        **COMMON,
        "num_hidden_layers": _LAYERS,
        "intermediate_size": 40,
        "head_dim": 32,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "sliding_window": WINDOW,
        "swiglu_limit": 0.4,
        "tie_word_embeddings": False,
        "rope_parameters": {**_YARN, "rope_theta": 150000.0, "factor": 8.0, "truncate": False},
        **changes,
    }


_LISTED = ["full_attention", "full_attention", "sliding_attention", "full_attention"]
_UNEQUAL: Config = {**_YARN, "mscale": 0.707, "mscale_all_dim": 1.1}
_PLAIN: Config = {"rope_type": "default", "rope_theta": 10000.0}

LATENT = (
    Row(
        "deepseek-v2",
        deepseek(
            2,
            first_k_dense_replace=1,
            q_lora_rank=None,
            num_experts_per_tok=2,
            n_shared_experts=2,
            routed_scaling_factor=1.3,
        ),
    ),
    Row(
        "deepseek-v2-groups",
        deepseek(
            2,
            first_k_dense_replace=1,
            num_experts_per_tok=3,
            n_group=3,
            topk_group=2,
            topk_method="group_limited_greedy",
            n_shared_experts=1,
        ),
        fused_experts=True,
    ),
    Row("deepseek-v3", _deepseek_v3()),
    Row("deepseek-v3-plain", _deepseek_v3(norm_topk_prob=False, n_group=1, topk_group=1)),
    Row("deepseek-v3-bf16", _deepseek_v3(), dtype=torch.bfloat16),
    Row("gpt-oss", _gpt_oss()),
    Row(
        "gpt-oss-full",
        _gpt_oss(attention_bias=False, sliding_window=11, layer_types=_LISTED, swiglu_limit=1.0),
        listed=True,
    ),
    Row("gpt-oss-bf16", _gpt_oss(), dtype=torch.bfloat16),
    Row("gpt-oss-mxfp4", _gpt_oss(intermediate_size=32), mxfp4=True),
    Row("deepseek-v2-dense", deepseek(2, q_lora_rank=None, rope_parameters=_UNEQUAL)),
    Row("deepseek-v2-dense-bias", deepseek(2, attention_bias=True, mlp_bias=True)),
    Row("deepseek-v2-dense-bf16", deepseek(2), dtype=torch.bfloat16),
    Row("deepseek-v3-dense", deepseek(3)),
    Row("deepseek-v3-dense-halves", deepseek(3, rope_interleave=False, rope_parameters=_PLAIN)),
)
