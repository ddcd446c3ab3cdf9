"""Rotary positions: the rotations are those of the definitions, in either layout."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lql.inference.rope import Rope, lane_order, rotate_
from vindex.spec import RopeScaling, RopeSpec

PLAIN = RopeSpec(theta=10000.0, rotary_size=16)
LINEAR = replace(PLAIN, scaling=RopeScaling.LINEAR, factor=4.0)
DYNAMIC = replace(PLAIN, scaling=RopeScaling.DYNAMIC, factor=2.0, original_max_positions=32)
LLAMA3 = replace(
    PLAIN,
    theta=500000.0,
    scaling=RopeScaling.LLAMA3,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_positions=64,
)

PROPORTIONAL = replace(PLAIN, scaling=RopeScaling.PROPORTIONAL, factor=2.0, turning_pairs=2)
YARN = replace(
    PLAIN,
    scaling=RopeScaling.YARN,
    factor=4.0,
    original_max_positions=32,
    low_dim=1.0,
    high_dim=5.0,
    attention_factor=1.2,
)
LONGROPE = replace(
    PLAIN,
    scaling=RopeScaling.LONGROPE,
    original_max_positions=32,
    short_factors=(1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7),
    long_factors=(2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5),
    attention_factor=1.1,
)

Floats = npt.NDArray[np.float64]


def by_definition(spec: RopeSpec, length: int) -> Floats:
    """Radians per position, from inference.md 1.1.3, in float64."""
    size = spec.rotary_size
    theta = spec.theta
    if spec.scaling is RopeScaling.DYNAMIC and length > 32:
        theta *= (2.0 * length / 32 - (2.0 - 1)) ** (size / (size - 2))
    base = theta ** (-np.arange(0, size, 2) / size)
    if spec.scaling is RopeScaling.LINEAR:
        return base / 4.0
    if spec.scaling is RopeScaling.PROPORTIONAL:
        return np.array([*(base[:2] / 2.0), *[0.0] * (size // 2 - 2)])
    if spec.scaling is RopeScaling.YARN:  # pairs 0 and 1 as they are, from 5 on a quarter
        kept = np.array([1, 1, 0.75, 0.5, 0.25, 0, 0, 0])
        return base * kept + base / 4.0 * (1 - kept)
    if spec.scaling is RopeScaling.LONGROPE:
        return base / np.array(spec.long_factors if length > 32 else spec.short_factors)
    if spec.scaling is not RopeScaling.LLAMA3:
        return base
    # The three bands as the Llama 3 release states them, not the clamped blend.
    result = []
    for frequency in base:
        wavelength = 2 * math.pi / frequency
        if wavelength < 64 / 4.0:
            result.append(frequency)
        elif wavelength > 64 / 1.0:
            result.append(frequency / 8.0)
        else:
            smooth = (64 / wavelength - 1.0) / (4.0 - 1.0)
            result.append((1 - smooth) * frequency / 8.0 + smooth * frequency)
    return np.array(result)


@pytest.mark.parametrize(
    "spec",
    [PLAIN, LINEAR, LLAMA3, DYNAMIC, YARN, LONGROPE, PROPORTIONAL],
    ids=lambda s: s.scaling.value,
)
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 20), (19, 20), (0, 33), (40, 47)])
def test_rotations_follow_the_definition(spec: RopeSpec, start: int, stop: int) -> None:
    angles = np.outer(np.arange(start, stop), by_definition(spec, stop))
    found = Rope(spec).table(start, stop)
    assert found.shape == (stop - start, 1, 8)
    assert found.dtype is torch.complex64
    expected = spec.attention_factor * np.exp(1j * angles)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=3e-5)


def test_the_llama3_bands_are_all_met_by_the_test_above() -> None:
    ratio = by_definition(LLAMA3, 1) / by_definition(replace(PLAIN, theta=500000.0), 1)
    assert ratio.max() == 1
    assert ratio.min() == pytest.approx(1 / 8)
    assert np.any((ratio > 0.126) & (ratio < 0.999))


def half_layout(head: Floats, angles: Floats) -> Floats:
    """Rotate pairs (i, i + R / 2) of one head; lanes beyond R stay."""
    size = 2 * len(angles)
    a, b = head[: size // 2], head[size // 2 : size]
    turned = [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)]
    return np.concatenate([*turned, head[size:]])


@pytest.mark.parametrize("rotary_size", [24, 12])
def test_reordered_lanes_turn_as_the_half_layout_does(rotary_size: int) -> None:
    spec = replace(PLAIN, rotary_size=rotary_size)
    stored = np.random.default_rng(0).standard_normal((5, 3, 24))  # [T, N, S] as stored
    order = lane_order(spec, 3, 24)
    assert order is not None
    heads = torch.from_numpy(stored.reshape(5, -1)[:, order].reshape(5, 3, 24)).float().contiguous()
    rotate_(heads[..., :rotary_size], Rope(spec).table(7, 12))
    angles = by_definition(spec, 12)
    expected = np.array(
        [[half_layout(head, (7 + t) * angles) for head in row] for t, row in enumerate(stored)]
    )
    expected = expected.reshape(5, -1)[:, order].reshape(5, 3, 24)
    np.testing.assert_allclose(heads.numpy(), expected, atol=1e-5)


def test_reordering_is_a_permutation_within_each_head() -> None:
    order = lane_order(replace(PLAIN, rotary_size=4), 2, 6)
    assert order is not None
    assert order.tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]


def test_interleaved_and_unrotated_lanes_stay_in_place() -> None:
    assert lane_order(replace(PLAIN, interleaved=True), 2, 16) is None
    assert lane_order(None, 2, 16) is None


def test_rotation_happens_inside_the_given_memory() -> None:
    qkv = torch.randn(4, 5, 16)
    before = qkv.clone()
    rotate_(qkv[:, :3], Rope(PLAIN).table(1, 5))
    assert not torch.equal(qkv[:, :3], before[:, :3])
    assert torch.equal(qkv[:, 3:], before[:, 3:])


@pytest.mark.parametrize(
    ("spec", "before", "after", "changes"),
    [
        (DYNAMIC, 10, 32, False),
        (DYNAMIC, 32, 33, True),
        (DYNAMIC, 40, 41, True),
        (DYNAMIC, 40, 40, False),
        (LINEAR, 32, 64, False),
        (LLAMA3, 60, 70, False),
        (YARN, 32, 33, False),
        (LONGROPE, 31, 32, False),
        (LONGROPE, 32, 33, True),
        (LONGROPE, 33, 34, False),
        (PLAIN, 1, 1000, False),
    ],
)
def test_only_rules_of_length_turn_old_keys_differently(
    spec: RopeSpec, before: int, after: int, changes: bool
) -> None:
    assert Rope(spec).changes_between(before, after) is changes


@pytest.mark.parametrize("spec", [DYNAMIC, LONGROPE], ids=lambda s: s.scaling.value)
def test_a_part_turns_as_the_whole_it_belongs_to(spec: RopeSpec) -> None:
    rope = Rope(spec)
    assert torch.equal(rope.table(3, 9, 40), rope.table(0, 40)[3:9])
    assert not torch.equal(rope.table(3, 9), rope.table(0, 40)[3:9])
