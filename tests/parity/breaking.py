"""Ways to break a model on purpose, one term of the mathematics at a time.

Each is a plausible mistake of a decoder or a family module, expressed as a wrong specification or
wrong values of a tensor. A tensor role is neutralised by values that make it do nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

import numpy as np
from tokenizers import Tokenizer

from tests.parity.checkpoints import EPS
from tests.parity.mixtures import is_ungated, other_activation
from tests.parity.reference import Floats
from vindex.kinds import StorageDtype
from vindex.source import ModelSource, StoredTensor
from vindex.spec import (
    Activation,
    AttentionKind,
    AttentionSpec,
    LayerSpec,
    ModelSpec,
    NormKind,
    NormSpec,
    Placement,
    Role,
    RopeScaling,
    RopeSpec,
)

SpecChange = Callable[[ModelSpec], ModelSpec]
Values = Callable[[ModelSource, StoredTensor], Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """One thing that is wrong.

    Attributes:
        spec: the specification with the mistake; the same if the model does not have the term.
        tensors: the values of these roles with the mistake.
    """

    name: str
    spec: SpecChange = field(default=lambda spec: spec)
    tensors: Mapping[Role, Values] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def concerns(self, source: ModelSource) -> bool:
        """Whether it changes anything about this model."""
        if self.spec(source.spec) != source.spec:
            return True
        stored = [
            source.tensor(*tensor.identity)
            for tensor in source.spec.tensors
            if tensor.layer in (None, 0, 1)  # the first may be without experts
            and tensor.expert in (None, 1)
            and tensor.role in self.tensors
            and source.has(*tensor.identity)
        ]
        return any(
            not np.array_equal(change(source, tensor), tensor.float32())
            for change in self.tensors.values()
            for tensor in stored
        )


class BrokenSource:
    """A source with a mistake."""

    def __init__(self, source: ModelSource, mistake: Mistake) -> None:
        self._source = source
        self._mistake = mistake
        # Room for the prompt even if the mistake takes it: it must show, not be refused.
        self.spec: ModelSpec = dataclasses.replace(mistake.spec(source.spec), max_positions=1024)
        self.name = f"{source.name}, {mistake}"
        self.tokenizer_config: Mapping[str, Any] = source.tokenizer_config
        self.generation_config: Mapping[str, Any] = source.generation_config
        self.chat_template = source.chat_template

    def has(self, role: Role, layer: int | None = None, expert: int | None = None) -> bool:
        return self._source.has(role, layer, expert)

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        stored = self._source.tensor(role, layer, expert)
        if role not in self._mistake.tensors:
            return stored
        values = self._mistake.tensors[role](self._source, stored)
        return StoredTensor(stored.key, StorageDtype.F32, values.astype(np.float32))

    def matrix(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        return self.tensor(role, layer, expert)

    def tokenizer(self) -> Tokenizer:
        return self._source.tokenizer()


def _zeros(_source: ModelSource, stored: StoredTensor) -> Floats:
    return np.zeros(stored.shape, np.float32)


def _zeros_if_gated(source: ModelSource, stored: StoredTensor) -> Floats:
    """A model without gates keeps its up rows in the gate's place, for browsing only."""
    ungated = is_ungated(source.spec.layers[0].ffn)
    return stored.float32() if ungated else _zeros(source, stored)


def _zeros_if_turned(source: ModelSource, stored: StoredTensor) -> Floats:
    """Without rope a bias of k adds the same to all scores of a query, which softmax ignores."""
    turned = source.spec.layers[0].attention.rope is not None
    return _zeros(source, stored) if turned else stored.float32()


def _identity(source: ModelSource, stored: StoredTensor) -> Floats:
    match source.spec.layers[0].norm.kind:
        case NormKind.RMS_OFFSET:
            value = 0.0
        case NormKind.RMS | NormKind.LAYER:
            value = 1.0
        case _ as unreachable:
            assert_never(unreachable)
    return np.full(stored.shape, value, np.float32)


def _embedding(source: ModelSource, _stored: StoredTensor) -> Floats:
    return source.tensor(Role.EMBED).float32()


