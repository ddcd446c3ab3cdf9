"""A Hugging Face configuration rebuilt from the ``index.json`` that larql writes.

larql keeps a few numbers in ``model_config`` and drops the rest, so a vindex that carries the
checkpoint's own ``config.json`` never comes here. What cannot be rebuilt safely is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

from vindex.errors import Unsupported
from vindex.families._base import Rebuilt
from vindex.families._config import ConfigReader, show
from vindex.index import VindexIndex
from vindex.kinds import ExtractLevel

SUPPLY_CONFIG = (
    'name its configuration: USE "…" CONFIG "checkpoint or config.json"; '
    "(--config on the command line)"
)
_SUPPLY_CHECKPOINT = (
    'name its checkpoint: USE "…" CONFIG "checkpoint"; (--config on the command line)'
)

_MULTIPLIERS = ("attention_multiplier", "residual_multiplier", "logits_scaling")


def rebuild(
    index: VindexIndex,
    have_keys: Container[str],
    *,
    embed_scale: float | None,
    tied_by_family: bool = False,
    has_multipliers: bool = False,
    has_experts: bool = False,
) -> Rebuilt:
    """The keys that every llama-like family shares.

    Args:
        index: the parsed index.
        have_keys: tensor keys that the vindex stores; decides whether the head is tied.
        embed_scale: what the family computes; another value in the index means a variant that
            cannot be rebuilt. ``None`` where it is for the config to say.
        tied_by_family: every release of the family ties its head, so tying needs no note.
        has_multipliers: the family computes with Granite's multipliers.
        has_experts: the family reads ``moe`` itself.

    Raises:
        Unsupported: no ``model_config``, or one that belongs to a variant of the family.
    """
    if index.model_config is None:
        raise Unsupported("index.json has no model_config", hint=SUPPLY_CONFIG)
    recorded = index.model_config
    facts = ConfigReader(
        {
            "moe": recorded.moe,
            "attention_multiplier": recorded.attention_multiplier,
            "residual_multiplier": recorded.residual_multiplier,
            "logits_scaling": recorded.logits_scaling,
        },
        "index.json: model_config",
    )
    if not has_experts:
        facts.must_be_default("moe")
    for key in () if has_multipliers else _MULTIPLIERS:
        facts.must_be_default(key, 1.0)
    if embed_scale is not None and not math.isclose(index.embed_scale, embed_scale, rel_tol=1e-5):
        raise Unsupported(
            f"index.json: embed_scale is {index.embed_scale:g}, expected {embed_scale:g}",
            hint=SUPPLY_CONFIG,
        )
    config: dict[str, Any] = {
        "model_type": recorded.model_type,
        "vocab_size": index.vocab_size,
        "hidden_size": index.hidden_size,
        "intermediate_size": index.intermediate_size,
        "num_hidden_layers": index.num_layers,
        "num_attention_heads": recorded.num_q_heads,
        "num_key_value_heads": recorded.num_kv_heads,
        "head_dim": recorded.head_dim,
        "rope_theta": recorded.rope_base,
        "rms_norm_eps": recorded.norm_eps,
        "sliding_window": recorded.sliding_window,
        "sliding_window_pattern": recorded.sliding_window_pattern,
        "layer_types": None if recorded.layer_types is None else list(recorded.layer_types),
        "rope_local_base_freq": recorded.rope_local_base,
        "query_pre_attn_scalar": recorded.query_pre_attn_scalar,
        "final_logit_softcapping": recorded.final_logit_softcapping,
    }
    notes = []
    if recorded.norm_eps is None and runs(index):
        notes.append("index.json does not record norm_eps; 1e-06 is assumed")
    tied = index.tie_word_embeddings
    if tied is None:
        tied = "lm_head.weight" not in have_keys
        if tied and index.extract_level >= ExtractLevel.INFERENCE and not tied_by_family:
            notes.append("there is no lm_head; tied embeddings are assumed")
    config["tie_word_embeddings"] = tied
    return Rebuilt({key: value for key, value in config.items() if value is not None}, tuple(notes))


def assume_unscaled(rebuilt: Rebuilt, index: VindexIndex) -> Rebuilt:
    """Take positions as not stretched, with a note, and sliding windows as the index says."""
    if not runs(index):
        return rebuilt
    note = "index.json does not record rope scaling; none is assumed"
    return Rebuilt(rebuilt.config, (*rebuilt.notes, note))


def lossy(reason: str) -> Callable[[VindexIndex, Container[str]], Rebuilt]:
    """The ``from_index`` of a family whose models larql's record does not determine."""

    def refuse(index: VindexIndex, have_keys: Container[str]) -> Rebuilt:
        raise lossy_error(index, reason)

    return refuse


def lossy_error(index: VindexIndex, reason: str) -> Unsupported:
    """The error for a larql vindex whose weights cannot be run as they are."""
    model_type = "" if index.model_config is None else index.model_config.model_type
    model = index.model.replace("\\", "\\\\").replace('"', '""')
    return Unsupported(
        f"a larql vindex of model_type {show(model_type)} is lossy: {reason}",
        hint=f"{_SUPPLY_CHECKPOINT}; or extract it again:"
        f' EXTRACT MODEL "{model}" INTO "…" WITH INFERENCE;',
    )


def runs(index: VindexIndex) -> bool:
    """Whether the vindex holds attention, so that positions and epsilons matter."""
    return index.extract_level >= ExtractLevel.ATTENTION


def refuse_unknown(model_type: str, supported: str) -> Unsupported:
    """The error for a model type without a family module."""
    return Unsupported(
        f"index.json: model_config: model_type is {show(model_type)}, which is not supported",
        hint=f"supported: {supported}",
    )
