"""The decoder: one forward pass, read from top to bottom, for every use.

A whole prompt, a chunk of one, a cached token, INFER, the walk and explanations all run ``forward``
and ``_layer`` below; they differ in arguments: which cache the tokens join, which rule evaluates
the FFN, who observes. The residual stream, norms, softmax and sums are float32 throughout.

Shape legend: T tokens, Q of them kept, D hidden, V vocabulary, L layers. There is no batch axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.attention import Step, query_blocks
from lql.inference.cache import KvCache
from lql.inference.feedforward import FeedForward, FeedForwardRule, dense
from lql.inference.layer import Layer as Layer
from lql.inference.layer import run
from lql.inference.linear import Coarse, Linear
from lql.inference.mixture import Mixture
from lql.inference.norms import HiddenNorm
from lql.inference.overlaid import edited
from lql.inference.per_layer import PerLayerEmbeddings
from lql.inference.placement import CPU
from lql.inference.quantised import EmbeddingLinear
from lql.inference.rows import is_mapped, torch_view
from lql.inference.single import SingleLayer, record
from lql.inference.taps import Hooks, Intervene, PatternObserver
from lql.inference.taps import Observer as Observer
from lql.inference.taps import Tap as Tap
from lql.inference.tree import Branches
from vindex.dtypes import to_float32
from vindex.edits import FeatureEdit, Slot
from vindex.source import ModelSource, StoredTensor
from vindex.spec import ModelSpec

# Cached tokens read one at a time before layers are compiled for that.
RECORD_AFTER = 16


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """All weights of a model.

    ``embed`` [V, D] and ``positions`` are as stored: only looked-up rows are converted. Where rows
    of the embedding are of another size E, ``projections`` are those from E to D and back.
    """

    embed: StoredTensor
    positions: StoredTensor | None
    layers: tuple[Layer, ...]
    final_norm: HiddenNorm | None
    projections: tuple[Linear, Linear] | None
    head: Linear
    per_layer: PerLayerEmbeddings | None


class Decoder:
    """A model that can be run.

    Attributes:
        device: where its weights are, and with them everything that is computed.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, device: torch.device = CPU) -> None:
        self.spec = spec
        self.device = device
        self._weights = weights
        attentions = [layer.attention for layer in weights.layers]
        self._ropes = {each.rope for each in attentions if each.rope is not None}
        self._windows = {each.spec.window for each in attentions}
        self._matrices = [matrix for layer in weights.layers for matrix in _matrices(layer)]
        if weights.per_layer is not None:
            self._matrices.append(weights.per_layer.projection)
        self._matrices += weights.projections or ()
        self._single_tokens = 0
        self._recorded: Sequence[SingleLayer | None] | None = None
        # No later layer reads the keys of other tokens than those it is run for.
        self._last_keys = max(
            layer.index for layer in weights.layers if layer.attention.spec.kv_source is None
        )

    def forward(
        self,
        ids: Sequence[int],
        cache: KvCache,
        *,
        length: int | None = None,
        branches: Branches | None = None,
        keep: int | None = None,
        coarse: Coarse | None = None,
        feed_forward: FeedForwardRule = dense,
        observe: Observer | None = None,
        intervene: Intervene | None = None,
        patterns: PatternObserver | None = None,
        cancel: CancelToken | None = None,
    ) -> Tensor:
        """Run tokens through all layers, after those in the cache, which they join.

        The last layer that has keys of its own, and those after it, which are many in a model that
        shares keys, are run for the kept tokens only: what the others would give nobody reads.

        Args:
            ids: T >= 1 token ids of the vocabulary.
            cache: with room for T more. If the pass is cancelled it is of no further use.
            length: tokens that the sequence will have before any output is looked at; by default
                those in the cache and these. Rotations may depend on it.
            branches: where the tokens stand when they are no run of text, and what each can see.
            keep: Q, how many of the last tokens' outputs are wanted, 1..T; by default all.
            coarse: rounded arithmetic, for tokens of which only keys and values are wanted.
            feed_forward: the rule that evaluates the FFNs.
            observe: called at every tap.
            intervene: puts other values in the place of some.
            patterns: called with every layer's attention.
            cancel: checked before every layer.

        Returns:
            The residual stream after the last layer, float32 [Q, D].
        """
        if branches is None:
            step = self._step(cache.length, cache.length + len(ids), length, coarse)
        else:
            step = self._branched_step(branches)
        hooks = Hooks.of(observe, intervene, patterns)
        h = self._embed(ids, cache.length, branches)  # [T, D]
        extra = self._per_layer_inputs(ids, h)
        plain = hooks is None and branches is None and coarse is None and feed_forward is dense
        singles = self._singles() if plain and len(ids) == 1 else None
        for index, (each, layer_cache) in enumerate(
            zip(self._weights.layers, cache.layers, strict=True)
        ):
            if cancel is not None:
                cancel.check(f"layer {index}/{self.spec.num_layers}")
            if index == self._last_keys and keep is not None and keep < len(ids):
                step = self._kept(step, cache.length + len(ids), keep)
            own = None if extra is None else extra[:, index]
            single = None if singles is None else singles[index]
            if single is not None:
                h = single.run(h, layer_cache, step, own)
            else:
                h = run(h, each, layer_cache, step, own, feed_forward, hooks)
        cache.length += len(ids)
        return h

    def logits(self, h: Tensor, *, capped: bool = True, largest: bool = False) -> Tensor:
        """Scores of the next token after rows of the residual stream: [T, D] to [T, V].

        Args:
            capped: bent by the model's soft cap, where it has one.
            largest: only each row's largest must be exact, and which it is; others may be rounded.
        """
        if self._weights.final_norm is not None:
            h = self._weights.final_norm(h)
        if self._weights.projections is not None:
            h = self._weights.projections[1](h)
        head = self._weights.head
        if largest and len(h) == 1 and isinstance(head, EmbeddingLinear):
            logits = head.largest(h)
        else:
            logits = head(h)
        if self.spec.logit_divisor != 1.0:
            logits.div_(self.spec.logit_divisor)
        cap = self.spec.logit_softcap if capped else None
        return logits if cap is None else logits.div_(cap).tanh_() * cap

    @property
    def weights(self) -> Weights:
        """All weights, for a decoder that differs in some of them."""
        return self._weights

    def edited(self, features: Mapping[Slot, FeatureEdit], source: ModelSource) -> Decoder:
        """The same weights with features edited; this one stays as it is.

        Args:
            features: by (layer, feature).
            source: the model's.
        """
        layers = list(self._weights.layers)
        for index in {layer for layer, _ in features}:
            # In order of the features, so that sums do not depend on the order of the edits.
            own = sorted(feature for at, feature in features if at == index)
            edits = {feature: features[index, feature] for feature in own}
            part = edited(layers[index].feed_forward, edits, source, self.device)
            layers[index] = dataclasses.replace(layers[index], feed_forward=part)
        weights = dataclasses.replace(self._weights, layers=tuple(layers))
        return Decoder(self.spec, weights, self.device)

    def feed_forward_of(self, layer: int) -> FeedForward | Mixture:
        """The FFN of a layer, or its experts."""
        return self._weights.layers[layer].feed_forward

    def layer(self, index: int) -> Layer:
        """The weights of a layer."""
        return self._weights.layers[index]

    def read_through(self, h: Tensor, direction: Tensor, layer: int) -> Tensor:
        """What of a layer's additions to the residual stream a direction of the head's input reads.

        Only for a plain stream, unless no layer follows (``layer`` is L).

        Args:
            h: the stream after the last layer, [T, D]; the final norm's scale is taken from it.
            direction: [T, D].
        """
        assert layer == self.spec.num_layers or self.has_plain_stream, "norms would follow"
        norm = self._weights.final_norm
        read = direction if norm is None else norm.read_through(h, direction)
        for each in self._weights.layers[layer:]:
            if each.scalar is not None:
                read = read * each.scalar
        return read

    @property
    def has_plain_stream(self) -> bool:
        """Whether layers add to the residual stream, and the head reads it through one norm."""
        norms = ((each.attn_sum_norm, each.ffn_sum_norm) for each in self._weights.layers)
        return self._weights.projections is None and all(pair == (None, None) for pair in norms)

    def rotations_change(self, before: int, after: int) -> bool:
        """Whether growing from ``before`` to ``after`` tokens makes cached keys useless."""
        return any(rope.changes_between(before, after) for rope in self._ropes)

    def coarse(self) -> Coarse | None:
        """Scratch memory for rounded arithmetic, or ``None`` if the model has no use for it.

        With experts, rounding could send a token to others; what that does is not known.
        """
        if any(isinstance(layer.feed_forward, Mixture) for layer in self._weights.layers):
            return None
        sizes = [matrix.elements for matrix in self._matrices if matrix.can_be_coarse]
        return Coarse(max(sizes)) if sizes else None

    @property
    def resident_bytes(self) -> int:
        """Memory of the prepared matrices and of embeddings that are not mapped."""
        matrices = (*self._matrices, self._weights.head)
        per_layer = self._weights.per_layer
        tables = (
            self._weights.embed,
            self._weights.positions,
            None if per_layer is None else per_layer.table,
        )
        arrays = [table.array for table in tables if table is not None]
        held = sum(array.nbytes for array in arrays if not is_mapped(array))
        latents = (layer.attention.latent for layer in self._weights.layers)
        held += sum(latent.resident_bytes for latent in latents if latent is not None)
        return held + sum(matrix.resident_bytes for matrix in matrices)

    @property
    def kernels(self) -> dict[str, int]:
        """How matrices are multiplied: description of the kernel -> how many use it."""
        names = [matrix.kernel for matrix in (*self._matrices, self._weights.head)]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    def _embed(self, ids: Sequence[int], start: int, branches: Branches | None) -> Tensor:
        embed, positions = self._weights.embed, self._weights.positions
        rows = torch_view(to_float32(embed.array[list(ids)], embed.dtype))  # [T, D]
        h = rows.to(self.device)
        if self._weights.projections is not None:
            h = self._weights.projections[0](h)  # [T, E] to [T, D]
        h = h * self.spec.embed_scale
        if positions is not None and self.spec.positions is not None:
            places = np.arange(start, start + len(ids)) if branches is None else branches.positions
            own = positions.array[places + self.spec.positions.offset]  # [T, D]
            h += torch_view(to_float32(own, positions.dtype)).to(self.device)
        return h

    def _per_layer_inputs(self, ids: Sequence[int], h: Tensor) -> Tensor | None:
        """Every layer's own vectors for these tokens [T, L, E], from their embeddings [T, D]."""
        per_layer = self._weights.per_layer
        return None if per_layer is None else per_layer(ids, h)

    def _singles(self) -> Sequence[SingleLayer | None] | None:
        """The layers compiled for one token, once that will have paid for itself."""
        if self._recorded is None and torch.is_inference_mode_enabled():
            self._single_tokens += 1
            if self._single_tokens >= RECORD_AFTER:
                ple = self.spec.ple
                self._recorded = record(
                    self._weights.layers, self.spec.hidden_size, None if ple is None else ple.size
                )
        return self._recorded if torch.is_inference_mode_enabled() else None

    def _step(self, start: int, stop: int, length: int | None, coarse: Coarse | None) -> Step:
        step = Step(
            rotations={rope: rope.table(start, stop, length) for rope in self._ropes},
            blocks={window: query_blocks(start, stop - start, window) for window in self._windows},
            coarse=coarse,
        )
        return step.on(self.device)

    def _kept(self, step: Step, stop: int, keep: int) -> Step:
        """A step for the queries of the last ``keep`` tokens alone."""
        blocks = {window: query_blocks(stop - keep, keep, window) for window in self._windows}
        return dataclasses.replace(step, blocks=blocks, queries=keep).on(self.device)

    def _branched_step(self, branches: Branches) -> Step:
        positions = torch.from_numpy(branches.positions)
        return Step(
            rotations={rope: rope.table_at(positions, branches.length) for rope in self._ropes},
            blocks={window: branches.blocks(window) for window in self._windows},
            coarse=None,
        ).on(self.device)


def _matrices(layer: Layer) -> Iterator[Linear]:
    yield layer.attention.qkv
    latent = layer.attention.latent
    if latent is not None and latent.query is not None:
        yield latent.query[1]
    yield layer.attention.output
    if isinstance(layer.feed_forward, Mixture):
        yield from layer.feed_forward.matrices()
        parts = layer.feed_forward.parts()
    else:
        parts = iter((layer.feed_forward,))
    for part in parts:
        yield part.inner
        yield part.down
    if layer.per_layer is not None:
        yield layer.per_layer.gate
        yield layer.per_layer.output
