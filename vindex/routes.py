"""Which experts a router would send a text to, asked with its embedding alone.

It is the reference's view of a mixture of experts: deep routers read a residual stream that is
nearly orthogonal to the embedding, so it tells more of early layers than of late ones.

Shape legend: D hidden, E experts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vindex.spec import MoeSpec, Role, ffn_parts
from vindex.store import Vindex


@dataclass(frozen=True, slots=True)
class ExpertRoute:
    """An expert and how often the routers of some layers choose it.

    Attributes:
        layers: that choose it.
        weight: mean over those, 0..1: softmax over the chosen experts' scores.
    """

    expert: int
    layers: tuple[int, ...]
    weight: float


def expert_of(vindex: Vindex, layer: int, feature: int) -> int | None:
    """The routed expert that a feature belongs to; ``None`` for a dense FFN or a shared expert."""
    spec = vindex.known_spec
    if spec is None:
        return None
    found = None
    for part in ffn_parts(spec.layers[layer].ffn):
        if part.first <= feature:
            found = part.expert
    return found


def routers(vindex: Vindex, layers: Iterable[int]) -> list[int]:
    """Those of some layers whose router is stored."""
    spec = vindex.known_spec
    if spec is None:
        return []
    return [
        layer
        for layer in layers
        if isinstance(spec.layers[layer].ffn, MoeSpec) and vindex.has(Role.ROUTER, layer)
    ]


def expert_routes(
    vindex: Vindex, query: npt.NDArray[np.float32], layers: Iterable[int]
) -> list[ExpertRoute]:
    """The experts that layers with a router send a query to, the most often chosen first.

    Args:
        query: ``[D]``.
    """
    chosen: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    for layer in layers:
        for expert, weight in _choice(vindex, query, layer):
            chosen[expert].append((layer, weight))
    found = [
        ExpertRoute(
            expert,
            tuple(layer for layer, _ in each),
            sum(weight for _, weight in each) / len(each),
        )
        for expert, each in chosen.items()
    ]
    return sorted(found, key=lambda each: (-len(each.layers), -each.weight, each.expert))


def _choice(vindex: Vindex, query: npt.NDArray[np.float32], layer: int) -> list[tuple[int, float]]:
    """The experts that one router chooses, with their weights."""
    spec = vindex.known_spec
    assert spec is not None, "see ``routers``"
    ffn = spec.layers[layer].ffn
    assert isinstance(ffn, MoeSpec), "see ``routers``"
    table = vindex.tensor(Role.ROUTER, layer)
    scores = table.rows(0, table.shape[0]).astype(np.float32) @ query  # [E]
    if vindex.has(Role.ROUTER_BIAS, layer):
        bias = vindex.tensor(Role.ROUTER_BIAS, layer)
        scores = scores + bias.rows(0, bias.shape[0]).astype(np.float32)
    best = np.argsort(-scores, kind="stable")[: ffn.routing.chosen]
    weights = np.exp(scores[best] - scores[best[0]])
    weights /= weights.sum()
    return [(int(e), float(w)) for e, w in zip(best, weights, strict=True)]
