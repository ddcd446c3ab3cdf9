"""The tensors that a decoder needs, and where a family's checkpoints keep them.

A vindex tensor has the key of the checkpoint tensor it is; one that is cut out of a fused tensor
has the key that llama-like models give it. Both are in ``Naming``, a table for each family.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from vindex import ple as sidecar
from vindex.families import _attention_needs
from vindex.families._attention_needs import Need
from vindex.families._experts import Stacked, expert_tensors
from vindex.kinds import ExtractLevel
from vindex.spec import (
    Cut,
    FfnSpec,
    LayerSpec,
    LearnedPositions,
    MoeSpec,
    NormKind,
    PleSpec,
    Role,
    StorageFile,
    TensorSpec,
)


@dataclass(frozen=True, slots=True)
class Fused:
    """A checkpoint tensor that holds several tensors of the model below each other, or one turned.

    Attributes:
        key: its key; ``{layer}`` stands for the layer.
        roles: what it holds, from the first row on.
        per_head: the order repeats for every head, so all roles have the same number of rows.
        transposed: it is stored as ``[in, out]``.
    """

    key: str
    roles: tuple[Role, ...]
    per_head: bool = False
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Naming:
    """Keys of a family's tensors; ``{layer}`` and ``{expert}`` stand for the numbers.

    Attributes:
        keys: of every tensor that the family has, in the vindex.
        fused: checkpoint tensors that are taken apart.
        stacked: checkpoint tensors that hold those of all experts.
        aliases: other keys that checkpoints have for whole tensors of a mixture of experts.
    """

    keys: Mapping[Role, str]
    fused: tuple[Fused, ...] = field(default=())
    stacked: tuple[Stacked, ...] = field(default=())
    aliases: Mapping[Role, str] = field(default_factory=dict)

    def but(self, keys: Mapping[Role, str], *fused: Fused) -> Naming:
        """The same with some other keys, and with these fused tensors."""
        return replace(self, keys={**self.keys, **keys}, fused=(*self.fused, *fused))

    def with_experts(
        self,
        keys: Mapping[Role, str],
        *stacked: Stacked,
        aliases: Mapping[Role, str] | None = None,
    ) -> Naming:
        """The same with the keys of a mixture of experts."""
        return replace(
            self,
            keys={**self.keys, **keys},
            stacked=(*self.stacked, *stacked),
            aliases={**self.aliases, **(aliases or {})},
        )

    def key(self, role: Role, layer: int | None) -> str:
        """The key of a tensor."""
        return self.keys[role].format(layer=layer)


LLAMA = Naming(
    {
        Role.EMBED: "embed_tokens.weight",
        Role.FINAL_NORM: "norm.weight",
        Role.FINAL_NORM_BIAS: "norm.bias",
        Role.HEAD: "lm_head.weight",
        Role.HEAD_BIAS: "lm_head.bias",
        Role.ATTN_NORM: "layers.{layer}.input_layernorm.weight",
        Role.ATTN_NORM_BIAS: "layers.{layer}.input_layernorm.bias",
        Role.FFN_NORM: "layers.{layer}.post_attention_layernorm.weight",
        Role.FFN_NORM_BIAS: "layers.{layer}.post_attention_layernorm.bias",
        Role.Q: "layers.{layer}.self_attn.q_proj.weight",
        Role.K: "layers.{layer}.self_attn.k_proj.weight",
        Role.V: "layers.{layer}.self_attn.v_proj.weight",
        Role.O: "layers.{layer}.self_attn.o_proj.weight",
        Role.Q_BIAS: "layers.{layer}.self_attn.q_proj.bias",
        Role.K_BIAS: "layers.{layer}.self_attn.k_proj.bias",
        Role.V_BIAS: "layers.{layer}.self_attn.v_proj.bias",
        Role.O_BIAS: "layers.{layer}.self_attn.o_proj.bias",
        Role.Q_NORM: "layers.{layer}.self_attn.q_norm.weight",
        Role.K_NORM: "layers.{layer}.self_attn.k_norm.weight",
        Role.GATE: "layers.{layer}.mlp.gate_proj.weight",
        Role.UP: "layers.{layer}.mlp.up_proj.weight",
        Role.DOWN: "layers.{layer}.mlp.down_proj.weight",
        Role.GATE_BIAS: "layers.{layer}.mlp.gate_proj.bias",
        Role.UP_BIAS: "layers.{layer}.mlp.up_proj.bias",
        Role.DOWN_BIAS: "layers.{layer}.mlp.down_proj.bias",
    }
)

#: Llama with four norms a layer (Gemma 2 and 3) or two after the sublayers (OLMo 2).
FOUR_NORMS = LLAMA.but(
    {
        Role.ATTN_POST_NORM: "layers.{layer}.post_attention_layernorm.weight",
        Role.FFN_NORM: "layers.{layer}.pre_feedforward_layernorm.weight",
        Role.FFN_POST_NORM: "layers.{layer}.post_feedforward_layernorm.weight",
    }
)

GATE_UP = Fused("layers.{layer}.mlp.gate_up_proj.weight", (Role.GATE, Role.UP))


def decoder_tensors(
    layers: tuple[LayerSpec, ...],
    *,
    vocab_size: int,
    hidden_size: int,
    tied: bool,
    naming: Naming = LLAMA,
    positions: LearnedPositions | None = None,
    head_bias: bool = False,
    ple: PleSpec | None = None,
    embedding_size: int | None = None,
    has_final_norm: bool = True,
) -> tuple[TensorSpec, ...]:
    """Every tensor of a decoder, in model order.

    Filtered by file, the order is larql's: its readers do not need it, people comparing do.

    Args:
        embedding_size: where embeddings are projected; ``hidden_size`` otherwise.
    """

    def tensor(
        role: Role,
        shape: tuple[int, ...],
        file: StorageFile,
        level: ExtractLevel,
        optional: bool = False,
    ) -> TensorSpec:
        return TensorSpec(role, None, naming.key(role, None), shape, file, level, optional)

    embedding_size = embedding_size or hidden_size
    matrix, vector = (vocab_size, embedding_size), (hidden_size,)
    result = [tensor(Role.EMBED, matrix, StorageFile.EMBEDDINGS, ExtractLevel.BROWSE)]
    projected = embedding_size != hidden_size
    if projected:
        shape = hidden_size, embedding_size
        file = StorageFile.PROJECTIONS
        result.append(tensor(Role.EMBED_PROJECTION, shape, file, ExtractLevel.BROWSE))
    if positions is not None:
        table = (positions.rows, hidden_size)
        result.append(tensor(Role.POSITIONS, table, StorageFile.POSITIONS, ExtractLevel.ATTENTION))
    if ple is not None:
        result += sidecar.model_matrices(ple, len(layers), hidden_size)
    for layer in layers:
        result += _layer_tensors(layer, hidden_size, naming, ple)
    if has_final_norm:
        result.append(tensor(Role.FINAL_NORM, vector, StorageFile.NORMS, ExtractLevel.ATTENTION))
    if has_final_norm and layers[0].norm.kind is NormKind.LAYER:
        result.append(
            tensor(Role.FINAL_NORM_BIAS, vector, StorageFile.NORMS, ExtractLevel.ATTENTION)
        )
    if ple is not None:
        result.append(sidecar.model_norm(ple))
    if projected:
        shape = embedding_size, hidden_size
        result.append(tensor(Role.HEAD_PROJECTION, shape, file, ExtractLevel.INFERENCE))
    result.append(tensor(Role.HEAD, matrix, StorageFile.HEAD, ExtractLevel.INFERENCE, tied))
    if head_bias:
        result.append(
            tensor(Role.HEAD_BIAS, (vocab_size,), StorageFile.NORMS, ExtractLevel.INFERENCE)
        )
    return tuple(result)


def _layer_tensors(
    layer: LayerSpec, hidden: int, naming: Naming, ple: PleSpec | None
) -> Iterator[TensorSpec]:
    needs = list(_layer_needs(layer, hidden))
    shapes = {role: shape for role, shape, _, _ in needs}
    cuts = {
        role: cut
        for fused in naming.fused
        for role, cut in _cuts(fused, layer, shapes)
        if role in shapes
    }
    ffn = dense_ffn(layer)
    if ffn is not None and not ffn.gated:
        # Where there is no gate, a feature responds with its up row; larql stores that as its gate.
        up = naming.key(Role.UP, layer.index)
        cuts[Role.GATE] = cuts.get(Role.UP) or Cut(up, shapes[Role.UP], 0, ffn.width)
    for role, shape, file, level in needs:
        key = naming.key(role, layer.index)
        yield TensorSpec(role, layer.index, key, shape, file, level, cut=cuts.get(role))
    if isinstance(layer.ffn, MoeSpec):
        yield from expert_tensors(
            layer.ffn, layer.index, hidden, naming.keys, naming.stacked, naming.aliases
        )
    if layer.scaled:
        yield sidecar.layer_scalar(layer.index)
    if ple is not None:
        yield sidecar.layer_norm(layer.index, hidden)
        yield from sidecar.layer_matrices(ple, layer.index, hidden)


def dense_ffn(layer: LayerSpec) -> FfnSpec | None:
    """The FFN of a layer without experts, or the one beside them."""
    if isinstance(layer.ffn, FfnSpec):
        return layer.ffn
    return None if layer.ffn.beside is None else layer.ffn.beside.ffn


def _cuts(
    fused: Fused, layer: LayerSpec, shapes: Mapping[Role, tuple[int, ...]]
) -> Iterator[tuple[Role, Cut]]:
    """The part of a fused tensor that each of its roles is; nothing if the layer has none of it."""
    if not all(role in shapes for role in fused.roles):
        return
    blocks = layer.attention.heads if fused.per_head else 1
    rows = [shapes[role][0] for role in fused.roles]
    whole = (sum(rows), *shapes[fused.roles[0]][1:])
    start = 0
    for role, count in zip(fused.roles, rows, strict=True):
        stop = start + count // blocks
        yield (
            role,
            Cut(
                fused.key.format(layer=layer.index),
                whole[::-1] if fused.transposed else whole,
                start,
                stop,
                blocks,
                fused.transposed,
            ),
        )
        start = stop


def _layer_needs(layer: LayerSpec, hidden: int) -> Iterator[Need]:
    ffn, norms, at_inference = dense_ffn(layer), StorageFile.NORMS, ExtractLevel.INFERENCE

    yield from _attention_needs.matrices(layer.attention, hidden)
    if ffn is not None:
        yield Role.GATE, (ffn.width, hidden), StorageFile.GATE, ExtractLevel.BROWSE
        yield Role.UP, (ffn.width, hidden), StorageFile.UP, at_inference
        yield Role.DOWN, (hidden, ffn.width), StorageFile.DOWN, at_inference
    for role in _norm_roles(layer):
        yield role, (hidden,), norms, ExtractLevel.ATTENTION
    yield from _attention_needs.vectors(layer.attention, hidden)
    if ffn is not None and ffn.bias:
        if ffn.gated:
            yield Role.GATE_BIAS, (ffn.width,), norms, at_inference
        yield Role.UP_BIAS, (ffn.width,), norms, at_inference
        yield Role.DOWN_BIAS, (hidden,), norms, at_inference


def _norm_roles(layer: LayerSpec) -> Iterator[Role]:
    """The norms of a layer in the order they are stored."""
    biased = layer.norm.kind is NormKind.LAYER
    if layer.placement.norms_inputs:
        yield Role.ATTN_NORM
        if biased:
            yield Role.ATTN_NORM_BIAS
    if layer.placement.norms_outputs:
        yield Role.ATTN_POST_NORM
    if layer.placement.norms_ffn_input:
        yield Role.FFN_NORM
        if biased:
            yield Role.FFN_NORM_BIAS
    if layer.placement.norms_outputs:
        yield Role.FFN_POST_NORM
    if layer.placement.norms_sums:
        for norm, bias in _SUM_NORMS:
            yield norm
            if biased:
                yield bias


_SUM_NORMS = (
    (Role.ATTN_SUM_NORM, Role.ATTN_SUM_NORM_BIAS),
    (Role.FFN_SUM_NORM, Role.FFN_SUM_NORM_BIAS),
)
