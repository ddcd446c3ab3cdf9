"""DESCRIBE by forward pass: the kind of an entity, the questions that suit it, the facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lql.cancel import CancelToken
from lql.catalogue import Catalogue, Question
from lql.inference.asking import Asker
from lql.inference.decoder import Decoder
from lql.inference.facts import Fact, find_facts, mean_answer, merge, sounds_like, weaken
from lql.inference.prompt import PromptEncoder
from vindex.answers import KEPT, AnswerBackground

#: Kinds are asked about until they hold this much of the probability, at most so many.
_SURE, _KINDS = 0.85, 2


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

    def __init__(self, decoder: Decoder, encoder: PromptEncoder, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._encoder = encoder
        self._asker = Asker(decoder, encoder)
        self._nouns = {
            name: encoder.first_token(f" {kind.noun.lower()}")
            for name, kind in catalogue.kinds.items()
        }
        self._usual: Mapping[str, float] | None = None
        self._texts: dict[tuple[int, ...], str] = {}

    def tokens(self, text: str) -> int:
        """How many tokens a text has."""
        return self._asker.tokens(text)

    @torch.inference_mode()
    def kinds(self, entity: str, *, cancel: CancelToken | None = None) -> tuple[KindScore, ...]:
        """What kind of thing an entity is, most probable first."""
        if self._usual is None:
            everyone = [name for kind in self.catalogue.kinds.values() for name in kind.background]
            answers = [self._kind_logprobs(name, cancel) for name in everyone]
            self._usual = {
                kind: math.log(sum(math.exp(answer[kind]) for answer in answers) / len(answers))
                for kind in self._nouns
            }
        found = self._kind_logprobs(entity, cancel)
        weights = {kind: math.exp(found[kind] - self._usual[kind]) for kind in found}
        total = sum(weights.values())
        scores = [KindScore(kind, weight / total) for kind, weight in weights.items()]
        return tuple(sorted(scores, key=lambda score: -score.probability))

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
        return AnswerBackground(draft.entities, draft.ids, draft.shares, strongest)

    @torch.inference_mode()
    def facts(
        self,
        entity: str,
        kinds: Sequence[KindScore],
        backgrounds: Mapping[str, AnswerBackground],
        *,
        cancel: CancelToken | None = None,
    ) -> list[Fact]:
        """What the model says about an entity, best first.

        Args:
            entity: its name, without line breaks.
            kinds: those to ask about, with their weights.
            backgrounds: of each of those.
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
            )
            groups.append([weaken(fact, score.probability / top) for fact in found])
        return merge(groups)

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
            cancel=cancel,
        )

    def _kind_logprobs(self, entity: str, cancel: CancelToken | None) -> dict[str, float]:
        asked = self._asker.ask((self.catalogue.kind_question,), entity, cancel=cancel)
        return {kind: float(asked.logprobs[0, token]) for kind, token in self._nouns.items()}

    def _spell(self, ids: Sequence[int]) -> str:
        key = tuple(ids)
        if key not in self._texts:
            self._texts[key] = self._encoder.text(key)
        return self._texts[key]
