"""Which relation a word means: by what the model makes of it, and by what it calls it.

A word is put into two plain texts about a few entities, a sentence and a line of a card, and so is
every relation that it may mean. Two words that mean the same have states that point the same way,
late in the model, once what all relations have in common is subtracted: the word's own state in the
sentence, which is its embedding in context, and on the card the state that the answer is read from.
Besides, a list of words that mean the same is begun with the word, and goes on with the relation.

Notation: N names, R relations, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import numpy.typing as npt
import torch

from lql.cancel import CancelToken
from lql.catalogue import Kind
from lql.inference.answers import Meaning
from lql.inference.asking import Asker
from lql.inference.prompt import PromptEncoder

_PROMPTS = 48  # prompts of one forward pass
_ENTITIES = 6
_DEPTH = 5 / 6  # of the layers: what a word means is settled, which token comes next is not
_SAME = "Words that mean the same.\nphysician: doctor\nautomobile: car\nchild: kid\ngift: present\n"
_SURE_NATS = 6.0  # a name that is so much more probable than usual is surely called so

Floats = npt.NDArray[np.float64]


class Meanings:
    """Tells what words mean among some relations; what those are like is read once.

    Args:
        relations: two at least; with one there is nothing to compare.
        kind: of entities that words are tried on.
    """

    @torch.inference_mode()
    def __init__(
        self,
        relations: Sequence[str],
        kind: Kind,
        asker: Asker,
        encoder: PromptEncoder,
        *,
        cancel: CancelToken | None = None,
    ) -> None:
        self._relations = tuple(relations)
        self._noun, self._entities = kind.noun, kind.background[:_ENTITIES]
        self._asker, self._encoder = asker, encoder
        states = self._read(self._relations, cancel)
        self._usual_state = states.mean(axis=0)
        self._states = states - self._usual_state  # [R, 2, D]
        called = [self._called(relation, cancel) for relation in self._relations]
        self._usually_called: Floats = np.mean(called, axis=0)  # [R]

    @torch.inference_mode()
    def of(self, word: str, *, cancel: CancelToken | None = None) -> list[Meaning]:
        """The relations that a word may mean, the likeliest first."""
        state = self._read((word,), cancel)[0] - self._usual_state
        called = self._called(word, cancel) - self._usually_called
        called = np.clip((called - called.mean()) / _SURE_NATS, -1.0, 1.0)
        found = [
            Meaning(relation, _cosine(state[0], own[0]), _cosine(state[1], own[1]), float(name))
            for relation, own, name in zip(self._relations, self._states, called, strict=True)
        ]
        return sorted(found, key=lambda each: (-each.confidence, each.relation))

    def _read(self, names: Sequence[str], cancel: CancelToken | None) -> Floats:
        """The mean state over entities in the sentence and on the card, of each name, [N, 2, D]."""
        pairs = [self._texts(name, entity) for name in names for entity in self._entities]
        depth = min(round(_DEPTH * self._asker.num_layers), self._asker.num_layers - 1)
        seen = [
            self._asker.states(
                [text for pair in pairs[start : start + _PROMPTS // 2] for text in pair],
                depth,
                cancel=cancel,
            )
            for start in range(0, len(pairs), _PROMPTS // 2)
        ]
        each = torch.cat(seen).view(len(names), len(self._entities), 2, -1)
        found: Floats = each.double().mean(dim=1).numpy()
        return found

    def _texts(self, name: str, entity: str) -> tuple[tuple[int, ...], ...]:
        """The sentence up to the name, and the card."""
        begun = self._encoder.ids(f"{self._noun}: {entity}. The {name}")
        sentence = self._encoder.ids(f"{self._noun}: {entity}. The {name} of")
        same = takewhile(lambda pair: pair[0] == pair[1], zip(begun, sentence, strict=False))
        card = self._encoder.ids(f"{self._noun}: {entity}\n{name[:1].upper()}{name[1:]}:")
        return tuple(token for token, _ in same), tuple(card)

    def _called(self, word: str, cancel: CancelToken | None) -> Floats:
        """Log probability of each relation's name after the word, mean over its tokens, [R]."""
        prompt = f"{_SAME}{word}:"
        start = self._encoder.ids(prompt)
        names = [self._encoder.ids(f"{prompt} {name}")[len(start) :] for name in self._relations]
        begun = list(dict.fromkeys(tuple(n[:at]) for n in names for at in range(len(n))))
        rows = self._asker.after([(*start, *each) for each in begun], cancel=cancel)
        place = {each: at for at, each in enumerate(begun)}
        return np.array(
            [
                np.mean([float(rows[place[tuple(n[:at])], n[at]]) for at in range(len(n))])
                for n in names
            ]
        )


def _cosine(left: Floats, right: Floats) -> float:
    length = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float((left * right).sum()) / length if length else 0.0