def _mirrored(_source: ModelSource, stored: StoredTensor) -> Floats:
    return stored.float32()[::-1]


def _each_layer(change: Callable[[LayerSpec], LayerSpec]) -> SpecChange:
    return lambda spec: dataclasses.replace(spec, layers=tuple(map(change, spec.layers)))


def _each_attention(change: Callable[[AttentionSpec], AttentionSpec]) -> SpecChange:
    return _each_layer(lambda layer: dataclasses.replace(layer, attention=change(layer.attention)))


def _attention(**values: Any) -> SpecChange:
    return _each_attention(lambda attention: dataclasses.replace(attention, **values))


def _each_rope(change: Callable[[RopeSpec, AttentionKind], RopeSpec]) -> SpecChange:
    def changed(attention: AttentionSpec) -> AttentionSpec:
        if attention.rope is None:
            return attention
        return dataclasses.replace(attention, rope=change(attention.rope, attention.kind))

    return _each_attention(changed)


def _activation(wrong: Mapping[Activation, Activation]) -> SpecChange:
    def changed(layer: LayerSpec) -> LayerSpec:
        ffn = other_activation(layer.ffn, wrong.__getitem__)
        return dataclasses.replace(layer, ffn=ffn)

    return _each_layer(changed)


def _norms(change: Callable[[NormSpec], NormSpec]) -> SpecChange:
    def changed(spec: ModelSpec) -> ModelSpec:
        layers = _each_layer(lambda layer: dataclasses.replace(layer, norm=change(layer.norm)))
        if spec.final_norm is None:
            return layers(spec)
        return dataclasses.replace(layers(spec), final_norm=change(spec.final_norm))

    return changed


def _head_norms(change: Callable[[NormSpec], NormSpec]) -> SpecChange:
    return _each_attention(
        lambda attention: dataclasses.replace(
            attention, qk_norm=None if attention.qk_norm is None else change(attention.qk_norm)
        )
    )


def _small_eps(norm: NormSpec) -> NormSpec:
    """OPT alone has an epsilon that no config states and no row can make large."""
    return dataclasses.replace(norm, eps=1e-6) if norm.eps == EPS else norm


def _other_offset(norm: NormSpec) -> NormSpec:
    swapped = {NormKind.RMS: NormKind.RMS_OFFSET, NormKind.RMS_OFFSET: NormKind.RMS}
    return dataclasses.replace(norm, kind=swapped.get(norm.kind, norm.kind))


def _without_mean(norm: NormSpec) -> NormSpec:
    rms = norm.kind is NormKind.LAYER
    return dataclasses.replace(norm, kind=NormKind.RMS) if rms else norm


def _other_order(layer: LayerSpec) -> LayerSpec:
    """Attention and FFN one after the other instead of side by side, and the other way round."""
    swapped = {Placement.PRE: Placement.PARALLEL, Placement.PARALLEL: Placement.PRE}
    return dataclasses.replace(layer, placement=swapped.get(layer.placement, layer.placement))


def _next_position(spec: ModelSpec) -> ModelSpec:
    if spec.positions is None:
        return spec
    moved = dataclasses.replace(spec.positions, offset=spec.positions.offset + 1)
    return dataclasses.replace(spec, positions=moved)


def _unscaled(rope: RopeSpec, _kind: AttentionKind) -> RopeSpec:
    return RopeSpec(rope.theta, rope.rotary_size, interleaved=rope.interleaved)


def _without_rope(attention: AttentionSpec) -> AttentionSpec:
    """Nothing turns; with latents the lanes that would have must still be told apart."""
    if attention.latent is None or attention.rope is None:
        return dataclasses.replace(attention, rope=None)
    still = RopeScaling.PROPORTIONAL
    rope = RopeSpec(attention.rope.theta, attention.rope.rotary_size, still, turning_pairs=0)
    return dataclasses.replace(attention, rope=rope)


def _whole_heads(attention: AttentionSpec) -> AttentionSpec:
    rope = attention.rope
    if attention.latent is not None or rope is None or rope.scaling is not RopeScaling.NONE:
        return attention
    whole = dataclasses.replace(rope, rotary_size=attention.head_size)
    return dataclasses.replace(attention, rope=whole)


