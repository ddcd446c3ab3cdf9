"""Reading a tree of tokens: the cache that holds it, and the outputs of its nodes."""

from __future__ import annotations

from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.cache import KvCache
from lql.inference.decoder import Decoder, Observer
from lql.inference.errors import PromptTooLong
from lql.inference.feedforward import FeedForwardRule, dense
from lql.inference.sequence import position_limit
from lql.inference.tree import TokenTree


class PackedSequence:
    """A tree of prompts and the keys and values of its nodes.

    Args:
        capacity: nodes to make room for.
        tree: one to begin with; an empty one by default.
    """

    def __init__(self, decoder: Decoder, capacity: int, tree: TokenTree | None = None) -> None:
        self.tree = TokenTree() if tree is None else tree
        self.capacity = capacity
        self._decoder = decoder
        self._cache = KvCache(decoder.spec, capacity, decoder.device, keep_all=True)

    @property
    def resident_bytes(self) -> int:
        """Memory of the keys and values."""
        return self._cache.resident_bytes

    def cut(self, length: int) -> None:
        """Forget the nodes from number ``length`` on, for other branches to take their place."""
        self.tree.cut(length)
        kept = self._cache.end_at(min(length, self._cache.length))
        assert kept, "a cache that keeps all can end anywhere"

    def read(
        self,
        *,
        feed_forward: FeedForwardRule = dense,
        observe: Observer | None = None,
        cancel: CancelToken | None = None,
    ) -> Tensor:
        """Run the nodes that have joined the tree since the last call.

        Returns:
            The residual stream at those nodes, float32 [T, D].

        Raises:
            PromptTooLong: a path has more tokens than the model positions, or tokens that the
                model rotates by the length of the text, which branches do not share.
            Cancelled: the sequence is of no further use.
        """
        start, stop = self._cache.length, len(self.tree)
        branches = self.tree.branches(start, stop)
        limit = position_limit(self._decoder.spec)
        if branches.length > limit:
            raise PromptTooLong(branches.length, limit)
        if self._decoder.rotations_change(1, branches.length):
            raise PromptTooLong(branches.length, branches.length - 1)
        return self._decoder.forward(
            self.tree.ids[start:stop],
            self._cache,
            branches=branches,
            feed_forward=feed_forward,
            observe=observe,
            cancel=cancel,
        )
