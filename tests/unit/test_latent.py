"""Latent attention through one small key against keys and values expanded for every head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lql.inference.attention import Attention, Step, gathered, projected, query_blocks
from lql.inference.cache import LayerCache
from lql.inference.latent import Latent
from lql.inference.linear import PlainLinear
from lql.inference.norms import Norm
from lql.inference.rope import Rope
from vindex.spec import (
    AttentionKind,
    AttentionSpec,
    LatentSpec,
    NormKind,
    NormSpec,
    RopeSpec,
)

D, H, PLAIN, TURNING, VALUE, RANK, QUERY = 20, 3, 5, 4, 7, 9, 11
NORM = NormSpec(NormKind.RMS, 0.1)
ROPE = RopeSpec(theta=100.0, rotary_size=TURNING, interleaved=True)


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return 0.4 * torch.randn(shape, generator=generator)


def layer(query_rank: int | None) -> Attention:
    spec = AttentionSpec(
        AttentionKind.FULL,
        H,
        1,
        PLAIN + TURNING,
        scale=0.7,
        rope=ROPE,
        latent=LatentSpec(RANK, VALUE, query_rank, NORM),
    )
    size = H * (PLAIN + TURNING)
    query = None
    if query_rank is not None:
        up = PlainLinear(random(size, query_rank), None)
        query = Norm.of(NORM, 1 + random(query_rank)), up
    return Attention(
        spec,
        qkv=PlainLinear(random((query_rank or size) + RANK + TURNING, D), None),
        output=PlainLinear(random(D, H * VALUE), None),
        qk_norm=None,
        rope=Rope(ROPE),
        latent=Latent(query, Norm.of(NORM, 1 + random(RANK)), KEYS, VALUES.transpose(1, 2)),
    )


KEYS, VALUES = random(H, PLAIN, RANK), random(H, VALUE, RANK)


def expanded(each: Attention, x: torch.Tensor) -> torch.Tensor:
    """As the papers have it: every head's keys and values, one softmax, one sum."""
    latent, rope = each.latent, each.rope
    assert latent is not None
    assert rope is not None
    of_queries, c, turned = each.qkv(x).tensor_split((-RANK - TURNING, -TURNING), dim=1)
    if latent.query is not None:
        of_queries = latent.query[1](latent.query[0](of_queries))
    q = of_queries.view(len(x), H, -1)
    c = latent.norm(c)
    rotation = rope.table(0, len(x))

    def turn(lanes: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(lanes.reshape(*lanes.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * rotation).flatten(-2)

    q = torch.cat([q[..., :PLAIN], turn(q[..., PLAIN:])], dim=-1)
    k = torch.einsum("hpr,tr->thp", KEYS, c)
    k = torch.cat([k, turn(turned.unsqueeze(1)).expand(-1, H, -1)], dim=-1)
    v = torch.einsum("hvr,tr->thv", VALUES, c)
    scores = torch.einsum("ihs,jhs->hij", q, k) * each.spec.scale
    hidden = torch.ones(len(x), len(x)).triu(1).bool()
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return each.output(torch.einsum("hij,jhv->ihv", weights, v).reshape(len(x), -1))


@pytest.mark.parametrize("query_rank", [None, QUERY])
@pytest.mark.parametrize("chunks", [[300], [1] * 30, [7, 1, 140, 2, 150]])
def test_the_small_key_gives_what_expanded_keys_give(
    query_rank: int | None, chunks: list[int]
) -> None:
    each = layer(query_rank)
    assert each.rope is not None
    x = 2 * random(sum(chunks), D)
    cache = LayerCache(each.spec, len(x))
    outputs, start = [], 0
    for count in chunks:
        stop = start + count
        step = Step(
            rotations={each.rope: each.rope.table(start, stop)},
            blocks={None: query_blocks(start, count, None)},
            coarse=None,
        )
        q, new = projected(x[start:stop], each, step)
        outputs.append(gathered(q, *cache.append(new), each, step))
        start = stop
    found, expected = torch.cat(outputs), expanded(each, x)
    assert float(expected.abs().max()) > 0.5
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=2e-5)
    assert cache.resident_bytes == 4 * len(x) * (RANK + TURNING)
