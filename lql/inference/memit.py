"""The search for what a fact has to add to a model, by gradient through the model's own layers.

For every fact a vector per layer is sought that, added to what the FFN says at the last token of
the subject, makes the model go on with the whole target: through every norm, scale and layer that
follows, in several sentences at once, while "{subject} is a" keeps its meaning. What comes before
the subject's last token is read once; each step costs the tokens from there on.

Shape legend: D hidden, F features of a layer, M keys, N facts, t tokens of targets, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.cache import KvCache
from lql.inference.decoder import Decoder
from lql.inference.feedforward import (
    FeedForward,
    FeedForwardRule,
    dense,
    gates_and_activations,
)
from lql.inference.linear import Coarse
from lql.inference.tree import TokenTree


@dataclass(frozen=True, slots=True)
class Sentence:
    """A prompt about a subject.

    Attributes:
        ids: its tokens.
        subject: the place of the subject's last token.
    """

    ids: tuple[int, ...]
    subject: int


@dataclass(frozen=True, slots=True)
class Wish:
    """A fact to write.

    Attributes:
        sentences: prompts that the target completes.
        essence: "{subject} is a": what the model says after it shall stay.
        target: the tokens of the whole target.
    """

    sentences: tuple[Sentence, ...]
    essence: Sentence
    target: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """How facts are written. The defaults were measured on half of ``tests/bench/edits.toml``.

    Attributes:
        steps, rate: of the search for the vectors; the rate is in units of the FFN's output.
        enough: the search for a fact ends when its target has this probability in every sentence.
        kl: weight of the term that keeps the subject's essence.
        decay: weight of the vectors' size.
        limit: size of a fact's vectors, in units of the FFN's output.
        weight: how much ordinary text counts against the facts.
        guard: how much other subjects of the same sentences count.
        threshold: of the null space that changes are projected on; see ``closed_form.solve``.
    """

    steps: int = 18
    rate: float = 0.25
    enough: float = 0.9
    kl: float = 0.0625
    decay: float = 0.01
    limit: float = 8.0
    weight: float = 100.0
    guard: float = 1.0
    threshold: float | None = None


DEFAULTS = Settings()


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What the search gave.

    Attributes:
        vectors: of each layer, float32 [N, D].
        keys: of each layer the keys of all sentences, float32 [M, F].
        owners: the fact of each key, int64 [M].
        probabilities: of each fact's target, the least of its sentences.
        first: the same in its first sentence.
    """

    vectors: Mapping[int, Tensor]
    keys: Mapping[int, Tensor]
    owners: Tensor
    probabilities: tuple[float, ...]
    first: tuple[float, ...]


@dataclass(slots=True)
class _Branch:
    """A sentence in the tree; ``rows`` are places among the tokens of a step.

    Attributes:
        target: what it is to be completed with; empty for an essence.
        rows: from the subject's last token on.
    """

    fact: int
    sentence: Sentence
    target: tuple[int, ...]
    rows: list[int]


