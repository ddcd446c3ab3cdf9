"""The search for what a fact of the model's own needs to be forgotten, by gradient.

For every layer a vector is sought that, added to what the FFN says at the last token of the
subject, brings the answer's probability down to what it has for other subjects, in several
sentences at once. Nothing is put in its place: the other next tokens shall keep the shares that
they have among themselves, and what follows "{subject} is a" shall stay.

Shape legend: D hidden, F features of a layer, S sentences, P pairs of a sentence and an answer,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.cache import KvCache
from lql.inference.decoder import Decoder
from lql.inference.feedforward import FeedForward, dense, gates_and_activations
from lql.inference.linear import Coarse
from lql.inference.memit import Found, Sentence
from lql.inference.tree import TokenTree


@dataclass(frozen=True, slots=True)
class Regret:
    """A fact to forget.

    Attributes:
        sentences: prompts that the answers complete.
        essence: "{subject} is a": what the model says after it shall stay.
        answers: the tokens of each answer that shall go.
        background: the probability that each answer is brought down to, 0..1.
    """

    sentences: tuple[Sentence, ...]
    essence: Sentence
    answers: tuple[tuple[int, ...], ...]
    background: float


@dataclass(frozen=True, slots=True)
class Settings:
    """How facts are forgotten.

    Attributes:
        steps, rate: of the search; the rate is in units of the FFN's output.
        rest: weight of the term that keeps the shares of the other next tokens.
        kl: weight of the term that keeps the subject's essence.
        decay: weight of the vectors' size.
        limit: size of a fact's vectors, in units of the FFN's output.
    """

    steps: int = 25
    rate: float = 0.25
    rest: float = 0.5
    kl: float = 0.0625
    decay: float = 0.01
    limit: float = 8.0


DEFAULTS = Settings()


@dataclass(frozen=True, slots=True, eq=False)
class _After:
    """What a pass gives, as log probabilities.

    Attributes:
        answers: of each whole answer in each sentence, [P].
        rest: of the next tokens but the first ones of answers, [S, V].
        essence: of the next tokens, [V].
    """

    answers: Tensor
    rest: Tensor
    essence: Tensor


class _Sentences:
    """The sentences of one fact, each with each of its answers, in one pass."""

    def __init__(self, decoder: Decoder, regret: Regret, cancel: CancelToken | None) -> None:
        self._decoder = decoder
        self._cancel = cancel
        self._tree = TokenTree()
        subjects: list[int] = []
        ends: list[int] = []
        rows: list[int] = []
        wanted: list[int] = []
        pairs: list[int] = []
        self.count = 0
        for sentence in regret.sentences:
            subject, end = self._put(sentence)
            subjects.append(subject)
            ends.append(end)
            for answer in regret.answers:
                places = [end]
                for token in answer[:-1]:
                    places.append(self._tree.join(token, places[-1]))
                rows += places
                wanted += answer
                pairs += [self.count] * len(answer)
                self.count += 1
        self._essence_subject, self._essence = self._put(regret.essence)
        self._subjects = torch.tensor([*subjects, self._essence_subject])
        self._key_rows = torch.tensor(subjects)
        self._ends, self._rows = ends, rows
        self._wanted, self._pairs = torch.tensor(wanted), torch.tensor(pairs)
        firsts = sorted({answer[0] for answer in regret.answers})
        others = torch.ones(decoder.spec.vocab_size, dtype=torch.bool)
        others[firsts] = False
        self._others = others

    def _put(self, sentence: Sentence) -> tuple[int, int]:
        """The nodes of the subject's last token and of the last one; no other sentence has them."""
        nodes = [-1]
        for token in sentence.ids:
            nodes.append(self._tree.join(token, nodes[-1]))
        return nodes[sentence.subject + 1], nodes[-1]

    def run(
        self,
        vectors: Mapping[int, Tensor],
        see: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> _After:
        """One pass with the vectors added at the subjects.

        Args:
            vectors: of each layer, float32 [D].
            see: called for each of those layers with the keys of the subjects in sentences
                [S, F], and with what the FFN itself says there [S, D].

        Raises:
            Cancelled: between layers.
        """

        def rule(x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
            added = vectors.get(layer.layer)
            if added is None:
                return dense(x, layer, coarse)
            _, keys = gates_and_activations(x, layer)
            y = layer.down(keys)
            if see is not None:
                see(layer.layer, keys[self._key_rows], y[self._key_rows])
            return y.index_add(0, self._subjects, added.expand(len(self._subjects), -1))

        size = len(self._tree)
        cache = KvCache(self._decoder.spec, size, self._decoder.device, keep_all=True)
        h = self._decoder.forward(
            self._tree.ids,
            cache,
            branches=self._tree.branches(0, size),
            feed_forward=rule,
            cancel=self._cancel,
        )
        logits = self._decoder.logits(h[[*self._rows, *self._ends, self._essence]])
        count, ends = len(self._rows), len(self._ends)
        each = logits[:count].log_softmax(-1).gather(1, self._wanted[:, None])[:, 0]
        answers = torch.zeros(self.count).index_add(0, self._pairs, each)
        rest = logits[count : count + ends][:, self._others].log_softmax(-1)
        return _After(answers, rest, logits[-1].log_softmax(-1))


def forget(
    decoder: Decoder,
    regret: Regret,
    layers: Sequence[int],
    settings: Settings = DEFAULTS,
    cancel: CancelToken | None = None,
) -> Found:
    """Find the vectors that bring a fact's answers down to the background.

    Args:
        decoder: a traced one, on the processor.
        layers: where the vectors are added, ascending.

    Returns:
        See ``Found``; its probabilities are the answers' greatest of all sentences, and the
        greatest of the first.

    Raises:
        Cancelled: between layers of a pass.
    """
    sentences = _Sentences(decoder, regret, cancel)
    hidden = decoder.spec.hidden_size
    keys: dict[int, Tensor] = {}
    scale = torch.zeros(len(layers), 1)  # of what the FFN itself says

    def see(layer: int, own: Tensor, said: Tensor) -> None:
        keys[layer] = own.detach().clone()
        if not scale[layers.index(layer)]:
            scale[layers.index(layer)] = said.detach().norm(dim=1).mean()

    def added(units: Tensor) -> dict[int, Tensor]:
        return dict(zip(layers, units * scale, strict=True))

    units = torch.zeros(len(layers), hidden)
    with torch.no_grad():
        before = sentences.run(dict(zip(layers, units, strict=True)), see)
    best, least = units.clone(), math.inf
    units.requires_grad_(True)
    adam = torch.optim.Adam([units], settings.rate / (hidden * len(layers)) ** 0.5)
    floor = math.log(regret.background)
    for step in range(settings.steps + 1):
        after = sentences.run(added(units))
        excess = (after.answers - floor).clamp_min(0.0)
        if float(excess.detach().max()) < least:
            best, least = units.detach().clone(), float(excess.detach().max())
        if step == settings.steps or least == 0.0:
            break
        moved = (before.rest.exp() * (before.rest - after.rest)).sum(1).mean()
        drift = (before.essence.exp() * (before.essence - after.essence)).sum()
        loss = (
            excess.mean()
            + settings.rest * moved
            + settings.kl * drift
            + settings.decay * units.square().sum()
        )
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        with torch.no_grad():
            units *= (settings.limit / units.norm().clamp_min(1e-9)).clamp(max=1.0)
    with torch.no_grad():
        vectors = added(best)
        chances = sentences.run(vectors, see).answers.exp()
    first = float(chances[: len(regret.answers)].max())
    return Found(
        {layer: vector[None] for layer, vector in vectors.items()},
        keys,
        torch.zeros(len(regret.sentences), dtype=torch.int64),
        (float(chances.max()),),
        (first,),
    )
