"""Which tokens a down vector writes most: the kernel of ``down_meta.bin``.

For a column w of ``W_down`` and the embedding E, the scores are ``E @ w``: V products of length D
for each of L x F columns, 2.3e9 scores for SmolLM2 and 9.7e9 for Gemma 3 270M. A fast product
therefore only chooses candidates, and the exact scores of the candidates decide:

* the product is known up to a bound: ``|fast - exact| <= slack[v] * norm(w) + rounding * |fast|``;
* tokens are put into blocks; the k-th largest lower bound of the block maxima is a floor under the
  k-th best exact score, and only blocks whose upper bound reaches the floor are looked into;
* the exact score is the float64 sum of the float32 products' exact values, rounded to float32.

Equal scores are ordered by token id. Every scorer gives the same result, bit for bit, whatever its
fast product is.

Shape legend: F columns, V vocabulary, D hidden, N candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vindex.dtypes import Array, to_float32
from vindex.kinds import StorageDtype

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

#: Tokens per block. Blocks are strided, so that the maximum over a block runs along memory.
BLOCK = 64
#: Below this many tokens for each one wanted, every token is its own block.
_FEWEST_PER_RANK = 4 * BLOCK
#: Relative error of one float32 operation.
UNIT = 2.0**-24
#: Factor that covers the rounding of the bounds' own arithmetic.
SAFETY = 1.0 + 2.0**-10
#: Part of the floor given up so that tokens which tie after rounding to float32 stay candidates.
TIE_MARGIN = 2.0**-21
#: What a product of denormal numbers may lose where the processor flushes them to zero.
UNDERFLOW = 2.0**-125

_BATCH_BYTES = 32 << 20
_SCORE_BYTES = 128 << 20
_RESIDENT_BYTES = 128 << 20
_FAULT_BYTES = 2 << 20  # what the kernel may map around one page that is touched
_EXACT_CHUNK_BYTES = 1 << 19


class Embeddings:
    """The raw embedding matrix, read block by block or row by row.

    Args:
        array: ``[V, D]`` in ``dtype``'s carrier, usually a map of a file; values as the checkpoint
            has them, without any rounding.
        dtype: what the carrier means.
        release: gives back the memory of the map's pages already read.
    """

    def __init__(
        self, array: Array, dtype: StorageDtype, release: Callable[[], None] | None = None
    ) -> None:
        self._array = array
        self._dtype = dtype
        self._release = release if array.nbytes > _RESIDENT_BYTES else None
        self._touched = 0
        self.vocab_size, self.hidden_size = array.shape

    def rows(self, start: int, stop: int) -> Float32:
        """Rows ``start..stop`` in float32, ``[stop - start, D]``; may be a view of the map."""
        self._touch((stop - start) * self._array.itemsize * self.hidden_size)
        return to_float32(self._array[start:stop], self._dtype)

    def gather(self, ids: Int64) -> Float32:
        """The rows of these tokens in float32, ``[N, D]``."""
        if self._release is None:
            return to_float32(self._array[ids], self._dtype)
        result = np.empty((len(ids), self.hidden_size), np.float32)
        step = _RESIDENT_BYTES // _FAULT_BYTES
        for start in range(0, len(ids), step):
            part = ids[start : start + step]
            self._touch(len(part) * _FAULT_BYTES)
            result[start : start + step] = to_float32(self._array[part], self._dtype)
        return result

    def _touch(self, size: int) -> None:
        """Count mapped bytes about to become resident; give them back when they are many."""
        self._touched += size
        if self._release is not None and self._touched > _RESIDENT_BYTES:
            self._release()
            self._touched = size


@dataclass(frozen=True, slots=True, eq=False)
class TopTokens:
    """The best tokens of each column, best first.

    Attributes:
        ids: ``[F, k]`` int64.
        scores: ``[F, k]`` float32.
    """

    ids: Int64
    scores: Float32


class TokenScorer(Protocol):
    """Finds the exact best tokens of blocks of columns."""

    def begin(self, embeddings: Embeddings) -> None:
        """Take the embedding matrix; it stays valid until ``end``."""

    def top(self, columns: Float32, k: int) -> TopTokens:
        """The ``min(k, V)`` best tokens of each column.

        Args:
            columns: ``[F, D]`` float32, finite: columns of ``W_down``, one a row.
            k: at least 1.
        """

    def end(self) -> None:
        """Let go of the embedding matrix and of all that was made from it."""


def exact_scores(rows: Float32, columns: Float32) -> Float32:
    """Exact scores of pairs: the float64 sum of products, rounded to float32.

    A product of two float32 is exact in float64. The order of summation depends only on D, so equal
    rows have equal scores wherever they stand.

    Args:
        rows: ``[N, D]``, embeddings.
        columns: ``[N, D]``, down columns.

    Returns:
        ``[N]`` float32.
    """
    result = np.empty(len(rows), np.float32)
    step = max(1, _EXACT_CHUNK_BYTES // (8 * max(1, rows.shape[1])))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        products = rows[part].astype(np.float64)
        products *= columns[part]
        result[part] = products.sum(axis=1)
    return result


def best_of_candidates(
    embeddings: Embeddings, columns: Float32, pairs: tuple[Int64, Int64], k: int
) -> tuple[TopTokens, Float32]:
    """The best ``k`` candidates of each column by exact score; equal scores by token id.

    Args:
        embeddings: the exact rows.
        columns: ``[F, D]``.
        pairs: column index and token id of each candidate, both ``[N]``, column index ascending;
            at least ``k`` candidates for every column.

    Returns:
        The best, and the exact score of every candidate in the order given, ``[N]``.
    """
    owner, token = pairs
    scores = np.empty(len(owner), np.float32)
    step = max(1, _EXACT_CHUNK_BYTES // (4 * columns.shape[1]))
    for start in range(0, len(owner), step):
        part = slice(start, start + step)
        scores[part] = exact_scores(embeddings.gather(token[part]), columns[owner[part]])
    order = np.lexsort((token, -scores, owner))
    starts = np.searchsorted(owner, np.arange(len(columns)))
    chosen = order[starts[:, None] + np.arange(k)]
    return TopTokens(token[chosen], scores[chosen]), scores


def block_size(vocab_size: int, k: int) -> int:
    """Tokens per block, so that there are comfortably more blocks than tokens wanted."""
    return BLOCK if vocab_size >= _FEWEST_PER_RANK * k else 1


def summation_error(length: int) -> float:
    """Bound on the relative error of a float32 dot product, in any order of summation."""
    return (length + 2) * UNIT / (1 - (length + 2) * UNIT)


def norms(rows: Float32) -> npt.NDArray[np.float64]:
    """Euclidean norms of rows, an upper bound, ``[N]``."""
    squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    return np.asarray(np.sqrt(squares) * SAFETY)


def in_batches(
    batch: Callable[[Float32, int], TopTokens],
    columns: Float32,
    k: int,
    embeddings: Embeddings,
    rows: int,
) -> TopTokens:
    """Score columns in batches of at most ``rows``; a column of zeros scores zero everywhere.

    Args:
        batch: scores ``[n, D]`` columns, none of them zero.
        columns: ``[F, D]`` float32.
        k: tokens wanted; at most V are given.
    """
    k = min(k, embeddings.vocab_size)
    ids = np.tile(np.arange(k, dtype=np.int64), (len(columns), 1))
    scores = np.zeros((len(columns), k), np.float32)
    alive = np.flatnonzero(columns.any(axis=1))
    for start in range(0, len(alive), rows):
        part = alive[start : start + rows]
        found = batch(columns[part], k)
        ids[part], scores[part] = found.ids, found.scores
    return TopTokens(ids, scores)


class NumpyScorer:
    """A float32 product chooses the candidates. The reference, and the fallback of faster ones."""

    def __init__(self) -> None:
        self._embeddings: Embeddings | None = None

    def begin(self, embeddings: Embeddings) -> None:
        """Take the embedding matrix; of it only an error bound per token is kept."""
        self._embeddings = embeddings
        size, hidden = embeddings.vocab_size, embeddings.hidden_size
        step = max(1, _BATCH_BYTES // (4 * hidden))
        lengths = np.empty(size, np.float64)
        for start in range(0, size, step):
            stop = min(start + step, size)
            lengths[start:stop] = norms(embeddings.rows(start, stop))
        self._slack = (lengths * (summation_error(hidden) * SAFETY)).astype(np.float32)

    def end(self) -> None:
        """Let go of the embedding matrix."""
        self._embeddings = None
        self._slack = np.empty(0, np.float32)

    def top(self, columns: Float32, k: int) -> TopTokens:
        """The ``min(k, V)`` best tokens of each column."""
        embeddings = self._embeddings
        assert embeddings is not None, "begin comes first"
        rows = max(1, _SCORE_BYTES // (4 * embeddings.vocab_size))
        return in_batches(partial(self._batch, embeddings), columns, k, embeddings, rows)

    def _batch(self, embeddings: Embeddings, columns: Float32, k: int) -> TopTokens:
        size, hidden = embeddings.vocab_size, embeddings.hidden_size
        block = block_size(size, k)
        count = -(-size // block)
        fast = np.full((len(columns), block * count), -np.inf, np.float32)
        step = max(1, _BATCH_BYTES // (4 * hidden))
        for start in range(0, size, step):
            stop = min(start + step, size)
            np.matmul(columns, embeddings.rows(start, stop).T, out=fast[:, start:stop])
        slack = np.zeros(block * count, np.float32)
        slack[:size] = self._slack
        lengths = (norms(columns) * SAFETY).astype(np.float32)
        pairs = _candidates(fast, slack, lengths, block, k)
        return best_of_candidates(embeddings, columns, pairs, k)[0]


def _candidates(
    fast: Float32, slack: Float32, column_norms: Float32, block: int, k: int
) -> tuple[Int64, Int64]:
    """Tokens whose exact score may be among the best ``k``.

    Args:
        fast: ``[F, block * count]`` approximate scores; padding is ``-inf``. Token v is in block
            ``v % count``.
        slack: ``[block * count]`` error per unit of column norm.
        column_norms: ``[F]``.

    Returns:
        Column indices, ascending, and token ids.
    """
    count = fast.shape[1] // block
    highest = fast.reshape(-1, block, count).max(axis=1)
    widest = slack.reshape(block, count).max(axis=0)
    error = column_norms[:, None] * widest + np.float32(UNDERFLOW)
    floor = np.partition(highest - error, count - k, axis=1)[:, count - k]
    floor -= np.abs(floor) * np.float32(TIE_MARGIN)
    owner, inside = np.nonzero(highest + error >= floor[:, None])
    values = fast.reshape(-1, block, count)[owner, :, inside]
    limits = slack.reshape(block, count).T[inside] * column_norms[owner, None]
    limits += np.float32(UNDERFLOW)
    hit, position = np.nonzero(values + limits >= floor[owner, None])
    return owner[hit], position * count + inside[hit]
