"""Causal grouped-query attention over a cache, written as matrix products.

One code path for a whole prompt, a chunk of one, and a single cached token. Queries go in blocks,
each against only the keys it can see: torch's ``scaled_dot_product_attention`` computes the
masked half as well (512 tokens of SmolLM2, one layer: 3.8 ms; here 3.2 in float32 and 1.2 in
bfloat16). It is used for a single query, which has no masked half: half the time at 80 keys.

Shape legend: T new tokens, B of them in a block, P cached tokens before, D hidden, H heads,
K KV heads, G = H / K query heads per KV head, S head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lql.inference.latent import Latent
from lql.inference.linear import Coarse, Linear
from lql.inference.norms import HeadNorm, Norm, ProjectionNorm
from lql.inference.rope import Rope, rotate_
from lql.inference.taps import HeadHooks
from vindex.spec import AttentionSpec

# Queries per block. Fewer skip more of the masked half, more make fuller products.
_BLOCK = 128


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Weights of one layer's attention.

    Attributes:
        qkv: rows of q, k and v below each other; those of q and k in ``rope.lane_order``. Without
            those of v where values are keys, and of q alone where the layer reads the keys of an
            earlier one. With latents: rows of q or its latent, then of keys' latent and the
            rotated key.
        qk_norm: a ``Norm`` is of every head on its own; its factor is [H + K, S], q's weight for
            each query head, then k's for each key head. ``None`` where the model has none.
        v_norm: of every value head; ``None`` where the model has none.
        value_lanes: int64 [S], where values are keys: the lanes of a key in stored order.
        sinks: float32 [H], scores that take part in the softmax and gather nothing.
        latent: what stands between ``qkv`` and attention in models with latents.
        rope: ``None`` for models with learned positions.
    """

    spec: AttentionSpec
    qkv: Linear
    output: Linear
    qk_norm: HeadNorm | ProjectionNorm | None
    rope: Rope | None
    v_norm: Norm | None = None
    value_lanes: Tensor | None = None
    sinks: Tensor | None = None
    latent: Latent | None = None


@dataclass(frozen=True, slots=True, eq=False)
class QueryBlock:
    """A run of queries and the keys that any of them can see.

    Attributes:
        rows: of the T new tokens.
        columns: of the P + T keys that ``LayerCache.append`` returns: a run of them, or where
            the tokens are branches (see ``tree.py``) int64 [n], the ones that some query can see.
        masked: those of the block's n columns that some query cannot see, from the first to the
            last of them.
        mask: float32 [B, m], 0 or -inf, to be added to the scores of the m masked columns;
            ``None`` if all see all.
    """

    rows: slice
    columns: slice | Tensor
    masked: slice
    mask: Tensor | None

    def of(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The block's columns [K, n, S] of all keys and values [K, P + T, S]."""
        return keys[:, self.columns], values[:, self.columns]

    def on(self, device: torch.device) -> QueryBlock:
        """The same with its tensors on a device."""
        columns = self.columns
        return replace(
            self,
            columns=columns if isinstance(columns, slice) else columns.to(device),
            mask=None if self.mask is None else self.mask.to(device),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What all layers of one forward pass share.

    Attributes:
        rotations: complex64 [T, 1, rotary_size / 2] for every rope of the model.
        blocks: for every window of the model (``None``: full attention).
        coarse: rounded arithmetic for tokens of which only keys and values are wanted.
        queries: how many of the last tokens ask; ``None`` for all. The blocks are theirs.
    """

    rotations: Mapping[Rope, Tensor]
    blocks: Mapping[int | None, Sequence[QueryBlock]]
    coarse: Coarse | None
    queries: int | None = None

    def on(self, device: torch.device) -> Step:
        """The same with its tensors on a device."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            rotations={rope: table.to(device) for rope, table in self.rotations.items()},
            blocks={
                window: [block.on(device) for block in blocks]
                for window, blocks in self.blocks.items()
            },
        )


def query_blocks(start: int, count: int, window: int | None) -> tuple[QueryBlock, ...]:
    """Cut ``count`` queries at positions from ``start`` on into blocks.

    Args:
        window: keys visible to a query, itself included; ``None`` for all before it.
    """
    first = 0 if window is None else max(0, start - window + 1)  # position of column 0
    blocks = []
    for row in range(0, count, _BLOCK):
        stop = min(row + _BLOCK, count)
        lowest = 0 if window is None else max(0, start + row - window + 1)
        columns = slice(lowest - first, start + stop - first)
        # Full attention hides only keys of the block's own tokens, which are the last ones.
        masked_from = start + row if window is None else lowest
        blocks.append(
            QueryBlock(
                rows=slice(row, stop),
                columns=columns,
                masked=slice(masked_from - lowest, start + stop - lowest),
                mask=_mask(start + row, start + stop, masked_from, window),
            )
        )
    return tuple(blocks)


def _mask(start: int, stop: int, first: int, window: int | None) -> Tensor | None:
    """Queries at ``start..stop`` against keys at ``first..stop``."""
    if stop - start == 1:
        return None
    query = torch.arange(start, stop).unsqueeze(1)  # [B, 1]
    key = torch.arange(first, stop)  # [m]
    hidden = key > query  # [B, m]
    if window is not None:
        hidden |= key <= query - window
    return torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))


