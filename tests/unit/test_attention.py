"""Attention: blocks, windows, grouped heads, soft caps and caches against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lql.inference.attention import Attention, Step, gathered, projected, query_blocks
from lql.inference.cache import LayerCache
from lql.inference.linear import Coarse, PlainLinear
from lql.inference.norms import LayerNorm, Norm, ProjectionNorm
from lql.inference.rope import Rope
from vindex.spec import AttentionKind, AttentionSpec, NormKind, NormSpec, RopeSpec

D, H, K, S = 20, 6, 2, 4
SPEC = AttentionSpec(AttentionKind.FULL, H, K, S, scale=0.7, rope=None)
Floats = npt.NDArray[np.float64]


def layer(spec: AttentionSpec, norm: Norm | None = None, rope: Rope | None = None) -> Attention:
    random = torch.Generator().manual_seed(0)
    qkv = 0.3 * torch.randn((H + 2 * K) * S, D, generator=random)
    output = 0.3 * torch.randn(D, H * S, generator=random)
    return Attention(spec, PlainLinear(qkv, None), PlainLinear(output, None), norm, rope)


def inputs(count: int) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(1))


def run(each: Attention, x: torch.Tensor, chunks: list[int]) -> Floats:
    cache = LayerCache(each.spec, len(x))
    outputs, start = [], 0
    for count in chunks:
        stop = start + count
        step = Step(
            rotations={} if each.rope is None else {each.rope: each.rope.table(start, stop)},
            blocks={each.spec.window: query_blocks(start, count, each.spec.window)},
            coarse=None,
        )
        q, new = projected(x[start:stop], each, step)
        outputs.append(gathered(q, *cache.append(new), each, step))
        start = stop
    return torch.cat(outputs).double().numpy()


def by_loops(each: Attention, x: torch.Tensor) -> Floats:
    """The definition, one query and one head at a time, in float64."""
    spec = each.spec
    qkv = each.qkv(x).double().numpy().reshape(len(x), -1, S)
    q, k, v = qkv[:, :H], qkv[:, H : H + K], qkv[:, H + K :]
    mixed = np.zeros((len(x), H, S))
    for i in range(len(x)):
        lowest = 0 if spec.window is None else max(0, i - spec.window + 1)
        for head in range(H):
            of = head // (H // K)
            scores = k[lowest : i + 1, of] @ q[i, head] * spec.scale
            if spec.softcap is not None:
                scores = spec.softcap * np.tanh(scores / spec.softcap)
            sink = -np.inf if each.sinks is None else float(each.sinks[head])
            highest = max(scores.max(), sink)
            weights = np.exp(scores - highest)
            total = weights.sum() + np.exp(sink - highest)
            mixed[i, head] = weights @ v[lowest : i + 1, of] / total
    output = each.output(torch.eye(H * S)).double().numpy().T
    return mixed.reshape(len(x), -1) @ output.T


@pytest.mark.parametrize("window", [None, 1, 5, 200])
@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("chunks", [[300], [1] * 30, [7, 1, 140, 2, 150], [130, 170]])
def test_attention_is_its_definition(
    window: int | None, softcap: float | None, chunks: list[int]
) -> None:
    each = layer(replace(SPEC, window=window, softcap=softcap))
    x = inputs(sum(chunks))
    np.testing.assert_allclose(run(each, x, chunks), by_loops(each, x), atol=2e-5)


@pytest.mark.parametrize("window", [None, 5, 200])
@pytest.mark.parametrize("chunks", [[300], [1] * 30, [7, 1, 140, 2, 150]])
@pytest.mark.parametrize("size", [1.0, 60.0])
def test_sinks_take_part_in_every_softmax(
    window: int | None, chunks: list[int], size: float
) -> None:
    sinks = size * torch.randn(H, generator=torch.Generator().manual_seed(4))
    each = replace(layer(replace(SPEC, window=window, sinks=True)), sinks=sinks)
    x = inputs(sum(chunks))
    found = run(each, x, chunks)
    np.testing.assert_allclose(found, by_loops(each, x), atol=2e-5)
    assert np.abs(found - by_loops(replace(each, sinks=None), x)).max() > 0.01


def test_blocks_cover_every_query_once_and_see_no_more_than_they_can() -> None:
    for window in (None, 100):
        blocks = query_blocks(50, 300, window)
        assert [block.rows.start for block in blocks] == [0, 128, 256]
        assert blocks[-1].rows.stop == 300
        last = blocks[-1]
        keys = last.columns.stop - last.columns.start
        assert keys == (350 if window is None else 350 - (50 + 256 - 99))
        assert last.mask is not None
        # Full attention adds zeros only where there is something to hide as well.
        assert last.mask.shape == (44, 44 if window is None else keys)
        assert last.masked == slice(keys - last.mask.shape[1], keys)


def test_one_query_needs_no_mask() -> None:
    assert [block.mask for block in query_blocks(10, 1, None)] == [None]
    assert [block.mask for block in query_blocks(10, 1, 4)] == [None]


def test_heads_are_normed_one_by_one_before_they_turn() -> None:
    weight = torch.randn(H + K, S, generator=torch.Generator().manual_seed(2))
    norm = Norm.of(NormSpec(NormKind.RMS_OFFSET, 0.1), weight)
    rope = Rope(RopeSpec(theta=100.0, rotary_size=S, interleaved=True))
    each = layer(SPEC, norm, rope)
    x = inputs(5)
    found = run(each, x, [5])

    qkv = each.qkv(x).view(5, -1, S)
    qk = qkv[:, : H + K]
    qk = qk * (qk.square().mean(-1, keepdim=True) + 0.1).rsqrt() * (1 + weight)
    pairs = torch.view_as_complex(qk.reshape(5, H + K, S // 2, 2).contiguous())
    angles = torch.outer(torch.arange(5.0), 100.0 ** -torch.tensor([0.0, 0.5]))
    qk = torch.view_as_real(pairs * torch.exp(1j * angles)[:, None]).reshape(5, H + K, S)
    prepared = torch.cat([qk, qkv[:, H + K :]], dim=1).reshape(5, -1)
    same = replace(each, qkv=_Fixed(prepared), qk_norm=None, rope=None)
    np.testing.assert_allclose(found, by_loops(same, x), atol=2e-5)


class _Fixed(PlainLinear):
    """A product whose result is known."""

    def __init__(self, result: torch.Tensor) -> None:
        super().__init__(result, None)
        self._result = result

    def __call__(self, x: torch.Tensor, coarse: Coarse | None = None) -> torch.Tensor:
        return self._result


@pytest.mark.parametrize("kind", [NormKind.RMS, NormKind.RMS_OFFSET])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_norms_are_their_definition(kind: NormKind, scale: float) -> None:
    x = inputs(7) * scale
    weight = inputs(1)[0]
    norm = Norm.of(NormSpec(kind, 3e-3), weight)
    factor = weight.double() + (1 if kind is NormKind.RMS_OFFSET else 0)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 3e-3).sqrt() * factor
    np.testing.assert_allclose(norm(x).numpy(), exact.numpy(), atol=3e-6)
    copy = x.clone()
    norm.apply_(copy)
    assert torch.equal(copy, norm(x))


def test_layer_norm_is_its_definition() -> None:
    x, (weight, bias) = inputs(7), inputs(2)
    centred = x.double() - x.double().mean(-1, keepdim=True)
    exact = centred / (centred.square().mean(-1, keepdim=True) + 3e-3).sqrt() * weight + bias
    found = LayerNorm(weight, bias, 3e-3)(x)
    np.testing.assert_allclose(found.numpy(), exact.numpy(), atol=3e-6)
    with pytest.raises(ValueError, match="bias"):
        Norm.of(NormSpec(NormKind.LAYER, 1e-5), torch.ones(3))


def test_a_projection_norm_takes_all_heads_together() -> None:
    random = torch.Generator().manual_seed(3)
    qkv = torch.randn(5, H + 2 * K, S, generator=random)
    q_weight, k_weight = (torch.randn(n * S, generator=random) for n in (H, K))
    spec = NormSpec(NormKind.RMS, 0.1)
    expected = qkv.clone()
    for heads, weight in ((slice(H), q_weight), (slice(H, H + K), k_weight)):
        flat = qkv[:, heads].reshape(5, -1)
        normed = flat * (flat.square().mean(-1, keepdim=True) + 0.1).rsqrt() * weight
        expected[:, heads] = normed.view(5, -1, S)
    ProjectionNorm(Norm.of(spec, q_weight), Norm.of(spec, k_weight), H).apply_(qkv[:, : H + K])
    np.testing.assert_allclose(qkv.numpy(), expected.numpy(), atol=3e-6)


def test_scores_that_overflow_float32_exponentials_do_no_harm() -> None:
    each = layer(replace(SPEC, scale=50.0))
    found = run(each, inputs(9) * 30, [9])
    assert np.isfinite(found).all()
    assert math.isclose(np.abs(found - by_loops(each, inputs(9) * 30)).max(), 0, abs_tol=1e-2)
