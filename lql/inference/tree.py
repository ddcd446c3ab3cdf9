"""Many prompts in one forward pass: a tree of tokens on the one token axis.

Prompts that begin alike share those tokens; where they part, each goes on as a branch. A token
stands at its depth in the tree and sees its own path to the root, so every prompt is read as if it
were alone: same positions, same windows, same layer code. Ten templates about one entity cost the
tokens in which they differ.

Shape legend: T new tokens, N tokens of the tree, B queries of a block, n keys of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lql.inference.attention import QueryBlock

# Queries per block: neighbours in the tree share most of what they see.
_BLOCK = 96

Places = npt.NDArray[np.int64]


class TokenTree:
    """Tokens with their parents; a node is named by its number, in order of joining."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._paths: list[Places] = []  # of each node, root first, itself last
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Iterable[int], parent: int = -1) -> int:
        """Put tokens below a node (-1: at the root), sharing what is there already.

        Returns:
            The node of the last one, or ``parent`` where there are none.
        """
        node = parent
        for token in ids:
            known = self._children.get((node, token))
            node = self.join(token, node) if known is None else known
        return node

    def add_new(self, ids: Sequence[int], start: int) -> int:
        """Put a prompt at the root whose last token is a node from number ``start`` on.

        Where the tree holds the prompt in older nodes, whose outputs are no longer at hand, its
        last token joins once more.
        """
        node = self.add(ids)
        if node >= start:
            return node
        path = self._paths[node]
        return self.join(ids[-1], int(path[-2]) if len(path) > 1 else -1)

    def cut(self, length: int) -> None:
        """Forget the nodes from number ``length`` on."""
        for node in range(length, len(self.ids)):
            path = self._paths[node]
            place = int(path[-2]) if len(path) > 1 else -1, self.ids[node]
            if self._children.get(place) == node:
                del self._children[place]
        del self.ids[length:], self._paths[length:]

    def depth(self, node: int) -> int:
        """How many tokens stand before a node on its path."""
        return len(self._paths[node]) - 1

    def prompt(self, node: int) -> tuple[int, ...]:
        """The token ids from the root to a node."""
        return tuple(self.ids[place] for place in self._paths[node])

    def branches(self, start: int, stop: int) -> Branches:
        """Nodes ``start..stop`` as the new tokens of a forward pass."""
        return Branches(self._paths[start:stop])

    def join(self, token: int, parent: int) -> int:
        """Put a token below a node as a new node, even if there is one like it."""
        node = len(self.ids)
        self.ids.append(token)
        above = self._paths[parent] if parent >= 0 else np.empty(0, np.int64)
        self._paths.append(np.append(above, node))
        self._children.setdefault((parent, token), node)
        return node


@dataclass(frozen=True, slots=True, eq=False)
class Branches:
    """New tokens of a tree: where they stand and what they see.

    Attributes:
        paths: of each of the T tokens, the columns of the cache that lead to it, itself last.
    """

    paths: Sequence[Places]

    @property
    def positions(self) -> Places:
        """int64 [T], each token's position in its own prompt."""
        return np.array([len(path) - 1 for path in self.paths], np.int64)

    @property
    def length(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(path) for path in self.paths)

    def blocks(self, window: int | None) -> tuple[QueryBlock, ...]:
        """The queries in blocks, each with the keys that any of them sees.

        Args:
            window: keys visible to a query, itself included; ``None`` for its whole path.
        """
        seen = [path if window is None else path[-window:] for path in self.paths]
        return tuple(_block(row, seen[row : row + _BLOCK]) for row in range(0, len(seen), _BLOCK))


def _block(row: int, seen: Sequence[Places]) -> QueryBlock:
    columns = np.unique(np.concatenate(seen))  # [n]
    mask = np.full((len(seen), len(columns)), -np.inf, np.float32)  # [B, n]
    for query, path in enumerate(seen):
        mask[query, np.searchsorted(columns, path)] = 0.0
    return QueryBlock(
        rows=slice(row, row + len(seen)),
        columns=torch.from_numpy(columns),
        masked=slice(0, len(columns)),
        mask=None if len(seen) == 1 else torch.from_numpy(mask),
    )
