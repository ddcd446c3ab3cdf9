"""What llama.cpp's converter makes of a Hugging Face checkpoint, for the tiny ones of the tests.

Written from the rules of llama.cpp's ``conversion/*.py`` and with the names of the ``gguf``
package's own tensor map, not from the reader under test: what one of the two has wrong shows.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

Config = Mapping[str, Any]
Writer = gguf.GGUFWriter
Arch = gguf.MODEL_ARCH
Kind = gguf.GGMLQuantizationType


@dataclass(frozen=True, slots=True)
class Conversion:
    """How the models of one type are converted.

    Attributes:
        arch: the architecture of the file.
        parameters: writes the metadata.
        change: what becomes of a tensor's values; ``None`` where it is left out.
        tables: further tensors by their name in the file.
    """

    arch: Arch
    parameters: Callable[[Writer, Config], None]
    change: Callable[[str, Tensor, Config], Tensor | None] = lambda _name, values, _config: values
    tables: Callable[[Config], dict[str, list[float]]] = field(default=lambda _config: {})


def convert(
    directory: Path,
    path: Path,
    kind: Kind = Kind.F32,
    *,
    metadata: Mapping[str, Any] | None = None,
    edit: Callable[[dict[str, Tensor]], None] = lambda _tensors: None,
) -> Path:
    """Write a checkpoint directory as a GGUF file.

    Args:
        directory: in transformers 5's spelling.
        path: where to write.
        kind: of the matrices; vectors stay float32, and rows that do not fit a block become F16.
            Where the ``gguf`` package cannot encode it, they are blocks of random bytes.
        metadata: other values of the architecture's keys; ``None`` leaves one out.
        edit: changes what would be written, by the names in the file.
    """
    config = json.loads((directory / "config.json").read_text())
    config = {**config, **config.get("text_config", {})}
    conversion = CONVERSIONS[config["model_type"]]
    writer = Writer(path, gguf.MODEL_ARCH_NAMES[conversion.arch])
    conversion.parameters(writer, config)
    for key, value in (metadata or {}).items():
        name = f"{writer.arch}.{key}"
        writer.kv_data[0].pop(name, None)
        if value is not None:
            writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    _vocabulary(writer, directory)
    names = gguf.get_tensor_name_map(conversion.arch, _layers(config))
    tensors = {
        name: torch.tensor(numbers, dtype=torch.float32)
        for name, numbers in conversion.tables(config).items()
    }
    for original, values in _stacked(_text_tensors(directory)):
        changed = conversion.change(original, values, config)
        if changed is None:
            continue
        name = names.get_name(original, try_suffixes=(".weight", ".bias"))
        assert name is not None, f"llama.cpp does not know {original}"
        tensors[name] = changed
    edit(tensors)
    for name, values in tensors.items():
        _add(writer, name, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _text_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    for name, values in load_file(directory / "model.safetensors").items():
        if any(part in name for part in ("vision", "audio", "projector")):
            continue
        name = name.replace("language_model.", "")
        yield (f"{name}.weight" if name.endswith("layer_scalar") else name), values


_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")


def _stacked(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The matrices of a layer's experts as one tensor each, and vectors that came as one row."""
    stacks: dict[str, dict[int, Tensor]] = {}
    for name, values in tensors:
        match = _EXPERT.fullmatch(name)
        if match is not None:
            stacks.setdefault(f"{match[1]}.{match[3]}.weight", {})[int(match[2])] = values
        elif name.endswith(".experts.gate_up_proj"):
            gate, up = values.chunk(2, dim=1)
            yield name.replace("gate_up_proj", "gate_proj.weight"), gate
            yield name.replace("gate_up_proj", "up_proj.weight"), up
        elif name.endswith(".experts.down_proj"):
            yield f"{name}.weight", values
        elif name.endswith(".shared_expert_gate.weight"):
            yield name, values[0]
        else:
            yield name, values
    for name, parts in stacks.items():
        yield name, torch.stack([parts[expert] for expert in sorted(parts)])


def _add(writer: Writer, name: str, values: Tensor, kind: Kind) -> None:
    array = values.float().contiguous().numpy()
    if array.ndim == 1 or name.endswith("_norm.weight") or name == "position_embd.weight":
        kind = Kind.F32
    if array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = Kind.F16
    if kind is Kind.F32:
        writer.add_tensor(name, array)
        return
    try:
        blocks = gguf.quantize(array, kind)
    except NotImplementedError:
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        shape = (*array.shape[:-1], array.shape[-1] // elements * size)
        random = np.random.default_rng(zlib.crc32(name.encode()))
        blocks = random.integers(0, 256, shape, dtype=np.uint8)
    writer.add_tensor(name, blocks, raw_dtype=kind)


def _vocabulary(writer: Writer, directory: Path) -> None:
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].__getitem__))
    writer.add_token_types([1] * len(model["vocab"]))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])


def _first(config: Config, *keys: str) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def _layers(config: Config) -> int:
    count: int = _first(config, "num_hidden_layers", "n_layer")
    return count


