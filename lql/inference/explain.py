"""What happened inside a forward pass, at its last position: features that fired, logit lens.

Notation: D hidden, F features, L layers, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lql.inference.answers import FeatureActivation
from lql.inference.decoder import Decoder, Tap
from lql.inference.feedforward import gates_and_activations


class LastPosition:
    """An observer that keeps the FFN inputs and the outputs of all layers at the last token."""

    def __init__(self) -> None:
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def __call__(self, tap: Tap, layer: int, values: Tensor) -> None:
        """See ``Observer``."""
        match tap:
            case Tap.FFN_INPUT:
                self._inputs.append(values[-1:].clone())
            case Tap.OUTPUT:
                self._outputs.append(values[-1:].clone())
            case _:
                pass

    def lens_logits(self, decoder: Decoder) -> Tensor:
        """What the model would predict if it stopped after each layer, [L, V]."""
        return decoder.logits(torch.cat(self._outputs))

    def top_features(
        self, decoder: Decoder, layer: int, count: int, *, by_gate: bool = False
    ) -> tuple[FeatureActivation, ...]:
        """The features of a layer that add most, by falling magnitude of activation.

        Args:
            by_gate: rank by the magnitude of the gate instead.
        """
        gates, activations = gates_and_activations(
            self._inputs[layer], decoder.feed_forward_of(layer)
        )
        ranked = (gates if by_gate else activations)[0].abs()
        best = ranked.topk(min(count, ranked.shape[0])).indices  # [count]
        return tuple(
            FeatureActivation(feature, gate, activation)
            for feature, gate, activation in zip(
                best.tolist(), gates[0, best].tolist(), activations[0, best].tolist(), strict=True
            )
        )
