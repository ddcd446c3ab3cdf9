"""Which experts a router would send a text to, asked with its embedding alone.

It is the reference's view of a mixture of experts: deep routers read a residual stream that is
nearly orthogonal to the embedding, so it tells more of early layers than of late ones.

Shape legend: D hidden, E experts, k experts that a token visits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
import numpy.typing as npt

from vindex.edges import is_content
from vindex.features import embedding_rows
from vindex.spec import MoeSpec, Role, ffn_parts
from vindex.store import Vindex

_SAMPLED, _TOLD = 2000, 10  # tokens that are asked for an expert's words, and words that are told


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
        for expert, weight in layer_route(vindex, query, layer):
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


def layer_route(
    vindex: Vindex, query: npt.NDArray[np.float32], layer: int
) -> list[tuple[int, float]]:
    """The experts that one router chooses for a query ``[D]``, with their weights, best first.

    Args:
        layer: one of ``routers``.
    """
    experts, weights = _routed(vindex, query[None], layer)
    return list(zip(experts[0].tolist(), weights[0].tolist(), strict=True))


def expert_tokens(
    vindex: Vindex, layer: int, experts: Sequence[int], *, leave_out: str = ""
) -> list[tuple[str, ...]]:
    """Of each expert, words that a router sends to it, by falling weight.

    About two thousand tokens, evenly spread over the vocabulary, are asked with their embeddings.

    Args:
        layer: one of ``routers``.
        leave_out: a word that is not told.
    """
    size = vindex.index.vocab_size
    asked = range(0, size, max(1, size // _SAMPLED))
    scale = np.float32(vindex.index.embed_scale)
    chosen, weights = _routed(vindex, embedding_rows(vindex, asked) * scale, layer)
    texts = vindex.token_texts.texts(asked)
    found = []
    for expert in experts:
        rows, places = np.nonzero(chosen == expert)
        order = np.argsort(-weights[rows, places], kind="stable")
        words = (texts[row] for row in rows[order].tolist())
        said = (w for w in words if is_content(w) and w.lower() != leave_out.strip().lower())
        found.append(tuple(islice((word for word, _ in groupby(said)), _TOLD)))
    return found


def _routed(
    vindex: Vindex, queries: npt.NDArray[np.float32], layer: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The experts that a router chooses for queries ``[n, D]`` and their weights, ``[n, k]``."""
    spec = vindex.known_spec
    assert spec is not None, "see ``routers``"
    ffn = spec.layers[layer].ffn
    assert isinstance(ffn, MoeSpec), "see ``routers``"
    table = vindex.tensor(Role.ROUTER, layer)
    scores = queries @ table.rows(0, table.shape[0]).astype(np.float32).T  # [n, E]
    if vindex.has(Role.ROUTER_BIAS, layer):
        bias = vindex.tensor(Role.ROUTER_BIAS, layer)
        scores = scores + bias.rows(0, bias.shape[0]).astype(np.float32)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : ffn.routing.chosen]
    top = np.take_along_axis(scores, best, axis=1)
    weights = np.exp(top - top[:, :1])
    return best, weights / weights.sum(axis=1, keepdims=True)
