"""Configurations as released, what they refuse, and checkpoints in the released encodings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.unit.tiny_models import VOCABULARY, byte_tokenizer
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.checkpoint.cutting import source_key
from vindex.errors import CheckpointError, LedgerRefusal, Unsupported
from vindex.families import spec_from_config
from vindex.kinds import StorageDtype
from vindex.spec import (
    Activation,
    FfnSpec,
    GroupLimit,
    GroupScore,
    ModelSpec,
    MoeSpec,
    RopeScaling,
    Scoring,
    TensorSpec,
)

V3: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-6,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}
V2_LITE: dict[str, Any] = {
    **V3,
    "model_type": "deepseek_v2",
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "quantization_config": None,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "topk_group": 1,
    "topk_method": "greedy",
    "vocab_size": 102400,
}
GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "attention_bias": True,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "quantization_config": {"quant_method": "mxfp4"},
    "rms_norm_eps": 1e-5,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}


def moe_of(spec: ModelSpec, layer: int) -> MoeSpec:
    ffn = spec.layers[layer].ffn
    assert isinstance(ffn, MoeSpec)
    return ffn


def by_key(spec: ModelSpec) -> dict[str, TensorSpec]:
    return {tensor.key: tensor for tensor in spec.tensors}


def test_deepseek_v3_as_released() -> None:
    spec = spec_from_config(V3)
    attention = spec.layers[0].attention
    assert attention.latent is not None
    assert (attention.head_size, attention.plain_size, attention.latent.value_size) == (
        192,
        128,
        128,
    )
    strength = 0.1 * math.log(40) + 1
    assert attention.scale == pytest.approx(192**-0.5 * strength**2)
    assert attention.rope is not None
    assert (attention.rope.rotary_size, attention.rope.attention_factor) == (64, 1.0)
    assert isinstance(spec.layers[2].ffn, FfnSpec)
    moe = moe_of(spec, 3)
    routing = moe.routing
    assert (routing.experts, routing.chosen, routing.factor) == (256, 8, 2.5)
    assert (routing.scoring, routing.correction, routing.normalised) == (
        Scoring.SIGMOID,
        True,
        True,
    )
    assert routing.groups == GroupLimit(8, 4, GroupScore.BEST_TWO)
    assert moe.shared is not None
    assert moe.shared.width == 2048
    shapes = {key: tensor.shape for key, tensor in by_key(spec).items()}
    layer = "layers.60.self_attn."
    assert shapes[layer + "q_a_proj.weight"] == (1536, 7168)
    assert shapes[layer + "q_b_proj.weight"] == (24576, 1536)
    assert shapes[layer + "kv_a_proj_with_mqa.weight"] == (576, 7168)
    assert shapes[layer + "kv_b_proj.weight"] == (32768, 512)
    assert shapes[layer + "o_proj.weight"] == (7168, 16384)
    assert shapes["layers.60.mlp.gate.e_score_correction_bias"] == (256,)


def test_deepseek_v2_lite_as_released() -> None:
    spec = spec_from_config(V2_LITE)
    attention = spec.layers[0].attention
    assert attention.latent is not None
    assert attention.latent.query_rank is None
    moe = moe_of(spec, 1)
    assert (moe.routing.scoring, moe.routing.groups) == (Scoring.SOFTMAX, None)
    assert (moe.routing.correction, moe.routing.normalised) == (False, False)
    assert moe.shared is not None
    assert moe.shared.width == 2816
    assert by_key(spec)["layers.0.self_attn.q_proj.weight"].shape == (3072, 2048)


def test_deepseek_v2_as_released_limits_groups() -> None:
    large = {
        "n_group": 8,
        "topk_group": 3,
        "topk_method": "group_limited_greedy",
        "n_routed_experts": 160,
    }
    spec = spec_from_config({**V2_LITE, **large})
    assert moe_of(spec, 1).routing.groups == GroupLimit(8, 3, GroupScore.BEST)


@pytest.mark.parametrize("spelled", [True, False])
def test_gpt_oss_as_released(spelled: bool) -> None:
    config = GPT_OSS if spelled else {k: v for k, v in GPT_OSS.items() if k != "rope_scaling"}
    spec = spec_from_config(config)
    first, second = spec.layers[0].attention, spec.layers[1].attention
    assert (first.window, second.window) == (128, None)
    assert first.sinks
    assert first.rope is not None
    assert first.rope.scaling is RopeScaling.YARN
    assert first.rope.low_dim != round(first.rope.low_dim or 0)  # not truncated
    moe = moe_of(spec, 0)
    assert moe.routing.scoring is Scoring.SOFTMAX_OF_CHOSEN
    assert (moe.routing.experts, moe.routing.chosen, moe.routing.bias) == (32, 4, True)
    assert moe.expert == FfnSpec(2880, Activation.GELU_SIGMOID, bias=True, limit=7.0, up_offset=1.0)
    gate = by_key(spec)["layers.0.mlp.experts.31.gate_proj.weight"]
    assert source_key(gate) == "layers.0.mlp.experts.gate_up_proj_blocks"


@pytest.mark.parametrize(
    ("config", "change", "text"),
    [
        (V3, {"scoring_func": "softmax"}, "scoring_func"),
        (V3, {"topk_method": "greedy"}, "topk_method"),
        (V3, {"n_group": 7}, "n_group"),
        (V3, {"n_group": 256}, "n_group"),
        (V3, {"topk_group": 9}, "topk_group"),
        (V3, {"moe_layer_freq": 2}, "moe_layer_freq"),
        (V3, {"qk_rope_head_dim": 63}, "qk_rope_head_dim"),
        (V3, {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}, "64"),
        (V2_LITE, {"topk_method": "noaux_tc"}, "topk_method"),
        (V2_LITE, {"mlp_bias": True}, "mlp_bias"),
        (V2_LITE, {"num_experts_per_tok": 65}, "num_experts_per_tok"),
        (GPT_OSS, {"swiglu_alpha": 1.5}, "swiglu_alpha"),
        (GPT_OSS, {"hidden_act": "gelu"}, "hidden_act"),
        (GPT_OSS, {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_what_nobody_here_computes_is_refused(
    config: dict[str, Any], change: dict[str, Any], text: str
) -> None:
    with pytest.raises((Unsupported, CheckpointError), match=text):
        spec_from_config({**config, **change})


TINY_V3: dict[str, Any] = {
    **V3,
    "vocab_size": VOCABULARY,
    "hidden_size": 160,  # tiles of 128 that are cut off at the edge
    "intermediate_size": 136,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 2,
    "kv_lora_rank": 24,
    "q_lora_rank": 40,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "moe_intermediate_size": 48,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "max_position_embeddings": 64,
}


def tiny_v3(directory: Path, *, fp8: bool, extra: dict[str, torch.Tensor] | None = None) -> Path:
    """A checkpoint in FP8, or one that holds the same values in float32."""
    random = torch.Generator().manual_seed(11)
    tensors: dict[str, torch.Tensor] = dict(extra or {})
    for tensor in spec_from_config(TINY_V3).tensors:
        name = tensor.key if tensor.key.startswith("lm_head.") else f"model.{tensor.key}"
        values = torch.randn(tensor.shape, generator=random) * 0.1
        if not name.endswith("_proj.weight") and "kv_a_proj" not in name:
            tensors[name] = values
            continue
        rows, columns = tensor.shape
        scales = torch.rand(-(-rows // 128), -(-columns // 128), generator=random) * 0.01
        whole = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
        codes = (values / whole).to(torch.float8_e4m3fn)
        if fp8:
            tensors |= {name: codes, f"{name}_scale_inv": scales}
        else:
            tensors[name] = codes.float() * whole
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(TINY_V3))
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def test_fp8_checkpoints_give_what_their_products_give(tmp_path: Path) -> None:
    paths = [tiny_v3(tmp_path / str(fp8), fp8=fp8) for fp8 in (True, False)]
    with open_checkpoint(paths[0]) as one, open_checkpoint(paths[1]) as other:
        found, expected = CheckpointSource(one), CheckpointSource(other)
        for tensor in found.spec.tensors:
            left, right = (each.tensor(*tensor.identity) for each in (found, expected))
            assert left.dtype is right.dtype is StorageDtype.F32
            assert np.array_equal(left.array, right.array), tensor.key


def test_the_layer_that_guesses_further_is_dropped_by_name(tmp_path: Path) -> None:
    names = ("eh_proj.weight", "enorm.weight", "self_attn.kv_b_proj.weight", "embed_tokens.weight")
    extra = {f"model.layers.2.{name}": torch.ones(2, 2) for name in names}
    with open_checkpoint(tiny_v3(tmp_path / "m", fp8=True, extra=extra)) as checkpoint:
        dropped = CheckpointSource(checkpoint).ledger.dropped
    assert {drop.name for drop in dropped} == set(extra)
    assert {drop.rule for drop in dropped} == {"multi-token-prediction"}


def test_layers_beyond_that_one_are_unknown(tmp_path: Path) -> None:
    extra = {"model.layers.3.enorm.weight": torch.ones(2)}
    path = tiny_v3(tmp_path / "m", fp8=False, extra=extra)
    with open_checkpoint(path) as checkpoint, pytest.raises(LedgerRefusal) as caught:
        CheckpointSource(checkpoint)
    assert caught.value.details == ("unknown: 'model.layers.3.enorm.weight'",)
