"""Small checkpoints written by the tests: safetensors directories and GGUF files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from vindex.families import family_of, spec_from_config
from vindex.quant import BlockFormat, encode_rows
from vindex.spec import ModelSpec, Role

Arrays = dict[str, npt.NDArray[Any]]

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 3e-3,
    "rope_theta": 20000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "rms_norm_eps": 3e-3,
    "sliding_window": 8,
    "sliding_window_pattern": 3,
    "max_position_embeddings": 256,
}


def random_arrays(config: Mapping[str, Any], seed: int = 0) -> Arrays:
    """Every tensor a model needs by its Hugging Face name, float32, standard normal."""
    spec = spec_from_config(config)
    family = family_of(spec)
    rng = np.random.default_rng(seed)
    return {
        family.checkpoint_name(tensor.key): rng.standard_normal(tensor.shape, dtype=np.float32)
        for tensor in spec.tensors
        if not tensor.optional
    }


def write_directory(directory: Path, config: Mapping[str, Any], arrays: Arrays) -> Path:
    """A directory with ``config.json`` and ``model.safetensors``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(arrays, directory / "model.safetensors")
    return directory


def raw_safetensors(
    path: Path, header: object, data: bytes = b"", length: int | None = None
) -> Path:
    """A safetensors file whose header is what the caller says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + text + data)
    return path


_GGUF_NAMES = {
    Role.EMBED: "token_embd.weight",
    Role.FINAL_NORM: "output_norm.weight",
    Role.HEAD: "output.weight",
    Role.ATTN_NORM: "attn_norm.weight",
    Role.ATTN_POST_NORM: "post_attention_norm.weight",
    Role.FFN_NORM: "ffn_norm.weight",
    Role.FFN_POST_NORM: "post_ffw_norm.weight",
    Role.Q: "attn_q.weight",
    Role.K: "attn_k.weight",
    Role.V: "attn_v.weight",
    Role.O: "attn_output.weight",
    Role.Q_BIAS: "attn_q.bias",
    Role.K_BIAS: "attn_k.bias",
    Role.V_BIAS: "attn_v.bias",
    Role.O_BIAS: "attn_output.bias",
    Role.Q_NORM: "attn_q_norm.weight",
    Role.K_NORM: "attn_k_norm.weight",
    Role.GATE: "ffn_gate.weight",
    Role.UP: "ffn_up.weight",
    Role.DOWN: "ffn_down.weight",
    Role.GATE_BIAS: "ffn_gate.bias",
    Role.UP_BIAS: "ffn_up.bias",
    Role.DOWN_BIAS: "ffn_down.bias",
}


def converter_permute(weights: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """What llama.cpp's converter does to the rows of q and k of a llama model."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    arrays: Arrays,
    *,
    encoding: str = "F32",
    extend: Callable[[gguf.GGUFWriter], None] | None = None,
    metadata: Mapping[str, Any] | None = None,
    leave_out: frozenset[str] = frozenset(),
) -> Path:
    """A GGUF file of a model, as llama.cpp's converter lays it out.

    Args:
        path: where to write.
        config: the Hugging Face configuration.
        arrays: as ``random_arrays`` gives them.
        encoding: of the matrices; vectors stay float32.
        extend: called with the writer before it writes.
        metadata: replaces the sizes otherwise written, without the architecture's prefix.
        leave_out: GGUF tensor names not to write.
    """
    spec = spec_from_config(config)
    rules = family_of(spec).gguf
    assert rules is not None
    writer = gguf.GGUFWriter(path, rules.architectures[0])
    for key, value in (metadata if metadata is not None else sizes(config)).items():
        name = f"{writer.arch}.{key}"
        if isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    if extend is not None:
        extend(writer)
    quant = gguf.GGMLQuantizationType[encoding]
    for name, values in _gguf_arrays(spec, arrays).items():
        if name in leave_out:
            continue
        if values.ndim == 2 and encoding != "F32":
            writer.add_tensor(name, _quantised(values, quant), raw_dtype=quant)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _quantised(
    values: npt.NDArray[np.float32], quant: gguf.GGMLQuantizationType
) -> npt.NDArray[np.uint8]:
    """Blocks as they stand in the file; ``gguf`` itself cannot make those of K-quants."""
    ours = {"Q4_K": BlockFormat.Q4_K, "Q6_K": BlockFormat.GGML_Q6_K}.get(quant.name)
    if ours is not None:
        return encode_rows(values.astype(np.float32), ours)
    return np.asarray(gguf.quantize(values, quant))


def sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture's metadata that a converter writes for a configuration."""
    result = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(config.get("rope_theta", 1e6)),
    }
    if config["model_type"] == "llama":
        return result | {
            "rope.dimension_count": config["head_dim"],
            "vocab_size": config["vocab_size"],
        }
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if key in config:
            result[key] = float(config[key])
    if "sliding_window" not in config:
        return result
    return result | {"attention.sliding_window": config["sliding_window"]}


def _gguf_arrays(spec: ModelSpec, arrays: Arrays) -> Arrays:
    family = family_of(spec)
    result: Arrays = {}
    for tensor in spec.tensors:
        values = arrays.get(family.checkpoint_name(tensor.key))
        if values is None:
            continue
        name = _GGUF_NAMES[tensor.role]
        if tensor.layer is not None:
            name = f"blk.{tensor.layer}.{name}"
        attention = spec.layers[tensor.layer or 0].attention
        if spec.family == "llama" and tensor.role in (Role.Q, Role.Q_BIAS):
            values = converter_permute(values, attention.heads)
        if spec.family == "llama" and tensor.role in (Role.K, Role.K_BIAS):
            values = converter_permute(values, attention.kv_heads)
        if spec.family.startswith("gemma") and "norm" in tensor.role.value:
            values = values + np.float32(1)
        result[name] = np.ascontiguousarray(values)
    return result
