"""What a model is: the config-driven description that extraction, loading and the decoder share.

A ``ModelSpec`` is built once from a checkpoint's ``config.json`` by ``vindex.families`` and holds
*decisions*, not spellings: nothing downstream looks at a config key again. It also lists every
tensor the model needs (``ModelSpec.tensors``), which is what the ledger, the writer, the loader's
validation and the decoder's weight table are all driven by.

Shape legend: D hidden, F features, H heads, K KV heads, S head size, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from vindex.kinds import ExtractLevel


class NormKind(Enum):
    """How a normalisation uses its weight."""

    RMS = "rms"  # x * rsqrt(mean(x^2) + eps), cast to input dtype, times w
    RMS_OFFSET = "rms_offset"  # the same, times (1 + w), in float32 before the cast (Gemma 1-3)
    LAYER = "layer"  # LayerNorm with weight and bias


@dataclass(frozen=True, slots=True)
class NormSpec:
    """A normalisation: its kind and epsilon (added inside the root)."""

    kind: NormKind
    eps: float


class Activation(Enum):
    """FFN non-linearity. ``GELU`` is the exact (erf) one, ``GELU_TANH`` the tanh approximation."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


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
class AttentionSpec:
    """Attention of one layer.

    Attributes:
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


@dataclass(frozen=True, slots=True)
class FfnSpec:
    """Feed-forward of one layer: ``down(act(gate x) * up x)``; ungated ``down(act(up x))``."""

    width: int
    activation: Activation
    gated: bool = True
    bias: bool = False


class Placement(Enum):
    """Where the norms of a layer stand.

    PRE: ``h += attn(n1 h); h += ffn(n2 h)``.
    SANDWICH: ``h += n1b(attn(n1 h)); h += n2b(ffn(n2 h))`` (Gemma 2, 3).
    POST: ``h += n1b(attn(h)); h += n2b(ffn(h))`` (OLMo 2).
    PARALLEL: ``h += attn(n1 h) + ffn(n2 h)`` (GPT-NeoX).
    PARALLEL_SHARED: ``h += attn(n1 h) + ffn(n1 h)`` (Phi 1 and 2).
    """

    PRE = "pre"
    SANDWICH = "sandwich"
    POST = "post"
    PARALLEL = "parallel"
    PARALLEL_SHARED = "parallel_shared"

    @property
    def norms_inputs(self) -> bool:
        """Whether attention and FFN read normed values."""
        return self is not Placement.POST

    @property
    def norms_ffn_input(self) -> bool:
        """Whether the FFN's input has a norm of its own."""
        return self not in (Placement.POST, Placement.PARALLEL_SHARED)

    @property
    def norms_outputs(self) -> bool:
        """Whether what attention and FFN add to the residual stream is normed."""
        return self in (Placement.SANDWICH, Placement.POST)

    @property
    def parallel(self) -> bool:
        """Whether the FFN reads the residual stream that attention reads."""
        return self in (Placement.PARALLEL, Placement.PARALLEL_SHARED)


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One decoder layer.

    Attributes:
        scaled: the residual stream is multiplied by a stored number at the layer's end.
        residual_multiplier: factor on what attention and FFN add to the residual stream.
    """

    index: int
    attention: AttentionSpec
    ffn: FfnSpec
    placement: Placement
    norm: NormSpec
    scaled: bool = False
    residual_multiplier: float = 1.0


@dataclass(frozen=True, slots=True)
class PleSpec:
    """Per-layer embeddings: every layer adds a vector made of the token itself (Gemma 4).

    ``p = (rms(M h0 / sqrt(D)) + sqrt(E) table[id]) / sqrt(2)``, E numbers for each layer, h0 the
    scaled embedding; after its FFN a layer adds ``rms(O (act(G h) * p))``.

    Attributes:
        size: E.
        vocab_size: rows of the table.
    """

    size: int
    vocab_size: int
    activation: Activation
    norm: NormSpec


class Role(Enum):
    """What a tensor does in the forward pass; with a layer index it identifies a tensor."""

    EMBED = "embed"
    POSITIONS = "positions"  # learned position embeddings
    FINAL_NORM = "final_norm"
    HEAD = "head"
    FINAL_NORM_BIAS = "final_norm_bias"
    HEAD_BIAS = "head_bias"
    ATTN_NORM = "attn_norm"  # before attention
    ATTN_POST_NORM = "attn_post_norm"  # on the attention output (sandwich)
    FFN_NORM = "ffn_norm"  # before the FFN
    FFN_POST_NORM = "ffn_post_norm"  # on the FFN output (sandwich)
    ATTN_NORM_BIAS = "attn_norm_bias"
    FFN_NORM_BIAS = "ffn_norm_bias"
    Q = "q"
    K = "k"
    V = "v"
    O = "o"  # noqa: E741 - the field's name
    Q_BIAS = "q_bias"
    K_BIAS = "k_bias"
    V_BIAS = "v_bias"
    O_BIAS = "o_bias"
    Q_NORM = "q_norm"
    K_NORM = "k_norm"
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    GATE_BIAS = "gate_bias"
    UP_BIAS = "up_bias"
    DOWN_BIAS = "down_bias"
    LAYER_SCALAR = "layer_scalar"  # on the residual stream, at the layer's end
    PLE_PROJECTION = "ple_projection"  # M: from the embedding to all layers' vectors
    PLE_PROJECTION_NORM = "ple_projection_norm"  # on each layer's part of what M gives
    PLE_TABLE = "ple_table"  # a row per token, all layers' vectors
    PLE_GATE = "ple_gate"  # G
    PLE_OUTPUT = "ple_output"  # O
    PLE_NORM = "ple_norm"  # on what O gives

    @property
    def is_bias(self) -> bool:
        """Whether it is added, not multiplied; a vindex keeps those in float32."""
        return self.value.endswith("_bias")


#: What a block-quantised vindex keeps in blocks; all else stays in floats.
QUANTISED = frozenset({Role.Q, Role.K, Role.V, Role.O, Role.GATE, Role.UP, Role.DOWN, Role.HEAD})


class StorageFile(Enum):
    """The vindex file a tensor lives in (vindex-format.md section 2)."""

    EMBEDDINGS = "embeddings.bin"
    GATE = "gate_vectors.bin"
    ATTENTION = "attn_weights.bin"
    UP = "up_weights.bin"
    DOWN = "down_weights.bin"
    NORMS = "norms.bin"
    PLE = "ple_weights.bin"
    POSITIONS = "position_embeddings.bin"  # ours: larql has no learned positions
    HEAD = "lm_head.bin"


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows of a checkpoint tensor that make up a vindex tensor.

    The checkpoint tensor, turned over first if ``transposed``, consists of ``blocks`` equal blocks
    of rows; rows ``start..stop`` of every block, below each other, are the vindex tensor. Fused
    projections have one block, GPT-NeoX's q, k and v one for each head.

    Attributes:
        key: of the checkpoint tensor, without the family's prefix.
        shape: of the checkpoint tensor, as it is there.
        start, stop: rows within each block.
        blocks: how many.
        transposed: the checkpoint has ``[in, out]``.
    """

    key: str
    shape: tuple[int, ...]
    start: int
    stop: int
    blocks: int = 1
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor the model needs.

    Attributes:
        role, layer: identity (``layer`` is ``None`` for model-wide tensors).
        key: name in the vindex manifest = Hugging Face name without the family's prefix,
            e.g. ``layers.0.self_attn.q_proj.weight``.
        shape: as stored; matrices are ``[out, in]``.
        file: where the vindex keeps it.
        level: the lowest extract level that stores it.
        optional: may be absent (an lm_head of a tied model).
        cut: where in a checkpoint it comes from; ``None`` if it is there under ``key``.
    """

    role: Role
    layer: int | None
    key: str
    shape: tuple[int, ...]
    file: StorageFile
    level: ExtractLevel
    optional: bool = False
    cut: Cut | None = None


@dataclass(frozen=True, slots=True)
class LearnedPositions:
    """Position embeddings that are looked up and added to the token embeddings.

    Attributes:
        rows: of the table.
        offset: the row of position 0.
    """

    rows: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A whole model.

    Attributes:
        family: name of the family module that built it (``llama``, ``gemma3``).
        model_type: the config's own ``model_type``, as written to ``index.json``.
        embed_scale: factor on looked-up embeddings.
        logit_divisor: what logits are divided by, before the soft cap.
        logit_softcap: ``cap * tanh(logits / cap)``, or ``None``.
        positions: learned positions, or ``None``.
        head_bias: whether the head has one.
        tied: the config says the head is the embedding.
        tensors: every tensor needed, model order: embed, layers ascending, final norm, head.
        ple: per-layer embeddings, or ``None``.
        starts_with_bos: a prompt starts with the BOS token although the tokenizer adds none.
    """

    family: str
    model_type: str
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    final_norm: NormSpec
    embed_scale: float
    tied: bool
    max_positions: int
    tensors: tuple[TensorSpec, ...]
    logit_softcap: float | None = None
    logit_divisor: float = 1.0
    positions: LearnedPositions | None = None
    head_bias: bool = False
    ple: PleSpec | None = None
    starts_with_bos: bool = False

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.layers)

    @property
    def intermediate_size(self) -> int:
        """Widest FFN of the model; per-layer truth is ``layers[i].ffn.width``."""
        return max(layer.ffn.width for layer in self.layers)

    def needed(self, level: ExtractLevel) -> Iterator[TensorSpec]:
        """Tensors that a vindex of this level stores, in model order."""
        return (tensor for tensor in self.tensors if tensor.level <= level)

    def by_key(self) -> Mapping[str, TensorSpec]:
        """Tensors by manifest key."""
        return {tensor.key: tensor for tensor in self.tensors}
