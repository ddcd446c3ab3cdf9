"""The configuration of Gemma 4 from the metadata of a GGUF file.

The file states head sizes by kind of attention, and widths and key heads by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from vindex.errors import Unsupported
from vindex.families import _gguf_config
from vindex.families._base import GgufFacts, GgufRules
from vindex.families._config import MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, ConfigReader, show
from vindex.spec import AttentionKind

_LOCAL_THETA = 10000.0
_ROPE_TABLE = "rope_freqs.weight"
_PLE_TABLE = "per_layer_token_embd.weight"
_STANDS_STILL = 1e29  # what llama.cpp divides the frequency of a pair by that does not turn: 1e30

_T = TypeVar("_T", int, bool)


def gguf_config(facts: GgufFacts) -> dict[str, Any]:
    """``config.json`` of a GGUF file of architecture ``gemma4``, dense.

    Raises:
        Unsupported: experts, or sizes by layer that no Gemma 4 configuration can state.
        CheckpointError: a required key or table is missing or absurd.
    """
    own = _gguf_config.reader(facts)
    own.must_be_default("expert_count", 0)
    count = own.integer("block_count", high=MAX_LAYERS)
    slides = _by_layer(own, "attention.sliding_window_pattern", count, bool)
    shared = own.integer("attention.shared_kv_layers", 0, low=0, high=count - 1)
    width, wide = _widths(own, count, shared)
    heads, full_heads = _key_heads(own, slides)
    full_size = own.integer("attention.key_length", low=2)
    size = own.integer("attention.key_length_swa", low=2)
    sliding = {
        "feed_forward_length": width,
        "attention.head_count_kv": heads,
        "attention.key_length": size,
        "attention.value_length": own.integer("attention.value_length_swa", size),
        "rope.dimension_count": own.integer("rope.dimension_count_swa", size),
    }
    _check_full_size(own, full_size)
    config = _gguf_config.common(facts, ConfigReader(sliding).merged_over(own))
    values_are_keys = any(
        not facts.has_tensor(f"blk.{layer}.attn_v.weight")
        for layer in range(count - shared)
        if not slides[layer]
    )
    if heads != full_heads and not values_are_keys:
        raise _not_gemma4(own, "key heads that differ where values are not keys")
    ple = own.integer("embedding_length_per_layer_input", 0, low=0)
    theta = config.pop("rope_theta")
    return {
        **config,
        "model_type": "gemma4_text",
        "tie_word_embeddings": True,  # a head of its own counts all the same
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": [_kind(each).value for each in slides],
        "sliding_window": own.integer("attention.sliding_window", high=MAX_POSITIONS),
        "global_head_dim": full_size,
        "num_global_key_value_heads": full_heads,
        "attention_k_eq_v": values_are_keys,
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": wide,
        "hidden_size_per_layer_input": ple,
        "vocab_size_per_layer_input": facts.rows(_PLE_TABLE) if ple else None,
        "final_logit_softcapping": own.number_or_none("final_logit_softcapping"),
        "rope_parameters": {
            AttentionKind.FULL.value: {
                "rope_type": "proportional",
                "rope_theta": theta,
                "partial_rotary_factor": _turning_share(facts, own, full_size),
            },
            AttentionKind.SLIDING.value: {
                "rope_type": "default",
                "rope_theta": own.number("rope.freq_base_swa", _LOCAL_THETA),
            },
        },
    }


def _kind(slides: bool) -> AttentionKind:
    return AttentionKind.SLIDING if slides else AttentionKind.FULL


def _widths(own: ConfigReader, count: int, shared: int) -> tuple[int, bool]:
    """The width of the FFN, and whether the layers that read others' keys have it twice."""
    widths = _by_layer(own, "feed_forward_length", count, int)
    narrow, wide = widths[: count - shared], widths[count - shared :]
    doubled = bool(wide) and wide[0] == 2 * narrow[0]
    if len(set(narrow)) > 1 or set(wide) - {narrow[0] * (2 if doubled else 1)}:
        raise _not_gemma4(own, f"feed_forward_length is {show(widths)}")
    return narrow[0], doubled


def _key_heads(own: ConfigReader, slides: Sequence[bool]) -> tuple[int, int]:
    """Key heads of the sliding layers and of the full ones."""
    heads = _by_layer(own, "attention.head_count_kv", len(slides), int)
    by_kind = [
        {heads[i] for i, each in enumerate(slides) if each is kind} for kind in (True, False)
    ]
    if any(len(each) > 1 for each in by_kind) or max(heads) > MAX_HEADS:
        raise _not_gemma4(own, f"attention.head_count_kv is {show(heads)}")
    sliding, full = (each or by_kind[1 - index] for index, each in enumerate(by_kind))
    return min(sliding), min(full)


def _check_full_size(own: ConfigReader, full_size: int) -> None:
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.integer(key, full_size) != full_size:
            raise _not_gemma4(own, f"{key} is not the {full_size} of attention.key_length")


def _turning_share(facts: GgufFacts, own: ConfigReader, head_size: int) -> float:
    """The share of a full layer's pairs that turn: those whose factor is 1 and not endless."""
    facts.rows(_ROPE_TABLE)  # names it if it is missing
    table = facts.vector(_ROPE_TABLE)
    turning = table.count(1.0)
    still = table[turning:]
    if len(table) != head_size // 2 or not all(each > _STANDS_STILL for each in still):
        raise _not_gemma4(own, f"{_ROPE_TABLE} is no table of ones and endless numbers")
    return _gguf_config.share(2 * turning, head_size)


def _by_layer(own: ConfigReader, key: str, count: int, kind: type[_T]) -> list[_T]:
    """A value for each layer; the file may state one for all."""
    value = own.get(key)
    values = value if isinstance(value, list) else [value] * count
    lowest = 0 if kind is bool else 1
    if len(values) != count or not all(type(each) is kind and each >= lowest for each in values):
        own.refuse(key, f"{kind.__name__} for each of {count} layers")
    return values


def _not_gemma4(own: ConfigReader, what: str) -> Unsupported:
    return Unsupported(
        f"{own.where}: {what}, which no Gemma 4 configuration states",
        hint=_gguf_config.USE_ORIGINAL,
    )


GGUF = GgufRules(
    architectures=("gemma4",),
    config=gguf_config,
    known=frozenset(
        {
            "attention.sliding_window_pattern",
            "rope.freq_base_swa",
            "final_logit_softcapping",
            "attention.shared_kv_layers",
            "attention.key_length_swa",
            "attention.value_length_swa",
            "rope.dimension_count_swa",
            "embedding_length_per_layer_input",
        }
    ),
)
