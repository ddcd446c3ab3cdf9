"""Interventions as hooks of the one forward pass.

Notation: T tokens, D hidden, H heads, S' value size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import torch
from torch import Tensor

from lql.inference.decoder import Decoder
from lql.inference.errors import InterventionInvalid
from lql.inference.feedforward import FeedForward, FeedForwardRule, dense, gates_and_activations
from lql.inference.interventions import (
    AblateFeature,
    AblateHead,
    AblateLayer,
    Floats,
    Intervention,
    Patch,
    Steer,
)
from lql.inference.linear import Coarse
from lql.inference.taps import Tap
from vindex.spec import LayerSpec
from vindex.spec_ffn import ffn_parts

_ADDED = frozenset({Tap.ATTENTION, Tap.FFN, Tap.PER_LAYER})


class Intervening:
    """The hook that carries interventions out, in the order in which they are given.

    The pass must keep all tokens, and begin with the first.

    Args:
        tokens: T of the prompt, which positions are relative to.

    Attributes:
        feed_forward: the rule that leaves ablated features out.
        silent_layers: those that are ablated.

    Raises:
        InterventionInvalid: the model or the prompt has no such place, or a shape is wrong.
    """

    def __init__(
        self, decoder: Decoder, interventions: Sequence[Intervention], tokens: int
    ) -> None:
        self._decoder = decoder
        self._tokens = tokens
        self._before: Tensor | None = None  # the stream before an ablated layer
        self._heads: dict[int, list[int]] = {}
        self._features: dict[int, list[int]] = {}
        self.silent_layers: set[int] = set()
        self._streams: dict[int, list[tuple[list[int] | None, Tensor, bool]]] = {}
        for each in interventions:
            self._take(each)
        self.feed_forward: FeedForwardRule = self._without_features if self._features else dense

    def _take(self, intervention: Intervention) -> None:
        spec = self._decoder.spec
        layer = intervention.layer
        _check("layer", layer, spec.num_layers)
        match intervention:
            case AblateFeature(feature=feature):
                _check(f"feature of layer {layer}", feature, _features_of(spec.layers[layer]))
                self._features.setdefault(layer, []).append(feature)
            case AblateHead(head=head):
                _check(f"head of layer {layer}", head, spec.layers[layer].attention.heads)
                self._heads.setdefault(layer, []).append(head)
            case AblateLayer():
                self.silent_layers.add(layer)
            case Steer():
                added = self._vectors(intervention.direction, (spec.hidden_size,))
                added = added * intervention.by
                self._stream(layer, intervention.positions, added, replaces=False)
            case Patch():
                positions = intervention.positions
                if positions is None:
                    positions = tuple(range(len(intervention.residual)))
                shape = (len(positions), spec.hidden_size)
                self._stream(
                    layer, positions, self._vectors(intervention.residual, shape), replaces=True
                )
            case _:
                assert_never(intervention)

    def _vectors(self, values: Floats, shape: tuple[int, ...]) -> Tensor:
        if values.shape != shape:
            raise InterventionInvalid(
                f"an intervention holds an array of shape {list(values.shape)},"
                f" and {list(shape)} is needed"
            )
        return torch.tensor(values, dtype=torch.float32, device=self._decoder.device)

    def _stream(
        self, layer: int, positions: tuple[int, ...] | None, vectors: Tensor, *, replaces: bool
    ) -> None:
        rows: list[int] | None = None
        if positions is not None:
            for position in positions:
                if not -self._tokens <= position < self._tokens:
                    raise InterventionInvalid(
                        f"the prompt has no position {position}: it has {self._tokens} tokens"
                    )
            rows = [position % self._tokens for position in positions]
            if len(set(rows)) < len(rows):
                raise InterventionInvalid("an intervention names a position twice")
        self._streams.setdefault(layer, []).append((rows, vectors, replaces))

    def silent_features(self, part: FeedForward) -> list[int]:
        """The features of an FFN that are ablated, counted from its own first."""
        first = part.part.first
        return [
            feature - first
            for feature in self._features.get(part.layer, ())
            if first <= feature < first + part.spec.width
        ]

    def __call__(self, tap: Tap, layer: int, values: Tensor) -> Tensor:
        """See ``Intervene``."""
        match tap:
            case Tap.INPUT:
                self._before = values
            case Tap.HEADS if layer in self._heads:
                heads = self._decoder.spec.layers[layer].attention.heads
                changed = values.clone()  # [T, H * S']
                changed.view(len(values), heads, -1)[:, self._heads[layer]] = 0.0
                return changed
            case Tap.OUTPUT:
                return self._after(layer, values)
            case _ if tap in _ADDED and layer in self.silent_layers:
                return torch.zeros_like(values)
            case _:
                pass
        return values

    def _after(self, layer: int, h: Tensor) -> Tensor:
        if layer in self.silent_layers:
            assert self._before is not None, "INPUT comes before OUTPUT"
            h = self._before
        for rows, vectors, replaces in self._streams.get(layer, ()):
            where: list[int] | slice = slice(None) if rows is None else rows
            h = h.clone()
            h[where] = vectors if replaces else h[where] + vectors
        return h

    def _without_features(self, x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
        silent = self.silent_features(layer)
        if not silent:
            return dense(x, layer, coarse)
        _, activations = gates_and_activations(x, layer)
        activations[:, silent] = 0.0
        return layer.down(activations, coarse)


def _features_of(layer: LayerSpec) -> int:
    return sum(part.ffn.width for part in ffn_parts(layer.ffn))


def _check(what: str, index: int, count: int) -> None:
    if not 0 <= index < count:
        raise InterventionInvalid(
            f"there is no {what} with number {index}", hint=f"they are 0-{count - 1}"
        )