def projected(x: Tensor, layer: Attention, step: Step) -> tuple[Tensor, Tensor]:
    """What attention asks, and what it remembers of the new tokens.

    Args:
        x: float32 [T, D], normed.

    Returns:
        Queries [T, H, S], and keys above values [2K, T, S], if the layer has any; see ``Latent``
        for layers with latents.
    """
    # Never coarse: keys outlive the step. Rounding q, k and v would double a coarse step's error.
    rows = layer.qkv(x)
    if layer.latent is None:
        return _heads(rows, layer, step)
    assert layer.rope is not None, "part of every head turns"
    return layer.latent.heads(rows, step.rotations[layer.rope][-len(x) :])


def gathered(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    layer: Attention,
    step: Step,
    hooks: HeadHooks | None = None,
) -> Tensor:
    """What attention adds to the residual stream: [T, D], or [Q, D] for a step of Q queries.

    Args:
        q: of ``projected``.
        keys, values: what the new tokens can see, themselves included; see ``LayerCache.append``.
    """
    blocks = step.blocks[layer.spec.window]
    if step.queries is not None:
        q = q[-step.queries :]
        last = blocks[-1].columns
        assert isinstance(last, slice), "branches all ask"
        asked = last.stop  # a sliding layer holds more for the tokens before them
        keys, values = keys[:, -asked:], values[:, -asked:]
    if step.coarse is not None:
        q, keys, values = (each.to(torch.bfloat16) for each in (q, keys, values))
    pattern = None if hooks is None else hooks.pattern
    if len(blocks) == 1 and isinstance(blocks[0].columns, slice):  # all queries and all keys
        y = _attend(q, keys, values, blocks[0], layer, pattern)  # [T, H * S]
    else:
        parts = []
        for b in blocks:
            seen = pattern if b is blocks[-1] else None
            parts.append(_attend(q[b.rows], *b.of(keys, values), b, layer, seen))
        y = torch.cat(parts)
    if step.coarse is not None:
        y = y.float()
    if layer.latent is not None:
        y = layer.latent.outputs(y)
    if hooks is not None:
        y = hooks.gathered(y)
    return layer.output(y, step.coarse)


def _heads(rows: Tensor, layer: Attention, step: Step) -> tuple[Tensor, Tensor]:
    """The heads of the projections of x; see ``projected``."""
    spec = layer.spec
    heads = spec.heads
    kv_heads = spec.kv_heads if spec.kv_source is None else 0
    qkv = torch.unflatten(rows, -1, (-1, spec.head_size))  # [T, H + 2K, S]
    if layer.value_lanes is not None:  # before k is normed and rotated
        qkv = torch.cat([qkv, qkv[:, heads:].index_select(-1, layer.value_lanes)], dim=1)
    if layer.v_norm is not None:
        layer.v_norm.apply_(qkv.narrow(1, heads + kv_heads, kv_heads))
    qk = qkv.narrow(1, 0, heads + kv_heads)
    if layer.qk_norm is not None:
        layer.qk_norm.apply_(qk)
    if layer.rope is not None:
        table = step.rotations[layer.rope]
        turning = layer.rope.spec.rotary_size
        rotate_(
            qk if turning == spec.head_size else qk.narrow(-1, 0, turning),
            table if step.queries is None else table[-len(qk) :],
        )
    return qkv.narrow(1, 0, heads), qkv.narrow(1, heads, 2 * kv_heads).transpose(0, 1)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: QueryBlock,
    layer: Attention,
    pattern: Callable[[Tensor], None] | None,
) -> Tensor:
    """A block's queries [B, H, S] with its keys [K, n, S] and values [K, n, S']: [B, H * S'].

    ``pattern`` is called with what the last of them attends to, [H, n].
    """
    spec, sinks = layer.spec, layer.sinks
    count, kv_heads = len(q), 1 if layer.latent is not None else spec.kv_heads
    q = torch.unflatten(q, 1, (kv_heads, -1))  # [B, K, G, S]
    if count == 1 and spec.softcap is None and sinks is None and pattern is None:
        # It sees every key: nothing to mask.
        k, v = k.unsqueeze(0), v.unsqueeze(0)
        return F.scaled_dot_product_attention(q, k, v, scale=spec.scale).view(1, -1)
    q = q.permute(1, 2, 0, 3).flatten(1, 2)  # [K, G * B, S]
    none = q.new_empty(1)  # added with factor 0, that is, not read
    scores = torch.baddbmm(none, q, k.transpose(1, 2), beta=0, alpha=spec.scale)  # [K, G * B, n]
    if spec.softcap is not None:
        scores = scores.div_(spec.softcap).tanh_() * spec.softcap
    if block.mask is not None:
        scores.view(kv_heads, -1, count, k.shape[1])[..., block.masked].add_(
            block.mask.to(scores.dtype)
        )
    if sinks is not None:
        column = sinks.to(scores.dtype).view(kv_heads, -1, 1).repeat_interleave(count, dim=1)
        scores = torch.cat([scores, column], dim=-1)  # [K, G * B, n + 1]
    shares = scores.softmax(dim=-1)[..., : k.shape[1]]
    if pattern is not None:
        pattern(shares.view(-1, count, k.shape[1])[:, -1].float())
    y = torch.bmm(shares, v)  # [K, G * B, S']
    y = y.view(kv_heads, -1, count, v.shape[-1]).permute(2, 0, 1, 3)  # [B, K, G, S']
    return y.reshape(count, -1)