def _unstrengthened(rope: RopeSpec, _kind: AttentionKind) -> RopeSpec:
    return dataclasses.replace(rope, attention_factor=1.0)


def _unblended(rope: RopeSpec, _kind: AttentionKind) -> RopeSpec:
    yarn = rope.scaling is RopeScaling.YARN
    return dataclasses.replace(rope, low_dim=-2.0, high_dim=-1.0) if yarn else rope


def _other_factors(rope: RopeSpec, _kind: AttentionKind) -> RopeSpec:
    return dataclasses.replace(
        rope, short_factors=rope.long_factors, long_factors=rope.short_factors
    )


def _plain_residual(layer: LayerSpec) -> LayerSpec:
    return dataclasses.replace(layer, residual_multiplier=1.0)


def _other_pairs(rope: RopeSpec, _kind: AttentionKind) -> RopeSpec:
    return dataclasses.replace(rope, interleaved=not rope.interleaved)


def _own_theta(rope: RopeSpec, _kind: AttentionKind) -> RopeSpec:
    return dataclasses.replace(rope, theta=rope.theta * 2)


def _window(attention: AttentionSpec, change: int | None) -> AttentionSpec:
    if attention.window is None:
        return attention
    window = None if change is None else attention.window + change
    return dataclasses.replace(attention, window=window)


def _global_rope(spec: ModelSpec, **only: bool) -> ModelSpec:
    """Sliding layers rotate as full ones do: by their theta, and their scaling unless told not."""
    shared = [each.attention.rope for each in spec.layers if each.attention.window is None]

    def change(rope: RopeSpec, kind: AttentionKind) -> RopeSpec:
        if kind is AttentionKind.FULL or not shared or shared[0] is None:
            return rope
        if only.get("theta"):
            return dataclasses.replace(rope, theta=shared[0].theta)
        return dataclasses.replace(shared[0], theta=rope.theta, rotary_size=rope.rotary_size)

    return _each_rope(change)(spec)


def _swapped_kinds(spec: ModelSpec) -> ModelSpec:
    """Full layers slide and sliding layers are full."""
    kinds = {each.attention.kind: each.attention for each in spec.layers}
    if len(kinds) < 2 or len({each.head_size for each in kinds.values()}) > 1:
        return spec  # heads of two sizes could not be swapped unnoticed
    other = {
        AttentionKind.FULL: kinds[AttentionKind.SLIDING],
        AttentionKind.SLIDING: kinds[AttentionKind.FULL],
    }
    return _each_attention(lambda attention: other[attention.kind])(spec)


def _first_source(spec: ModelSpec) -> ModelSpec:
    """Sharing layers read the first layer of their kind that has keys instead of the last."""
    first = {each.attention.kind: each.index for each in reversed(spec.layers)}
    return _each_attention(
        lambda each: (
            each
            if each.kv_source is None
            else dataclasses.replace(each, kv_source=first[each.kind])
        )
    )(spec)


def _prefix_rope(rope: RopeSpec, _kind: AttentionKind) -> RopeSpec:
    """Proportional rope as if the lanes that turn were a small head of their own."""
    if rope.turning_pairs is None:
        return rope
    return RopeSpec(rope.theta, rotary_size=2 * rope.turning_pairs)


def _value_norms(change: Callable[[NormSpec], NormSpec | None]) -> SpecChange:
    return _each_attention(
        lambda each: dataclasses.replace(
            each, v_norm=None if each.v_norm is None else change(each.v_norm)
        )
    )


def _ple_norm(change: Callable[[NormSpec], NormSpec]) -> SpecChange:
    def changed(spec: ModelSpec) -> ModelSpec:
        if spec.ple is None:
            return spec
        return dataclasses.replace(
            spec, ple=dataclasses.replace(spec.ple, norm=change(spec.ple.norm))
        )

    return changed


def _no_ple(spec: ModelSpec) -> ModelSpec:
    return dataclasses.replace(spec, ple=None)


