"""Ways to break a mixture of experts on purpose; see ``breaking``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.parity.breaking import Mistake, SpecChange, Values
from tests.parity.reference import Floats
from vindex.source import ModelSource, StoredTensor
from vindex.spec import (
    FfnSpec,
    GroupScore,
    LayerSpec,
    MoeSpec,
    NormKind,
    NormSpec,
    PartKind,
    Role,
    RoutingSpec,
    Scoring,
    part_roles,
)


def _each_mixture(change: Callable[[MoeSpec], MoeSpec]) -> SpecChange:
    """The model with changed mixtures."""

    def changed(layer: LayerSpec) -> LayerSpec:
        if isinstance(layer.ffn, FfnSpec):
            return layer
        return dataclasses.replace(layer, ffn=change(layer.ffn))

    return lambda spec: dataclasses.replace(spec, layers=tuple(map(changed, spec.layers)))


def _routing(**values: Any) -> SpecChange:
    """The model with other values in its routing rule."""
    return _each_routing(lambda rule: dataclasses.replace(rule, **values))


def _each_routing(change: Callable[[RoutingSpec], RoutingSpec]) -> SpecChange:
    """The model with a changed routing rule."""
    return _each_mixture(lambda moe: dataclasses.replace(moe, routing=change(moe.routing)))


def _other_norming(rule: RoutingSpec) -> RoutingSpec:
    """Weights divided by their sum or not, the other way round."""
    if rule.scoring is Scoring.SOFTMAX_OF_CHOSEN:
        return rule  # their sum is 1
    return dataclasses.replace(rule, normalised=not rule.normalised)


def _one_more(rule: RoutingSpec) -> RoutingSpec:
    """A token visits one expert more."""
    return dataclasses.replace(rule, chosen=rule.chosen + 1)


def _one_less(rule: RoutingSpec) -> RoutingSpec:
    """A token visits one expert less."""
    return dataclasses.replace(rule, chosen=rule.chosen - 1)


def _sigmoids(rule: RoutingSpec) -> RoutingSpec:
    """Scores by sigmoid in the place of softmax."""
    softmax = rule.scoring is Scoring.SOFTMAX
    return dataclasses.replace(rule, scoring=Scoring.SIGMOID) if softmax else rule


def _softmax_of_all(rule: RoutingSpec) -> RoutingSpec:
    """Softmax over all experts in the place of that over the chosen ones."""
    chosen = rule.scoring is Scoring.SOFTMAX_OF_CHOSEN
    return dataclasses.replace(rule, scoring=Scoring.SOFTMAX) if chosen else rule


def _other_group_score(rule: RoutingSpec) -> RoutingSpec:
    """Groups compared by their best expert or by their best two, the other way round."""
    if rule.groups is None:
        return rule
    other = {GroupScore.BEST: GroupScore.BEST_TWO, GroupScore.BEST_TWO: GroupScore.BEST}
    groups = dataclasses.replace(rule.groups, score=other[rule.groups.score])
    return dataclasses.replace(rule, groups=groups)


def _expert(**values: Any) -> SpecChange:
    """The model with other values in the FFNs of its experts."""
    return _each_mixture(
        lambda moe: dataclasses.replace(moe, expert=dataclasses.replace(moe.expert, **values))
    )


def _in_halves(role: Role) -> Values:
    """GPT-OSS's gate and up rows read one half after the other instead of in turns."""

    def values(source: ModelSource, stored: StoredTensor) -> Floats:
        if source.spec.family != "gpt_oss":
            return stored.float32()
        own = source.spec.by_key()[stored.key]
        pair = [source.tensor(each, own.layer, own.expert).float32() for each in _MATRICES[:2]]
        fused = np.stack(pair, axis=1).reshape(-1, stored.shape[-1])
        return np.split(fused, 2)[_MATRICES.index(role)]

    return values


def _branch_norms(change: Callable[[NormSpec], NormSpec]) -> SpecChange:
    """The model with other norms of its experts and of the dense FFNs beside them."""

    def changed(moe: MoeSpec) -> MoeSpec:
        if moe.beside is None:
            return moe
        beside = dataclasses.replace(moe.beside, norm=change(moe.beside.norm))
        return dataclasses.replace(moe, beside=beside)

    return _each_mixture(changed)


