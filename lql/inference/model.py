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
    overridden,
)
from lql.inference.placement import CPU, bytes_needed, memory_errors, place
from lql.inference.precision import ComputeDtype
from lql.inference.prompt import PromptEncoder
from lql.inference.reader import ModelReader
from lql.inference.reloading import with_feed_forwards
from lql.inference.sampling import GREEDY, Sampling
from lql.inference.sequence import Sequence
from lql.inference.weights import load_weights
from lql.syntax_words import Device, PromptMode
from vindex.edits import FeatureEdit, Slot
from vindex.source import ModelSource
from vindex.spec import ModelSpec

Floats = npt.NDArray[np.float32]


class LoadedModel(ModelReader):
    """A model whose weights are ready to multiply. One caller at a time.

    Every answer is exact for the stored weights up to float32 rounding, with one exception: of a
    prompt of 192 tokens or more on 16-bit weights, all but the last 32 are read in part in
    bfloat16. Over 25 texts of 512 tokens on SmolLM2 no probability moved by more than .0025, and
    the largest movement was .0007 on average (transformers in bfloat16: .025 and .0083). Models
    with experts are read exactly throughout: a rounded token might be sent to other experts.
    ``logits`` and ``layer_outputs`` never round.

    A quantised vindex is exact for its blocks only with ``F32``. Otherwise the int4 kernel rounds
    activations to bfloat16, and attention's values are 8-bit codes: over 200 prompts the divergence
    from the unquantised model is .0149 with them and .0165 without on SmolLM2.

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
        encoder = PromptEncoder(source, starts_with_bos=self.spec.starts_with_bos)
        where = CPU if device is Device.CPU else place(device, bytes_needed(source, dtype))
        with memory_errors(where):
            weights = load_weights(source, dtype, cancel, where)
        self.device: str = where.type
        self._run_with(Decoder(source.spec, weights, where), encoder, source)
        self.load_seconds: float = time.perf_counter() - started

    def edited(self, features: Mapping[Slot, FeatureEdit], source: ModelSource) -> LoadedModel:
        """The same weights with features edited, for the cost of the edited vectors.

        Args:
            features: by (layer, feature).
            source: what holds the edited vectors, for evaluation feature by feature.
        """
        model = copy.copy(self)
        model._run_with(self._decoder.edited(features, source), self._encoder, source)
        return model

    def _run_with(self, decoder: Decoder, encoder: PromptEncoder, source: ModelSource) -> None:
        super().__init__(decoder, encoder, source)
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
        decoder = Decoder(self.spec, weights, self._decoder.device)
        other._run_with(decoder, self._encoder, source)
        return other

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


def _largest(differences: Tensor) -> float:
    return float(differences.abs().max())