def _unscaled_table(source: ModelSource, stored: StoredTensor) -> Floats:
    assert source.spec.ple is not None
    return stored.float32() / np.float32(source.spec.ple.size**0.5)


def _unscaled_projection(source: ModelSource, stored: StoredTensor) -> Floats:
    return stored.float32() * np.float32(source.spec.hidden_size**0.5)


def _times_sqrt2(_source: ModelSource, stored: StoredTensor) -> Floats:
    return stored.float32() * np.float32(2**0.5)


def _layer_parts_reversed(source: ModelSource, stored: StoredTensor) -> Floats:
    """Every layer gets the part of another one."""
    parts = stored.float32().reshape(stored.shape[0], source.spec.num_layers, -1)
    return parts[:, ::-1].reshape(stored.shape)


def _grouped_otherwise(source: ModelSource, stored: StoredTensor) -> Floats:
    """Rows of q as if head j read key head j % K instead of j // G."""
    layer = int(stored.key.split(".")[1])
    attention = source.spec.layers[layer].attention
    heads = stored.float32().reshape(attention.kv_heads, -1, attention.head_size, stored.shape[1])
    return heads.swapaxes(0, 1).reshape(stored.shape)


def _other_half(role: Role) -> Values:
    """The other of gate and up."""
    other = {Role.GATE: Role.UP, Role.UP: Role.GATE}[role]
    return lambda source, stored: source.tensor(other, _layer_of(stored)).float32()


def _layer_of(stored: StoredTensor) -> int:
    return int(stored.key.split(".")[1])


def _in_three_blocks(role: Role) -> Values:
    """GPT-NeoX's fused projection read as all of q, all of k, all of v, not head by head."""

    def values(source: ModelSource, stored: StoredTensor) -> Floats:
        if source.spec.family != "gpt_neox":
            return stored.float32()
        heads = source.spec.layers[0].attention.heads
        parts = [
            source.tensor(each, _layer_of(stored)).float32().reshape(heads, -1, stored.shape[-1])
            for each in _QKV
        ]
        fused = np.concatenate(parts, axis=1).reshape(-1, stored.shape[-1])
        return np.split(fused, len(_QKV))[_QKV.index(role)]

    return values


_QKV = (Role.Q, Role.K, Role.V)
_IDENTITIES = (
    Role.ATTN_NORM,
    Role.ATTN_POST_NORM,
    Role.FFN_NORM,
    Role.FFN_POST_NORM,
    Role.FINAL_NORM,
    Role.ATTN_SUM_NORM,
    Role.FFN_SUM_NORM,
    Role.Q_NORM,
    Role.K_NORM,
    Role.LAYER_SCALAR,
    Role.PLE_PROJECTION_NORM,
    Role.PLE_NORM,
    Role.Q_LATENT_NORM,
    Role.KV_LATENT_NORM,
    Role.ROUTER_SCALE,
    Role.EXPERT_SCALE,
    Role.DENSE_POST_NORM,
    Role.EXPERTS_NORM,
    Role.EXPERTS_POST_NORM,
)
_SPECIAL = (Role.EMBED, Role.HEAD, Role.GATE, Role.K_BIAS)