def _rope(config: Config) -> Config:
    rope: Config = config.get("rope_parameters") or {}
    full: Config = rope.get("full_attention", rope)
    return full


def _sizes(writer: Writer, config: Config) -> None:
    writer.add_block_count(_layers(config))
    writer.add_context_length(_first(config, "max_position_embeddings", "n_positions"))
    writer.add_embedding_length(_first(config, "hidden_size", "n_embd"))
    writer.add_head_count(_first(config, "num_attention_heads", "n_head"))


def _common(writer: Writer, config: Config) -> None:
    """What most architectures have."""
    _sizes(writer, config)
    writer.add_feed_forward_length(config["intermediate_size"])
    for key, add in (
        ("num_key_value_heads", writer.add_head_count_kv),
        ("rms_norm_eps", writer.add_layer_norm_rms_eps),
        ("norm_epsilon", writer.add_layer_norm_eps),
        ("head_dim", writer.add_key_length),
        ("head_dim", writer.add_value_length),
    ):
        if config.get(key) is not None:
            add(config[key])
    rope = _rope(config)
    match rope.get("rope_type"):
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rope["factor"])
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            for key, add in (
                ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
                ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
                ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
            ):
                if rope.get(key) is not None:
                    add(rope[key])
    if "rope_theta" in rope:
        writer.add_rope_freq_base(rope["rope_theta"])
    sliding = (config.get("rope_parameters") or {}).get("sliding_attention", {})
    if "rope_theta" in sliding:
        writer.add_rope_freq_base_swa(sliding["rope_theta"])


def _llama(writer: Writer, config: Config) -> None:
    _common(writer, config)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(_head_size(config))


def _head_size(config: Config) -> int:
    size: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return size


def _pairs_adjacent(name: str, values: Tensor, config: Config) -> Tensor:
    """Rows of q and k such that what turns together lies together."""
    if "self_attn.q_proj." in name:
        heads = config["num_attention_heads"]
    elif "self_attn.k_proj." in name:
        heads = config["num_key_value_heads"]
    else:
        return values
    halves = values.unflatten(0, (heads, 2, -1))  # [H, 2, S / 2, ...]
    return halves.transpose(1, 2).flatten(0, 2)


def _llama3_table(config: Config) -> dict[str, list[float]]:
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return {}
    trained = config.get("original_max_position_embeddings", 8192)  # not the one beside the factor
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    size, factors = _head_size(config), []
    for lane in range(0, size, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (lane / size)
        if wavelength < trained / high:
            factors.append(1.0)
        elif wavelength > trained / low:
            factors.append(rope["factor"])
        else:
            smooth = (trained / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return {"rope_freqs.weight": factors}


def _granite(writer: Writer, config: Config) -> None:
    _llama(writer, {**config, "head_dim": None})
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])


def _mixtral(writer: Writer, config: Config) -> None:
    _llama(writer, config)
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])


def _qwen_moe(writer: Writer, config: Config) -> None:
    _common(writer, config)
    writer.add_expert_count(_first(config, "num_experts", "num_local_experts"))
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if config.get("shared_expert_intermediate_size") is not None:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _gemma(writer: Writer, config: Config) -> None:
    _sizes(writer, config)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])


def _gemma2(writer: Writer, config: Config) -> None:
    _gemma(writer, config)
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])


def _gemma3(writer: Writer, config: Config) -> None:
    _common(writer, config)
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])


def _plus_one(name: str, values: Tensor, _config: Config) -> Tensor | None:
    if name == "lm_head.weight":
        return None
    return values.float() + 1 if name.endswith("norm.weight") else values


def _gemma4(writer: Writer, config: Config) -> None:
    full, sliding = _gemma4_heads(config)
    widths: int | list[int] = config["intermediate_size"]
    shared = config["num_kv_shared_layers"]
    if config.get("use_double_wide_mlp"):
        own = _layers(config) - shared
        widths = [config["intermediate_size"]] * own + [2 * config["intermediate_size"]] * shared
    key_heads: int | list[int] = config["num_key_value_heads"]
    if full[1] is not None:
        key_heads = [
            sliding[1] if kind == "sliding_attention" else full[1] for kind in config["layer_types"]
        ]
    plain = {**config, "head_dim": None, "num_key_value_heads": key_heads}
    _gemma3(writer, {**plain, "intermediate_size": widths})
    writer.add_shared_kv_layers(shared)
    writer.add_embedding_length_per_layer_input(config.get("hidden_size_per_layer_input") or 0)
    writer.add_sliding_window_pattern(
        [kind == "sliding_attention" for kind in config["layer_types"]]
    )
    writer.add_key_length(full[0])
    writer.add_value_length(full[0])
    writer.add_key_length_swa(sliding[0])
    writer.add_value_length_swa(sliding[0])
    writer.add_rope_dimension_count(full[0])
    writer.add_rope_dimension_count_swa(sliding[0])


