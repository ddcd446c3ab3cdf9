"""Keys and values of the tokens read so far.

Shape legend: K KV heads, T new tokens, S head size, P positions held before them; with latents R
their rank, dr lanes that turn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lql.inference.placement import CPU
from vindex.spec import AttentionSpec, ModelSpec

# Slots of a sliding layer beyond its window. When they are used up the window moves to the front:
# with 64 of them that copy is a 64th of a copy per token.
_SLACK = 64


def placed(slots: Tensor, new: Tensor, first: int, held: int) -> tuple[Tensor, Tensor]:
    """Put new tokens behind those held; what one of them can see.

    Compiled for single tokens; see ``single.py``.

    Args:
        slots: [2K, slots, S], keys above values.
        new: [2K, T, S].
        first: of the slots that a new token can see.

    Returns:
        Keys and values [K, held + T - first, S], views.
    """
    count = new.shape[1]
    slots.narrow(1, held, count).copy_(new)
    return keys_and_values(slots.narrow(1, first, held + count - first))


def keys_and_values(both: Tensor) -> tuple[Tensor, Tensor]:
    """The halves of keys above values, as views that gradients can pass."""
    heads = both.shape[0] // 2
    return both.narrow(0, 0, heads), both.narrow(0, heads, heads)


class LayerCache:
    """Keys (after rope) and values of one layer, in order of position.

    A sliding layer keeps the ``window - 1`` positions that the next token can still see, unless
    it is told to keep all: of branches, the last tokens read are not the nearest ones. With
    latents there is one key a token, and the first of its lanes are the value.
    """

    def __init__(
        self,
        spec: AttentionSpec,
        capacity: int,
        device: torch.device = CPU,
        *,
        keep_all: bool = False,
    ) -> None:
        whole = keep_all or spec.window is None
        self._reach = capacity if whole or spec.window is None else spec.window - 1
        slots = min(capacity, self._reach + _SLACK)
        latent = spec.latent
        self._latent = None if latent is None else latent.rank
        # Keys above values: they come together.
        heads = spec.kv_heads if latent else 2 * spec.kv_heads
        size = spec.head_size if latent is None else latent.rank + spec.turning_size
        self._slots = torch.empty(heads, slots, size, device=device)
        self._held = 0
        self._first = 0  # of the slots that the last tokens could see
        self._length = 0
        self._seen: tuple[Tensor, Tensor] | None = None

    @property
    def resident_bytes(self) -> int:
        """Memory of the slots."""
        return self._slots.numel() * self._slots.element_size()

    def append(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """Add new tokens and return everything that one of them can see.

        Args:
            new: their keys, then their values, float32 [2K, T, S]; with latents their keys,
                [1, T, R + dr].

        Returns:
            Keys and values [K, P + T, S], with latents [1, P + T, R + dr] and [1, P + T, R]: the
            new tokens after the last P = min(all earlier, ``window - 1``) ones. Views of the
            cache, or new memory; valid until the next call.
        """
        count, slots = new.shape[1], self._slots.shape[1]
        past = min(self._held, self._reach)
        if self._held + count > slots:
            self._move_to_front(past)
        start, stop = self._held - past, self._held + count
        if stop <= slots:
            held = self._held
            self._take_place(start, stop, count)
            if self._latent is None:
                return placed(self._slots, new, start, held)
            self._slots.narrow(1, held, count).copy_(new)
            return self.seen
        # More new tokens than slots, so in a sliding layer: most will not be seen again.
        seen = torch.cat([self._slots[:, start : self._held], new], dim=1)
        self._slots[:, : self._reach] = seen[:, seen.shape[1] - self._reach :]
        self._take_place(0, self._reach, count)
        self._seen = self._parts(seen)
        return self._seen

    def place_for_one(self) -> tuple[Tensor, int, int]:
        """Count one token more, for whose keys and values the caller calls ``placed``.

        Returns:
            What that takes: the slots, where what the token sees begins, and where it is put.
        """
        past = min(self._held, self._reach)
        if self._held == self._slots.shape[1]:
            self._move_to_front(past)
        held = self._held
        self._take_place(held - past, held + 1, 1)
        return self._slots, held - past, held

    def _take_place(self, first: int, held: int, count: int) -> None:
        self._first, self._held = first, held
        self._length += count
        self._seen = None

    @property
    def seen(self) -> tuple[Tensor, Tensor]:
        """What the last ``append`` returned, for later layers that read this layer's keys."""
        if self._seen is not None:
            return self._seen
        return self._parts(self._slots.narrow(1, self._first, self._held - self._first))

    def can_end_at(self, length: int) -> bool:
        """Whether ``end_at`` would leave everything that the token after it can see."""
        dropped = max(self._length - length, 0)
        return self._held - dropped >= min(self._length - dropped, self._reach)

    def end_at(self, length: int) -> None:
        """Forget the positions from ``length`` on; the caller has asked whether that can be."""
        dropped = max(self._length - length, 0)
        self._held -= dropped
        self._length -= dropped
        self._seen = None

    def take(self, other: LayerCache) -> None:
        """Hold what another cache of the same layer holds, which has no more slots."""
        self._slots[:, : other._held] = other._slots[:, : other._held]
        self._held, self._length = other._held, other._length

    def _parts(self, held: Tensor) -> tuple[Tensor, Tensor]:
        if self._latent is not None:
            return held, held[..., : self._latent]
        return keys_and_values(held)

    def _move_to_front(self, count: int) -> None:
        """Keep only the last ``count`` positions, in the first slots."""
        start = self._held - count
        if start > 0:
            self._slots[:, :count] = self._slots[:, start : self._held].clone()
            self._held = count


class KvCache:
    """The caches of all layers, and how many tokens they have seen.

    A layer that reads the keys of an earlier one has that one's cache in its place.

    Args:
        capacity: positions to make room for; the caller keeps within it.
        keep_all: sliding layers keep every position too.
    """

    def __init__(
        self,
        spec: ModelSpec,
        capacity: int,
        device: torch.device = CPU,
        *,
        keep_all: bool = False,
    ) -> None:
        self.layers: list[LayerCache] = []
        for layer in spec.layers:
            source = layer.attention.kv_source
            self.layers.append(
                LayerCache(layer.attention, capacity, device, keep_all=keep_all)
                if source is None
                else self.layers[source]
            )
        self.capacity = capacity
        self.length = 0

    def end_at(self, length: int) -> bool:
        """Forget the positions from ``length`` on, also those of a pass that broke off.

        Returns:
            Whether that could be done. A sliding layer may have let go of positions that the next
            token would see again; the cache is then as before.
        """
        if not all(layer.can_end_at(length) for layer in self.layers):
            return False
        for layer in dict.fromkeys(self.layers):
            layer.end_at(length)
        self.length = length
        return True

    def take(self, other: KvCache) -> None:
        """Hold what another cache of the same model holds, which has no more room."""
        for own, theirs in zip(self.layers, other.layers, strict=True):
            own.take(theirs)
        self.length = other.length

    @property
    def resident_bytes(self) -> int:
        """Memory of all layers."""
        return sum(layer.resident_bytes for layer in dict.fromkeys(self.layers))