MISTAKES = (
    *(Mistake(f"{role.value}: identity", tensors={role: _identity}) for role in _IDENTITIES),
    *(
        Mistake(f"{role.value}: zero", tensors={role: _zeros})
        for role in Role
        if role not in (*_IDENTITIES, *_SPECIAL)
    ),
    Mistake("gate: zero", tensors={Role.GATE: _zeros_if_gated}),
    Mistake("k_bias: zero", tensors={Role.K_BIAS: _zeros_if_turned}),
    Mistake(
        "gate and up swapped",
        tensors={role: _other_half(role) for role in (Role.GATE, Role.UP)},
    ),
    Mistake("q, k, v in three blocks", tensors={role: _in_three_blocks(role) for role in _QKV}),
    Mistake("head: the embedding", tensors={Role.HEAD: _embedding}),
    Mistake("embed: other rows", tensors={Role.EMBED: _mirrored}),
    Mistake("query heads grouped by remainder", tensors={Role.Q: _grouped_otherwise}),
    Mistake("norm eps 1e-6", _norms(_small_eps)),
    Mistake("LayerNorm without mean and bias", _norms(_without_mean)),
    Mistake("sequential and parallel swapped", _each_layer(_other_order)),
    Mistake("positions one further", _next_position),
    Mistake("qk-norm eps 1e-6", _head_norms(_small_eps)),
    Mistake("w and 1 + w swapped", _norms(_other_offset)),
    Mistake("qk-norm w and 1 + w swapped", _head_norms(_other_offset)),
    Mistake("qk-norm left out", _attention(qk_norm=None)),
    Mistake(
        "attention scale of the head size",
        _each_attention(lambda each: dataclasses.replace(each, scale=each.head_size**-0.5)),
    ),
    Mistake("attention scale 1", _attention(scale=1.0)),
    Mistake("window: full", _each_attention(lambda each: _window(each, None))),
    Mistake("window one longer", _each_attention(lambda each: _window(each, 1))),
    Mistake("window one shorter", _each_attention(lambda each: _window(each, -1))),
    Mistake("full and sliding swapped", _swapped_kinds),
    Mistake("rope left out", _each_attention(_without_rope)),
    Mistake("rope unscaled", _each_rope(_unscaled)),
    Mistake("rope of whole heads", _each_attention(_whole_heads)),
    Mistake("rope attention factor 1", _each_rope(_unstrengthened)),
    Mistake("yarn stretches every pair", _each_rope(_unblended)),
    Mistake("longrope: short and long factors swapped", _each_rope(_other_factors)),
    Mistake("rope pairs of the other layout", _each_rope(_other_pairs)),
    Mistake("rope theta doubled", _each_rope(_own_theta)),
    Mistake("sliding layers: global theta", lambda spec: _global_rope(spec, theta=True)),
    Mistake("sliding layers: global scaling", _global_rope),
    Mistake("proportional rope as a small head", _each_rope(_prefix_rope)),
    Mistake("v-norm left out", _attention(v_norm=None)),
    Mistake("v-norm eps 1e-6", _value_norms(_small_eps)),
    Mistake("keys of the first layer of the kind", _first_source),
    Mistake("layers not scaled", _each_layer(lambda each: dataclasses.replace(each, scaled=False))),
    Mistake("per-layer embeddings left out", _no_ple),
    Mistake("per-layer norm eps 1e-6", _ple_norm(_small_eps)),
    Mistake("per-layer norm w and 1 + w swapped", _ple_norm(_other_offset)),
    Mistake("per-layer table unscaled", tensors={Role.PLE_TABLE: _unscaled_table}),
    Mistake("per-layer projection unscaled", tensors={Role.PLE_PROJECTION: _unscaled_projection}),
    Mistake(
        "per-layer sum unscaled",
        tensors={Role.PLE_TABLE: _times_sqrt2, Role.PLE_PROJECTION_NORM: _times_sqrt2},
    ),
    Mistake("per-layer table: other rows", tensors={Role.PLE_TABLE: _mirrored}),
    Mistake("per-layer table: other layers", tensors={Role.PLE_TABLE: _layer_parts_reversed}),
    Mistake("embed scale 1", lambda spec: dataclasses.replace(spec, embed_scale=1.0)),
    Mistake("no final softcap", lambda spec: dataclasses.replace(spec, logit_softcap=None)),
    Mistake("no residual multiplier", _each_layer(_plain_residual)),
    Mistake("no logit divisor", lambda spec: dataclasses.replace(spec, logit_divisor=1.0)),
    Mistake("no attention softcap", _attention(softcap=None)),
    Mistake("an attention softcap", _attention(softcap=0.8)),
    Mistake(
        "another activation",
        _activation(
            {
                Activation.SILU: Activation.GELU_TANH,
                Activation.GELU: Activation.GELU_TANH,
                Activation.GELU_TANH: Activation.GELU,
                Activation.RELU: Activation.SILU,
                Activation.GELU_SIGMOID: Activation.GELU_TANH,
            }
        ),
    ),
)
