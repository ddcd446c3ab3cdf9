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
from vindex.spec_attention import (
    AttentionKind,
    AttentionSpec,
    LatentSpec,
    QkNormSpan,
    RopeScaling,
    RopeSpec,
)
from vindex.spec_ffn import (
    Activation,
    DenseBeside,
    FfnPart,
    FfnSpec,
    GroupLimit,
    GroupScore,
    MoeSpec,
    NormKind,
    NormSpec,
    PartKind,
    RoutingSpec,
    Scoring,
    ffn_parts,
)

__all__ = [
    "DOWN_ROLES",
    "GATE_ROLES",
    "Activation",
    "AttentionKind",
    "AttentionSpec",
    "Cut",
    "DenseBeside",
    "FfnPart",
    "FfnSpec",
    "GroupLimit",
    "GroupScore",
    "LatentSpec",
    "LayerSpec",
    "LearnedPositions",
    "ModelSpec",
    "MoeSpec",
    "NormKind",
    "NormSpec",
    "PartKind",
    "Placement",
    "PleSpec",
    "QkNormSpan",
    "Role",
    "RopeScaling",
    "RopeSpec",
    "RoutingSpec",
    "Scoring",
    "StorageFile",
    "TensorIdentity",
    "TensorSpec",
    "ffn_parts",
    "part_roles",
]


class Placement(Enum):
    """Where the norms of a layer stand.

    PRE: ``h += attn(n1 h); h += ffn(n2 h)``.
    SANDWICH: ``h += n1b(attn(n1 h)); h += n2b(ffn(n2 h))`` (Gemma 2, 3).
    POST: ``h += n1b(attn(h)); h += n2b(ffn(h))`` (OLMo 2).
    SUM: ``h = n1(h + attn(h)); h = n2(h + ffn(h))`` (OPT-350M).
    PARALLEL: ``h += attn(n1 h) + ffn(n2 h)`` (GPT-NeoX).
    PARALLEL_SHARED: ``h += attn(n1 h) + ffn(n1 h)`` (Phi 1 and 2).
    """

    PRE = "pre"
    SANDWICH = "sandwich"
    POST = "post"
    SUM = "sum"
    PARALLEL = "parallel"
    PARALLEL_SHARED = "parallel_shared"

    @property
    def norms_inputs(self) -> bool:
        """Whether attention and FFN read normed values."""
        return self not in (Placement.POST, Placement.SUM)

    @property
    def norms_ffn_input(self) -> bool:
        """Whether the FFN's input has a norm of its own."""
        return self.norms_inputs and self is not Placement.PARALLEL_SHARED

    @property
    def norms_outputs(self) -> bool:
        """Whether what attention and FFN add to the residual stream is normed."""
        return self in (Placement.SANDWICH, Placement.POST)

    @property
    def norms_sums(self) -> bool:
        """Whether the residual stream itself is normed after each addition."""
        return self is Placement.SUM

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
    ffn: FfnSpec | MoeSpec
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
    EMBED_PROJECTION = "embed_projection"  # from an embedding of another size to D
    HEAD_PROJECTION = "head_projection"  # from D back to that size, before the head
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
    ATTN_SUM_NORM = "attn_sum_norm"  # on the residual stream, attention added
    ATTN_SUM_NORM_BIAS = "attn_sum_norm_bias"
    FFN_SUM_NORM = "ffn_sum_norm"  # on the residual stream, the FFN added
    FFN_SUM_NORM_BIAS = "ffn_sum_norm_bias"
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
    Q_NORM_BIAS = "q_norm_bias"
    K_NORM_BIAS = "k_norm_bias"
    SINKS = "sinks"  # a score for each head that takes part in the softmax only
    Q_LATENT = "q_latent"  # to the latent that Q reads in x's place
    Q_LATENT_BIAS = "q_latent_bias"
    Q_LATENT_NORM = "q_latent_norm"
    KV_LATENT = "kv_latent"  # to the latent of keys and values, and below it the rotated key
    KV_LATENT_BIAS = "kv_latent_bias"
    KV_LATENT_NORM = "kv_latent_norm"
    KV = "kv"  # from that latent: for each head rows of its key, then of its value
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    GATE_BIAS = "gate_bias"
    UP_BIAS = "up_bias"
    DOWN_BIAS = "down_bias"
    ROUTER = "router"  # a row for each expert
    ROUTER_BIAS = "router_bias"
    ROUTER_CORRECTION_BIAS = "router_correction_bias"  # on scores, for the choice only
    ROUTER_SCALE = "router_scale"  # on the router's normed input
    EXPERT_SCALE = "expert_scale"  # on the experts' weights, one number for each
    EXPERT_GATE = "expert_gate"  # with an expert's number, as all EXPERT_* below
    EXPERT_UP = "expert_up"
    EXPERT_DOWN = "expert_down"
    EXPERT_GATE_BIAS = "expert_gate_bias"
    EXPERT_UP_BIAS = "expert_up_bias"
    EXPERT_DOWN_BIAS = "expert_down_bias"
    SHARED_GATE = "shared_gate"
    SHARED_UP = "shared_up"
    SHARED_DOWN = "shared_down"
    SHARED_SWITCH = "shared_switch"  # one row: how much of the shared expert is added
    DENSE_POST_NORM = "dense_post_norm"  # on the output of the FFN beside the experts
    EXPERTS_NORM = "experts_norm"  # before the experts beside it
    EXPERTS_POST_NORM = "experts_post_norm"  # on their output
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
        return self.value.endswith("_bias") or self is Role.SINKS

    @property
    def bias(self) -> Role:
        """The bias that belongs to a matrix of this role."""
        return Role(f"{self.value}_bias")


