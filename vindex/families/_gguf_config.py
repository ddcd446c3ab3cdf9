"""Parts of a Hugging Face configuration that GGUF metadata spells alike for every family."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vindex.errors import Unsupported
from vindex.families._base import DropRule, GgufFacts
from vindex.families._config import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    ConfigReader,
    show,
)

ROPE_FREQS = DropRule(
    "gguf-rope-freqs",
    re.compile(r"^rope_freqs\.weight$"),
    "the table of rope factors; its parameters are in the rebuilt configuration",
)
ROPE_FACTORS = DropRule(
    "gguf-rope-factors",
    re.compile(r"^rope_factors_(long|short)\.weight$"),
    "the two tables of longrope, which are in the rebuilt configuration",
)
RMS_EPS = "rms_norm_eps"

USE_ORIGINAL = "extract from the model's safetensors checkpoint instead"
_LLAMA3_TABLE_TOLERANCE = 1e-4
_MAX_FACTOR = 1e6

# Metadata that says nothing about the mathematics, or that is checked where it is used.
_KNOWN = frozenset(
    {
        "context_length", "block_count", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon",
        "attention.key_length", "attention.value_length", "attention.sliding_window",
        "attention.causal", "attention.layer_norm_epsilon", "rope.dimension_count",
        "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
        "rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scale_linear",
        "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow", "expert_count", "expert_used_count", "tensor_data_layout",
    }
)  # fmt: skip
#: Keys of architectures with experts.
EXPERT_KEYS = frozenset(
    {
        "expert_feed_forward_length", "expert_shared_feed_forward_length", "expert_gating_func",
        "expert_weights_scale", "expert_weights_norm", "expert_shared_count",
    }
)  # fmt: skip
_SOFTMAX = 1  # of llama.cpp's functions that turn a router's products into weights
_FFN_UP = "blk.0.ffn_up.weight"


def reader(facts: GgufFacts) -> ConfigReader:
    """Typed access to the metadata of the file's architecture, keys without its prefix.

    Raises:
        Unsupported: metadata that the readers here do not know and that may change the model.
    """
    prefix = f"{facts.architecture}."
    own = {
        key.removeprefix(prefix): shortest(value) if isinstance(value, float) else value
        for key, value in facts.metadata.items()
        if key.startswith(prefix)
    }
    unknown = sorted(prefix + key for key in own.keys() - _KNOWN - facts.known)
    if unknown:
        shown = [show(key) for key in unknown]
        raise Unsupported(
            f"the GGUF file holds metadata that may change the model: {', '.join(shown[:4])}",
            hint=USE_ORIGINAL,
            details=shown,
        )
    return ConfigReader(own, f"GGUF metadata of {facts.architecture}")


def common(
    facts: GgufFacts,
    own: ConfigReader | None = None,
    *,
    eps: str = RMS_EPS,
    turns_partly: bool = False,
    gated: bool = True,
    experts: bool = False,
) -> dict[str, Any]:
    """Sizes, norm epsilon, rope base, tying and token ids.

    Args:
        facts: of the file.
        own: what ``reader`` gives, where a family puts some of it in other words.
        eps: the configuration's key of the epsilon; other than ``RMS_EPS`` for LayerNorms.
        turns_partly: the family has ``partial_rotary_factor``.
        experts: the family may have some; it reads what is said of them itself.
        gated: whether the FFN is; converters write a width of their own for some others.

    Raises:
        Unsupported: a mixture of experts, partial rotation, or unknown metadata.
        CheckpointError: a required key is missing or absurd.
    """
    own = own or reader(facts)
    if not experts:
        own.must_be_default("expert_count", 0)
    own.must_be_default("attention.causal", True)
    heads = own.integer("attention.head_count", high=MAX_HEADS)
    hidden = own.integer("embedding_length")
    epsilon = f"attention.layer_norm_{'rms_' if eps == RMS_EPS else ''}epsilon"
    config: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": (own.integer("feed_forward_length") if gated else facts.rows(_FFN_UP)),
        "num_hidden_layers": own.integer("block_count", high=MAX_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": own.integer("attention.head_count_kv", heads, high=MAX_HEADS),
        eps: own.number(epsilon, high=1.0),
        "max_position_embeddings": own.integer("context_length", high=MAX_POSITIONS),
        "vocab_size": facts.rows("token_embd.weight"),
        "tie_word_embeddings": not facts.has_tensor("output.weight"),
        "rope_theta": own.number("rope.freq_base", 10000.0),
    }
    turned = "rope.dimension_count"
    whole = "attention.key_length" if own.has("attention.key_length") or turns_partly else turned
    head_size = own.integer(whole, max(hidden // heads, 1))
    for key in ("attention.value_length", turned):
        if not (turns_partly and key == turned) and own.integer(key, head_size) != head_size:
            raise Unsupported(
                f"{own.where}: {key} is {own.integer(key)} where a head has {head_size} values",
                hint=USE_ORIGINAL,
            )
    config["head_dim"] = head_size
    if turns_partly:
        config["partial_rotary_factor"] = share(
            own.integer(turned, head_size, high=head_size), head_size
        )
    return config | _token_ids(facts)


def expert_counts(own: ConfigReader) -> dict[str, int]:
    """How many experts there are and how many a token visits, as ``config.json`` has it.

    Raises:
        Unsupported: choices or weights of experts that no family with a GGUF reader has.
    """
    own.must_be_default("expert_gating_func", _SOFTMAX)
    own.must_be_default("expert_weights_scale", 0.0, 1.0)
    return {
        "num_experts": own.integer("expert_count"),
        "num_experts_per_tok": own.integer("expert_used_count"),
    }


def share(part: int, whole: int) -> float:
    """``part / whole`` such that its product with ``whole`` is not below ``part``."""
    quotient = part / whole
    return quotient if int(quotient * whole) == part else math.nextafter(quotient, 1.0)


def _token_ids(facts: GgufFacts) -> dict[str, Any]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    found = {
        token: facts.metadata.get(f"tokenizer.ggml.{key}_token_id") for token, key in names.items()
    }
    return {f"{token}_token_id": value for token, value in found.items() if value is not None}


def rope_scaling(facts: GgufFacts) -> dict[str, Any] | None:
    """``rope_scaling`` from the metadata, or ``None`` when positions are not stretched."""
    own = reader(facts)
    legacy = own.number("rope.scale_linear", 1.0)
    kind = own.text("rope.scaling.type", "none" if legacy == 1.0 else "linear")
    match kind:
        case "none":
            return None
        case "linear":
            return {
                "rope_type": kind,
                "factor": own.number("rope.scaling.factor", legacy),
            }
        case "yarn":
            optional = {
                "attention_factor": "rope.scaling.yarn_attn_factor",
                "beta_fast": "rope.scaling.yarn_beta_fast",
                "beta_slow": "rope.scaling.yarn_beta_slow",
            }
            return {
                "rope_type": kind,
                "factor": own.number("rope.scaling.factor"),
                "original_max_position_embeddings": own.integer(
                    "rope.scaling.original_context_length", high=MAX_POSITIONS
                ),
            } | {name: own.number(key) for name, key in optional.items() if own.has(key)}
        case _:
            raise Unsupported(
                f"{own.where}: rope.scaling.type is {show(kind)}, supported are none, linear and"
                " yarn",
                hint=USE_ORIGINAL,
            )


def llama3_scaling(facts: GgufFacts, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """``rope_scaling`` of Llama 3.1 and later, recognised by its ``rope_freqs`` table.

    GGUF stores the quotient of plain and stretched frequencies, not the parameters. All releases
    share bands 1 and 4 and a trained length of 8192; the factor is the table's last entry. The
    table is recomputed from that and must agree.
    """
    if not facts.has_tensor("rope_freqs.weight"):
        return None
    own = reader(facts)
    table = facts.vector("rope_freqs.weight")
    original = own.integer("rope.scaling.original_context_length", 8192, high=MAX_POSITIONS)
    parameters = {
        "rope_type": "llama3",
        "factor": shortest(table[-1]),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    expected = llama3_table(config["rope_theta"], config["head_dim"], parameters)
    agrees = len(table) == len(expected) and all(
        math.isclose(*pair, rel_tol=_LLAMA3_TABLE_TOLERANCE)
        for pair in zip(table, expected, strict=True)
    )
    if not agrees:
        raise Unsupported(
            "rope_freqs.weight is not the llama3 table with bands 1 and 4"
            f" over {original} positions",
            hint=USE_ORIGINAL,
        )
    return parameters


def llama3_table(theta: float, size: int, parameters: Mapping[str, Any]) -> list[float]:
    """What each of the ``size / 2`` rope frequencies is divided by under llama3 scaling.

    Empty for an impossible factor.
    """
    factor, low, high = (
        parameters[key] for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    if not 0 < factor < _MAX_FACTOR:  # also for NaN
        return []
    trained = parameters["original_max_position_embeddings"]
    table = []
    for lane in range(0, size, 2):
        wavelength = 2 * math.pi * theta ** (lane / size)
        smooth = min(max((trained / wavelength - low) / (high - low), 0.0), 1.0)
        table.append(1 / ((1 - smooth) / factor + smooth))
    return table


def shortest(value: float) -> float:
    """A float32 as the decimal a person wrote, 9.99999974e-06 as 1e-05; others as they are."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return float(str(single)) if single == value else value
