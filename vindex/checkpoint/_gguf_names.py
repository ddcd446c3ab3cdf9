"""Which tensor of a GGUF file is which tensor of the Hugging Face checkpoint it was made from.

llama.cpp's converter renames tensors and, depending on the family, reorders rows of projections,
turns matrices over and adds one to norm weights. All of that is undone here on paper; ``Mapped``
says how to undo it in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vindex.checkpoint._gguf_header import GgufTensor
from vindex.checkpoint.cutting import source_key, ways
from vindex.errors import CheckpointError
from vindex.families import Family, GgufRules
from vindex.spec import Cut, ModelSpec, Role, TensorIdentity, TensorSpec

Order = npt.NDArray[np.intp]

_NAMES: Mapping[Role, str] = {
    Role.EMBED: "token_embd.weight",
    Role.POSITIONS: "position_embd.weight",
    Role.FINAL_NORM: "output_norm.weight",
    Role.FINAL_NORM_BIAS: "output_norm.bias",
    Role.HEAD: "output.weight",
    Role.HEAD_BIAS: "output.bias",
    Role.ATTN_NORM: "blk.{layer}.attn_norm.weight",
    Role.ATTN_NORM_BIAS: "blk.{layer}.attn_norm.bias",
    Role.ATTN_POST_NORM: "blk.{layer}.post_attention_norm.weight",
    Role.FFN_NORM: "blk.{layer}.ffn_norm.weight",
    Role.FFN_NORM_BIAS: "blk.{layer}.ffn_norm.bias",
    Role.FFN_POST_NORM: "blk.{layer}.post_ffw_norm.weight",
    Role.Q: "blk.{layer}.attn_q.weight",
    Role.K: "blk.{layer}.attn_k.weight",
    Role.V: "blk.{layer}.attn_v.weight",
    Role.O: "blk.{layer}.attn_output.weight",
    Role.Q_BIAS: "blk.{layer}.attn_q.bias",
    Role.K_BIAS: "blk.{layer}.attn_k.bias",
    Role.V_BIAS: "blk.{layer}.attn_v.bias",
    Role.O_BIAS: "blk.{layer}.attn_output.bias",
    Role.Q_NORM: "blk.{layer}.attn_q_norm.weight",
    Role.K_NORM: "blk.{layer}.attn_k_norm.weight",
    Role.GATE: "blk.{layer}.ffn_gate.weight",
    Role.UP: "blk.{layer}.ffn_up.weight",
    Role.DOWN: "blk.{layer}.ffn_down.weight",
    Role.GATE_BIAS: "blk.{layer}.ffn_gate.bias",
    Role.UP_BIAS: "blk.{layer}.ffn_up.bias",
    Role.DOWN_BIAS: "blk.{layer}.ffn_down.bias",
    Role.ROUTER: "blk.{layer}.ffn_gate_inp.weight",
    Role.SHARED_GATE: "blk.{layer}.ffn_gate_shexp.weight",
    Role.SHARED_UP: "blk.{layer}.ffn_up_shexp.weight",
    Role.SHARED_DOWN: "blk.{layer}.ffn_down_shexp.weight",
    Role.SHARED_SWITCH: "blk.{layer}.ffn_gate_inp_shexp.weight",
    Role.LAYER_SCALAR: "blk.{layer}.layer_output_scale.weight",
    Role.PLE_PROJECTION: "per_layer_model_proj.weight",
    Role.PLE_PROJECTION_NORM: "per_layer_proj_norm.weight",
    Role.PLE_TABLE: "per_layer_token_embd.weight",
    Role.PLE_GATE: "blk.{layer}.inp_gate.weight",
    Role.PLE_OUTPUT: "blk.{layer}.proj.weight",
    Role.PLE_NORM: "blk.{layer}.post_norm.weight",
}
# One tensor in the file for several roles; a model without gates has its up rows in both.
_QKV = (Role.Q, Role.K, Role.V)
_QKV_BIASES = (Role.Q_BIAS, Role.K_BIAS, Role.V_BIAS)
_FUSED: Mapping[tuple[Role, ...], str] = {
    _QKV: "blk.{layer}.attn_qkv.weight",
    _QKV_BIASES: "blk.{layer}.attn_qkv.bias",
    (Role.GATE, Role.UP): "blk.{layer}.ffn_up.weight",
}
# The matrices of all experts of a layer. Files of before April 2024 have one of each apart.
_STACKS: Mapping[Role, str] = {
    Role.EXPERT_GATE: "blk.{layer}.ffn_gate_exps.weight",
    Role.EXPERT_UP: "blk.{layer}.ffn_up_exps.weight",
    Role.EXPERT_DOWN: "blk.{layer}.ffn_down_exps.weight",
}
_APART: Mapping[Role, str] = {
    Role.EXPERT_GATE: "blk.{layer}.ffn_gate.{expert}.weight",
    Role.EXPERT_UP: "blk.{layer}.ffn_up.{expert}.weight",
    Role.EXPERT_DOWN: "blk.{layer}.ffn_down.{expert}.weight",
}
_NORMS = frozenset(
    {
        Role.ATTN_NORM,
        Role.ATTN_POST_NORM,
        Role.FFN_NORM,
        Role.FFN_POST_NORM,
        Role.FINAL_NORM,
        Role.Q_NORM,
        Role.K_NORM,
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """A Hugging Face tensor in terms of the file's.

    Attributes:
        tensor: where its values are.
        order: the file's row (of a vector: the element) for each of its own; ``None`` where they
            are the same.
        transposed: it is the file's matrix turned over.
        offset: what the file added to every value.
        one_row: it is a matrix of one row, of which the file makes a vector.
    """

    tensor: GgufTensor
    order: Order | None = None
    transposed: bool = False
    offset: float = 0.0
    one_row: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its own shape, slowest dimension first."""
        shape = self.tensor.shape
        if self.order is not None:
            shape = (len(self.order), *shape[1:])
        if self.one_row:
            shape = (1, *shape)
        return shape[::-1] if self.transposed else shape

    @property
    def rows(self) -> int:
        """Rows to decode for all of it, before it is turned over."""
        if self.order is None or len(self.tensor.shape) == 1:
            return self.tensor.rows
        return len(self.order)


