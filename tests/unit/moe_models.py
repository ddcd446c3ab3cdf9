"""Tiny configurations with experts, and random checkpoints of them in both layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.checkpoint_files import Arrays, write_directory
from tests.unit.tiny_models import byte_tokenizer
from vindex.checkpoint import open_checkpoint
from vindex.extract import extract
from vindex.families import family_of, spec_from_config
from vindex.spec import ModelSpec, MoeSpec, PartKind, Role, part_roles

SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
MIXTRAL: dict[str, Any] = {"model_type": "mixtral", **SIZES, "num_local_experts": 3}
QWEN2: dict[str, Any] = {
    "model_type": "qwen2_moe",
    **SIZES,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "mlp_only_layers": [1],
}
QWEN3: dict[str, Any] = {
    "model_type": "qwen3_moe",
    **SIZES,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
}
GEMMA4: dict[str, Any] = {
    "model_type": "gemma4_text",
    **SIZES,
    "head_dim": 8,
    "global_head_dim": 16,
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 12,
}
ALL = {"mixtral": MIXTRAL, "qwen2_moe": QWEN2, "qwen3_moe": QWEN3, "gemma4": GEMMA4}


def mixtures(model: ModelSpec) -> list[MoeSpec | None]:
    return [layer.ffn if isinstance(layer.ffn, MoeSpec) else None for layer in model.layers]


def released_arrays(config: Mapping[str, Any]) -> Arrays:
    """Random tensors of a checkpoint as released: one for each expert, but for Gemma 4."""
    model = spec_from_config(config)
    family = family_of(model)
    rng = np.random.default_rng(0)
    result: Arrays = {}
    for tensor in model.tensors:
        shape = tensor.shape if tensor.cut is None else tensor.cut.shape
        name = family.checkpoint_name(tensor.key if tensor.cut is None else tensor.cut.key)
        if name not in result and not tensor.optional:
            result[name] = 0.2 * rng.standard_normal(shape, dtype=np.float32)
    return result


def fused_arrays(arrays: Arrays, config: Mapping[str, Any]) -> Arrays:
    """The same as transformers has it in memory: experts stacked, gate rows above up rows."""
    result = dict(arrays)
    model = spec_from_config(config)
    for layer, moe in enumerate(mixtures(model)):
        if moe is None:
            continue
        keys = {
            (tensor.role, tensor.expert): f"model.{tensor.key}"
            for tensor in model.tensors
            if tensor.layer == layer
        }
        gate, up, down = (
            np.stack([result.pop(keys[role, expert]) for expert in range(moe.routing.experts)])
            for role in part_roles(PartKind.EXPERT)
        )
        prefix = f"model.layers.{layer}.mlp"
        result[f"{prefix}.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        result[f"{prefix}.experts.down_proj"] = down
        result[f"{prefix}.gate.weight"] = result.pop(keys[Role.ROUTER, None])
    return result


def write(directory: Path, config: Mapping[str, Any], arrays: Arrays) -> Path:
    write_directory(directory, config, arrays)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def extracted(directory: Path, config: Mapping[str, Any], **options: Any) -> Path:
    path = write(directory / "checkpoint", config, released_arrays(config))
    with open_checkpoint(path) as checkpoint:
        extract(checkpoint, directory / "v", **options)
    return directory / "v"
