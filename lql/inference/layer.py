"""One decoder layer, in two halves: what it asks of the cache, and what it makes of the answer.

Every use of a model runs these functions; see ``Decoder``. Between the halves the new tokens join
the cache, which is no arithmetic. The halves take and give tensors alone, so that they can be
compiled for a single token as they stand; see ``single.py``.

Shape legend: T tokens, Q of them kept, D hidden, H heads, K KV heads, S head size, P cached tokens
before, E size of a layer's own vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lql.inference.attention import Attention, Step, gathered, projected
from lql.inference.cache import LayerCache
from lql.inference.feedforward import FeedForward, FeedForwardRule
from lql.inference.mixture import Mixture
from lql.inference.norms import HiddenNorm
from lql.inference.per_layer import PerLayer
from lql.inference.taps import Hooks, Tap


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Weights of one decoder layer; what the model does not have is ``None``.

    Attributes:
        per_layer: how a per-layer embedding is added, after the FFN.
        scalar: float32 [1], factor on the layer's output.
        parallel: the FFN reads the residual stream that attention reads.
        residual_multiplier: factor on what attention and FFN add to the residual stream.
    """

    index: int
    attn_norm: HiddenNorm | None
    attention: Attention
    attn_post_norm: HiddenNorm | None
    attn_sum_norm: HiddenNorm | None
    ffn_norm: HiddenNorm | None
    feed_forward: FeedForward | Mixture
    ffn_post_norm: HiddenNorm | None
    ffn_sum_norm: HiddenNorm | None
    per_layer: PerLayer | None
    scalar: Tensor | None
    parallel: bool
    residual_multiplier: float


def run(
    h: Tensor,
    layer: Layer,
    cache: LayerCache,
    step: Step,
    own: Tensor | None,
    feed_forward: FeedForwardRule,
    hooks: Hooks | None,
) -> Tensor:
    """The residual stream [T, D] before a layer to the one after it.

    Where the step is for the last Q queries only, what comes out is [Q, D].

    Args:
        cache: of this layer, or of the earlier one whose keys and values it reads.
        own: the tokens' per-layer embeddings for this layer, [T, E], where the model has them.
    """
    if hooks is not None:
        h = hooks.stream(Tap.INPUT, layer.index, h)
    q, new = ask(h, layer, step)
    keys, values = seen(layer, cache, new)
    return answer(h, q, keys, values, own, layer, step, feed_forward, hooks)


def seen(layer: Layer, cache: LayerCache, new: Tensor) -> tuple[Tensor, Tensor]:
    """Let new tokens join the cache; all keys and values that one of them can see."""
    return cache.seen if layer.attention.spec.kv_source is not None else cache.append(new)


def ask(h: Tensor, layer: Layer, step: Step) -> tuple[Tensor, Tensor]:
    """The first half: queries [T, H, S] and new keys above values [2K, T, S].

    Args:
        h: the residual stream before the layer, float32 [T, D].
    """
    x = h if layer.attn_norm is None else layer.attn_norm(h)
    return projected(x, layer.attention, step)


def answer(
    h: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    own: Tensor | None,
    layer: Layer,
    step: Step,
    feed_forward: FeedForwardRule,
    hooks: Hooks | None,
) -> Tensor:
    """The second half: the residual stream after the layer.

    Args:
        h: what ``ask`` was given.
        keys, values: [K, P + T, S], of the cache, which the new tokens have joined.
    """
    index = layer.index
    heads = None if hooks is None else hooks.heads(index)
    y = gathered(q, keys, values, layer.attention, step, heads)
    if step.queries is not None:
        h = h[-step.queries :]
    before = h
    if layer.attn_post_norm is not None:
        y = layer.attn_post_norm(y)
    if layer.residual_multiplier != 1.0:
        y.mul_(layer.residual_multiplier)
    if hooks is not None:
        y = hooks.value(Tap.ATTENTION, index, y)
    h = h + y
    if layer.attn_sum_norm is not None:
        h = _normed(h, layer.attn_sum_norm, Tap.ATTENTION_NORM, index, hooks)

    residual = before if layer.parallel else h
    x = residual if layer.ffn_norm is None else layer.ffn_norm(residual)
    if hooks is not None:
        hooks.see(Tap.FFN_RESIDUAL, index, residual)
        x = hooks.value(Tap.FFN_INPUT, index, x)
    if isinstance(layer.feed_forward, Mixture):
        y = layer.feed_forward(x, residual, feed_forward, step.coarse)
    else:
        y = feed_forward(x, layer.feed_forward, step.coarse)
    if layer.ffn_post_norm is not None:
        y = layer.ffn_post_norm(y)
    if layer.residual_multiplier != 1.0:
        y.mul_(layer.residual_multiplier)
    if hooks is not None:
        y = hooks.value(Tap.FFN, index, y)
    h = h + y
    if layer.ffn_sum_norm is not None:
        h = _normed(h, layer.ffn_sum_norm, Tap.FFN_NORM, index, hooks)

    if layer.per_layer is not None:
        assert own is not None, "per-layer embeddings are computed for every call"
        y = layer.per_layer(h, own if step.queries is None else own[-len(h) :])
        if hooks is not None:
            y = hooks.value(Tap.PER_LAYER, index, y)
        h = h + y
    if layer.scalar is not None:
        scaled = h * layer.scalar
        if hooks is not None:
            hooks.see(Tap.SCALAR, index, scaled - h)
        h = scaled
    return h if hooks is None else hooks.stream(Tap.OUTPUT, index, h)


def _normed(h: Tensor, norm: HiddenNorm, tap: Tap, layer: int, hooks: Hooks | None) -> Tensor:
    """The residual stream after a norm that stands on it."""
    normed = norm(h)
    if hooks is not None:
        hooks.see(tap, layer, normed - h)
    return normed
