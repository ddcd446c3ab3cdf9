"""What the backend answers: frozen plain values. No tensor leaves this package.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lql.syntax_words import PromptMode


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the model reads it.

    Attributes:
        text: what was tokenized: the prompt itself (RAW), or inside the chat template (CHAT).
        mode: which of the two.
        ids: token ids, T of them.
        pieces: exact text of each token.
        from_user: per token, whether any of its text was typed by the user; the others are a BOS
            token or the template's.
    """

    text: str
    mode: PromptMode
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    from_user: tuple[bool, ...]

    @property
    def added(self) -> tuple[str, ...]:
        """Pieces that the user did not type, in order."""
        return tuple(
            piece for piece, typed in zip(self.pieces, self.from_user, strict=True) if not typed
        )


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A candidate for the next token.

    Attributes:
        rank: from 1, by falling probability; equal ones by rising id.
        token: exact text; U+FFFD stands for bytes that are no character on their own.
        probability: softmax over the whole vocabulary, 0..1.
        logit: after the model's soft cap, if it has one.
    """

    rank: int
    token: str
    token_id: int
    probability: float
    logit: float


@dataclass(frozen=True, slots=True)
class FactHit:
    """A stored fact that answered in the model's place.

    Attributes:
        target: the whole text; the first row of the prediction is its first token.
        layer, cosine: where it was recognised, and how alike its nearest key was.
        own: the model's own first choice; ``None`` where the pass ended at the fact's layer.
    """

    entity: str
    relation: str
    target: str
    layer: int
    cosine: float
    own: TokenScore | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable next tokens after a prompt.

    Attributes:
        rows: most probable first.
        forward_seconds: wall time from token ids to logits.
        fact: the stored fact that answers, if one does. The first row is then its first token,
            with probability 1, and the others are the model's own, as they would be without it.
    """

    encoded: Encoded
    rows: tuple[TokenScore, ...]
    forward_seconds: float
    fact: FactHit | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The dense forward pass beside the one that evaluates the FFN feature by feature.

    Attributes:
        probability_difference, logit_difference: largest absolute ones over the vocabulary.
    """

    dense: Prediction
    walk: Prediction
    probability_difference: float
    logit_difference: float


@dataclass(frozen=True, slots=True)
class FeatureActivation:
    """One FFN feature at the last position of a prompt.

    Attributes:
        feature: index 0..F-1 within its layer.
        gate: its gate row times the FFN input: a dot product, comparable within a layer only.
        activation: the factor its down vector is added with: ``act(gate) * up``.
    """

    feature: int
    gate: float
    activation: float


@dataclass(frozen=True, slots=True)
class LayerHits:
    """One layer at the last position of a prompt.

    Attributes:
        hits: features by falling magnitude of activation.
        lens: the most probable token if the model stopped after this layer (logit lens).
    """

    layer: int
    hits: tuple[FeatureActivation, ...]
    lens: TokenScore


@dataclass(frozen=True, slots=True)
class LayerFeatures:
    """The strongest features of some layers at the last position of a prompt.

    Attributes:
        hits: by layer, strongest first.
    """

    encoded: Encoded
    hits: Mapping[int, tuple[FeatureActivation, ...]]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A forward pass taken apart at its last position; ``layers`` ascend."""

    prediction: Prediction
    layers: tuple[LayerHits, ...]


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One generated token.

    Attributes:
        token_id: its id.
        text: the characters it completes, possibly none. All texts joined are the output; a
            character that several tokens spell comes with the last of them.
        logprob: natural logarithm of its probability; of a greedy choice from a quantised vindex
            within some hundredths, since the other tokens' share is summed from rounded logits.
    """

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Meaning:
    """How well a relation fits a word; see ``lql.inference.meaning``.

    Attributes:
        similarity: cosine of the two words' embeddings in context, -1..1.
        agreement: cosine of the states that the answers to them are read from, -1..1.
        called: how much more the model calls the one the other than it would any, -1..1.
    """

    relation: str
    similarity: float
    agreement: float
    called: float

    @property
    def confidence(self) -> float:
        """0..1: the mean of the three."""
        return max(0.0, (self.similarity + self.agreement + self.called) / 3)
