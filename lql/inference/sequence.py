"""A growing sequence of tokens and its cache: how prompts, chunks and generated tokens are read.

It can also go back: to the beginning that it shares with another text, as a chat does whose
template rewrites what was said.

Notation: T new tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids

import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.cache import KvCache
from lql.inference.decoder import Decoder
from lql.inference.errors import EmptyPrompt, PromptTooLong, TokenOutOfRange
from lql.inference.feedforward import FeedForwardRule, dense
from lql.inference.placement import out_of_memory
from lql.inference.taps import Intervene, Observer, PatternObserver
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
        _limit(decoder, capacity)
        self._decoder = decoder
        self._cache = KvCache(decoder.spec, capacity, decoder.device)
        self._ids: list[int] = []

    @property
    def ids(self) -> Ids[int]:
        """The tokens read so far."""
        return tuple(self._ids)

    def reserve(self, capacity: int) -> None:
        """Make room for so many tokens; keeps what was read.

        Raises:
            PromptTooLong: ``capacity`` exceeds the model's positions.
        """
        limit = _limit(self._decoder, capacity)
        if capacity > self._cache.capacity:
            # Twice the room, so that a sequence that grows in steps is not copied at each.
            room = min(max(capacity, 2 * self._cache.capacity), limit)
            cache = KvCache(self._decoder.spec, room, self._decoder.device)
            cache.take(self._cache)
            self._cache = cache

    def go_back_to(self, ids: Ids[int]) -> None:
        """Forget the tokens after the longest beginning shared with ``ids``.

        Forgets all where their keys cannot be restored: a sliding layer has let go of some, or
        they were turned for a longer text.
        """
        shared = 0
        for read, wanted in zip(self._ids, ids, strict=False):
            if read != wanted:
                break
            shared += 1
        self._end_at(shared)

    def _end_at(self, length: int) -> None:
        """Keep the first ``length`` tokens, or none if that cannot be."""
        turned = self._decoder.rotations_change(length, len(self._ids))
        if turned or not self._cache.end_at(length):
            self._cache = KvCache(self._decoder.spec, self._cache.capacity, self._decoder.device)
            length = 0
        del self._ids[length:]

    def read(
        self,
        ids: Ids[int],
        *,
        keep: int = 1,
        feed_forward: FeedForwardRule = dense,
        observe: Observer | None = None,
        intervene: Intervene | None = None,
        patterns: PatternObserver | None = None,
        cancel: CancelToken | None = None,
    ) -> Tensor:
        """Append tokens and run them.

        Args:
            ids: T >= 1 token ids.
            keep: how many of the last tokens' outputs are wanted, 1..T; those are exact.
            feed_forward, observe, cancel: see ``Decoder.forward``. Observers see the kept tokens,
                and before them those of the others that the layer is run for.
            intervene, patterns: see ``Decoder.forward``; with ``intervene`` keep all tokens.

        Returns:
            The residual stream at the last ``keep`` tokens, float32 [keep, D].

        Raises:
            EmptyPrompt, TokenOutOfRange, PromptTooLong: nothing was read.
            DeviceMemoryShort, Cancelled: nothing was read.
        """
        self._check(ids)
        try:
            return self._read(ids, keep, feed_forward, observe, intervene, patterns, cancel)
        except BaseException as error:  # some layers have joined the cache and some have not
            self._end_at(len(self._ids))
            if isinstance(error, torch.OutOfMemoryError):
                raise out_of_memory(self._decoder.device) from error
            raise

    def _read(
        self,
        ids: Ids[int],
        keep: int,
        feed_forward: FeedForwardRule,
        observe: Observer | None,
        intervene: Intervene | None,
        patterns: PatternObserver | None,
        cancel: CancelToken | None,
    ) -> Tensor:
        if self._ids and self._decoder.rotations_change(len(self._ids), len(self._ids) + len(ids)):
            # Keys in the cache were turned by another table: read everything again.
            ids = [*self._ids, *ids]
            self._ids = []
            self._cache = KvCache(self._decoder.spec, self._cache.capacity, self._decoder.device)
        length = len(self._ids) + len(ids)
        exact_from = self._read_coarsely(ids, length, keep, feed_forward, cancel)
        h = self._decoder.forward(
            ids[exact_from:],
            self._cache,
            length=length,
            keep=keep,
            feed_forward=feed_forward,
            observe=observe,
            intervene=intervene,
            patterns=patterns,
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
            self._decoder.forward(
                chunk, self._cache, length=length, keep=1, coarse=coarse, cancel=cancel
            )
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
        if len(self._ids) + len(ids) > self._cache.capacity:
            raise PromptTooLong(len(self._ids) + len(ids), self._cache.capacity)


def _limit(decoder: Decoder, capacity: int) -> int:
    """The model's positions, at least ``capacity``."""
    limit = position_limit(decoder.spec)
    if capacity > limit:
        raise PromptTooLong(capacity, limit)
    return limit
