"""A loaded model: everything that statements ask of inference, in plain values."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.catalogue import Catalogue
from lql.inference.answers import (
    Comparison,
    Encoded,
    Explanation,
    LayerFeatures,
    LayerHits,
    Prediction,
    TokenScore,
)
from lql.inference.compose import Composer
from lql.inference.conversation import Conversation
from lql.inference.decoder import Decoder, Tap
from lql.inference.describing import Describer
from lql.inference.explain import LastPosition
from lql.inference.feedforward import FeatureWalk, FeedForwardRule, dense
from lql.inference.generate import Generation
from lql.inference.interventions import Intervention
from lql.inference.knn import (
    NOWHERE,
    FactRoute,
    FactStore,
    Match,
    Reached,
    Routing,
    continuation,
    overridden,
)
from lql.inference.placement import CPU, bytes_needed, memory_errors, place
from lql.inference.precision import ComputeDtype
from lql.inference.prompt import PromptEncoder
from lql.inference.ranking import best_tokens
from lql.inference.reloading import with_feed_forwards
from lql.inference.sampling import GREEDY, Sampling
from lql.inference.sequence import Sequence
from lql.inference.traces import Trace
from lql.inference.tracing import Tracer
from lql.inference.weights import load_weights
from lql.syntax_words import Device, PromptMode
from vindex.edits import FeatureEdit, Slot
from vindex.source import ModelSource
from vindex.spec import ModelSpec

Floats = npt.NDArray[np.float32]


class LoadedModel:
    """A model whose weights are ready to multiply. One caller at a time.

    Every answer is exact for the stored weights up to float32 rounding, with one exception: of a
    prompt of 192 tokens or more on 16-bit weights, all but the last 32 are read in part in
    bfloat16. Over 25 texts of 512 tokens on SmolLM2 no probability moved by more than .0025, and
    the largest movement was .0007 on average (transformers in bfloat16: .025 and .0083). Models
    with experts are read exactly throughout: a rounded token might be sent to other experts.
    ``logits`` and ``layer_outputs`` never round.

    A quantised vindex is exact for its blocks only with ``F32``. Otherwise the int4 kernel rounds
    activations to bfloat16: over 200 prompts the divergence from the unquantised model is .0163
    with it and .0165 without on SmolLM2, .0414 both ways on Gemma 3 270M.

    Args:
        source: stays open as long as the model is used.
        dtype: how matrices are multiplied.
        device: where; the weights are copied there once.
        cancel: checked between layers while loading.

    Attributes:
        spec: the model's description.
        load_seconds: wall time of loading.
        resident_bytes: memory of the prepared matrices; the source's maps are not counted.
        device: where it computes, ``cpu`` or ``cuda``.
        compute: how it computes, one line for people.
        facts: stored facts that answer in the model's place; a session sets them from its edits.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        dtype: ComputeDtype = ComputeDtype.AUTO,
        device: Device = Device.CPU,
        cancel: CancelToken | None = None,
    ) -> None:
        started = time.perf_counter()
        self.spec: ModelSpec = source.spec
        self.facts = FactStore()
        self._dtype = dtype
        self._encoder = PromptEncoder(source, starts_with_bos=self.spec.starts_with_bos)
        where = CPU if device is Device.CPU else place(device, bytes_needed(source, dtype))
        with memory_errors(where):
            weights = load_weights(source, dtype, cancel, where)
        self.device: str = where.type
        self._run_with(Decoder(source.spec, weights, where), source)
        self.load_seconds: float = time.perf_counter() - started

    def edited(self, features: Mapping[Slot, FeatureEdit], source: ModelSource) -> LoadedModel:
        """The same weights with features edited, for the cost of the edited vectors.

        Args:
            features: by (layer, feature).
            source: what holds the edited vectors, for evaluation feature by feature.
        """
        model = copy.copy(self)
        model._run_with(self._decoder.edited(features, source), source)
        return model

    def _run_with(self, decoder: Decoder, source: ModelSource) -> None:
        self._decoder = decoder
        self._source = source
        self.resident_bytes: int = decoder.resident_bytes
        kernels = decoder.kernels.items()
        matrices = ", ".join(f"{count} matrices {kernel}" for kernel, count in kernels)
        self.compute: str = f"{self.device}: {matrices}"

    def over(self, source: ModelSource, layers: Collection[int]) -> LoadedModel:
        """The model with other FFNs in some layers; everything else is shared with this one.

        Args:
            source: differs from this model's in the FFNs of those layers only.
        """
        other = copy.copy(self)
        weights = with_feed_forwards(self._decoder, source, layers, self._dtype)
        other._run_with(Decoder(self.spec, weights, self._decoder.device), source)
        return other

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

    def describer(self, catalogue: Catalogue) -> Describer:
        """Describes entities with this model; good as long as the model is."""
        return Describer(self._decoder, self._encoder, self._source, catalogue)

    def composer(self) -> Composer:
        """Makes features of facts over this state of the model."""
        return Composer(self._decoder, self._source)

    def infer(
        self,
        prompt: str,
        *,
        top: int = 5,
        mode: PromptMode = PromptMode.RAW,
        facts: FactStore | None = None,
        routing: Routing | None = None,
        interventions: Iterable[Intervention] = (),
        cancel: CancelToken | None = None,
    ) -> Prediction:
        """The most probable next tokens.

        Args:
            top: how many, at most V.
            facts: stored facts to answer with, in the place of the model's own ``facts``.
            routing: how they are looked up.
            interventions: what is changed in the pass; with any, no stored fact answers.

        Raises:
            EmptyPrompt, PromptTooLong, TokenOutOfRange, NoChatTemplate, ChatTemplateFailed
            InterventionInvalid: at a place that is not there.
            WeightsInvalid: the model computes numbers that are not finite.
            Cancelled: between layers.
        """
        encoded, changes = self.encode(prompt, mode), tuple(interventions)
        if changes:
            return self._intervened(encoded, top, changes, cancel)
        return self._answer(encoded, top, facts, routing, cancel)

    def infer_walk(
        self,
        prompt: str,
        *,
        top: int = 5,
        mode: PromptMode = PromptMode.RAW,
        cancel: CancelToken | None = None,
    ) -> Prediction:
        """``infer`` with every FFN evaluated feature by feature from the stored vectors. Slow."""
        return self._infer(self.encode(prompt, mode), top, FeatureWalk(self._source), cancel)[0]

    def compare(
        self,
        prompt: str,
        *,
        top: int = 5,
        mode: PromptMode = PromptMode.RAW,
        cancel: CancelToken | None = None,
    ) -> Comparison:
        """``infer`` and ``infer_walk`` side by side."""
        encoded = self.encode(prompt, mode)
        prediction, logits = self._infer(encoded, top, dense, cancel)
        walked, walk_logits = self._infer(encoded, top, FeatureWalk(self._source), cancel)
        return Comparison(
            dense=prediction,
            walk=walked,
            probability_difference=_largest(logits.softmax(0) - walk_logits.softmax(0)),
            logit_difference=_largest(logits - walk_logits),
        )

    @torch.inference_mode()
    def explain(
        self,
        prompt: str,
        *,
        top: int = 5,
        per_layer: int = 3,
        mode: PromptMode = PromptMode.RAW,
        cancel: CancelToken | None = None,
    ) -> Explanation:
        """``infer``, and at the last position of every layer its features and its logit lens.

        Args:
            per_layer: features of each layer.
        """
        encoded = self.encode(prompt, mode)
        observer = LastPosition()
        route = FactRoute(self.facts, self._encoder.tokenizer, encoded)

        def observe(tap: Tap, layer: int, values: Tensor) -> None:
            observer(tap, layer, values)
            route(tap, layer, values)

        started = time.perf_counter()
        sequence = Sequence(self._decoder, len(encoded.ids))
        h = sequence.read(encoded.ids, observe=observe, cancel=cancel)
        logits = self._decoder.logits(h)[0].cpu()
        prediction = Prediction(encoded, self._best(logits, top), time.perf_counter() - started)
        prediction = self._with_fact(prediction, route.match(), route, logits)
        lens = observer.lens_logits(self._decoder)
        layers = []
        for layer in range(self.spec.num_layers):
            if cancel is not None:
                cancel.check(f"explaining layer {layer}/{self.spec.num_layers}")
            hits = observer.top_features(self._decoder, layer, per_layer)
            layers.append(LayerHits(layer, hits, self._best(lens[layer], 1)[0]))
        return Explanation(prediction, tuple(layers))

    @torch.inference_mode()
    def features(
        self,
        prompt: str,
        *,
        layers: Iterable[int],
        per_layer: int,
        by_gate: bool = False,
        cancel: CancelToken | None = None,
    ) -> LayerFeatures:
        """What the FFNs of some layers really do at a prompt's last position.

        Args:
            per_layer: features of each layer.
            by_gate: rank them by the magnitude of the gate; of the activation otherwise.

        Raises:
            EmptyPrompt, PromptTooLong, TokenOutOfRange
            Cancelled: between layers.
        """
        encoded = self.encode(prompt)
        observer = LastPosition()
        sequence = Sequence(self._decoder, len(encoded.ids))
        sequence.read(encoded.ids, observe=observer, cancel=cancel)
        hits = {
            layer: observer.top_features(self._decoder, layer, per_layer, by_gate=by_gate)
            for layer in layers
        }
        return LayerFeatures(encoded, hits)

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int,
        mode: PromptMode = PromptMode.RAW,
        stop: tuple[str, ...] = (),
        sampling: Sampling = GREEDY,
        facts: FactStore | None = None,
        cancel: CancelToken | None = None,
    ) -> Generation:
        """Continue a prompt, token by token as the result is iterated.

        Ends at the model's stop tokens, at a text of ``stop`` (which is left out), after
        ``max_tokens``, or when the model has no more positions: ``Generation.finish`` says which.

        Args:
            sampling: how each token is chosen; greedily by default.
            facts: stored facts to answer with, in the place of the model's own ``facts``.
            cancel: checked before every token and every layer.

        Raises:
            PromptTooLong, NoChatTemplate, ChatTemplateFailed; while iterating also EmptyPrompt,
            TokenOutOfRange, WeightsInvalid, Cancelled.
        """
        encoded = self.encode(prompt, mode)
        store = self.facts if facts is None else facts
        return Generation(
            self._decoder,
            self._encoder.tokenizer,
            encoded,
            route=FactRoute(store, self._encoder.tokenizer, encoded) if store else None,
            max_tokens=max_tokens,
            stop_ids=self._encoder.stop_ids(),
            stop_texts=stop,
            sampling=sampling,
            cancel=cancel,
        )

    def converse(self) -> Conversation:
        """Begin a chat in turns, whose cache is kept between them; ``facts`` answer in it too."""
        return Conversation(self._decoder, self._encoder, lambda: self.facts)

    @property
    def recommended_sampling(self) -> Sampling:
        """What the model's makers recommend in its ``generation_config.json``; used when asked for.

        Raises:
            SamplingInvalid: the file holds values that make no sense.
        """
        return Sampling.of_generation_config(self._source.generation_config)

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
        all_positions: bool = False,
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
            all_positions=all_positions,
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

    @torch.inference_mode()
    def _intervened(
        self,
        encoded: Encoded,
        top: int,
        changes: tuple[Intervention, ...],
        cancel: CancelToken | None,
    ) -> Prediction:
        started = time.perf_counter()
        h = self.tracer.read(encoded.ids, changes, cancel=cancel)[-1:]
        logits = self._decoder.logits(h)[0].cpu()
        return Prediction(encoded, self._best(logits, top), time.perf_counter() - started)

    @torch.inference_mode()
    def _answer(
        self,
        encoded: Encoded,
        top: int,
        facts: FactStore | None,
        routing: Routing | None,
        cancel: CancelToken | None,
    ) -> Prediction:
        """A prediction in which stored facts have their say."""
        store = self.facts if facts is None else facts
        if not store:
            return self._infer(encoded, top, dense, cancel)[0]
        route = FactRoute(store, self._encoder.tokenizer, encoded, routing)
        started = time.perf_counter()
        sequence = Sequence(self._decoder, len(encoded.ids))
        try:
            h = sequence.read(encoded.ids, observe=route, cancel=cancel)
        except Reached as reached:
            prediction = Prediction(encoded, (), time.perf_counter() - started)
            return self._with_fact(prediction, reached.match, route, None)
        logits = self._decoder.logits(h)[0].cpu()
        prediction = Prediction(encoded, self._best(logits, top), time.perf_counter() - started)
        return self._with_fact(prediction, route.match(), route, logits)

    def _with_fact(
        self, prediction: Prediction, match: Match | None, route: FactRoute, logits: Tensor | None
    ) -> Prediction:
        """A prediction with the fact that answers, if one does."""
        if match is None:
            return prediction
        token = route.target_ids(match.fact)[0]
        logit = NOWHERE if logits is None else float(logits[token])
        forced = TokenScore(1, self.token_text(token), token, 1.0, logit)
        rows, hit = overridden(prediction.rows, forced, match)
        return replace(prediction, rows=rows, fact=hit)

    @torch.inference_mode()
    def _infer(
        self, encoded: Encoded, top: int, rule: FeedForwardRule, cancel: CancelToken | None
    ) -> tuple[Prediction, Tensor]:
        """The prediction and the logits [V] it comes from."""
        started = time.perf_counter()
        sequence = Sequence(self._decoder, len(encoded.ids))
        h = sequence.read(encoded.ids, feed_forward=rule, cancel=cancel)
        logits = self._decoder.logits(h)[0].cpu()
        seconds = time.perf_counter() - started
        return Prediction(encoded, self._best(logits, top), seconds), logits

    def _best(self, logits: Tensor, count: int) -> tuple[TokenScore, ...]:
        return best_tokens(logits, count, self.token_text)


def _largest(differences: Tensor) -> float:
    return float(differences.abs().max())
