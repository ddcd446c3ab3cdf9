"""How a layer attends: heads, windows, rotations, latents.

Part of ``vindex.spec``, which is where to import these names from.

Shape legend: H heads, K KV heads, S head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vindex.spec_ffn import NormSpec


class RopeScaling(Enum):
    """Rule that stretches the rotary frequencies (inference.md 1.1.3)."""

    NONE = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"
    DYNAMIC = "dynamic"
    YARN = "yarn"
    LONGROPE = "longrope"
    PROPORTIONAL = "proportional"


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding of one layer type.

    Attributes:
        theta: base of the frequency table.
        rotary_size: lanes rotated, from the first; the rest pass through. Even.
        scaling: the rule; its parameters below are ``None`` where it does not use them.
        factor: stretch factor.
        low_freq_factor, high_freq_factor: llama3 band edges.
        original_max_positions: context length the base table was trained for.
        interleaved: rotate pairs (2i, 2i+1) instead of (i, i + rotary_size / 2).
        turning_pairs: proportional only: the first so many pairs turn, as those of a whole
            head do; the others stand still.
        low_dim, high_dim: yarn: pairs below the first keep their frequency, pairs from the second
            on are stretched, those between are blended.
        short_factors, long_factors: longrope: stretch of each pair, [rotary_size / 2], for
            sequences of at most ``original_max_positions`` and for longer ones.
        attention_factor: yarn and longrope: factor on cosine and sine.
    """

    theta: float
    rotary_size: int
    scaling: RopeScaling = RopeScaling.NONE
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_positions: int | None = None
    interleaved: bool = False
    turning_pairs: int | None = None
    low_dim: float | None = None
    high_dim: float | None = None
    short_factors: tuple[float, ...] | None = None
    long_factors: tuple[float, ...] | None = None
    attention_factor: float = 1.0


class AttentionKind(Enum):
    """Which keys a query may see; the strings are the Hugging Face ``layer_types``."""

    FULL = "full_attention"
    SLIDING = "sliding_attention"


class QkNormSpan(Enum):
    """What a norm of q and k takes its statistics over."""

    HEAD = "head"  # each head on its own; one weight [S] for all
    PROJECTION = "projection"  # all heads together; weights [H * S] and [K * S]


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Multi-head latent attention: all heads' keys and values are made of one small vector.

    A token is kept as its latent ``c = norm(A x)`` and one rotated key ``r`` for all heads. Head h
    has the key ``[K_h c | r]`` and the value ``V_h c``; its queries rotate in as many last lanes.

    Attributes:
        rank: size of c.
        value_size: of a head's value, which is not that of its key.
        query_rank: size of the latent that queries are made of, ``None`` where they are made of x.
        norm: of both latents.
        bias: on the projections to the latents.
    """

    rank: int
    value_size: int
    query_rank: int | None
    norm: NormSpec
    bias: bool = False


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """Attention of one layer.

    Attributes:
        kv_heads: K; 1 with latents, of which all query heads read the same.
        head_size: S, of queries and keys, rotated lanes included.
        window: keys visible to a query including itself (``None`` for full attention).
        scale: factor on q·k.
        softcap: ``cap * tanh(scores / cap)`` before the mask, or ``None``.
        qk_norm: norm of q and k before rope, or ``None``.
        qk_norm_span: what its statistics are taken over.
        rope: ``None`` for models with learned positions.
        v_norm: per-head norm of v, without a weight, or ``None``.
        values_are_keys: v is what the key projection gives, before k's norm and rope; there is no
            projection of v.
        kv_source: the earlier layer whose keys and values this one reads instead of having k and
            v of its own, or ``None``.
        sinks: every head has a stored score that takes its share of the softmax and gives nothing.
        latent: latent attention, or ``None`` for projections of k and v.
    """

    kind: AttentionKind
    heads: int
    kv_heads: int
    head_size: int
    scale: float
    rope: RopeSpec | None
    window: int | None = None
    softcap: float | None = None
    qk_norm: NormSpec | None = None
    qk_norm_span: QkNormSpan = QkNormSpan.HEAD
    qkv_bias: bool = False
    output_bias: bool = False
    v_norm: NormSpec | None = None
    values_are_keys: bool = False
    kv_source: int | None = None
    sinks: bool = False
    latent: LatentSpec | None = None

    @property
    def turning_size(self) -> int:
        """Lanes of a head that rope turns; with latents the last ones."""
        return 0 if self.rope is None else self.rope.rotary_size

    @property
    def plain_size(self) -> int:
        """Lanes of a head that stay."""
        return self.head_size - self.turning_size

    @property
    def output_size(self) -> int:
        """What all heads together give to the output projection."""
        return self.heads * (self.head_size if self.latent is None else self.latent.value_size)
