"""Rows of models with experts; those of Gemma 4 are with its other rows."""

from __future__ import annotations

from typing import Any

import torch

from tests.parity.checkpoints import COMMON, PLAIN_ROPE, WINDOW, Config, Row

_MILLION: Config = {"rope_type": "default", "rope_theta": 1000000.0}


def _config(model_type: str, **changes: Any) -> Config:
    return {
        "model_type": model_type,
        **COMMON,
        "num_hidden_layers": 4,
        "tie_word_embeddings": False,
        "rope_parameters": PLAIN_ROPE,
        "num_experts_per_tok": 2,
        **changes,
    }


def _mixtral(**changes: Any) -> Config:
    return _config("mixtral", num_local_experts=5, rope_parameters=_MILLION, **changes)


def _qwen2_moe(**changes: Any) -> Config:
    return _config(
        "qwen2_moe",
        num_experts=6,
        moe_intermediate_size=40,
        shared_expert_intermediate_size=72,
        **changes,
    )


def _qwen3_moe(**changes: Any) -> Config:
    return _config(
        "qwen3_moe",
        num_experts=6,
        moe_intermediate_size=40,
        head_dim=32,
        rope_parameters=_MILLION,
        **changes,
    )


MOE = (
    Row("mixtral", _mixtral()),
    Row("mixtral-sliding", _mixtral(sliding_window=WINDOW), fused_experts=True),
    Row("mixtral-bf16", _mixtral(), dtype=torch.bfloat16),
    Row("qwen2-moe", _qwen2_moe(num_hidden_layers=5, mlp_only_layers=[1], num_experts_per_tok=3)),
    Row(
        "qwen2-moe-sliding",
        _qwen2_moe(
            norm_topk_prob=True,
            qkv_bias=False,
            decoder_sparse_step=2,
            sliding_window=WINDOW,
            use_sliding_window=True,
            max_window_layers=3,
        ),
        fused_experts=True,
    ),
    Row("qwen3-moe", _qwen3_moe(num_hidden_layers=5, mlp_only_layers=[3], norm_topk_prob=True)),
    Row(
        "qwen3-moe-sliding",
        _qwen3_moe(
            attention_bias=True,
            decoder_sparse_step=2,
            sliding_window=WINDOW,
            use_sliding_window=True,
            tie_word_embeddings=True,
        ),
        fused_experts=True,
    ),
    Row("qwen3-moe-bf16", _qwen3_moe(norm_topk_prob=True), dtype=torch.bfloat16),
)
