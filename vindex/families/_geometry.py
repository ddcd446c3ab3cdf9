"""The sizes that every decoder config states, read and checked against each other once."""

from __future__ import annotations

from dataclasses import dataclass

from vindex.families._config import MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, ConfigReader


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a decoder: V, D, F, L, H, K, S and the context length, in that order."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    heads: int
    kv_heads: int
    head_size: int
    max_positions: int


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a family assumes for absent keys; ``None`` means the key is required."""

    max_positions: int
    vocab_size: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None


def read_geometry(config: ConfigReader, defaults: Defaults) -> Geometry:
    """Read and cross-check the sizes.

    ``num_key_value_heads`` falls back to the number of heads and ``head_dim`` to ``D // H`` where
    the family has no default of its own.
    """
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads", defaults.heads, high=MAX_HEADS)
    kv_heads = config.integer("num_key_value_heads", defaults.kv_heads or heads, high=MAX_HEADS)
    if heads % kv_heads:
        config.contradiction(
            f"num_attention_heads is {heads} and num_key_value_heads {kv_heads}",
            "a whole number of query heads for every key/value head",
        )
    if not config.has("head_dim") and defaults.head_size is None and hidden % heads:
        config.contradiction(
            f"hidden_size is {hidden}, num_attention_heads {heads} and head_dim missing",
            "hidden_size divisible by num_attention_heads, or an explicit head_dim",
        )
    head_size = config.integer("head_dim", defaults.head_size or hidden // heads, low=2)
    if head_size % 2:
        config.contradiction(f"head_dim is {head_size}", "an even number, for rotary embeddings")
    return Geometry(
        vocab_size=config.integer("vocab_size", defaults.vocab_size),
        hidden_size=hidden,
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.integer("num_hidden_layers", high=MAX_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        max_positions=config.integer(
            "max_position_embeddings", defaults.max_positions, high=MAX_POSITIONS
        ),
    )