class _Tree:
    """The sentences of some facts: their beginnings are read once, the rest in every step."""

    def __init__(
        self, decoder: Decoder, wishes: Sequence[Wish], cancel: CancelToken | None
    ) -> None:
        self._decoder = decoder
        self._cancel = cancel
        self._tree = TokenTree()
        self._branches = [
            _Branch(number, sentence, target, [])
            for number, wish in enumerate(wishes)
            for sentence, target in (
                *((each, wish.target) for each in wish.sentences),
                (wish.essence, ()),
            )
        ]
        heads = [self._join(each.sentence.ids[: each.sentence.subject]) for each in self._branches]
        self._start = len(self._tree)
        for branch, head in zip(self._branches, heads, strict=True):
            ids = (*branch.sentence.ids[branch.sentence.subject :], *branch.target[:-1])
            branch.rows = [node - self._start for node in self._path(ids, head)]
        self._subjects = torch.tensor([each.rows[0] for each in self._branches])
        self._facts = torch.tensor([each.fact for each in self._branches])
        asked = [each for each in self._branches if each.target]
        self._key_rows = torch.tensor([each.rows[0] for each in asked])
        self.owners = torch.tensor([each.fact for each in asked])
        self._wanted = torch.tensor([token for each in asked for token in each.target])
        self._sentences = torch.tensor(
            [number for number, each in enumerate(asked) for _ in each.target]
        )
        self._rows = [row for each in asked for row in each.rows[-len(each.target) :]]
        self._essences = [each.rows[-1] for each in self._branches if not each.target]
        self._before = KvCache(decoder.spec, max(self._start, 1), decoder.device, keep_all=True)
        if self._start:
            with torch.no_grad():
                self._forward(0, self._start, self._before, dense)

    def _join(self, ids: Sequence[int]) -> int:
        return ([-1, *self._path(ids, -1)])[-1]

    def _path(self, ids: Sequence[int], node: int) -> list[int]:
        """New nodes below one: what a sentence sees must be its own."""
        nodes = []
        for token in ids:
            node = self._tree.join(token, node)
            nodes.append(node)
        return nodes

    def _forward(self, start: int, stop: int, cache: KvCache, rule: FeedForwardRule) -> Tensor:
        return self._decoder.forward(
            self._tree.ids[start:stop],
            cache,
            branches=self._tree.branches(start, stop),
            feed_forward=rule,
            cancel=self._cancel,
        )

    def run(
        self, vectors: Mapping[int, Tensor], see: Callable[[int, Tensor, Tensor], None] | None
    ) -> tuple[Tensor, Tensor]:
        """One pass with the vectors added at the subjects.

        Args:
            vectors: of each layer, float32 [N, D].
            see: called for each of those layers with the keys of the subjects in sentences
                [M, F], and with what the FFN itself says there [M, D].

        Returns:
            Log probability of the target in each sentence [M], and of every next token after the
            essence of each fact [N, V].
        """

        def rule(x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
            added = vectors.get(layer.layer)
            if added is None:
                return dense(x, layer, coarse)
            _, keys = gates_and_activations(x, layer)
            y = layer.down(keys)
            if see is not None:
                see(layer.layer, keys[self._key_rows], y[self._key_rows])
            return y.index_add(0, self._subjects, added[self._facts])

        cache = KvCache(self._decoder.spec, len(self._tree), self._decoder.device, keep_all=True)
        cache.take(self._before)
        h = self._forward(self._start, len(self._tree), cache, rule)
        logprobs = self._decoder.logits(h[[*self._rows, *self._essences]]).log_softmax(-1)
        count = len(self._rows)
        each = logprobs[:count].gather(1, self._wanted[:, None])[:, 0]  # [t]
        whole = torch.zeros(len(self.owners)).index_add(0, self._sentences, each)
        return whole, logprobs[count:]


def search(
    decoder: Decoder,
    wishes: Sequence[Wish],
    layers: Sequence[int],
    settings: Settings = DEFAULTS,
    cancel: CancelToken | None = None,
) -> Found:
    """Find the vectors that make the model say the targets.

    Args:
        decoder: a traced one, on the processor.
        wishes: N facts; they do not see each other.
        layers: where the vectors are added, ascending.

    Raises:
        Cancelled: between layers of a pass.
    """
    tree = _Tree(decoder, wishes, cancel)
    count, hidden = len(wishes), decoder.spec.hidden_size
    shares = tree.owners.bincount(minlength=count).float()
    scale = torch.zeros(len(layers), count, 1)  # of what the FFN itself says
    keys: dict[int, Tensor] = {}

    def see(layer: int, own: Tensor, said: Tensor) -> None:
        keys[layer] = own.detach().clone()
        sizes = torch.zeros(count).index_add(0, tree.owners, said.detach().norm(dim=1))
        scale[layers.index(layer), :, 0] = sizes / shares

    def added(units: Tensor) -> dict[int, Tensor]:
        return dict(zip(layers, units * scale, strict=True))

    units = torch.zeros(len(layers), count, hidden)
    with torch.no_grad():
        _, essence = tree.run(dict(zip(layers, units, strict=True)), see)
    best, least = units.clone(), torch.full((count,), -1.0)
    adam = _Adam(units, settings.rate / (hidden * len(layers)) ** 0.5)
    for step in range(settings.steps + 1):
        units.requires_grad_(True)
        whole, after = tree.run(added(units), None)
        chance = torch.ones(count).scatter_reduce(0, tree.owners, whole.detach().exp(), "amin")
        better = chance > least
        least = torch.where(better, chance, least)
        best[:, better] = units.detach()[:, better]
        going = chance < settings.enough
        if step == settings.steps or not bool(going.any()):
            break
        missing = torch.zeros(count).index_add(0, tree.owners, -whole) / shares
        drift = (essence.exp() * (essence - after)).sum(1)
        size = units.square().sum((0, 2))
        loss = missing + settings.kl * drift + settings.decay * size  # [N]
        (slope,) = torch.autograd.grad((loss * going).sum(), units)
        units = adam.stepped(units.detach(), slope, going)
        length = units.square().sum((0, 2)).sqrt()
        units = units * (settings.limit / length.clamp_min(1e-9)).clamp(max=1.0)[:, None]
    with torch.no_grad():
        vectors = added(best)
        unscaled = scale.clone()
        whole, _ = tree.run(vectors, see)
        scale.copy_(unscaled)
    chances = whole.exp().tolist()
    first = tuple(chances[tree.owners.tolist().index(number)] for number in range(count))
    return Found(vectors, keys, tree.owners, tuple(least.tolist()), first)


class _Adam:
    """Adam over ``units`` [layers, N, D], where facts that are done stand still."""

    def __init__(self, units: Tensor, rate: float) -> None:
        self._rate = rate
        self._mean = torch.zeros_like(units)
        self._square = torch.zeros_like(units)
        self._steps = 0

    def stepped(self, units: Tensor, slope: Tensor, going: Tensor) -> Tensor:
        """The units after a step down the slope; ``going`` is bool [N]."""
        self._steps += 1
        self._mean.lerp_(slope, 0.1)
        self._square.lerp_(slope.square(), 0.001)
        mean = self._mean / (1 - 0.9**self._steps)
        square = self._square / (1 - 0.999**self._steps)
        step = self._rate * mean / (square.sqrt() + 1e-8)
        return units - step * going[:, None]
