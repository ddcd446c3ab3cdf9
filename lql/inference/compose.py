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

import numpy as np
import numpy.typing as npt
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

_RIVALS = 64  # tokens that a pull is away from, the most probable

Ids = tuple[int, ...]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Detector:
    """The rows of a feature that recognise a fact, ``[D]`` each."""

    gate: Vector
    up: Vector


@dataclass(frozen=True, slots=True)
class Pull:
    """Where prompts stand to a token.

    Attributes:
        share: the token's least probability after any of them.
        plain: of a down vector that raises its logit over the mean, ``[D]``, of length 1: however
            far, the token gains most.
        steepest: of one that raises its probability over the rivals of now, likewise. Followed
            far, it raises what is unlike the rivals.
    """

    share: float
    plain: Vector
    steepest: Vector


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
    def pull(
        self, asked: Sequence[Ids], token: int, layer: int, cancel: CancelToken | None = None
    ) -> Pull:
        """How far the prompts are from a token, and which way a down vector would bring them there.

        What later layers add is held as it is.
        """
        decoder = self._decoder
        read = self._read(asked, layer, cancel)
        last = read.last[read.ends]  # [P, D]
        shares = decoder.logits(last).softmax(dim=1)  # [P, V]
        rivals = shares.topk(min(_RIVALS, shares.shape[1]))
        rows = torch.stack(
            [torch.stack([self._row(each) for each in ids]) for ids in rivals.indices.tolist()]
        )  # [P, k, D]
        expected = (rivals.values.unsqueeze(2).cpu() * rows).sum(dim=1)  # [P, D]
        plain = (self._row(token) - self._mean_row()).expand_as(expected)
        return Pull(
            float(shares[:, token].min()),
            self._down(plain, read, layer),
            self._down(self._row(token) - expected, read, layer),
        )

    def _down(self, seen: Tensor, read: _Read, layer: int) -> Vector:
        """The unit down vector that adds most along what the head sees at prompts' ends, [P, D]."""
        decoder = self._decoder
        last, seen = read.last[read.ends], seen.to(decoder.device)
        part = decoder.feed_forward_of(layer)
        if decoder.has_plain_stream and isinstance(part, FeedForward):
            seen = decoder.read_through(last, seen, layer)
            inputs, outputs = read.inputs[read.ends], read.outputs[read.ends]
            raw = part.down(gates_and_activations(inputs, part)[1])
            # The norm that may follow the FFN scales each number by itself.
            seen = seen * (outputs / torch.where(raw == 0, torch.ones_like(raw), raw))
        unit = torch.nn.functional.normalize(seen.sum(dim=0), dim=0)
        return Vector.of(unit.cpu().numpy())

    @torch.inference_mode()
    def quietest(
        self, prompts: Sequence[Ids], layer: int, cancel: CancelToken | None = None
    ) -> list[int]:
        """The features of a layer, those that add least to any token of the prompts first."""
        read = self._read(prompts, layer, cancel)
        strongest = self._activations(read, layer).abs().amax(dim=0)  # [F]
        return (strongest * self._columns(layer).norm(dim=0)).argsort(stable=True).tolist()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def solved(
        self,
        without: Composer,
        asked: Sequence[Ids],
        others: Sequence[Ids],
        layer: int,
        features: Sequence[int],
        ridge: float,
        cancel: CancelToken | None = None,
    ) -> Floats:
        """The change of a layer's down matrix that adds what features add where prompts end.

        Least squares with a ridge over every token of the prompts; where none of ``asked`` ends,
        nothing is to be added.

        Args:
            without: the same model without those features.
            features: of the layer.
            ridge: in shares of the median square of a key's length.

        Returns:
            Rows of the transposed matrix, float32 [F, D].
        """
        ours = self._read([*asked, *others], layer, cancel)
        theirs = without._read([*asked, *others], layer, cancel)
        ends = ours.ends[: len(asked)]
        added = torch.zeros_like(ours.inputs).cpu().double()  # [N, D]
        own = torch.tensor(features)
        active = self._activations(ours, layer)[ends][:, own]
        added[ends] = active @ self._columns(layer)[:, own].double().T
        keys = without._activations(theirs, layer)  # [N, F]
        square = keys @ keys.T
        # The median: the first token of a text has keys a hundred times as long as others.
        square.diagonal().add_(ridge * float(square.diagonal().median()))
        change = keys.T @ torch.linalg.solve(square, added)
        found: Floats = change.float().numpy()
        return found

    def _activations(self, read: _Read, layer: int) -> Tensor:
        """The factors of the down vectors, float64 [N, F]."""
        part = self._decoder.feed_forward_of(layer)
        assert isinstance(part, FeedForward), "see ``possible_at``"
        return gates_and_activations(read.inputs, part)[1].cpu().double()

    @torch.inference_mode()
    def next_shares(self, prompts: Sequence[Ids], cancel: CancelToken | None = None) -> Tensor:
        """Log probabilities of the next token of each prompt, [P, V]."""
        read = self._read(prompts, 0, cancel)
        return self._decoder.logits(read.last[read.ends]).log_softmax(dim=1).cpu()

    def median_down(self, layer: int) -> float:
        """The median length of a layer's down vectors."""
        return float(self._columns(layer).norm(dim=0).median())

    def possible_at(self, layer: int) -> bool:
        """Whether the layer has one FFN: with experts, another token may visit other features."""
        return isinstance(self._decoder.feed_forward_of(layer), FeedForward)

    def _columns(self, layer: int) -> Tensor:
        """The down vectors of a layer, [D, F]."""
        stored = self._source.matrix(Role.DOWN, layer)
        return torch_view(stored.columns(0, stored.shape[1]))

    def _row(self, token: int) -> Tensor:
        return head_row(self._source, token)

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
