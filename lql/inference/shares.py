"""Attention and FFN outputs by head and by feature, at the last token of a prompt.

An output is linear in what its heads gather, and in its features' activations, up to the norm that
may follow, whose scale is held as it came out.

Notation: D hidden, H heads, S' value size of a head, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lql.inference.decoder import Decoder, Layer
from lql.inference.feedforward import FeedForward, FeedForwardRule, gates_and_activations
from lql.inference.intervening import Intervening
from lql.inference.mixture import Mixture
from lql.inference.norms import HiddenNorm
from lql.inference.rows import torch_view
from lql.inference.traces import FeatureShare, HeadShare
from vindex.source import ModelSource
from vindex.spec import PartKind, Role, part_roles


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How the head reads the residual stream for one token.

    Attributes:
        direction: [D], the final norm's scale multiplied in.
        row: [D], without it.
        scales: float64 [L + 1], what becomes of an addition in layer l: the product of the layer
            scalars from l on.
    """

    direction: Tensor
    row: Tensor
    scales: Tensor


def head_shares(
    decoder: Decoder,
    source: ModelSource,
    layers: Sequence[int],
    gathered: Sequence[Tensor],
    reading: Reading | None,
) -> tuple[HeadShare, ...]:
    """Every head of some layers.

    Args:
        layers: not ablated.
        gathered: of each layer of the model [1, H * S'].
    """
    shares = []
    for index in layers:
        vectors = head_vectors(decoder, source, index, gathered[index])  # [H, D]
        logits = None
        if reading is not None:
            logits = (vectors @ reading.direction).double() * float(reading.scales[index])
        lengths = torch.linalg.vector_norm(vectors, dim=-1)
        shares += [
            HeadShare(
                layer=index,
                head=head,
                length=float(lengths[head]),
                logit=None if logits is None else float(logits[head]),
            )
            for head in range(len(vectors))
        ]
    return tuple(shares)


def head_vectors(decoder: Decoder, source: ModelSource, index: int, values: Tensor) -> Tensor:
    """What each head of a layer adds to the residual stream, [H, D]; biases are no head's.

    Args:
        values: what they gathered, [1, H * S'].
    """
    layer = decoder.layer(index)
    heads = layer.attention.spec.heads
    output = source.matrix(Role.O, index)
    weight = torch_view(output.rows(0, output.shape[0])).to(values.device)  # [D, H * S']
    by_head = weight.view(len(weight), heads, -1)
    vectors = torch.einsum("hs,dhs->hd", values.view(heads, -1), by_head)
    raw = layer.attention.output(values)  # [1, D], with the bias
    return _through(layer.attn_post_norm, raw, vectors) * layer.residual_multiplier


def feature_shares(
    decoder: Decoder,
    source: ModelSource,
    layers: Sequence[int],
    inputs: Sequence[Tensor],
    residuals: Sequence[Tensor],
    reading: Reading | None,
    hook: Intervening,
    count: int,
) -> tuple[FeatureShare, ...]:
    """The features of some layers that add most: by the size of the logit, else of the vector.

    Args:
        layers: not ablated.
        inputs, residuals: of each layer of the model the FFN's input and what that is made of,
            [1, D].
        hook: what is ablated adds nothing.
        count: how many.
    """
    found: list[FeatureShare] = []
    for index in layers:
        x, residual = inputs[index], residuals[index]
        layer = decoder.layer(index)
        for part, activations, vectors in _responding(
            layer, source, x, residual, hook.feed_forward
        ):
            first = part.part.first
            activations[hook.silent_features(part)] = 0.0
            lengths = torch.linalg.vector_norm(vectors, dim=0) * activations.abs()  # [F]
            logits = None
            if reading is not None:
                scale = float(reading.scales[index])
                logits = activations * (reading.direction @ vectors) * scale
            ranked = lengths if logits is None else logits.abs()
            for feature in ranked.topk(min(count, len(ranked))).indices.tolist():
                found.append(
                    FeatureShare(
                        layer=index,
                        feature=first + feature,
                        activation=float(activations[feature]),
                        length=float(lengths[feature]),
                        logit=None if logits is None else float(logits[feature]),
                    )
                )
    found.sort(key=_strength)
    return tuple(found[:count])


def _strength(share: FeatureShare) -> tuple[float, int, int]:
    strength = share.length if share.logit is None else abs(share.logit)
    return -strength, share.layer, share.feature


def _responding(
    layer: Layer, source: ModelSource, x: Tensor, residual: Tensor, rule: FeedForwardRule
) -> Iterator[tuple[FeedForward, Tensor, Tensor]]:
    """FFNs that respond, their activations [F], and what one unit of each adds, [D, F]."""
    part = layer.feed_forward
    if isinstance(part, FeedForward):
        _, activations = gates_and_activations(x, part)
        raw = rule(x, part, None)
        vectors = _through_columns(layer.ffn_post_norm, raw, _columns(source, part, x.device))
        yield part, activations[0], vectors * layer.residual_multiplier
        return
    responses = [(each, factors) for each, _, factors in part.responding(x, residual)]
    outputs = _branch_outputs(part, x, residual, rule)
    whole = sum(
        (norm(raw) if norm is not None else raw for norm, raw in outputs.values()),
        start=torch.zeros_like(x),
    )
    for each, factors in responses:
        branch = each.part.kind is PartKind.DENSE
        norm, raw = outputs[branch]
        vectors = _through_columns(norm, raw, _columns(source, each, x.device))
        vectors = _through_columns(layer.ffn_post_norm, whole, vectors)
        yield each, factors, vectors * layer.residual_multiplier


def _branch_outputs(
    mixture: Mixture, x: Tensor, residual: Tensor, rule: FeedForwardRule
) -> dict[bool, tuple[HiddenNorm | None, Tensor]]:
    """The norm and the unnormed output [1, D] of the dense branch (``True``) and of the experts."""
    beside = mixture.beside
    if beside is None:
        return {False: (None, mixture.experts_output(x, residual, rule))}
    experts = mixture.experts_output(beside.experts_norm(residual), residual, rule)
    return {
        True: (beside.dense_post_norm, rule(x, beside.dense, None)),
        False: (beside.experts_post_norm, experts),
    }


def _columns(source: ModelSource, part: FeedForward, device: torch.device) -> Tensor:
    """The down vectors of an FFN, [D, F]."""
    down = source.matrix(part_roles(part.part.kind)[2], part.layer, part.part.expert)
    return torch_view(down.columns(0, down.shape[1])).to(device)


def _through(norm: HiddenNorm | None, whole: Tensor, vectors: Tensor) -> Tensor:
    """Parts [n, D] of ``whole`` [1, D] as parts of what a norm makes of it, its scale held."""
    return vectors if norm is None else norm.read_through(whole, vectors)


def _through_columns(norm: HiddenNorm | None, whole: Tensor, vectors: Tensor) -> Tensor:
    return _through(norm, whole, vectors.T).T
