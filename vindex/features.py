"""Questions about features that need no forward pass: gate scores, walks, descriptions, listings.

A feature's gate row says which direction switches it on, its record in ``down_meta`` which tokens
it writes. All scores here are plain dot products of stored vectors with a stored embedding; they
are evidence of kind ``static`` and nothing more.

Shape legend: D hidden, F features of a layer, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vindex.downmeta import present, used_slots
from vindex.dtypes import to_float32
from vindex.errors import VindexInvalid
from vindex.gates import gate_scores
from vindex.spec import Role
from vindex.store import Vindex

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DownToken:
    """A token that a feature writes: its text (trimmed), id and raw logit."""

    token: str
    token_id: int
    score: float


@dataclass(frozen=True, slots=True)
class FeatureHit:
    """A feature that responds to a query.

    Attributes:
        gate: dot product of its gate row and the query; the sign is kept.
        token, token_id: what it writes most.
        also: texts of the tokens after it, strongest first.
        score: logit of ``token``.
        down: every token of its record, ``token`` first.
    """

    layer: int
    feature: int
    gate: float
    token: str
    token_id: int
    also: tuple[str, ...]
    score: float
    down: tuple[DownToken, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTable:
    """The features of a layer that have tokens, ascending.

    Attributes:
        features: ``[N]`` feature numbers.
        token_ids: ``[N]`` strongest token of each.
        scores: ``[N]`` its logit, float32.
        also_ids: ``[N, k - 1]`` the tokens after it; -1 where a slot is unused.
    """

    layer: int
    features: npt.NDArray[np.int64]
    token_ids: npt.NDArray[np.int64]
    scores: Float32
    also_ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """A layer in numbers.

    Attributes:
        features: rows of its gate block.
        described: features that have tokens.
        token: the token most of them write first (the lowest id among equals), or ``None``.
        writers: how many features that is.
    """

    layer: int
    features: int
    described: int
    token: str | None
    writers: int


def entity_tokens(vx: Vindex, text: str) -> list[int]:
    """The tokens of an entity that have an embedding, tokenised without special tokens."""
    return [i for i in vx.encode(text, special=False) if i < vx.index.vocab_size]


def entity_query(vx: Vindex, text: str) -> Float32 | None:
    """The mean embedding of an entity's tokens, scaled, ``[D]``; see ``tokens_query``."""
    return tokens_query(vx, entity_tokens(vx, text))


def tokens_query(vx: Vindex, ids: Sequence[int]) -> Float32 | None:
    """The mean embedding of tokens, scaled, ``[D]``; ``None`` when there are none."""
    if not ids:
        return None
    mean = embedding_rows(vx, ids).mean(axis=0, dtype=np.float64)
    return np.asarray((mean * vx.index.embed_scale).astype(np.float32))


def prompt_query(vx: Vindex, text: str) -> tuple[Float32, int] | None:
    """The embedding of a prompt's last token, scaled, ``[D]``, and the token's id.

    Tokenised with special tokens, as a forward pass would; one that the tokenizer appends is not
    the prompt's last token.

    Returns:
        ``None`` when no token of the prompt has an embedding.
    """
    ids = [i for i in vx.encode(text, special=True) if i < vx.index.vocab_size]
    if not ids:
        return None
    row = embedding_rows(vx, ids[-1:])[0]
    return np.asarray(row * np.float32(vx.index.embed_scale)), ids[-1]


def embedding_rows(vx: Vindex, ids: Sequence[int]) -> Float32:
    """Unscaled embeddings of some tokens in float32, ``[N, D]``, projected where the model does."""
    stored = vx.embeddings
    rows = to_float32(stored.array[np.asarray(ids)], stored.dtype)
    if not vx.has(Role.EMBED_PROJECTION):
        return rows
    return np.asarray(rows @ vx.tensor(Role.EMBED_PROJECTION).float32().T)


def gate_walk(
    vx: Vindex,
    query: Float32,
    layers: Iterable[int],
    top: int,
    *,
    floor: float = -math.inf,
) -> list[FeatureHit]:
    """The features of each layer that respond most, by the size of the score.

    Args:
        vx: an open vindex.
        query: ``[D]``.
        layers: asked in this order; a layer without features gives nothing.
        top: features per layer; those without tokens are left out of them, as in larql.
        floor: features with a smaller score, its sign counted, are left out of them too.

    Returns:
        Hits by layer, strongest first; equal sizes by feature number.
    """
    return [
        hit
        for layer in layers
        for hit in layer_hits(vx, layer, gate_scores(vx, layer, query), top, floor=floor)
    ]


