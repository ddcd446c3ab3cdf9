"""Which features carry an answer: direct logit attribution at the last token of its prompt.

A feature adds ``activation x down vector`` to the residual stream, and the head reads the stream
through the final norm. With the norms' scales held as they came out, what the feature adds to a
logit is a product of four numbers. The direction read is that of the answer's first token less the
mean of all tokens'; a share is of the logit's lead over the mean logit. What later layers make of a
feature is not in it: ``ablated`` measures that too.

Notation: R facts, T tokens, D hidden, F features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.decoder import Decoder, Tap
from lql.inference.feedforward import FeedForward, gates_and_activations
from lql.inference.linear import Coarse
from lql.inference.packed import PackedSequence
from lql.inference.rows import torch_view
from lql.inference.tree import TokenTree
from vindex.source import ModelSource, QuantTensor, StoredTensor
from vindex.spec import Role

_HEAD_BLOCK = 8192  # rows of the head that are held in float32 at a time


@dataclass(frozen=True, slots=True)
class Carrier:
    """A feature that speaks for an answer.

    Attributes:
        share: of the lead of the answer's logit over the mean logit; all parts of the model add up
            to 1, and some of them speak against the answer.
    """

    layer: int
    feature: int
    share: float


class Answered(Protocol):
    """A prompt that a model answered: what can be attributed."""

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids."""

    @property
    def answer(self) -> tuple[int, ...]:
        """Token ids after it; the first one is attributed."""


