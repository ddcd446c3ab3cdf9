"""What a trace answers: a forward pass as a sum, in plain values. No torch.

Notation: L layers, P traced positions, D hidden, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from lql.inference.answers import Encoded, TokenScore

Floats = npt.NDArray[np.float32]


class Part(Enum):
    """What a layer adds to the residual stream. All of them add up to what it changes."""

    ATTENTION = "attention"
    ATTENTION_NORM = "attention_norm"  # a norm on the stream itself, after attention (OPT-350M)
    FFN = "ffn"
    FFN_NORM = "ffn_norm"  # the same after the FFN
    PER_LAYER = "per_layer"  # a per-layer embedding (Gemma 4)
    SCALAR = "scalar"  # what the layer's factor on the whole stream changes (Gemma 4)
    INTERVENTION = "intervention"  # what ABLATE LAYER, STEER and PATCH put in


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The residual stream of a forward pass, and what every layer added to it.

    Attributes:
        residual: float32 [L + 1, P, D]: the embeddings, then the stream after each layer.
        parts: float32 [L, P, D] each; those that the model and the pass have.
    """

    residual: Floats
    parts: Mapping[Part, Floats]

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.residual) - 1

    def gaps(self) -> npt.NDArray[np.float64]:
        """Of each layer, how far its parts are from what it changed.

        Returns:
            [L], the largest over the positions, relative to the length of the stream.
        """
        changed = np.diff(self.residual.astype(np.float64), axis=0)  # [L, P, D]
        for values in self.parts.values():
            changed -= values
        lengths = np.linalg.norm(self.residual[1:].astype(np.float64), axis=-1)  # [L, P]
        missed = np.linalg.norm(changed, axis=-1)
        gaps: npt.NDArray[np.float64] = (missed / np.maximum(lengths, 1e-30)).max(axis=-1)
        return gaps


@dataclass(frozen=True, slots=True)
class TargetScore:
    """How a target stands at one place, by the logit lens.

    Attributes:
        rank, probability, logit: of its first token.
        word_probability: of the whole target; ``None`` at other positions than the prompt's last.
    """

    rank: int
    probability: float
    logit: float
    word_probability: float | None


@dataclass(frozen=True, slots=True)
class LensScore:
    """What the model would say at one place: its final norm and head on the residual stream.

    Attributes:
        layer: -1 is the embedding.
        position: in the prompt.
    """

    layer: int
    position: int
    best: TokenScore
    target: TargetScore | None


@dataclass(frozen=True, slots=True, eq=False)
class DirectLogits:
    """What each part adds to the logit of the target's first token, at the prompt's last position.

    The scale of the final norm is held as it came out, and layer scalars are multiplied in, so
    ``embedding``, all parts and ``constant`` add up to the logit before the soft cap.

    Attributes:
        parts: float64 [L] each.
        constant: biases of the final norm and the head.
        logit: the model's, before the soft cap.
    """

    embedding: float
    parts: Mapping[Part, npt.NDArray[np.float64]]
    constant: float
    logit: float


@dataclass(frozen=True, slots=True)
class HeadShare:
    """What one attention head adds, at the prompt's last position.

    Attributes:
        length: of the vector that it adds to the residual stream.
        logit: what that adds to the target's logit; ``None`` without a target.
    """

    layer: int
    head: int
    length: float
    logit: float | None


@dataclass(frozen=True, slots=True)
class FeatureShare:
    """What one feature adds, at the prompt's last position; see ``HeadShare``."""

    layer: int
    feature: int
    activation: float
    length: float
    logit: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A forward pass taken apart.

    Attributes:
        positions: P of the prompt, ascending.
        target_ids: tokens of the target, if there is one.
        prediction: the most probable next tokens, with the interventions.
        lens: by layer, then position.
        direct: with a target only.
        heads, features: where they were asked for; layers ascending.
    """

    encoded: Encoded
    positions: tuple[int, ...]
    stream: Stream
    prediction: tuple[TokenScore, ...]
    lens: tuple[LensScore, ...]
    target_ids: tuple[int, ...] = ()
    direct: DirectLogits | None = None
    heads: tuple[HeadShare, ...] = field(default=())
    features: tuple[FeatureShare, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class HeadAttention:
    """What one head attends to at the prompt's last position.

    Attributes:
        tokens: position and share, strongest first.
        sink: the share that goes nowhere, in models with attention sinks.
    """

    layer: int
    head: int
    tokens: tuple[tuple[int, float], ...]
    sink: float
