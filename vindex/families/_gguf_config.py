"""Parts of a Hugging Face configuration that GGUF metadata spells alike for every family."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from vindex.errors import CheckpointError, Unsupported
from vindex.families._base import DropRule, GgufFacts
from vindex.families._config import show

ROPE_FREQS = DropRule(
    "gguf-rope-freqs",
    re.compile(r"^rope_freqs\.weight$"),
    "the llama3 rope table; its parameters are in the rebuilt configuration",
)

_USE_ORIGINAL = "extract from the model's safetensors checkpoint instead"
_LLAMA3_TABLE_TOLERANCE = 1e-4

# Metadata that says nothing about the mathematics, or that is checked where it is used.
_KNOWN = frozenset(
    {
        "context_length", "block_count", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon",
        "attention.key_length", "attention.value_length", "attention.sliding_window",
        "attention.sliding_window_pattern", "attention.causal", "rope.dimension_count",
        "rope.freq_base", "rope.freq_base_swa", "rope.scaling.type", "rope.scaling.factor",
        "rope.scaling.original_context_length", "rope.scaling.finetuned",
        "final_logit_softcapping", "expert_count", "expert_used_count", "tensor_data_layout",
        "rope.scale_linear",
    }
)  # fmt: skip


def common(facts: GgufFacts) -> dict[str, Any]:
    """Sizes, norm epsilon, rope base, tying and token ids.

    Raises:
        Unsupported: metadata of this architecture that the readers here do not know, or a mixture
            of experts.
        CheckpointError: a required key is missing.
    """
    prefix, metadata = facts.architecture, facts.metadata
    unknown = sorted(
        key
        for key in metadata
        if key.startswith(f"{prefix}.") and key.removeprefix(f"{prefix}.") not in _KNOWN
    )
    if unknown:
        raise Unsupported(
            f"the GGUF file holds metadata that may change the model: {', '.join(unknown[:4])}",
            hint=_USE_ORIGINAL,
            details=unknown,
        )
    if metadata.get(f"{prefix}.expert_count", 0):
        raise Unsupported("the GGUF file holds a mixture of experts", hint=_USE_ORIGINAL)

    def need(key: str) -> Any:
        name = f"{prefix}.{key}"
        if name not in metadata:
            raise CheckpointError(f"the GGUF file has no metadata key {name}")
        return metadata[name]

    heads = need("attention.head_count")
    config: dict[str, Any] = {
        "hidden_size": need("embedding_length"),
        "intermediate_size": need("feed_forward_length"),
        "num_hidden_layers": need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.get(f"{prefix}.attention.head_count_kv", heads),
        "rms_norm_eps": shortest(need("attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": need("context_length"),
        "vocab_size": facts.rows("token_embd.weight"),
        "tie_word_embeddings": not facts.has_tensor("output.weight"),
        "rope_theta": shortest(metadata.get(f"{prefix}.rope.freq_base", 10000.0)),
    }
    key_length = metadata.get(f"{prefix}.attention.key_length")
    rotary = metadata.get(f"{prefix}.rope.dimension_count")
    head_size = key_length or rotary
    if head_size is not None:
        config["head_dim"] = head_size
    for name, value in (
        ("attention.value_length", metadata.get(f"{prefix}.attention.value_length")),
        ("rope.dimension_count", rotary),
    ):
        if value is not None and value != head_size:
            raise Unsupported(
                f"{prefix}.{name} is {show(value)} where the head size is {show(head_size)}",
                hint=_USE_ORIGINAL,
            )
    for token in ("bos", "eos", "pad"):
        spelled = "padding" if token == "pad" else token
        identifier = metadata.get(f"tokenizer.ggml.{spelled}_token_id")
        if identifier is not None:
            config[f"{token}_token_id"] = identifier
    return config


def rope_scaling(facts: GgufFacts) -> dict[str, Any] | None:
    """``rope_scaling`` from the metadata, or ``None`` when positions are not stretched."""
    prefix, metadata = facts.architecture, facts.metadata
    kind = metadata.get(f"{prefix}.rope.scaling.type", "none")
    legacy = metadata.get(f"{prefix}.rope.scale_linear")
    factor = metadata.get(f"{prefix}.rope.scaling.factor", legacy)
    if kind == "none" and legacy is not None and legacy != 1.0:
        kind = "linear"
    if kind == "none":
        return None
    if kind != "linear":
        raise Unsupported(
            f"{prefix}.rope.scaling.type is {show(kind)}, supported are none and linear",
            hint=_USE_ORIGINAL,
        )
    return {"rope_type": "linear", "factor": shortest(factor)}


def llama3_scaling(facts: GgufFacts, config: dict[str, Any]) -> dict[str, Any] | None:
    """``rope_scaling`` of Llama 3.1 and later, recognised by its ``rope_freqs`` table.

    GGUF stores the quotient of plain and stretched frequencies, not the parameters. All releases
    share bands 1 and 4 and a trained length of 8192; the factor is the table's last entry. The
    table is recomputed from that and must agree.
    """
    if not facts.has_tensor("rope_freqs.weight"):
        return None
    table = facts.vector("rope_freqs.weight")
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    key = f"{facts.architecture}.rope.scaling.original_context_length"
    original = facts.metadata.get(key, 8192)
    parameters = {
        "rope_type": "llama3",
        "factor": shortest(table[-1]) if table else 1.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    expected = llama3_table(config["rope_theta"], size, parameters)
    agrees = len(table) == len(expected) and all(
        math.isclose(*pair, rel_tol=_LLAMA3_TABLE_TOLERANCE)
        for pair in zip(table, expected, strict=True)
    )
    if not agrees:
        raise Unsupported(
            "rope_freqs.weight is not the llama3 table with bands 1 and 4 over"
            f" {show(original)} positions",
            hint=_USE_ORIGINAL,
        )
    return parameters


def llama3_table(theta: float, size: int, parameters: dict[str, Any]) -> list[float]:
    """What each of the ``size / 2`` rope frequencies is divided by under llama3 scaling."""
    factor, low, high = (
        parameters[key] for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    trained = parameters["original_max_position_embeddings"]
    table = []
    for lane in range(0, size, 2):
        wavelength = 2 * math.pi * theta ** (lane / size)
        smooth = min(max((trained / wavelength - low) / (high - low), 0.0), 1.0)
        table.append(1 / ((1 - smooth) / factor + smooth))
    return table


def shortest(value: Any) -> Any:
    """A float32 from metadata as the decimal a person wrote: 9.99999974e-06 becomes 1e-05."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return float(str(np.float32(value)))
