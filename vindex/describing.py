"""``index.json`` of a new vindex: a ``ModelSpec`` in larql's words.

larql rebuilds the architecture from ``model_config`` alone, so everything it has a key for is
written, also what its own extractor leaves to defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vindex.bands import bands_for
from vindex.checkpoint import Checkpoint, Ledger
from vindex.index import (
    IndexModelConfig,
    LayerInfo,
    MoeConfig,
    Source,
    VindexIndex,
    shortest_float32,
)
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.spec import (
    AttentionKind,
    AttentionSpec,
    ModelSpec,
    MoeSpec,
    NormKind,
    PartKind,
    Role,
    ffn_parts,
)

#: What larql calls itself in ``source.larql_version``; the key is required.
LARQL_VERSION = "0.1.0"
_DEFAULT_THETA = 10000.0  # the key is required; larql writes this for models without rope


def describe(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    ledger: Ledger,
    layers: Sequence[LayerInfo],
    *,
    level: ExtractLevel,
    dtype: StorageDtype,
    quant: Quant,
    ffn_layout: str | None,
    down_top_k: int,
) -> VindexIndex:
    """The index of a vindex about to be published, checksums still absent."""
    provenance = checkpoint.provenance
    beyond = beyond_larql(spec)
    return VindexIndex(
        model=checkpoint.name,
        family=spec.family,
        source=Source(
            extracted_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            larql_version=LARQL_VERSION,
            huggingface_repo=provenance.repo,
            huggingface_revision=provenance.revision,
        ),
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        intermediate_size=_dense_width(spec),
        vocab_size=spec.vocab_size,
        embed_scale=shortest_float32(spec.embed_scale),
        extract_level=level,
        dtype=dtype,
        quant=quant,
        ffn_layout=ffn_layout,
        layer_bands=bands_for(spec.family, spec.num_layers),
        layers=tuple(layers),
        down_top_k=down_top_k,
        has_model_weights=level > ExtractLevel.BROWSE and not beyond,
        model_config=model_config(spec, checkpoint.config),
        tie_word_embeddings=not any(tensor.role is Role.HEAD for tensor in ledger.used),
        lql={
            "writer": f"lql {_own_version()}",
            "checkpoint": {
                "name": checkpoint.name,
                "repo": provenance.repo,
                "revision": provenance.revision,
                "sha256": dict(provenance.sha256),
            },
            "dropped": [{"name": drop.name, "rule": drop.rule} for drop in ledger.dropped],
            **({"beyond_larql": list(beyond)} if beyond else {}),
        },
    )


def beyond_larql(spec: ModelSpec) -> tuple[str, ...]:
    """What this model computes that larql would leave out without a word.

    larql does not look for tensors that it has no name for, and skips a layer whose keys it does
    not find. Of such a model the index therefore tells it that there are no weights to run: it
    then refuses to infer, and browses as ever.
    """
    attentions = [layer.attention for layer in spec.layers]
    norms = [attention.qk_norm for attention in attentions]
    terms = {
        "latent attention": any(each.latent is not None for each in attentions),
        "attention sinks": any(each.sinks for each in attentions),
        "LayerNorms of q and k": any(
            norm is not None and norm.kind is NormKind.LAYER for norm in norms
        ),
        "norms of sums": any(layer.placement.norms_sums for layer in spec.layers),
        "projected embeddings": spec.projects_embeddings,
    }
    return tuple(term for term, used in terms.items() if used)


def model_config(spec: ModelSpec, config: Mapping[str, Any]) -> IndexModelConfig:
    """A model's facts under larql's names."""
    full = _first(spec, AttentionKind.FULL)
    sliding = _first(spec, AttentionKind.SLIDING)
    main = full or sliding
    assert main is not None, "a model has layers"
    window = None if sliding is None else sliding.window
    mixed = full is not None and sliding is not None
    # Where full layers have other heads, larql's plain keys speak of the sliding layers.
    plain = sliding if full is not None and sliding is not None else main
    shared = sum(layer.attention.kv_source is not None for layer in spec.layers)
    kinds = tuple(layer.attention.kind.value for layer in spec.layers)
    return IndexModelConfig(
        model_type=spec.model_type,
        head_dim=plain.head_size,
        num_q_heads=plain.heads,
        num_kv_heads=plain.kv_heads,
        rope_base=_DEFAULT_THETA if main.rope is None else main.rope.theta,
        sliding_window=window,
        moe=_moe(spec),
        global_head_dim=main.head_size if main.head_size != plain.head_size else None,
        num_global_kv_heads=main.kv_heads if main.kv_heads != plain.kv_heads else None,
        attention_k_eq_v=any(layer.attention.values_are_keys for layer in spec.layers),
        num_kv_shared_layers=shared or None,
        per_layer_embed_dim=None if spec.ple is None else spec.ple.size,
        sliding_window_pattern=_pattern(spec) if mixed else None,
        layer_types=kinds if mixed else None,
        rope_local_base=sliding.rope.theta if mixed and sliding and sliding.rope else None,
        query_pre_attn_scalar=_query_scalar(config),
        final_logit_softcapping=spec.logit_softcap,
        partial_rotary_factor=_partial(main),
        attention_multiplier=_unless_one(config.get("attention_multiplier")),
        residual_multiplier=_unless_one(spec.layers[0].residual_multiplier),
        logits_scaling=_unless_one(spec.logit_divisor),
        norm_eps=spec.layers[0].norm.eps,
    )


def _dense_width(spec: ModelSpec) -> int:
    """Features of a dense FFN; of one expert in a model that has nothing else."""
    kinds = {part.kind: part.ffn for layer in spec.layers for part in ffn_parts(layer.ffn)}
    return (kinds.get(PartKind.DENSE) or kinds[PartKind.EXPERT]).width


def _moe(spec: ModelSpec) -> MoeConfig | None:
    moe = next((layer.ffn for layer in spec.layers if isinstance(layer.ffn, MoeSpec)), None)
    if moe is None:
        return None
    return MoeConfig(
        num_experts=moe.routing.experts,
        top_k=moe.routing.chosen,
        shared_expert=moe.shared is not None,
        router_type="top_k_softmax" if moe.beside is None else "gemma4_top_k_softmax",
        moe_intermediate_size=moe.expert.width,
        hybrid=moe.beside is not None,
    )


def _partial(attention: AttentionSpec) -> float | None:
    """The share of a head that turns, where that is not all of it."""
    rope = attention.rope
    if rope is None:
        return None
    if rope.turning_pairs is not None:
        return 2 * rope.turning_pairs / attention.head_size
    share = rope.rotary_size / attention.head_size
    return None if share == 1 else share


def _unless_one(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value != 1 else None


def _first(spec: ModelSpec, kind: AttentionKind) -> AttentionSpec | None:
    return next((layer.attention for layer in spec.layers if layer.attention.kind is kind), None)


def _pattern(spec: ModelSpec) -> int | None:
    """The p for which exactly every p-th layer is full, or ``None`` for an irregular model."""
    full = [layer.index for layer in spec.layers if layer.attention.kind is AttentionKind.FULL]
    pattern = full[0] + 1
    regular = list(range(pattern - 1, spec.num_layers, pattern))
    return pattern if full == regular else None


def _query_scalar(config: Mapping[str, Any]) -> float | None:
    """``query_pre_attn_scalar`` as the checkpoint spells it, or ``None``."""
    text = config.get("text_config")
    for section in (text, config):
        if isinstance(section, Mapping):
            value = section.get("query_pre_attn_scalar")
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
    return None


def _own_version() -> str:
    try:
        return version("lql")
    except PackageNotFoundError:
        return "unknown"