_PART_ROLES = {
    PartKind.DENSE: (Role.GATE, Role.UP, Role.DOWN),
    PartKind.EXPERT: (Role.EXPERT_GATE, Role.EXPERT_UP, Role.EXPERT_DOWN),
    PartKind.SHARED: (Role.SHARED_GATE, Role.SHARED_UP, Role.SHARED_DOWN),
}


def part_roles(kind: PartKind) -> tuple[Role, Role, Role]:
    """The roles of the gate, up and down matrices of an FFN."""
    return _PART_ROLES[kind]


#: Matrices that together are a layer's block of gate rows.
GATE_ROLES = frozenset(gate for gate, _, _ in _PART_ROLES.values())
#: Matrices whose columns together are what a layer's features write.
DOWN_ROLES = frozenset(down for _, _, down in _PART_ROLES.values())


#: What a block-quantised vindex keeps in blocks; all else stays in floats.
QUANTISED = frozenset(
    {Role.Q, Role.K, Role.V, Role.O, Role.HEAD}
    | {role for roles in _PART_ROLES.values() for role in roles}
)


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
    PROJECTIONS = "embedding_projections.bin"  # ours: larql's embeddings are of size D
    HEAD = "lm_head.bin"


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows of a checkpoint tensor that make up a vindex tensor.

    The checkpoint tensor, turned over first if ``transposed``, consists of ``blocks`` equal blocks
    of rows; rows ``start..stop`` of every block, below each other, are the vindex tensor. Fused
    projections have one block, GPT-NeoX's q, k and v one for each head, rows that alternate
    between gate and up one for each feature. Of a checkpoint tensor that holds all experts only
    the part of one is looked at.

    Attributes:
        key: of the checkpoint tensor, without the family's prefix.
        shape: of the checkpoint tensor, as it is there.
        start, stop: rows within each block.
        blocks: how many.
        transposed: the checkpoint has ``[in, out]``.
        slab: the checkpoint tensor has one axis more, the first; this is the place on it.
    """

    key: str
    shape: tuple[int, ...]
    start: int
    stop: int
    blocks: int = 1
    transposed: bool = False
    slab: int | None = None


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
        others: where other checkpoints of the family have it.
        expert: identity too, for the tensors of an expert.
    """

    role: Role
    layer: int | None
    key: str
    shape: tuple[int, ...]
    file: StorageFile
    level: ExtractLevel
    optional: bool = False
    cut: Cut | None = None
    others: tuple[Cut, ...] = ()
    expert: int | None = None

    @property
    def identity(self) -> TensorIdentity:
        """What tells it from the model's other tensors."""
        return self.role, self.layer, self.expert


#: Role, layer and expert; ``None`` for what a tensor does not belong to.
TensorIdentity = tuple[Role, int | None, int | None]


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
        embedding_size: of the rows of embedding and head; D unless they are projected.
        final_norm: before the head, or ``None``.
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
    final_norm: NormSpec | None
    embedding_size: int
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
    def projects_embeddings(self) -> bool:
        """Whether embeddings are of another size than the residual stream."""
        return self.embedding_size != self.hidden_size

    @property
    def intermediate_size(self) -> int:
        """Features of the layer with the most; per-layer truth is ``layers[i].ffn.width``."""
        return max(layer.ffn.width for layer in self.layers)

    def needed(self, level: ExtractLevel) -> Iterator[TensorSpec]:
        """Tensors that a vindex of this level stores, in model order."""
        return (tensor for tensor in self.tensors if tensor.level <= level)

    def by_key(self) -> Mapping[str, TensorSpec]:
        """Tensors by manifest key."""
        return {tensor.key: tensor for tensor in self.tensors}
