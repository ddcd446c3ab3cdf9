"""Reading a model: what its layers compute, in plain values, without an answer being made of it.

Shape legend: T tokens, D hidden, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.answers import Encoded, TokenScore
from lql.inference.decoder import Decoder
from lql.inference.interventions import Intervention
from lql.inference.knn import continuation
from lql.inference.prompt import PromptEncoder
from lql.inference.ranking import best_tokens
from lql.inference.sequence import Sequence
from lql.inference.taps import Tap
from lql.inference.traces import Trace
from lql.inference.tracing import Tracer
from lql.syntax_words import PromptMode
from vindex.source import ModelSource

Floats = npt.NDArray[np.float32]


class ModelReader:
    """A model whose passes are looked into.

    Args:
        decoder: runs it.
        encoder: how it reads text.
        source: what holds its weights; stays open as long as the model is used.
    """

    def __init__(self, decoder: Decoder, encoder: PromptEncoder, source: ModelSource) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._source = source

    @property
    def decoder(self) -> Decoder:
        """The decoder, for other modules of inference."""
        return self._decoder

    @property
    def encoder(self) -> PromptEncoder:
        """How it reads text, for other modules of inference."""
        return self._encoder

    @property
    def is_instruct(self) -> bool:
        """Whether the model has a chat template."""
        return self._encoder.is_instruct

    def encode(self, prompt: str, mode: PromptMode = PromptMode.RAW) -> Encoded:
        """A prompt as the model reads it: tokens, BOS, chat template.

        Raises:
            NoChatTemplate, ChatTemplateFailed: only for CHAT.
        """
        return self._encoder.encode(prompt, mode)

    def token_text(self, token_id: int) -> str:
        """The exact text of a token."""
        return self._encoder.token_text(token_id)

    @property
    def tracer(self) -> Tracer:
        """Takes passes apart; ``trace`` and its neighbours ask it."""
        return Tracer(self._decoder, self._source, self._best)

    @torch.inference_mode()
    def logits(
        self,
        ids: tuple[int, ...],
        *,
        interventions: Iterable[Intervention] = (),
        cancel: CancelToken | None = None,
    ) -> Floats:
        """Next-token logits at every position, float32 [T, V]."""
        h = self.tracer.read(ids, tuple(interventions), cancel=cancel)
        return self._decoder.logits(h).cpu().numpy()

    @torch.inference_mode()
    def next_logits(self, ids: tuple[int, ...], *, cancel: CancelToken | None = None) -> Floats:
        """Logits of the token after ``ids``, float32 [V]."""
        sequence = Sequence(self._decoder, len(ids))
        return self._decoder.logits(sequence.read(ids, cancel=cancel))[0].cpu().numpy()

    @torch.inference_mode()
    def layer_outputs(self, ids: tuple[int, ...], *, cancel: CancelToken | None = None) -> Floats:
        """The residual stream after every layer, before the final norm, float32 [L, T, D]."""
        outputs: list[Tensor] = []

        def observe(tap: Tap, layer: int, values: Tensor) -> None:
            if tap is Tap.OUTPUT:
                outputs.append(values.clone())

        sequence = Sequence(self._decoder, len(ids))
        sequence.read(ids, keep=len(ids), observe=observe, cancel=cancel)
        return torch.stack(outputs).cpu().numpy()

    @torch.inference_mode()
    def probability(
        self, prompt: str, ids: tuple[int, ...], *, cancel: CancelToken | None = None
    ) -> float:
        """The model's own probability that a prompt goes on with these tokens, 0..1."""
        before = self.encode(prompt).ids
        sequence = Sequence(self._decoder, len(before) + len(ids))
        h = sequence.read((*before, *ids), keep=len(ids) + 1, cancel=cancel)
        chosen = self._decoder.logits(h[:-1]).log_softmax(1).cpu()  # [len(ids), V]
        picked = chosen[torch.arange(len(ids)), torch.tensor(ids)]
        return float(picked.double().sum().exp())

    def trace(
        self,
        prompt: str,
        *,
        target: str | None = None,
        positions: Iterable[int] | None = (-1,),
        mode: PromptMode = PromptMode.RAW,
        interventions: Iterable[Intervention] = (),
        heads: bool = False,
        features: int = 0,
        layers: Collection[int] | None = None,
        top: int = 5,
        cancel: CancelToken | None = None,
    ) -> Trace:
        """Take a forward pass apart; stored facts have no say in it. See ``Tracer.trace``."""
        ids = () if target is None else self.target_ids(target.removeprefix(" "))
        return self.tracer.trace(
            self.encode(prompt, mode),
            ids,
            positions=positions,
            interventions=tuple(interventions),
            heads=heads,
            features=features,
            layers=layers,
            top=top,
            cancel=cancel,
        )

    def direction(self, text: str, minus: str | None = None) -> Floats:
        """A direction of the residual stream that raises the logit of a text's first token.

        Args:
            minus: a text whose first token's logit it lowers as much.

        Returns:
            float32 [D], of length 1: rows of the head, the final norm's weight multiplied in.

        Raises:
            InterventionInvalid: both texts begin with the same token.
        """
        return self.tracer.direction(
            self.target_ids(text.removeprefix(" "))[0],
            None if minus is None else self.target_ids(minus.removeprefix(" "))[0],
        )

    def target_ids(self, target: str, *, spaced: bool = True) -> tuple[int, ...]:
        """The tokens of a text as it goes on after another, behind a space if ``spaced``."""
        return tuple(continuation(self._encoder.tokenizer, target, spaced=spaced))

    @torch.inference_mode()
    def ffn_input(self, prompt: str, layer: int, *, cancel: CancelToken | None = None) -> Floats:
        """The FFN's input of a layer at the last token of a prompt, float32 [D]."""
        kept: list[Tensor] = []
        wanted = layer

        def observe(tap: Tap, layer: int, values: Tensor) -> None:
            if tap is Tap.FFN_INPUT and layer == wanted:
                kept.append(values[-1].clone())

        encoded = self.encode(prompt)
        Sequence(self._decoder, len(encoded.ids)).read(encoded.ids, observe=observe, cancel=cancel)
        return kept[-1].cpu().numpy()

    def _best(self, logits: Tensor, count: int) -> tuple[TokenScore, ...]:
        return best_tokens(logits, count, self.token_text)