class _Rows:
    """An observer that keeps the FFN's inputs and outputs at some rows."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def __call__(self, tap: Tap, layer: int, values: Tensor) -> None:
        """See ``Observer``."""
        match tap:
            case Tap.FFN_INPUT:
                self.inputs.append(values[self._rows])
            case Tap.FFN:
                self.outputs.append(values[self._rows])
            case _:
                pass


class _Silencing:
    """The dense FFN without one feature at one token.

    Args:
        silent: layer -> pairs of a row and a feature.
    """

    def __init__(self, silent: dict[int, list[tuple[int, int]]]) -> None:
        self._silent = silent

    def __call__(self, x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
        """See ``FeedForwardRule``."""
        _, activations = gates_and_activations(x, layer)
        for row, feature in self._silent.get(layer.layer, ()):
            activations[row, feature] = 0.0
        return layer.down(activations, coarse)


class Attribution:
    """Attributes answers of one model to its features.

    Args:
        source: holds the vectors that features add and the rows that the head reads with.
    """

    def __init__(self, decoder: Decoder, source: ModelSource) -> None:
        self._decoder = decoder
        self._source = source
        self._mean_row: Tensor | None = None

    @property
    def possible(self) -> bool:
        """Whether the model is one whose features can be attributed to.

        Not one with experts, where a feature's weight depends on the token, nor one whose residual
        stream is normed on its way.
        """
        decoder = self._decoder
        parts = map(decoder.feed_forward_of, range(decoder.spec.num_layers))
        return decoder.has_plain_stream and all(isinstance(each, FeedForward) for each in parts)

    def carriers(
        self,
        facts: Sequence[Answered],
        layers: Collection[int],
        *,
        top: int,
        cancel: CancelToken | None = None,
    ) -> list[tuple[Carrier, ...]]:
        """Of each fact, the features of some layers that carry it most, at most ``top``."""
        decoder = self._decoder
        sequence, rows = _read(decoder, facts)
        seen = _Rows(rows)
        h = sequence.read(observe=seen, cancel=cancel)[rows]  # [R, D]
        direction = self._head_rows([fact.answer[0] for fact in facts]) - self._mean()  # [R, D]
        lead = (decoder.read_through(h, direction, decoder.spec.num_layers) * h).sum(dim=1)  # [R]
        found: list[list[Carrier]] = [[] for _ in facts]
        for layer in range(decoder.spec.num_layers):
            read = decoder.read_through(h, direction, layer)
            added = self._added(layer, seen.inputs[layer], seen.outputs[layer], read)  # [R, F]
            if layer not in layers:
                continue
            best = added.topk(min(top, added.shape[1]))
            for row, each in enumerate(found):
                pairs = zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)
                each += [Carrier(layer, feature, value) for feature, value in pairs if value > 0]
        return [
            tuple(
                Carrier(each.layer, each.feature, each.share / float(lead[row]))
                for each in sorted(row_found, key=_strength)[:top]
            )
            for row, row_found in enumerate(found)
        ]

    def ablated(
        self,
        facts: Sequence[Answered],
        features: Sequence[Carrier | None],
        *,
        cancel: CancelToken | None = None,
    ) -> list[float | None]:
        """Of each fact, the probability of its first token when a feature is silent.

        It is silent at the last token of the prompt. All facts are asked in one pass.

        Args:
            features: of each fact, or ``None``.
        """
        sequence, rows = _read(self._decoder, facts, apart=True)
        silent: dict[int, list[tuple[int, int]]] = {}
        for row, feature in zip(rows.tolist(), features, strict=True):
            if feature is not None:
                silent.setdefault(feature.layer, []).append((row, feature.feature))
        h = sequence.read(feed_forward=_Silencing(silent), cancel=cancel)[rows]
        shares = self._decoder.logits(h).softmax(dim=-1)
        return [
            None if feature is None else float(shares[row, fact.answer[0]])
            for row, (fact, feature) in enumerate(zip(facts, features, strict=True))
        ]

    def _added(self, layer: int, inputs: Tensor, outputs: Tensor, read: Tensor) -> Tensor:
        """What each feature of a layer adds along ``read`` [R, D]: [R, F]."""
        feed_forward = self._decoder.feed_forward_of(layer)
        assert isinstance(feed_forward, FeedForward), "see ``possible``"
        _, activations = gates_and_activations(inputs, feed_forward)  # [R, F]
        raw = feed_forward.down(activations)  # [R, D], before the norm that may follow
        scale = outputs / torch.where(raw == 0, torch.ones_like(raw), raw)
        down = self._source.matrix(Role.DOWN, layer)
        vectors = torch_view(down.columns(0, down.shape[1])).to(read.device)  # [D, F]
        return activations * ((read * scale) @ vectors)

    def _head_rows(self, ids: list[int]) -> Tensor:
        """Rows of the head, [n, D]."""
        rows = [head_row(self._source, each) for each in ids]
        return torch.stack(rows).to(self._decoder.device)

    def _mean(self) -> Tensor:
        """The mean row of the head, [D]."""
        if self._mean_row is None:
            self._mean_row = mean_head_row(self._source).to(self._decoder.device)
        return self._mean_row


def _head(source: ModelSource) -> StoredTensor | QuantTensor:
    return source.matrix(Role.HEAD if source.has(Role.HEAD) else Role.EMBED)


def head_row(source: ModelSource, token: int) -> Tensor:
    """The head's row of a token, float32 [D]."""
    return torch_view(_head(source).rows(token, token + 1))[0]


def mean_head_row(source: ModelSource) -> Tensor:
    """The mean row of the head, float32 [D]."""
    head = _head(source)
    total = torch.zeros(head.shape[1], dtype=torch.float64)
    for start in range(0, head.shape[0], _HEAD_BLOCK):
        block = head.rows(start, min(start + _HEAD_BLOCK, head.shape[0]))
        total += torch_view(block).sum(dim=0, dtype=torch.float64)
    return (total / head.shape[0]).float()


def _strength(carrier: Carrier) -> tuple[float, int, int]:
    return -carrier.share, carrier.layer, carrier.feature


def _read(
    decoder: Decoder, facts: Sequence[Answered], *, apart: bool = False
) -> tuple[PackedSequence, Tensor]:
    """A tree of the facts' prompts, not yet run, and the row of each one's last token.

    Args:
        apart: two facts never share their last token, though their prompts are the same.
    """
    tree = TokenTree()
    rows = []
    for fact in facts:
        if apart:
            stem = tree.add(fact.prompt[:-1])
            rows.append(tree.join(fact.prompt[-1], stem))
        else:
            rows.append(tree.add(fact.prompt))
    return PackedSequence(decoder, len(tree), tree), torch.tensor(rows)