def _router_norm(change: Callable[[NormSpec], NormSpec | None]) -> SpecChange:
    """The model with another norm of the router's input."""
    return _each_routing(
        lambda rule: (
            rule if rule.norm is None else dataclasses.replace(rule, norm=change(rule.norm))
        )
    )


def _zero_for_one(_source: ModelSource, stored: StoredTensor) -> Floats:
    """Zeros for expert 1 alone."""
    values = stored.float32()
    return np.zeros_like(values) if ".experts.1." in stored.key else values


def _of_the_next(source: ModelSource, stored: StoredTensor) -> Floats:
    """The same matrix of the expert after it."""
    specs = source.spec.by_key()
    own = specs[stored.key]
    assert own.layer is not None
    assert own.expert is not None
    moe = source.spec.layers[own.layer].ffn
    assert isinstance(moe, MoeSpec)
    other = (own.expert + 1) % moe.routing.experts
    return source.tensor(own.role, own.layer, other).float32()


def _other_half(role: Role) -> Values:
    """The other of gate and up, of the same FFN."""
    pairs = [part_roles(kind)[:2] for kind in (PartKind.EXPERT, PartKind.SHARED)]
    other = {**dict(pairs), **{up: gate for gate, up in pairs}}[role]

    def values(source: ModelSource, stored: StoredTensor) -> Floats:
        own = source.spec.by_key()[stored.key]
        return source.tensor(other, own.layer, own.expert).float32()

    return values


def _mirrored(_source: ModelSource, stored: StoredTensor) -> Floats:
    return stored.float32()[::-1]


def _small_eps(norm: NormSpec) -> NormSpec:
    return dataclasses.replace(norm, eps=1e-6)


def _offset(norm: NormSpec) -> NormSpec:
    return dataclasses.replace(norm, kind=NormKind.RMS_OFFSET)


def _whole_shared(moe: MoeSpec) -> MoeSpec:
    return dataclasses.replace(moe, shared_switch=False)


def _no_shared(moe: MoeSpec) -> MoeSpec:
    return dataclasses.replace(moe, shared=None, shared_switch=False)


_MATRICES = part_roles(PartKind.EXPERT)
_SHARED = part_roles(PartKind.SHARED)

EXPERT_MISTAKES = (
    *(
        Mistake(f"{role.value} of one expert: zero", tensors={role: _zero_for_one})
        for role in _MATRICES
    ),
    Mistake("experts: the next one's", tensors=dict.fromkeys(_MATRICES, _of_the_next)),
    Mistake(
        "gate and up of experts swapped",
        tensors={role: _other_half(role) for role in _MATRICES[:2]},
    ),
    Mistake(
        "gate and up of shared experts swapped",
        tensors={role: _other_half(role) for role in _SHARED[:2]},
    ),
    Mistake("router: other rows", tensors={Role.ROUTER: _mirrored}),
    Mistake("weights divided by their sum, or not", _each_routing(_other_norming)),
    Mistake("one expert more", _each_routing(_one_more)),
    Mistake("one expert less", _each_routing(_one_less)),
    Mistake("experts scored by sigmoid", _each_routing(_sigmoids)),
    Mistake("experts: softmax of all", _each_routing(_softmax_of_all)),
    Mistake("experts of all groups", _routing(groups=None)),
    Mistake("groups compared otherwise", _each_routing(_other_group_score)),
    Mistake("factor of experts 1", _routing(factor=1.0)),
    Mistake("no limit on experts' products", _expert(limit=None)),
    Mistake("no offset of up products", _expert(up_offset=0.0)),
    Mistake(
        "gate and up of experts in halves",
        tensors={role: _in_halves(role) for role in _MATRICES[:2]},
    ),
    Mistake("experts not scaled", _routing(expert_scale=False)),
    Mistake("router reads what the experts read", _router_norm(lambda _: None)),
    Mistake("router norm eps 1e-6", _router_norm(_small_eps)),
    Mistake("router norm w and 1 + w swapped", _router_norm(_offset)),
    Mistake("norms of branches: eps 1e-6", _branch_norms(_small_eps)),
    Mistake("norms of branches: w and 1 + w swapped", _branch_norms(_offset)),
    Mistake("shared experts always whole", _each_mixture(_whole_shared)),
    Mistake("shared experts left out", _each_mixture(_no_shared)),
)
