"""The cache returns what a token can see, however the tokens arrive, and holds little else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lql.inference.cache import LayerCache
from vindex.spec import AttentionKind, AttentionSpec

KV_HEADS, HEAD_SIZE = 2, 3


def spec(window: int | None) -> AttentionSpec:
    kind = AttentionKind.FULL if window is None else AttentionKind.SLIDING
    return AttentionSpec(kind, 4, KV_HEADS, HEAD_SIZE, 1.0, None, window=window)


def tokens(count: int, start: int) -> torch.Tensor:
    """Keys [K, T, S] and values below them, all different; the value is minus the key."""
    keys = torch.arange(KV_HEADS * count * HEAD_SIZE, dtype=torch.float32)
    keys = (
        keys.view(KV_HEADS, count, HEAD_SIZE) + 1000 * torch.arange(start, start + count)[:, None]
    )
    return torch.cat([keys, -keys])


chunks = st.lists(st.integers(1, 90), min_size=1, max_size=12)
windows = st.one_of(st.none(), st.integers(1, 70))


@given(chunks, windows)
def test_what_is_seen_does_not_depend_on_chunks(chunks: list[int], window: int | None) -> None:
    total = sum(chunks)
    cache = LayerCache(spec(window), total)
    everything = torch.empty(2 * KV_HEADS, 0, HEAD_SIZE)
    for count in chunks:
        start = everything.shape[1]
        new = tokens(count, start)
        everything = torch.cat([everything, new], dim=1)
        keys, values = cache.append(new)
        first = 0 if window is None else max(0, start - window + 1)
        assert torch.equal(keys, everything[:KV_HEADS, first:])
        assert torch.equal(values, everything[KV_HEADS:, first:])


def test_a_sliding_layer_keeps_little_more_than_its_window() -> None:
    full, sliding = LayerCache(spec(None), 4096), LayerCache(spec(128), 4096)
    per_position = 2 * KV_HEADS * HEAD_SIZE * 4
    assert full.resident_bytes == 4096 * per_position
    assert sliding.resident_bytes <= 2 * 128 * per_position


def test_a_short_sequence_takes_no_more_room_than_it_has_tokens() -> None:
    assert LayerCache(spec(128), 5).resident_bytes == 5 * 2 * KV_HEADS * HEAD_SIZE * 4


@given(chunks, windows, st.integers(0, 300), st.integers(1, 40))
def test_going_back_is_right_or_refused(
    chunks: list[int], window: int | None, dropped: int, count: int
) -> None:
    """After it the cache is as if the forgotten positions had never been."""
    total = sum(chunks)
    cache = LayerCache(spec(window), total + count)
    start = 0
    for chunk in chunks:
        cache.append(tokens(chunk, start))
        start += chunk
    length = max(total - dropped, 0)
    if not cache.can_end_at(length):
        assert window is not None
        assert total - length > 0
        return
    cache.end_at(length)
    keys, values = cache.append(tokens(count, 500 + length))
    first = 0 if window is None else max(0, length - window + 1)
    at = keys[0, :, 0] // 1000
    assert at.tolist() == [*range(first, length), *range(500 + length, 500 + length + count)]
    assert torch.equal(values, -keys)


def test_one_token_can_always_be_taken_back() -> None:
    cache = LayerCache(spec(5), 300)
    cache.append(tokens(200, 0))
    for position in range(200, 290):
        cache.append(tokens(1, position))
        assert cache.can_end_at(position)


def test_a_sliding_layer_says_that_it_let_go() -> None:
    cache = LayerCache(spec(5), 300)
    cache.append(tokens(200, 0))
    assert cache.can_end_at(200)
    assert not cache.can_end_at(199)


@pytest.mark.parametrize("window", [None, 40])
def test_a_larger_cache_takes_over(window: int | None) -> None:
    small, large = LayerCache(spec(window), 30), LayerCache(spec(window), 200)
    small.append(tokens(30, 0))
    large.take(small)
    keys, _ = large.append(tokens(1, 30))
    assert (keys[0, :, 0] // 1000).tolist() == list(range(31))


@pytest.mark.parametrize("window", [None, 4])
def test_new_tokens_are_copied(window: int | None) -> None:
    cache = LayerCache(spec(window), 10)
    new = tokens(2, 0)
    cache.append(new)
    expected = new.clone()
    new.zero_()
    keys, _ = cache.append(tokens(1, 2))
    assert torch.equal(keys[:, :2], expected[:KV_HEADS])
