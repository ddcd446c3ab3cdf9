"""A growing sequence of tokens and its cache: how prompts, chunks and generated tokens are read.

Notation: T new tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids

from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.cache import KvCache
from lql.inference.decoder import Decoder, Observer
from lql.inference.errors import EmptyPrompt, PromptTooLong, TokenOutOfRange
from lql.inference.feedforward import FeedForwardRule, dense
from vindex.spec import ModelSpec, RopeScaling

# A long prompt is read in two parts: all but its last tokens in rounded arithmetic, then those
# exactly. Nobody sees the first part's outputs; only its keys and values reach the prediction,
# each averaged with many others. See ``LoadedModel`` for the error that this leaves.
COARSE_FROM = 160  # tokens before the tail from which rounded products pay for their conversion
EXACT_TAIL = 32  # last tokens that are always exact
_COARSE_CHUNK = 512  # tokens at a time, so that memory does not grow with the prompt


def position_limit(spec: ModelSpec) -> int:
    """Positions that a model was made for; dynamic rope stretches them by its factor."""
    for layer in spec.layers:
        rope = layer.attention.rope
        if rope is not None and rope.scaling is RopeScaling.DYNAMIC and rope.factor is not None:
            return int(rope.factor * spec.max_positions)
    return spec.max_positions


class Sequence:
    """Tokens read so far, with their keys and values.

    Args:
        capacity: tokens to make room for.

    Raises:
        PromptTooLong: ``capacity`` exceeds the model's positions.
    """

    def __init__(self, decoder: Decoder, capacity: int) -> None:
        limit = position_limit(decoder.spec)
        if capacity > limit:
            raise PromptTooLong(capacity, limit)
        self._decoder = decoder
        self._capacity = capacity
        self._cache = KvCache(decoder.spec, capacity)
        self._ids: list[int] = []

    def read(
        self,
        ids: Ids[int],
        *,
        keep: int = 1,
        feed_forward: FeedForwardRule = dense,
        observe: Observer | None = None,
        cancel: CancelToken | None = None,
    ) -> Tensor:
        """Append tokens and run them.

        Args:
            ids: T >= 1 token ids.
            keep: how many of the last tokens' outputs are wanted, 1..T; those are exact.
            feed_forward, observe, cancel: see ``Decoder.forward``. Observers see the kept tokens,
                and as many before them as were run together with them.

        Returns:
            The residual stream at the last ``keep`` tokens, float32 [keep, D].

        Raises:
            EmptyPrompt, TokenOutOfRange, PromptTooLong: nothing was read.
            Cancelled: the sequence is of no further use.
        """
        self._check(ids)
        if self._ids and self._decoder.rotations_change(len(self._ids), len(self._ids) + len(ids)):
            # Keys in the cache were turned by another table: read everything again.
            ids = [*self._ids, *ids]
            self._ids = []
            self._cache = KvCache(self._decoder.spec, self._capacity)
        length = len(self._ids) + len(ids)
        exact_from = self._read_coarsely(ids, length, keep, feed_forward, cancel)
        h = self._decoder.forward(
            ids[exact_from:],
            self._cache,
            length=length,
            feed_forward=feed_forward,
            observe=observe,
            cancel=cancel,
        )
        self._ids += ids
        return h[-keep:]

    def _read_coarsely(
        self,
        ids: Ids[int],
        length: int,
        keep: int,
        feed_forward: FeedForwardRule,
        cancel: CancelToken | None,
    ) -> int:
        """Put the first part of a long prompt into the cache; returns where the rest begins."""
        exact_from = len(ids) - max(keep, EXACT_TAIL)
        if exact_from < COARSE_FROM or feed_forward is not dense:
            return 0
        coarse = self._decoder.coarse()
        if coarse is None:
            return 0
        for start in range(0, exact_from, _COARSE_CHUNK):
            chunk = ids[start : min(start + _COARSE_CHUNK, exact_from)]
            self._decoder.forward(chunk, self._cache, length=length, coarse=coarse, cancel=cancel)
        return exact_from

    def _check(self, ids: Ids[int]) -> None:
        if not ids:
            raise EmptyPrompt(
                "the prompt has no tokens",
                hint="write at least one character: the model predicts what follows it",
            )
        vocabulary = self._decoder.spec.vocab_size
        for token in ids:
            if not 0 <= token < vocabulary:
                raise TokenOutOfRange(
                    f"token id {token} is outside the model's vocabulary of {vocabulary}",
                    hint="does the tokenizer belong to this model?",
                )
        if len(self._ids) + len(ids) > self._capacity:
            raise PromptTooLong(len(self._ids) + len(ids), self._capacity)