def _gemma4_heads(config: Config) -> tuple[tuple[int, int | None], tuple[int, int]]:
    """Head size and key heads of full layers and of sliding ones, in either spelling."""
    sliding = (config["head_dim"], config["num_key_value_heads"])
    if "per_layer_config" not in config:
        return (config["global_head_dim"], config.get("num_global_key_value_heads")), sliding
    by_layer = config["per_layer_config"]
    layer = config["layer_types"].index("full_attention")
    own = by_layer.get(str(layer), {})
    heads = own.get("num_key_value_heads")
    return (own.get("head_dim", config["head_dim"]), heads), sliding


def _gemma4_table(config: Config) -> dict[str, list[float]]:
    (size, _), _ = _gemma4_heads(config)
    turning = int(size * _rope(config)["partial_rotary_factor"] / 2)
    return {"rope_freqs.weight": [1.0] * turning + [1e30] * (size // 2 - turning)}


def _phi2(writer: Writer, config: Config) -> None:
    _sizes(writer, config)
    writer.add_feed_forward_length(4 * config["hidden_size"])  # whatever it really is
    writer.add_head_count_kv(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_rope_dimension_count(_turning(config))
    writer.add_add_bos_token(False)


def _turning(config: Config) -> int:
    share = _rope(config).get("partial_rotary_factor", 1.0)
    return int(share * config["hidden_size"]) // config["num_attention_heads"]


def _phi3(writer: Writer, config: Config) -> None:
    rope = _rope(config)
    trained = _first(rope, "original_max_position_embeddings") or _first(
        config, "original_max_position_embeddings"
    )
    _sizes(writer, config)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_scaling_orig_ctx_len(trained)
    writer.add_rope_dimension_count(_turning(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_sliding_window(config.get("sliding_window") or 0)
    if "long_factor" in rope:
        scale = config["max_position_embeddings"] / trained
        stretched = math.sqrt(1 + math.log(scale) / math.log(trained)) if scale > 1 else 1.0
        writer.add_rope_scaling_attn_factors(stretched)


def _phi3_tables(config: Config) -> dict[str, list[float]]:
    rope = _rope(config)
    lengths = ("long", "short") if "long_factor" in rope else ()
    return {f"rope_factors_{each}.weight": rope[f"{each}_factor"] for each in lengths}


def _gpt2(writer: Writer, config: Config) -> None:
    _sizes(writer, config)
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])


def _outputs_first(name: str, values: Tensor, _config: Config) -> Tensor | None:
    if name.endswith((".attn.bias", ".attn.masked_bias")):
        return None
    turned = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    return values.T if name.endswith(turned) else values


def _gpt_neox(writer: Writer, config: Config) -> None:
    _sizes(writer, config)
    writer.add_feed_forward_length(config["intermediate_size"])
    share = _rope(config)["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(share * _head_size(config)))
    writer.add_parallel_residual(config["use_parallel_residual"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])


def _projection_by_projection(name: str, values: Tensor, config: Config) -> Tensor:
    """All of q, all of k, all of v instead of the three of each head."""
    if ".query_key_value." not in name:
        return values
    heads = values.unflatten(0, (config["num_attention_heads"], 3, -1))  # [H, 3, S, ...]
    return heads.transpose(0, 1).flatten(0, 2)


def _glm4(writer: Writer, config: Config) -> None:
    _common(writer, config)
    share = _rope(config).get("partial_rotary_factor", 0.5)
    writer.add_rope_dimension_count(int(_head_size(config) * share))


_LLAMA = Conversion(Arch.LLAMA, _llama, _pairs_adjacent, _llama3_table)
_GEMMA4 = Conversion(Arch.GEMMA4, _gemma4, tables=_gemma4_table)
CONVERSIONS: Mapping[str, Conversion] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Conversion(Arch.QWEN2, _common),
    "qwen3": Conversion(Arch.QWEN3, _common),
    "mixtral": Conversion(Arch.LLAMA, _mixtral, _pairs_adjacent),
    "qwen2_moe": Conversion(Arch.QWEN2MOE, _qwen_moe),
    "qwen3_moe": Conversion(Arch.QWEN3MOE, _qwen_moe),
    "olmo2": Conversion(Arch.OLMO2, _common),
    "starcoder2": Conversion(Arch.STARCODER2, _common),
    "granite": Conversion(Arch.GRANITE, _granite, _pairs_adjacent, _llama3_table),
    "gemma": Conversion(Arch.GEMMA, _gemma, _plus_one),
    "gemma2": Conversion(Arch.GEMMA2, _gemma2, _plus_one),
    "gemma3_text": Conversion(Arch.GEMMA3, _gemma3, _plus_one),
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "phi": Conversion(Arch.PHI2, _phi2),
    "phi3": Conversion(Arch.PHI3, _phi3, tables=_phi3_tables),
    "gpt2": Conversion(Arch.GPT2, _gpt2, _outputs_first),
    "gpt_neox": Conversion(Arch.GPTNEOX, _gpt_neox, _projection_by_projection),
    "glm4": Conversion(Arch.GLM4, _glm4),
}
