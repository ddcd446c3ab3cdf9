"""Asking one relation of many entities: what PROBE keeps and LABEL FEATURES reads.

Shape legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch

from lql.cancel import CancelToken
from lql.catalogue import Catalogue, Question
from lql.inference.asking import Asker
from lql.inference.attribution import Attribution, Carrier
from lql.inference.facts import Fact, find_all
from lql.inference.prompt import PromptEncoder
from vindex.answers import AnswerBackground

#: Answers that may be asked for; more have hardly any probability.
MAX_TOP = 10
_SPARE = 2  # candidates that may turn out to be no answers
_ATTRIBUTED = 32  # prompts that are attributed in one pass


@dataclass(frozen=True, slots=True)
class Said:
    """A text and the first token of its answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Prober:
    """Asks one model; see ``Describer.probes``."""

    def __init__(
        self,
        asker: Asker,
        encoder: PromptEncoder,
        catalogue: Catalogue,
        attribution: Attribution,
        spell: Callable[[Sequence[int]], str],
    ) -> None:
        self._asker = asker
        self._encoder = encoder
        self._catalogue = catalogue
        self._attribution = attribution
        self._spell = spell

    def questions(self, relation: str, kind: str) -> tuple[Question, ...]:
        """The catalogue's questions for a relation of entities of a kind."""
        known = self._catalogue.questions(kind)
        return tuple(question for question in known if question.relation == relation)

    @torch.inference_mode()
    def answers(
        self,
        entities: Sequence[str],
        relation: str,
        kind: str,
        background: AnswerBackground,
        *,
        top: int,
        cancel: CancelToken | None = None,
    ) -> list[list[Fact]]:
        """What the model answers about each entity, best first: one pass for all of them.

        Args:
            entities: one at least, each a name.
            kind: that the relation suits.
            background: of all the catalogue's questions for the kind.
            top: answers for each, at most ``MAX_TOP``.
        """
        every = self._catalogue.questions(kind)
        places = [at for at, question in enumerate(every) if question.relation == relation]
        own = replace(background, ids=background.ids[places], shares=background.shares[places])
        questions = tuple(every[at] for at in places)
        wanted = top + _SPARE
        asked = self._asker.ask_all(
            questions, entities, completed=wanted * len(entities), cancel=cancel
        )
        names = {name.lower() for name in self._catalogue.kinds[kind].background}
        found = find_all(
            self._asker,
            asked,
            questions,
            entities,
            kind,
            own,
            self._spell,
            leave_out=[entity.lower() in names for entity in entities],
            per_relation=wanted,
            cancel=cancel,
        )
        return [facts[:top] for facts in found]

    def said(self, text: str, token: int) -> Said:
        """A text with the token that answers it."""
        return Said(tuple(self._encoder.ids(text)), (token,))

    @torch.inference_mode()
    def spoken(self, texts: Sequence[str], *, cancel: CancelToken | None = None) -> list[Said]:
        """Texts with what the model itself says after each, most probably."""
        prompts = [tuple(self._encoder.ids(text)) for text in texts]
        tokens: list[int] = []
        for start in range(0, len(prompts), _ATTRIBUTED):
            rows = self._asker.after(prompts[start : start + _ATTRIBUTED], cancel=cancel)  # [n, V]
            tokens += rows.argmax(dim=-1).tolist()
        return [Said(ids, (token,)) for ids, token in zip(prompts, tokens, strict=True)]

    @torch.inference_mode()
    def carriers(
        self,
        said: Sequence[Said],
        layers: Collection[int],
        *,
        top: int,
        advance: Callable[[int], None] = lambda count: None,
        cancel: CancelToken | None = None,
    ) -> list[tuple[Carrier, ...]]:
        """Of each answer, the features that carry it most, see ``attribution``."""
        found: list[tuple[Carrier, ...]] = []
        for start in range(0, len(said), _ATTRIBUTED):
            part = said[start : start + _ATTRIBUTED]
            found += self._attribution.carriers(part, layers, top=top, cancel=cancel)
            advance(len(part))
        return found
