"""DESCRIBE by forward pass: the kind of an entity, the questions that suit it, the facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lql.cancel import CancelToken
from lql.catalogue import Catalogue, Question
from lql.inference.answers import Meaning
from lql.inference.asking import Asker
from lql.inference.attribution import Attribution, Carrier
from lql.inference.decoder import Decoder
from lql.inference.facts import FLOOR, Fact, find_facts, mean_answer, merge, sounds_like, weaken
from lql.inference.meaning import Meanings
from lql.inference.probing import Prober
from lql.inference.prompt import PromptEncoder
from vindex.answers import KEPT, AnswerBackground
from vindex.source import ModelSource

#: How far a row must surpass the strongest one of a made-up name to be clear.
_MARGIN = 1.25
#: Kinds are asked about until they hold this much of the probability, at most so many.
_SURE, _KINDS = 0.93, 2


@dataclass(frozen=True, slots=True)
class KindScore:
    """How probable it is that an entity is of a kind, among the catalogue's kinds."""

    kind: str
    probability: float


class Describer:
    """Describes entities with one model.

    Args:
        catalogue: kinds and relations, a user's among them.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoder: PromptEncoder,
        source: ModelSource,
        catalogue: Catalogue,
    ) -> None:
        self.catalogue = catalogue
        self._attribution = Attribution(decoder, source)
        self._encoder = encoder
        self._asker = Asker(decoder, encoder)
        self.num_layers = decoder.spec.num_layers
        self._nouns = {
            name: encoder.first_token(f" {kind.noun.lower()}")
            for name, kind in catalogue.kinds.items()
        }
        self._usual: Mapping[int, float] | None = None
        self._meanings: tuple[tuple[str, tuple[str, ...]], Meanings] | None = None
        self._texts: dict[tuple[int, ...], str] = {}

    def probes(self) -> Prober:
        """Asks one relation of many entities, with this describer's model and catalogue."""
        return Prober(self._asker, self._encoder, self.catalogue, self._attribution, self._spell)

    def meanings(
        self,
        word: str,
        relations: Sequence[str],
        kind: str,
        *,
        cancel: CancelToken | None = None,
    ) -> list[Meaning]:
        """The relations that a word may mean, tried on entities of a kind: see ``meaning``.

        The first word costs what the relations do, the next ones little.
        """
        key = (kind, tuple(relations))
        if self._meanings is None or self._meanings[0] != key:
            entities = self.catalogue.kinds[kind]
            made = Meanings(relations, entities, self._asker, self._encoder, cancel=cancel)
            self._meanings = key, made
        return self._meanings[1].of(word, cancel=cancel)

    def tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return self._asker.tokens(text)

    @torch.inference_mode()
    def kinds(self, entity: str, *, cancel: CancelToken | None = None) -> tuple[KindScore, ...]:
        """What kind of thing an entity is, most probable first."""
        (scores,) = self.kinds_of((entity,), cancel=cancel)
        return scores

    @torch.inference_mode()
    def kinds_of(
        self, entities: Sequence[str], *, cancel: CancelToken | None = None
    ) -> list[tuple[KindScore, ...]]:
        """What kinds of things several entities are, in one pass."""
        question = (self.catalogue.kind_question,)
        asked = self._asker.ask_all(question, entities, completed=0, cancel=cancel)
        return [self._scores(each.logprobs[0]) for each in asked]

    def _scores(self, logprobs: torch.Tensor) -> tuple[KindScore, ...]:
        """The kinds by the answer to the question after them, ``[V]``."""
        assert self._usual is not None, "the usual answer comes first"
        weights = {
            kind: math.exp(float(logprobs[token])) / (self._usual.get(token, 0.0) + FLOOR)
            for kind, token in self._nouns.items()
        }
        total = sum(weights.values())
        scores = [KindScore(kind, weight / total) for kind, weight in weights.items()]
        return tuple(sorted(scores, key=lambda score: -score.probability))

    @torch.inference_mode()
    def usual(
        self,
        *,
        advance: Callable[[int], None] = lambda count: None,
        cancel: CancelToken | None = None,
    ) -> AnswerBackground:
        """Compute what kind of thing things usually are, over the entities of all kinds."""
        question = (self.catalogue.kind_question,)

        def answers() -> Iterator[torch.Tensor]:
            for kind in self.catalogue.kinds.values():
                for name in kind.background:
                    yield self._asker.ask(question, name, cancel=cancel).logprobs
                    advance(1)

        ids, shares, count = mean_answer(answers(), KEPT)
        return AnswerBackground(count, ids.int().numpy(), shares.numpy(), math.inf)

    def set_usual(self, background: AnswerBackground) -> None:
        """Hand over what ``usual`` computed, now or long ago."""
        (self._usual,) = background.lookup()

    @torch.inference_mode()
    def background(
        self,
        kind: str,
        *,
        advance: Callable[[int], None] = lambda count: None,
        cancel: CancelToken | None = None,
    ) -> AnswerBackground:
        """Compute the background of a kind: a pass for each entity, then for each made-up name."""
        questions = self.catalogue.questions(kind)

        def answers() -> Iterator[torch.Tensor]:
            for name in self.catalogue.kinds[kind].background:
                yield self._asker.ask(questions, name, cancel=cancel).logprobs
                advance(1)

        ids, shares, count = mean_answer(answers(), KEPT)
        draft = AnswerBackground(count, ids.int().numpy(), shares.numpy(), math.inf)
        strongest = 0.0
        for name in self.catalogue.made_up:
            found = self._facts(questions, name, kind, draft, cancel)
            guessed = [fact.score for fact in found if not sounds_like(fact.target, name)]
            strongest = max([strongest, *guessed])
            advance(1)
        return AnswerBackground(draft.entities, draft.ids, draft.shares, _MARGIN * strongest)

    @torch.inference_mode()
    def facts(
        self,
        entity: str,
        kinds: Sequence[KindScore],
        backgrounds: Mapping[str, AnswerBackground],
        *,
        least: float = 0.0,
        cancel: CancelToken | None = None,
    ) -> list[Fact]:
        """What the model says about an entity, best first.

        Args:
            entity: its name, without line breaks.
            kinds: those to ask about, with their weights.
            backgrounds: of each of those.
            least: facts of a lower score are not wanted.
        """
        top = max((score.probability for score in kinds), default=1.0)
        groups = []
        for score in kinds:
            found = self._facts(
                self.catalogue.questions(score.kind),
                entity,
                score.kind,
                backgrounds[score.kind],
                cancel,
                least,
            )
            groups.append([weaken(fact, score.probability / top) for fact in found])
        return merge(groups)

    def merged(self, groups: Sequence[Sequence[Fact]]) -> list[Fact]:
        """Several lists of facts as one, best first, none twice."""
        return merge(groups)

    @property
    def attributes(self) -> bool:
        """Whether this model's answers can be attributed to features."""
        return self._attribution.possible

    @torch.inference_mode()
    def carriers(
        self,
        facts: Sequence[Fact],
        layers: Collection[int],
        *,
        top: int,
        cancel: CancelToken | None = None,
    ) -> list[tuple[Carrier, ...]]:
        """Of each fact, the features that carry it most, see ``attribution``.

        Args:
            layers: those whose features count.
            top: features of each fact.
        """
        return self._attribution.carriers(facts, layers, top=top, cancel=cancel)

    @torch.inference_mode()
    def ablated(
        self,
        facts: Sequence[Fact],
        features: Sequence[Carrier | None],
        *,
        cancel: CancelToken | None = None,
    ) -> list[float | None]:
        """Of each fact, the probability of its first token without one feature."""
        return self._attribution.ablated(facts, features, cancel=cancel)

    def likely(self, scores: Sequence[KindScore]) -> tuple[KindScore, ...]:
        """The kinds that are worth asking about."""
        chosen: list[KindScore] = []
        for score in scores:
            if len(chosen) == _KINDS or sum(each.probability for each in chosen) >= _SURE:
                break
            chosen.append(score)
        return tuple(chosen)

    def _facts(
        self,
        questions: tuple[Question, ...],
        entity: str,
        kind: str,
        background: AnswerBackground,
        cancel: CancelToken | None,
        least: float = 0.0,
    ) -> list[Fact]:
        names = {name.lower() for name in self.catalogue.kinds[kind].background}
        asked = self._asker.ask(questions, entity, cancel=cancel)
        return find_facts(
            self._asker,
            asked,
            questions,
            entity,
            kind,
            background,
            self._spell,
            leave_out=entity.lower() in names,
            least=least,
            cancel=cancel,
        )

    def _spell(self, ids: Sequence[int]) -> str:
        key = tuple(ids)
        if key not in self._texts:
            self._texts[key] = self._encoder.text(key)
        return self._texts[key]
