"""TRACE: a forward pass as a sum of contributions, read with the model's own norm and head.

Notation: L layers, T tokens, P traced positions, D hidden, V vocabulary, H heads, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.answers import Encoded, TokenScore
from lql.inference.decoder import Decoder
from lql.inference.errors import InterventionInvalid, PositionInvalid, TraceOpen
from lql.inference.feedforward import dense
from lql.inference.intervening import Intervening
from lql.inference.interventions import Intervention
from lql.inference.rows import torch_view
from lql.inference.sequence import Sequence as TokenSequence
from lql.inference.shares import Reading, feature_shares, head_shares
from lql.inference.taps import Observer, Tap
from lql.inference.traces import (
    DirectLogits,
    Floats,
    HeadAttention,
    LensScore,
    Part,
    Stream,
    TargetScore,
    Trace,
)
from vindex.source import ModelSource
from vindex.spec import Role

CLOSES_WITHIN = 1e-4
_LENS_ROWS = 64  # positions whose logits are in memory at a time

Best = Callable[[Tensor, int], tuple[TokenScore, ...]]

_PARTS = {
    Tap.ATTENTION: Part.ATTENTION,
    Tap.ATTENTION_NORM: Part.ATTENTION_NORM,
    Tap.FFN: Part.FFN,
    Tap.FFN_NORM: Part.FFN_NORM,
    Tap.PER_LAYER: Part.PER_LAYER,
    Tap.SCALAR: Part.SCALAR,
    Tap.INTERVENTION: Part.INTERVENTION,
}


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """What an observed pass leaves at the prompt's last token, for heads and features.

    Attributes:
        gathered: of each layer what its heads gathered, [1, H * S'].
        inputs, residuals: of each layer the FFN's input and what it is made of, [1, D].
    """

    gathered: list[Tensor]
    inputs: list[Tensor]
    residuals: list[Tensor]


class Recorder:
    """An observer that keeps the stream and its parts at some positions."""

    def __init__(self, positions: Sequence[int], layers: int) -> None:
        self._positions = list(positions)
        self._layers = layers
        self._residual: list[Tensor] = []
        self._parts: dict[Part, dict[int, Tensor]] = {}
        self.last = Watched([], [], [])

    def __call__(self, tap: Tap, layer: int, values: Tensor) -> None:
        """See ``Observer``."""
        match tap:
            case Tap.INPUT if layer == 0:
                self._residual.append(self._rows(values))
            case Tap.OUTPUT:
                self._residual.append(self._rows(values))
            case Tap.HEADS:
                self.last.gathered.append(values[-1:].clone())
            case Tap.FFN_INPUT:
                self.last.inputs.append(values[-1:].clone())
            case Tap.FFN_RESIDUAL:
                self.last.residuals.append(values[-1:].clone())
            case _ if tap in _PARTS:
                kept = self._parts.setdefault(_PARTS[tap], {})
                rows = self._rows(values)
                kept[layer] = kept[layer] + rows if layer in kept else rows
            case _:
                pass

    def _rows(self, values: Tensor) -> Tensor:
        return values[self._positions].cpu()

    def stream(self) -> Stream:
        """What was seen.

        Raises:
            TraceOpen: it does not add up.
        """
        residual = torch.stack(self._residual)  # [L + 1, P, D]
        none = torch.zeros_like(residual[0])
        parts = {
            part: torch.stack([seen.get(layer, none) for layer in range(self._layers)]).numpy()
            for part in Part
            if (seen := self._parts.get(part)) is not None
        }
        stream = Stream(residual.numpy(), parts)
        gaps = stream.gaps()
        worst = int(gaps.argmax())
        if not gaps[worst] <= CLOSES_WITHIN:  # or not a number
            raise TraceOpen(worst, float(gaps[worst]))
        return stream


class Tracer:
    """Traces prompts of one model.

    Args:
        best: the most probable tokens of logits [V].
    """

    def __init__(self, decoder: Decoder, source: ModelSource, best: Best) -> None:
        self._decoder = decoder
        self._source = source
        self._best = best

    @torch.inference_mode()
    def read(
        self,
        ids: tuple[int, ...],
        interventions: Sequence[Intervention],
        *,
        observe: Observer | None = None,
        cancel: CancelToken | None = None,
    ) -> Tensor:
        """The residual stream at all tokens of a text, [T, D], with interventions."""
        hook = Intervening(self._decoder, interventions, len(ids)) if interventions else None
        return TokenSequence(self._decoder, len(ids)).read(
            ids,
            keep=len(ids),
            feed_forward=dense if hook is None else hook.feed_forward,
            observe=observe,
            intervene=hook,
            cancel=cancel,
        )

    @torch.inference_mode()
    def direction(self, token: int, minus: int | None) -> Floats:
        """See ``LoadedModel.direction``."""
        row = self._row(token)  # [1, D]
        if minus is not None:
            row = row - self._row(minus)
        spec = self._decoder.spec
        # At a stream of equal lengths all round, the norm's weight is all that is left of it.
        ones = torch.ones(1, spec.hidden_size, device=row.device)
        read = self._decoder.read_through(ones, row, spec.num_layers)[0]
        length = torch.linalg.vector_norm(read)
        if not float(length) > 0.0:
            raise InterventionInvalid("the two texts begin with the same token: no direction")
        found: Floats = (read / length).cpu().numpy()
        return found

    @torch.inference_mode()
    def attention(
        self, encoded: Encoded, *, top: int = 3, cancel: CancelToken | None = None
    ) -> tuple[HeadAttention, ...]:
        """What every head attends to at a prompt's last position: its ``top`` tokens."""
        count = len(encoded.ids)
        found: list[HeadAttention] = []

        def see(layer: int, shares: Tensor) -> None:
            first = count - shares.shape[1]
            sinks = self._decoder.layer(layer).attention.sinks
            best = shares.topk(min(top, shares.shape[1]), dim=1)
            for head, row in enumerate(shares):
                places = [first + place for place in best.indices[head].tolist()]
                found.append(
                    HeadAttention(
                        layer=layer,
                        head=head,
                        tokens=tuple(zip(places, best.values[head].tolist(), strict=True)),
                        sink=0.0 if sinks is None else 1.0 - float(row.double().sum()),
                    )
                )

        TokenSequence(self._decoder, count).read(
            encoded.ids, keep=count, patterns=see, cancel=cancel
        )
        return tuple(found)

    @torch.inference_mode()
    def trace(
        self,
        encoded: Encoded,
        target: tuple[int, ...],
        *,
        positions: Iterable[int] | None,
        interventions: Sequence[Intervention],
        heads: bool,
        features: int,
        layers: Collection[int] | None,
        top: int,
        cancel: CancelToken | None,
    ) -> Trace:
        """Take a forward pass apart.

        Args:
            target: tokens whose standing is followed through the layers; may be none.
            positions: those to trace, in any order; -1 is the last. ``None`` for every one.
            interventions: what is changed in the pass.
            heads: also what each attention head adds.
            features: also the so many features that add most.
            layers: those whose heads and features are asked for; by default all.
            top: tokens of the prediction.

        Raises:
            EmptyPrompt, PromptTooLong, TokenOutOfRange, PositionInvalid
            InterventionInvalid: at a place that is not there.
            TraceOpen: the contributions do not add up.
        """
        decoder = self._decoder
        count = len(encoded.ids)
        places = _places(positions, count)
        recorder = Recorder(places, decoder.spec.num_layers)
        hook = Intervening(decoder, interventions, count)
        h = TokenSequence(decoder, count).read(
            encoded.ids,
            keep=count,
            feed_forward=hook.feed_forward,
            observe=recorder,
            intervene=hook,
            cancel=cancel,
        )[-1:]
        stream, last = recorder.stream(), recorder.last
        wanted = [
            layer
            for layer in range(stream.num_layers)
            if layer not in hook.silent_layers and (layers is None or layer in layers)
        ]
        words = self._words(encoded.ids, target, interventions, cancel) if target else None
        reading = self._reading(h, target[0], hook) if target else None
        return Trace(
            encoded=encoded,
            positions=places,
            stream=stream,
            prediction=self._best(decoder.logits(h)[0].cpu(), top),
            lens=self.lens(stream, places, target, last=count - 1, words=words, cancel=cancel),
            target_ids=target,
            direct=None
            if reading is None or places[-1] != count - 1
            else self._direct(h, target[0], stream, reading, hook),
            heads=()
            if not heads
            else head_shares(decoder, self._source, wanted, last.gathered, reading),
            features=()
            if not features
            else feature_shares(
                decoder, self._source, wanted, last.inputs, last.residuals, reading, hook, features
            ),
        )

    def _words(
        self,
        ids: tuple[int, ...],
        target: tuple[int, ...],
        interventions: Sequence[Intervention],
        cancel: CancelToken | None,
    ) -> Tensor:
        """By each lens, the logarithm of what the tokens after the target's first have, [L + 1].

        Each token is asked for after the prompt and the target's tokens before it.
        """
        decoder = self._decoder
        found = torch.zeros(decoder.spec.num_layers + 1, dtype=torch.float64)
        if len(target) == 1:
            return found
        text = (*ids, *target[:-1])
        recorder = Recorder(range(len(ids), len(text)), decoder.spec.num_layers)
        hook = Intervening(decoder, interventions, len(ids))
        TokenSequence(decoder, len(text)).read(
            text,
            keep=len(text),
            feed_forward=hook.feed_forward,
            observe=recorder,
            intervene=hook,
            cancel=cancel,
        )
        after = torch.tensor(target[1:])
        for index, residual in enumerate(recorder.stream().residual):
            rows = torch.from_numpy(residual).to(decoder.device)
            chosen = decoder.logits(rows).cpu().double().log_softmax(-1)  # [n - 1, V]
            found[index] = chosen[torch.arange(len(after)), after].sum()
        return found

    @torch.inference_mode()
    def lens(
        self,
        stream: Stream,
        positions: tuple[int, ...],
        target: tuple[int, ...] = (),
        *,
        last: int | None = None,
        words: Tensor | None = None,
        cancel: CancelToken | None = None,
    ) -> tuple[LensScore, ...]:
        """What the model would say at every place of a stream, traced or read from a file.

        Args:
            positions: P of the prompt, ascending.
            target: of its tokens the first is looked for.
            last: the prompt's last position.
            words: float64 [L + 1], log probability of the others at that position.
        """
        scores: list[LensScore] = []
        for index, residual in enumerate(stream.residual):
            if cancel is not None:
                cancel.check(f"reading layer {index - 1}/{stream.num_layers}")
            for start in range(0, len(positions), _LENS_ROWS):
                rows = torch.from_numpy(residual[start : start + _LENS_ROWS])
                logits = self._decoder.logits(rows.to(self._decoder.device)).cpu()  # [p, V]
                for row, position in zip(logits, positions[start:], strict=False):
                    ends = words is not None and position == last
                    more = float(words[index]) if ends and words is not None else None
                    scored = _target(row, target[0], more) if target else None
                    (best,) = self._best(row, 1)
                    scores.append(LensScore(index - 1, position, best, scored))
        return tuple(scores)

    def _reading(self, h: Tensor, token: int, hook: Intervening) -> Reading:
        """How the head reads the stream for a token: see ``Reading``."""
        decoder, row = self._decoder, self._row(token)
        layers = decoder.spec.num_layers
        read = decoder.read_through(h, row, layers) / decoder.spec.logit_divisor
        scales = torch.ones(layers + 1, dtype=torch.float64)
        for index in reversed(range(layers)):
            scalar = None if index in hook.silent_layers else decoder.layer(index).scalar
            scales[index] = scales[index + 1] * (1.0 if scalar is None else float(scalar))
        return Reading(read[0], row[0], scales)

    def _row(self, token: int) -> Tensor:
        """What the head reads the normed stream with, for a token, [1, D]."""
        source, device = self._source, self._decoder.device
        head = source.matrix(Role.HEAD if source.has(Role.HEAD) else Role.EMBED)
        row = torch_view(head.rows(token, token + 1)).to(device)  # [1, E]
        if not self._decoder.spec.projects_embeddings:
            return row
        back = source.matrix(Role.HEAD_PROJECTION)  # [E, D]
        return row @ torch_view(back.rows(0, back.shape[0])).to(device)

    def _direct(
        self, h: Tensor, token: int, stream: Stream, reading: Reading, hook: Intervening
    ) -> DirectLogits:
        read = reading.direction.cpu().double().numpy()
        scales = reading.scales.numpy()
        parts = {
            part: values[:, -1].astype(np.float64) @ read * scales[:-1]
            for part, values in stream.parts.items()
        }
        scalar = parts.pop(Part.SCALAR, None)
        if Part.INTERVENTION in parts:  # it comes after the layer's scalar
            parts[Part.INTERVENTION] *= scales[1:] / scales[:-1]
            for layer in hook.silent_layers if scalar is not None else ():
                parts[Part.INTERVENTION][layer] += scalar[layer]
        spec, source = self._decoder.spec, self._source
        constant = 0.0
        if source.has(Role.FINAL_NORM_BIAS):
            bias = torch_view(source.tensor(Role.FINAL_NORM_BIAS).float32()).to(h.device)
            constant += float(bias @ reading.row)
        if spec.head_bias:
            constant += float(source.tensor(Role.HEAD_BIAS).float32()[token])
        return DirectLogits(
            embedding=float(stream.residual[0, -1].astype(np.float64) @ read) * float(scales[0]),
            parts=parts,
            constant=constant / spec.logit_divisor,
            logit=float(self._decoder.logits(h, capped=False)[0, token]),
        )


def _places(positions: Iterable[int] | None, count: int) -> tuple[int, ...]:
    """Positions of a prompt of so many tokens, ascending."""
    if positions is None:
        return tuple(range(count))
    wanted = set(positions)
    for position in sorted(wanted):
        if not -count <= position < count:
            raise PositionInvalid(position, count)
    if not wanted:
        raise PositionInvalid(None, count)
    return tuple(sorted({position % count for position in wanted}))


def _target(logits: Tensor, token: int, more: float | None) -> TargetScore:
    """How a token stands in logits [V]; ``more`` is the log probability of those after it."""
    logit = logits[token]
    log_probability = float(logit.double() - logits.double().logsumexp(0))
    return TargetScore(
        rank=1 + int((logits > logit).sum()),
        probability=float(np.exp(log_probability)),
        logit=float(logit),
        word_probability=None if more is None else float(np.exp(log_probability + more)),
    )
