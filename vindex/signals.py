"""How much a static edge says: its gate against the gates of shuffled entities.

A feature that answers every word answers this one too. So each edge's gate is measured in standard
deviations above what the same feature gives entities of as many tokens drawn at random: that is
the score of a static row. A name of several tokens is asked by the mean of their embeddings, which
is nobody's name: its rows are never clear. For 100 made-up names Gemma 3 270M gives 138 rows above
``WEAK`` and 10 above ``CLEAR``, none of which is of a single token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from vindex.dtypes import to_float32
from vindex.edges import Edge
from vindex.features import embedding_rows
from vindex.store import Vindex

#: Standard deviations above shuffled entities.
WEAK, CLEAR = 4.0, 8.0
#: The score below which an answer is no better than what is said of anybody.
WEAK_ANSWER = 0.25
_SHUFFLED = 256
_SEED = 20240229


class Signal(Enum):
    """How sure it is that a row is about the entity."""

    NONE = "none"
    WEAK = "weak"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True)
class CalibratedEdge:
    """An edge with its gate in standard deviations above shuffled entities'."""

    edge: Edge
    score: float
    signal: Signal


def calibrate(vx: Vindex, size: int, edges: Sequence[Edge]) -> list[CalibratedEdge]:
    """Edges of an entity of ``size`` tokens by falling score."""
    if not edges:
        return []
    drawn = np.random.default_rng(_SEED).integers(0, vx.index.vocab_size, (_SHUFFLED, size))
    tokens, places = np.unique(drawn, return_inverse=True)
    rows = embedding_rows(vx, tokens.tolist())[places.reshape(drawn.shape)]  # [n, size, D]
    queries = rows.mean(axis=1) * np.float32(vx.index.embed_scale)  # [n, D]
    found = []
    for edge in edges:
        gate = vx.gate(edge.layer)
        usual = queries @ to_float32(gate.array[edge.feature], gate.dtype)  # [n]
        spread = float(usual.std())
        score = (edge.score - float(usual.mean())) / spread if spread > 0 else 0.0
        found.append(CalibratedEdge(edge, score, _signal(score, size)))
    found.sort(key=lambda each: (-each.score, each.edge.layer, each.edge.feature))
    return found


def _signal(score: float, size: int) -> Signal:
    if score < WEAK:
        return Signal.NONE
    return Signal.CLEAR if score >= CLEAR and size == 1 else Signal.WEAK
