"""DESCRIBE without a forward pass: which tokens do the features write that respond to an entity.

The thresholds and token filters are larql's. A gate score is a dot product with the entity's mean
embedding, so the result is evidence of kind ``static``: no more than that a stored vector points
the entity's way. Nothing found is an empty result, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vindex.bands import Band
from vindex.features import FeatureHit, Float32, entity_tokens, layer_hits, tokens_query
from vindex.gates import gate_scores
from vindex.labels import Label
from vindex.store import Vindex

#: Features asked for per layer.
PER_LAYER = 20
#: Gate scores below this are noise; negative ones never show.
GATE_FLOOR = 5.0
#: Below this a feature whose other tokens carry no content is dropped.
COHERENT_GATE = 20.0

_READABLE_BYTES = 30
_READABLE = re.compile(r"[A-Za-z0-9 \-'.,]")
_LETTER = re.compile(r"[A-Za-z]")
_CAMEL = re.compile(r"[a-z][A-Z]")
_SHORTEST, _LONGEST = 3, 25
_ALSO_READ, _ALSO_SHOWN = 5, 3

_WORDS = """
the and but for nor yet with from into onto upon over under about after before between through
during without within against among this that these those him her his its our your their they
them she you who whom whose which what when where why how are was were been being have has had
does did will would shall should can could may might must not than then there here also just
only some any all such get got make made said par aux che del
"""
_FUNCTION_WORDS = frozenset(_WORDS.split())


@dataclass(frozen=True, slots=True)
class Edge:
    """A token written by features that respond to an entity.

    Attributes:
        target: the token's text, as the first feature that named it spells it.
        score: the largest gate score among the features that write it first.
        layer, feature: the feature with that score.
        layers: every layer with such a feature, ascending.
        hits: how many features.
        also: up to three further content tokens of the first feature.
        relation: the label of ``feature``, or ``None``.
        band: of ``layer``; knowledge outside all bands; ``None`` for a model without bands.
    """

    target: str
    target_id: int
    score: float
    layer: int
    feature: int
    layers: tuple[int, ...]
    hits: int
    also: tuple[str, ...]
    relation: Label | None
    band: Band | None


@dataclass(slots=True)
class _Merging:
    """An edge while hits are still being merged into it."""

    first: FeatureHit
    best: FeatureHit
    also: tuple[str, ...]
    layers: set[int]
    hits: int


@dataclass(frozen=True, slots=True, eq=False)
class StaticAnswer:
    """What the features of some layers have for an entity.

    Attributes:
        tokens: of the entity, those that have an embedding.
        query: their mean embedding, scaled, ``[D]``; ``None`` when there are none.
        edges: strongest first.
        gate: the largest score of any feature; 0 when none is positive.
    """

    tokens: tuple[int, ...]
    query: Float32 | None
    edges: tuple[Edge, ...]
    gate: float


def describe_static(vx: Vindex, entity: str, layers: Iterable[int] | None = None) -> StaticAnswer:
    """The edges of an entity.

    Args:
        vx: an open vindex.
        entity: tokenised without special tokens; their embeddings are averaged.
        layers: which layers to walk, ascending; all by default.

    Returns:
        No edges when no feature responds or no token of the entity has an embedding.
    """
    ids = tuple(entity_tokens(vx, entity))
    query = tokens_query(vx, ids)
    if query is None:
        return StaticAnswer(ids, None, (), 0.0)
    merged: dict[str, _Merging] = {}
    loudest = 0.0
    for layer in vx.layers if layers is None else layers:
        scores = gate_scores(vx, layer, query)
        loudest = max(loudest, float(scores.max(initial=0.0)))
        for hit in layer_hits(vx, layer, scores, PER_LAYER, floor=GATE_FLOOR):
            _merge(hit, entity, merged)
    edges = [_edge(vx, item) for item in merged.values()]
    edges.sort(key=lambda edge: -edge.score)
    return StaticAnswer(ids, query, tuple(edges), loudest)


def _merge(hit: FeatureHit, entity: str, merged: dict[str, _Merging]) -> None:
    """Add a hit to the edge of its token, if the token can be an answer."""
    if not is_content(hit.token) or _same(hit.token, entity):
        return
    readable = _further_tokens(hit, entity)
    also = tuple(filter(is_content, readable))[:_ALSO_SHOWN]
    if readable and not also and hit.gate < COHERENT_GATE:
        return
    known = merged.get(hit.token.lower())
    if known is None:
        merged[hit.token.lower()] = _Merging(hit, hit, also, {hit.layer}, 1)
        return
    known.layers.add(hit.layer)
    known.hits += 1
    if hit.gate > known.best.gate:
        known.best = hit


def is_readable(token: str) -> bool:
    """Whether a trimmed token can be shown: short, and at least half plain ASCII text."""
    if not token or len(token.encode("utf-8", "replace")) > _READABLE_BYTES:
        return False
    return 2 * len(_READABLE.findall(token)) >= len(token)


def is_content(token: str) -> bool:
    """Whether a trimmed token can be an answer: a word of some length, no function word."""
    if not is_readable(token) or not _SHORTEST <= len(token) <= _LONGEST:
        return False
    letters = len(_LETTER.findall(token))
    if letters == 0 or letters < 2 * len(token) // 3 or _CAMEL.search(token):
        return False
    return token.lower() not in _FUNCTION_WORDS


def _further_tokens(hit: FeatureHit, entity: str) -> list[str]:
    """The first readable tokens of a hit besides its own and the entity's."""
    return [
        down.token
        for down in hit.down[1:]
        if down.score > 0
        and down.token != hit.token
        and not _same(down.token, entity)
        and is_readable(down.token)
    ][:_ALSO_READ]


def _same(token: str, entity: str) -> bool:
    return token.lower() == entity.strip().lower()


def _edge(vx: Vindex, item: _Merging) -> Edge:
    best = item.best
    band = None
    if vx.bands is not None:
        band = vx.bands.band_of(best.layer) or Band.KNOWLEDGE
    return Edge(
        target=item.first.token,
        target_id=item.first.token_id,
        score=best.gate,
        layer=best.layer,
        feature=best.feature,
        layers=tuple(sorted(item.layers)),
        hits=item.hits,
        also=item.also,
        relation=vx.labels.of(best.layer, best.feature),
        band=band,
    )
