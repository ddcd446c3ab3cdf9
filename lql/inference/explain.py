"""What happened inside a forward pass, at its last position: features that fired, logit lens.

Notation: D hidden, F features, L layers, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lql.inference.answers import FeatureActivation
from lql.inference.decoder import Decoder, Tap
from lql.inference.feedforward import gates_and_activations
from lql.inference.mixture import Mixture


class LastPosition:
    """An observer that keeps each layer's FFN input, what it is made of, and output, at the end."""

    def __init__(self) -> None:
        self._inputs: list[Tensor] = []
        self._residuals: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def __call__(self, tap: Tap, layer: int, values: Tensor) -> None:
        """See ``Observer``."""
        match tap:
            case Tap.FFN_INPUT:
                self._inputs.append(values[-1:].clone())
            case Tap.FFN_RESIDUAL:
                self._residuals.append(values[-1:].clone())
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

        In a mixture of experts they are those of the experts that the token visits, and their
        activations include the experts' weights.

        Args:
            by_gate: rank by the magnitude of the gate instead.
        """
        part, x = decoder.feed_forward_of(layer), self._inputs[layer]
        if isinstance(part, Mixture):
            features, gates, activations = part.responses(x, self._residuals[layer])
        else:
            all_gates, all_activations = gates_and_activations(x, part)
            gates, activations = all_gates[0], all_activations[0]
            features = torch.arange(len(gates))
        ranked = (gates if by_gate else activations).abs()
        best = ranked.topk(min(count, len(ranked))).indices  # [count]
        return tuple(
            FeatureActivation(feature, gate, activation)
            for feature, gate, activation in zip(
                features[best].tolist(),
                gates[best].tolist(),
                activations[best].tolist(),
                strict=True,
            )
        )