def map_names(
    tensors: Mapping[str, GgufTensor], family: Family, rules: GgufRules, spec: ModelSpec
) -> dict[str, Mapped]:
    """Hugging Face names in the file's order; tensors without one keep their GGUF name."""
    claims: dict[str, dict[str, Mapped]] = {}
    done: set[TensorIdentity] = set()
    for key, parts in _sources(spec.tensors).items():
        first = parts[0]
        if first.identity in done:  # of the places for it that checkpoints have, one is enough
            continue
        if first.expert is None:
            found = _find(tensors, parts, rules, spec)
        else:
            found = _find_expert(tensors, first)
        if found is not None:
            claims.setdefault(found.tensor.name, {})[family.checkpoint_name(key)] = found
            done.add(first.identity)
    result: dict[str, Mapped] = {}
    for name, tensor in tensors.items():
        result |= claims.get(name, {name: Mapped(tensor)})
    return result


def _sources(tensors: Iterable[TensorSpec]) -> dict[str, list[TensorSpec]]:
    """The tensors of a Hugging Face checkpoint, and what is cut from each."""
    result: dict[str, list[TensorSpec]] = {}
    for tensor in tensors:
        for way in ways(tensor):
            if way.cut is None or way.cut.slab in (None, 0):  # one expert stands for all
                result.setdefault(source_key(way), []).append(way)
    return result


def _find_expert(tensors: Mapping[str, GgufTensor], part: TensorSpec) -> Mapped | None:
    """The matrices of all experts of a layer, or that of one in a file that has them apart."""
    if part.cut is None:
        name = _APART[part.role].format(layer=part.layer, expert=part.expert)
        return Mapped(tensors[name]) if name in tensors else None
    if part.cut.shape[1:] != part.shape:  # two matrices of each expert in one tensor
        return None
    name = _STACKS[part.role].format(layer=part.layer)
    return Mapped(tensors[name]) if name in tensors else None


def _find(
    tensors: Mapping[str, GgufTensor], parts: list[TensorSpec], rules: GgufRules, spec: ModelSpec
) -> Mapped | None:
    first = parts[0]
    name = file_name(parts)
    if name is None:
        return None  # the ledger names it as missing
    tensor = tensors.get(name)
    if tensor is None:
        alone = len(parts) == 1 and not rules.permuted
        return _cut_out(tensors, first, spec) if alone else None
    layout = file_layout(parts, rules, spec, tensor.shape[0])
    return Mapped(
        tensor,
        layout.order,
        transposed=layout.transposed,
        one_row=layout.one_row and len(tensor.shape) == 1,
        offset=layout.offset,
    )


