"""From what a family module decided to the ``ModelSpec``: the parts that all families share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from vindex.families._config import ConfigReader
from vindex.families._geometry import Geometry
from vindex.families._rope import RopeDefaults, read_rope
from vindex.families._tensors import LLAMA, Naming, decoder_tensors
from vindex.spec import (
    AttentionKind,
    AttentionSpec,
    FfnSpec,
    LayerSpec,
    LearnedPositions,
    ModelSpec,
    MoeSpec,
    NormSpec,
    Placement,
    PleSpec,
)


def read_attention(
    config: ConfigReader,
    geometry: Geometry,
    *,
    rope: RopeDefaults | None,
    kind: AttentionKind = AttentionKind.FULL,
    **changes: Any,
) -> AttentionSpec:
    """Grouped-query attention with the default scale ``S ** -0.5``.

    Args:
        rope: how to read the rope; ``None`` for learned positions.
        kind: which layer type this is.
        changes: other fields of ``AttentionSpec``.
    """
    fields: dict[str, Any] = {
        "kind": kind,
        "heads": geometry.heads,
        "kv_heads": geometry.kv_heads,
        "head_size": geometry.head_size,
        "scale": geometry.head_size**-0.5,
        "rope": None,
        **changes,
    }
    if rope is not None:
        fields["rope"] = read_rope(
            config,
            kind,
            head_size=geometry.head_size,
            max_positions=geometry.max_positions,
            defaults=rope,
        )
    return AttentionSpec(**fields)


def layer_kinds(
    config: ConfigReader, count: int, default: Callable[[int], bool]
) -> tuple[AttentionKind, ...]:
    """The kind of every layer: ``layer_types``, else sliding where ``default`` says so."""
    listed = config.choices("layer_types", {kind.value: kind for kind in AttentionKind}, count)
    if listed is not None:
        return listed
    return tuple(
        AttentionKind.SLIDING if default(index) else AttentionKind.FULL for index in range(count)
    )


def make_layers(
    attentions: Iterable[AttentionSpec],
    ffn: FfnSpec | MoeSpec,
    norm: NormSpec,
    placement: Placement = Placement.PRE,
    *,
    residual_multiplier: float = 1.0,
) -> tuple[LayerSpec, ...]:
    """Layers that differ only in their attention."""
    return tuple(
        LayerSpec(index, attention, ffn, placement, norm, residual_multiplier=residual_multiplier)
        for index, attention in enumerate(attentions)
    )


def make_mixed_layers(
    attentions: Iterable[AttentionSpec],
    ffns: Iterable[FfnSpec | MoeSpec],
    norm: NormSpec,
    placement: Placement = Placement.PRE,
) -> tuple[LayerSpec, ...]:
    """Layers that differ in their attention and FFN."""
    return tuple(
        LayerSpec(index, attention, ffn, placement, norm)
        for index, (attention, ffn) in enumerate(zip(attentions, ffns, strict=True))
    )


def make_model(
    config: ConfigReader,
    geometry: Geometry,
    layers: tuple[LayerSpec, ...],
    *,
    family: str,
    tied: bool,
    naming: Naming = LLAMA,
    embed_scale: float = 1.0,
    logit_softcap: float | None = None,
    logit_divisor: float = 1.0,
    positions: LearnedPositions | None = None,
    head_bias: bool = False,
    ple: PleSpec | None = None,
    starts_with_bos: bool = False,
    embedding_size: int | None = None,
    has_final_norm: bool = True,
) -> ModelSpec:
    """The specification of a model whose final norm is like those of its layers.

    Args:
        embedding_size: where it is not the hidden size.
        tied: what an absent ``tie_word_embeddings`` means.
    """
    tied = config.flag("tie_word_embeddings", tied)
    return ModelSpec(
        family=family,
        model_type=config.text("model_type", family),
        vocab_size=geometry.vocab_size,
        hidden_size=geometry.hidden_size,
        layers=layers,
        final_norm=layers[0].norm if has_final_norm else None,
        embedding_size=embedding_size or geometry.hidden_size,
        embed_scale=embed_scale,
        tied=tied,
        max_positions=geometry.max_positions,
        tensors=decoder_tensors(
            layers,
            vocab_size=geometry.vocab_size,
            hidden_size=geometry.hidden_size,
            tied=tied,
            naming=naming,
            positions=positions,
            head_bias=head_bias,
            ple=ple,
            embedding_size=embedding_size,
            has_final_norm=has_final_norm,
        ),
        logit_softcap=logit_softcap,
        logit_divisor=logit_divisor,
        positions=positions,
        head_bias=head_bias,
        ple=ple,
        starts_with_bos=starts_with_bos,
    )
