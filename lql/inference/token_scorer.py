"""A fast ``TokenScorer``: a bfloat16 product chooses the candidates, exact scores decide.

On a processor with bfloat16 arithmetic the product runs four times as fast as in float32. Its
error is bounded rigorously, so the result is that of ``vindex.scoring.NumpyScorer`` bit for bit:
with e = ê + δe and w = ŵ + δw (ê, ŵ the bfloat16 values),

``|fast - e.w| <= |δe||w| + |ê||δw| + summation(D)|ê||ŵ| + 2^-8 |fast|``

by Cauchy-Schwarz, the float32 accumulation, and the rounding of the output to bfloat16. The bound
is also checked on every candidate's exact score: a product that does not keep it is not used again.

Shape legend: F columns, V vocabulary (padded to whole blocks), D hidden, C blocks, N candidates.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import torch

from vindex.scoring import (
    BLOCK,
    SAFETY,
    TIE_MARGIN,
    UNDERFLOW,
    Embeddings,
    Float32,
    NumpyScorer,
    TopTokens,
    best_of_candidates,
    block_size,
    in_batches,
    norms,
    summation_error,
)

_OUTPUT_ROUNDING = 2.0**-8 * SAFETY
_LARGEST = 2.0**120  # products beyond this could overflow
_SCORE_BYTES = 128 << 20
_ROW_STEP = 128  # rows of a product are fastest in multiples of this
_LOAD_BYTES = 8 << 20
_TRIAL_ROWS, _TRIAL_TOKENS = 128, 4096


class TorchScorer:
    """Exact best tokens by a bfloat16 product with a bound.

    Falls back to ``NumpyScorer`` for small vocabularies, for single columns whose bound cannot
    decide, and altogether where bfloat16 is not faster or does not keep the bound.
    """

    def __init__(self) -> None:
        self._exact = NumpyScorer()
        self._exact_ready = False
        self._embeddings: Embeddings | None = None
        self._matrix: torch.Tensor | None = None
        self._scores = torch.empty(0)

    def begin(self, embeddings: Embeddings) -> None:
        """Take the embedding matrix; a bfloat16 copy of it is kept in memory."""
        self.end()
        self._embeddings = embeddings
        if _bfloat16_is_faster(embeddings.hidden_size):
            self._load(embeddings)

    def end(self) -> None:
        """Let go of the embedding matrix and its copy."""
        self._exact.end()
        self._exact_ready = False
        self._embeddings = self._matrix = None
        self._scores = torch.empty(0)

    def top(self, columns: Float32, k: int) -> TopTokens:
        """The ``min(k, V)`` best tokens of each column."""
        embeddings = self._embeddings
        assert embeddings is not None, "begin comes first"
        if self._matrix is None or block_size(embeddings.vocab_size, k) != BLOCK:
            return self._exact_scorer(embeddings).top(columns, k)
        return in_batches(self._batch, columns, k, embeddings, len(self._scores))

    def _exact_scorer(self, embeddings: Embeddings) -> NumpyScorer:
        if not self._exact_ready:
            self._exact.begin(embeddings)
            self._exact_ready = True
        return self._exact

    def _load(self, embeddings: Embeddings) -> None:
        """Make the bfloat16 copy and what the bound needs of it: two numbers per token.

        A token's error against a column is ``self._of_norm * |w| + self._of_rounding * |δw|``.
        """
        size, hidden = embeddings.vocab_size, embeddings.hidden_size
        padded = -(-size // BLOCK) * BLOCK
        self._matrix = torch.zeros(padded, hidden, dtype=torch.bfloat16)
        of_norm, of_rounding = np.zeros(padded), np.zeros(padded)
        step = max(1, _LOAD_BYTES // (4 * hidden))
        for start in range(0, size, step):
            rows = embeddings.rows(start, min(start + step, size))
            part = slice(start, start + len(rows))
            self._matrix[part] = torch.from_numpy(rows.copy())
            rounded = self._matrix[part].float().numpy()
            of_rounding[part] = norms(rounded)
            of_norm[part] = norms(rows - rounded)
        # |ŵ| <= |w| (1 + 2^-8): the accumulation error in terms of |w|.
        of_norm += of_rounding * (summation_error(hidden) * (1 + 2.0**-7))
        blocks = padded // BLOCK
        self._of_norm = torch.from_numpy((of_norm * SAFETY).astype(np.float32)).view(BLOCK, blocks)
        self._of_rounding = torch.from_numpy((of_rounding * SAFETY).astype(np.float32)).view(
            BLOCK, blocks
        )
        self._block_of_norm = self._of_norm.amax(0)
        self._block_of_rounding = self._of_rounding.amax(0)
        self._largest_norm = float(of_rounding.max())
        rows = max(1, _SCORE_BYTES // (2 * padded * _ROW_STEP)) * _ROW_STEP
        # Kept from batch to batch: fresh pages would cost more than a third of the product.
        self._scores = torch.empty(rows, padded, dtype=torch.bfloat16)

    @torch.inference_mode()
    def _batch(self, columns: Float32, k: int) -> TopTokens:
        """The best tokens of one batch of non-zero columns ``[F, D]``."""
        embeddings, matrix = self._embeddings, self._matrix
        assert embeddings is not None
        if matrix is None:
            return self._exact_scorer(embeddings).top(columns, k)
        rounded = torch.from_numpy(columns).bfloat16()
        lengths = norms(columns)
        length = torch.from_numpy((lengths * SAFETY).astype(np.float32))
        residual = norms(columns - rounded.float().numpy())
        rounding = torch.from_numpy((residual * SAFETY).astype(np.float32))

        scores = self._scores[: len(columns)]
        fast = torch.mm(rounded, matrix.T, out=scores).view(
            len(columns), BLOCK, -1
        )  # [F, BLOCK, C]
        # bfloat16 bits order like int16 as soon as one of a block is positive, and the integer
        # maximum is several times as fast. A block without a positive score cannot win: see below.
        highest = fast.view(torch.int16).amax(1).view(torch.bfloat16).float()  # [F, C]
        error = torch.outer(length, self._block_of_norm)
        error += torch.outer(rounding, self._block_of_rounding) + UNDERFLOW
        widest = error.amax(1)  # [F]
        error += highest.abs() * _OUTPUT_ROUNDING
        floor = (highest - error).topk(k, dim=1, sorted=False).values.amin(1)  # [F]
        floor -= floor.abs() * TIE_MARGIN
        # All scores of a block without a positive one are at most its error, so below the floor.
        decided = (floor > widest * SAFETY).numpy() & (lengths * self._largest_norm < _LARGEST)

        owner, inside = torch.nonzero(highest + error >= floor[:, None], as_tuple=True)
        values = fast[owner, :, inside].float()  # [N, BLOCK]
        limits = self._of_norm[:, inside].T * length[owner, None]
        limits += self._of_rounding[:, inside].T * rounding[owner, None] + UNDERFLOW
        limits += values.abs() * _OUTPUT_ROUNDING
        hit, position = torch.nonzero(values + limits >= floor[owner, None], as_tuple=True)
        pairs = owner[hit].numpy(), (position * fast.shape[2] + inside[hit]).numpy()
        chosen = values[hit, position].numpy(), limits[hit, position].numpy()
        return self._decide(embeddings, columns, pairs, chosen, decided, k)

    def _decide(
        self,
        embeddings: Embeddings,
        columns: Float32,
        pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
        chosen: tuple[Float32, Float32],
        decided: npt.NDArray[np.bool_],
        k: int,
    ) -> TopTokens:
        """Score the candidates exactly; columns that the bound cannot decide go the slow way.

        Args:
            pairs: column index and token id of each candidate, ``[N]``.
            chosen: fast score and error limit of each candidate, ``[N]``.
            decided: ``[F]``, which columns' candidates are complete.
        """
        keep = decided[pairs[0]]
        renumbered = np.cumsum(decided) - 1
        owner, token = renumbered[pairs[0][keep]], pairs[1][keep]
        best, scores = best_of_candidates(embeddings, columns[decided], (owner, token), k)
        if (np.abs(scores - chosen[0][keep]) > chosen[1][keep]).any():
            self._matrix = None  # this machine's product does not keep the bound
            return self._exact_scorer(embeddings).top(columns, k)
        if decided.all():
            return best
        ids = np.empty((len(columns), k), np.int64)
        values = np.empty((len(columns), k), np.float32)
        ids[decided], values[decided] = best.ids, best.scores
        rest = self._exact_scorer(embeddings).top(columns[~decided], k)
        ids[~decided], values[~decided] = rest.ids, rest.scores
        return TopTokens(ids, values)


def _bfloat16_is_faster(hidden: int) -> bool:
    """Whether a trial product runs faster in bfloat16 than in float32 on this machine."""
    seconds = {}
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            left = torch.ones(_TRIAL_ROWS, hidden, dtype=dtype)
            right = torch.ones(_TRIAL_TOKENS, hidden, dtype=dtype)
            times = []
            for _ in range(3):
                start = time.perf_counter()
                torch.mm(left, right.T)
                times.append(time.perf_counter() - start)
            seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < seconds[torch.float32]