def file_name(parts: Sequence[TensorSpec]) -> str | None:
    """What a file calls the Hugging Face tensor that holds these, from the first row on."""
    name = _FUSED.get(tuple(part.role for part in parts)) or _NAMES.get(parts[0].role)
    return None if name is None else name.format(layer=parts[0].layer)


def stack_name(part: TensorSpec) -> str | None:
    """What a file calls the stack of all experts' tensors of this role."""
    name = _STACKS.get(part.role)
    return None if name is None else name.format(layer=part.layer)


@dataclass(frozen=True, slots=True, eq=False)
class FileLayout:
    """How a file has a Hugging Face tensor; the attributes are those of ``Mapped``."""

    order: Order | None
    transposed: bool
    one_row: bool
    offset: float

    def to_file(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The file's values of a Hugging Face tensor: what reading undoes."""
        if self.one_row:
            values = values[0]
        if self.transposed:
            values = values.T
        if self.order is not None:
            ordered = np.empty_like(values)
            ordered[self.order] = values
            values = ordered
        if self.offset:
            values = values + np.float32(self.offset)
        return np.ascontiguousarray(values)


def file_layout(
    parts: Sequence[TensorSpec], rules: GgufRules, spec: ModelSpec, rows: int
) -> FileLayout:
    """How a file has the Hugging Face tensor that holds these parts.

    Args:
        rows: of the tensor in the file.
    """
    first = parts[0]
    order, cut = None, first.cut
    if first.role in rules.permuted and first.layer is not None:
        attention = spec.layers[first.layer].attention
        query = first.role in (Role.Q, Role.Q_BIAS)
        heads = attention.heads if query else attention.kv_heads
        order = rope_pairs_apart(rows, heads)
    elif cut is not None and cut.blocks > 1:
        order = _head_by_head(rows, len(parts), cut)
    return FileLayout(
        order,
        transposed=cut is not None and cut.transposed,
        one_row=first.role is Role.SHARED_SWITCH,
        offset=1.0 if rules.norm_offset and first.role in _NORMS else 0.0,
    )


def _cut_out(tensors: Mapping[str, GgufTensor], part: TensorSpec, spec: ModelSpec) -> Mapped | None:
    """q, k or v where only the file has them in one tensor, as old files of Phi 2 do."""
    for weights in (_QKV, _QKV_BIASES):
        tensor = tensors.get(_FUSED[weights].format(layer=part.layer))
        if part.role not in weights or tensor is None or part.layer is None:
            continue
        attention = spec.layers[part.layer].attention
        query, key = (
            heads * attention.head_size for heads in (attention.heads, attention.kv_heads)
        )
        if tensor.shape[0] != query + 2 * key:
            return None
        starts = (0, query, query + key, query + 2 * key)
        which = weights.index(part.role)
        return Mapped(tensor, np.arange(starts[which], starts[which + 1], dtype=np.intp))
    return None


def rope_pairs_apart(rows: int, heads: int) -> Order:
    """Which file row holds each Hugging Face row of a q or k matrix of a llama.

    The file has each head's rows as ``[S / 2, 2]`` (rope pairs adjacent), Hugging Face as
    ``[2, S / 2]`` (pairs half a head apart).
    """
    if rows % (2 * heads):
        raise CheckpointError(f"a matrix of {rows} rows cannot belong to {heads} heads")
    order = np.arange(rows, dtype=np.intp).reshape(heads, rows // heads // 2, 2)
    return order.swapaxes(1, 2).reshape(rows)


def _head_by_head(rows: int, parts: int, cut: Cut) -> Order:
    """Which file row holds each row of a matrix that has q, k, v of head 0, then of head 1, ...

    The file has all of q, then all of k, then all of v.
    """
    if rows % (parts * cut.blocks):
        raise CheckpointError(f"a matrix of {rows} rows cannot belong to {cut.blocks} heads")
    order = np.arange(rows, dtype=np.intp).reshape(parts, cut.blocks, -1)
    return order.swapaxes(0, 1).reshape(rows)
