"""Rows of the dense families after llama and Gemma 3."""

from __future__ import annotations

from typing import Any

import torch

from tests.parity.checkpoints import COMMON, EPS, PLAIN_ROPE, VOCABULARY, WINDOW, Config, Row


def _config(model_type: str, **changes: Any) -> Config:
    return {
        "model_type": model_type,
        **COMMON,
        "num_hidden_layers": 4,
        "tie_word_embeddings": False,
        "rope_parameters": PLAIN_ROPE,
        **changes,
    }


def _layer_norm(model_type: str, eps_key: str, **changes: Any) -> Config:
    config = _config(model_type, **{eps_key: EPS, **changes})
    del config["rms_norm_eps"]
    return config


def _gemma2(**changes: Any) -> Config:
    return _config(
        "gemma2",
        head_dim=24,
        query_pre_attn_scalar=40,
        sliding_window=WINDOW,
        attn_logit_softcapping=0.8,
        final_logit_softcapping=1.5,
        tie_word_embeddings=True,
        **changes,
    )


def _gpt_neox(**changes: Any) -> Config:
    config = _layer_norm(
        "gpt_neox",
        "layer_norm_eps",
        rope_parameters={**PLAIN_ROPE, "partial_rotary_factor": 0.25},
        **changes,
    )
    del config["num_key_value_heads"]
    return config


def _learned(model_type: str, **changes: Any) -> Config:
    """A config of a model with learned positions."""
    return {
        "model_type": model_type,
        "vocab_size": VOCABULARY,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": True,
        **changes,
    }


_PARTIAL: Config = {**PLAIN_ROPE, "partial_rotary_factor": 0.5}
_YARN: Config = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LONGROPE: Config = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.05, 1.1, 1.15, 1.2, 1.25],
    "long_factor": [1.5, 2.1, 2.7, 3.3, 3.9, 4.5],
}
_NEOX_KEYS = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
_MILLION: Config = {"rope_type": "default", "rope_theta": 1000000.0}

DENSE = (
    Row("mistral", _config("mistral", head_dim=24, sliding_window=WINDOW)),
    Row("mistral-full", _config("mistral", sliding_window=None)),
    Row(
        "qwen2",
        _config(
            "qwen2",
            num_hidden_layers=5,
            sliding_window=WINDOW,
            use_sliding_window=True,
            max_window_layers=2,
            tie_word_embeddings=True,
            rope_parameters=_MILLION,
        ),
    ),
    Row(
        "qwen2-yarn",
        _config("qwen2", head_dim=32, max_position_embeddings=64, rope_parameters=_YARN),
    ),
    Row(
        "qwen2-yarn-mscale",
        _config(
            "qwen2",
            max_position_embeddings=64,
            rope_parameters={
                **_YARN,
                "mscale": 1.5,
                "mscale_all_dim": 0.8,
                "beta_fast": 16.0,
                "beta_slow": 0.5,
                "truncate": False,
            },
        ),
    ),
    Row("qwen2-bf16", _config("qwen2"), dtype=torch.bfloat16),
    Row(
        "qwen3",
        _config("qwen3", head_dim=32, tie_word_embeddings=True, rope_parameters=_MILLION),
    ),
    Row(
        "qwen3-sliding",
        _config(
            "qwen3",
            head_dim=24,
            attention_bias=True,
            sliding_window=WINDOW,
            use_sliding_window=True,
            max_window_layers=1,
        ),
    ),
    Row(
        "gemma",
        _config("gemma", head_dim=24, num_key_value_heads=1, tie_word_embeddings=True),
        offset_norms=True,
    ),
    Row("gemma2", _gemma2(), offset_norms=True),
    Row(
        "granite",
        _config(
            "granite",
            attention_multiplier=0.09,
            embedding_multiplier=6.0,
            residual_multiplier=0.6,
            logits_scaling=2.0,
            tie_word_embeddings=True,
        ),
    ),
    Row(
        "olmo2",
        _config("olmo2", rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
    ),
    Row(
        "phi3",
        _config(
            "phi3",
            max_position_embeddings=128,
            original_max_position_embeddings=32,
            rope_parameters=_LONGROPE,
        ),
        by_length=True,
    ),
    Row(
        "phi3-short",
        _config(
            "phi3",
            max_position_embeddings=192,
            original_max_position_embeddings=96,
            rope_parameters=_LONGROPE,
        ),
        hub_keys={"longrope": "su"},
    ),
    Row("phi3-sliding", _config("phi3", num_key_value_heads=4, sliding_window=WINDOW)),
    Row("glm4", _config("glm4", head_dim=24, attention_bias=True, rope_parameters=_PARTIAL)),
    Row(
        "starcoder2",
        _layer_norm("starcoder2", "norm_epsilon", sliding_window=WINDOW, tie_word_embeddings=True),
    ),
    Row("gpt-neox", _gpt_neox(), hub_keys=_NEOX_KEYS),
    Row("gpt-neox-sequential", _gpt_neox(use_parallel_residual=False), hub_keys=_NEOX_KEYS),
    Row("phi", _layer_norm("phi", "layer_norm_eps", rope_parameters=_PARTIAL)),
    Row(
        "phi-qk-norm",
        _layer_norm("phi", "layer_norm_eps", rope_parameters=_PARTIAL, qk_layernorm=True),
    ),
    Row(
        "gpt2",
        _learned("gpt2", n_embd=64, n_layer=4, n_head=4, n_positions=128, layer_norm_epsilon=EPS),
    ),
    Row(
        "opt",
        _learned(
            "opt",
            hidden_size=64,
            word_embed_proj_dim=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            ffn_dim=112,
            max_position_embeddings=128,
            dropout=0.0,
        ),
    ),
    Row(
        "opt-350m",
        _learned(
            "opt",
            hidden_size=64,
            word_embed_proj_dim=40,
            do_layer_norm_before=False,
            num_hidden_layers=4,
            num_attention_heads=4,
            ffn_dim=112,
            max_position_embeddings=128,
            dropout=0.0,
        ),
    ),
)