def layer_hits(
    vx: Vindex, layer: int, scores: Float32, top: int, *, floor: float = -math.inf
) -> list[FeatureHit]:
    """The features of a layer that respond most, by their scores ``[F]``; see ``gate_walk``."""
    if len(scores) == 0 or vx.down_meta.num_features(layer) == 0:
        return []
    hits: list[FeatureHit] = []
    records = vx.down_meta.records(layer)
    for feature in strongest(scores, top):
        if scores[feature] < floor:
            continue
        down = down_tokens(vx, records[feature])
        if not down:
            continue
        hits.append(
            FeatureHit(
                layer=layer,
                feature=int(feature),
                gate=float(scores[feature]),
                token=down[0].token,
                token_id=down[0].token_id,
                also=tuple(token.token for token in down[1:]),
                score=down[0].score,
                down=down,
            )
        )
    return hits


def strongest(scores: Float32, top: int) -> npt.NDArray[np.int64]:
    """Indices of the ``top`` largest sizes, descending; equal ones by index."""
    size = np.abs(scores)
    if top < len(size):
        floor = np.partition(size, len(size) - top)[len(size) - top] if top else np.inf
        chosen = np.flatnonzero(size >= floor)
    else:
        chosen = np.arange(len(size))
    order = np.argsort(-size[chosen], kind="stable")[:top]
    return np.asarray(chosen[order], np.int64)


def down_tokens(vx: Vindex, record: np.void) -> tuple[DownToken, ...]:
    """The tokens of one feature's record, strongest first; empty when it has none."""
    slots = zip(record["top"]["token"].tolist(), record["top"]["score"].tolist(), strict=True)
    top = [(token_id, score) for token_id, score in slots if token_id != 0 or score != 0]
    texts = token_texts(vx, [token_id for token_id, _ in top])
    return tuple(
        DownToken(text, token_id, score) for text, (token_id, score) in zip(texts, top, strict=True)
    )


def token_texts(vx: Vindex, ids: Sequence[int]) -> list[str]:
    """Trimmed texts of tokens that ``down_meta.bin`` names.

    Raises:
        VindexInvalid: an id that the vocabulary does not have.
    """
    size = vx.index.vocab_size
    for token_id in ids:
        if token_id >= size:
            raise VindexInvalid(
                f"down_meta.bin names token {token_id:,} of {size:,}",
                hint=f"see all damage with: lql verify {vx.path}",
                path=vx.path,
            )
    return vx.token_texts.texts(ids)


def feature_table(vx: Vindex, layer: int) -> FeatureTable:
    """The features of a layer with the tokens they write, for listings and filters."""
    if vx.down_meta.num_features(layer) == 0:
        nothing = np.empty(0, np.int64)
        return FeatureTable(
            layer, nothing, nothing, np.empty(0, np.float32), np.empty((0, 0), np.int64)
        )
    records = vx.down_meta.records(layer)
    features = np.flatnonzero(present(records))
    kept = records[features]
    also = np.where(used_slots(kept), kept["top"]["token"].astype(np.int64), -1)[:, 1:]
    return FeatureTable(
        layer,
        features,
        kept["token"].astype(np.int64),
        kept["score"].astype(np.float32),
        also,
    )


def describe_layer(vx: Vindex, layer: int) -> LayerSummary:
    """A layer in numbers, for SHOW LAYERS."""
    described, most = 0, None
    if vx.down_meta.num_features(layer):
        records = vx.down_meta.records(layer)
        there = present(records)
        described = int(there.sum())
        if described:
            ids, counts = np.unique(records["token"][there], return_counts=True)
            best = int(counts.argmax())
            most = int(ids[best]), int(counts[best])
    return LayerSummary(
        layer=layer,
        features=vx.num_features(layer),
        described=described,
        token=None if most is None else token_texts(vx, [most[0]])[0],
        writers=0 if most is None else most[1],
    )
