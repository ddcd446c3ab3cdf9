"""A feature of its own for a fact: a gate that opens where the fact is asked for, nowhere else.

A feature adds ``act(gate·x) (up·x) down``. Its FFN inputs x are known: ``asked``, where the fact's
prompts end, and ``others``, every token of prompts about other entities, other relations and
nothing of the kind. Gate and up are two linear separators of the same inputs, by ridge regression
with both sides weighing the same: the gate answers ``OPEN`` where the fact is asked for and
``-OPEN`` elsewhere, so that the activation function shuts it; the up row answers 1 and 0. The
down vector points where the head reads the target's token, through what lies between.

Notation: N inputs, D hidden, F features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.attribution import head_row, mean_head_row
from lql.inference.decoder import Decoder, Tap
from lql.inference.feedforward import FeedForward, gates_and_activations
from lql.inference.packed import PackedSequence
from lql.inference.rows import torch_view
from lql.inference.tree import TokenTree
from vindex.edits import Vector
from vindex.source import ModelSource
from vindex.spec import Role

OPEN = 12.0
"""What the gate answers where the fact is asked for; its opposite elsewhere."""

# Measured on SmolLM2-135M over ten facts, layer 23: 5 % of neighbours that were not taught open the
# gate by more than .15 of what the fact does, and paraphrases open it 1.16 times as far (.01: 7 %,
# .93). At layers 12-19 it recognises templates rather than facts: paraphrases .1-.5.
RIDGE = 0.1
"""Of the regressions, in shares of the mean square of an input's numbers."""

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Detector:
    """The rows of a feature that recognise a fact, ``[D]`` each."""

    gate: Vector
    up: Vector


@dataclass(frozen=True, slots=True)
class _Read:
    """Prompts in one pass.

    Attributes:
        inputs: the FFN's input of a layer at every token, [N, D].
        outputs: what the FFN adds there, [N, D].
        last: the residual stream after the last layer, [N, D].
        ends: the row of each prompt's last token.
    """

    inputs: Tensor
    outputs: Tensor
    last: Tensor
    ends: Tensor


class Composer:
    """Makes features of facts, over one state of a model.

    Args:
        decoder: the model as it is edited so far.
        source: holds its vectors.
    """

    def __init__(self, decoder: Decoder, source: ModelSource) -> None:
        self._decoder = decoder
        self._source = source
        self._mean: Tensor | None = None

    @torch.inference_mode()
    def detector(
        self,
        asked: Sequence[Ids],
        others: Sequence[Ids],
        layer: int,
        cancel: CancelToken | None = None,
    ) -> Detector:
        """Rows that answer where prompts end, and at no other token of them or of others."""
        read = self._read([*asked, *others], layer, cancel)
        wanted = torch.zeros(len(read.inputs), dtype=torch.bool)
        wanted[read.ends[: len(asked)]] = True
        x = read.inputs.cpu().double()
        gate = _separator(x, wanted, OPEN, -OPEN)
        up = _separator(x, wanted, 1.0, 0.0)
        return Detector(Vector.of(gate.numpy()), Vector.of(up.numpy()))

    @torch.inference_mode()
    def direction(
        self, asked: Sequence[Ids], token: int, layer: int, cancel: CancelToken | None = None
    ) -> Tensor:
        """The unit down vector [D] that raises a token's logit most where prompts end.

        Later layers are read through as they are; what they make of it is not in it.
        """
        decoder = self._decoder
        row = head_row(self._source, token) - self._mean_row()
        if not decoder.has_plain_stream:
            return torch.nn.functional.normalize(row, dim=0)
        read = self._read(asked, layer, cancel)
        direction = row.to(decoder.device).expand(len(asked), -1)
        seen = decoder.read_through(read.last[read.ends], direction, layer)  # [P, D]
        part = decoder.feed_forward_of(layer)
        if isinstance(part, FeedForward):
            inputs, outputs = read.inputs[read.ends], read.outputs[read.ends]
            raw = part.down(gates_and_activations(inputs, part)[1])
            # The norm that may follow the FFN scales each number by itself.
            scale = outputs / torch.where(raw == 0, torch.ones_like(raw), raw)
            seen = seen * scale
        units = torch.nn.functional.normalize(seen, dim=1)
        return torch.nn.functional.normalize(units.mean(dim=0), dim=0).cpu()

    @torch.inference_mode()
    def quietest(
        self, prompts: Sequence[Ids], layer: int, cancel: CancelToken | None = None
    ) -> list[int]:
        """The features of a layer, those that add least to any token of the prompts first."""
        part = self._decoder.feed_forward_of(layer)
        assert isinstance(part, FeedForward), "see ``possible_at``"
        read = self._read(prompts, layer, cancel)
        strongest = gates_and_activations(read.inputs, part)[1].abs().amax(dim=0).cpu()  # [F]
        return (strongest * self._down(layer).norm(dim=0)).argsort(stable=True).tolist()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def next_shares(self, prompts: Sequence[Ids], cancel: CancelToken | None = None) -> Tensor:
        """Log probabilities of the next token of each prompt, [P, V]."""
        read = self._read(prompts, 0, cancel)
        return self._decoder.logits(read.last[read.ends]).log_softmax(dim=1).cpu()

    def median_down(self, layer: int) -> float:
        """The median length of a layer's down vectors."""
        return float(self._down(layer).norm(dim=0).median())

    def possible_at(self, layer: int) -> bool:
        """Whether the layer has one FFN: with experts, another token may visit other features."""
        return isinstance(self._decoder.feed_forward_of(layer), FeedForward)

    def _down(self, layer: int) -> Tensor:
        """The down vectors of a layer, [D, F]."""
        stored = self._source.matrix(Role.DOWN, layer)
        return torch_view(stored.columns(0, stored.shape[1]))

    def _mean_row(self) -> Tensor:
        if self._mean is None:
            self._mean = mean_head_row(self._source)
        return self._mean

    def _read(self, prompts: Iterable[Ids], layer: int, cancel: CancelToken | None) -> _Read:
        tree = TokenTree()
        ends = torch.tensor([tree.add(prompt) for prompt in prompts])
        seen: dict[Tap, Tensor] = {}

        wanted = layer

        def observe(tap: Tap, layer: int, values: Tensor) -> None:
            if layer == wanted and tap in (Tap.FFN_INPUT, Tap.FFN):
                seen[tap] = values.clone()

        sequence = PackedSequence(self._decoder, len(tree), tree)
        last = sequence.read(observe=observe, cancel=cancel)
        return _Read(seen[Tap.FFN_INPUT], seen[Tap.FFN], last, ends)


def _separator(x: Tensor, wanted: Tensor, yes: float, no: float) -> Tensor:
    """The row [D] that answers ``yes`` to the wanted inputs [N, D] and ``no`` to the others.

    Ridge regression, float64; both sides weigh the same, however many there are.
    """
    shares = torch.where(wanted, 0.5 / wanted.sum(), 0.5 / (~wanted).sum()).double()  # [N]
    answers = torch.where(wanted, yes, no).double()
    weighed = x * shares.unsqueeze(1)
    square = weighed.T @ x  # [D, D]
    square.diagonal().add_(RIDGE * float(square.diagonal().mean()))
    row: Tensor = torch.linalg.solve(square, weighed.T @ answers)
    return row
