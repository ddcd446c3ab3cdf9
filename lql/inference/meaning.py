"""Which relation a word means: by what the model answers to it, and by its embedding.

A word is put into two plain templates about a few entities, and so is every relation that it may
mean. What each of them makes probable, among the answers that the relations get, is its profile;
two words that mean the same have profiles that go up and down together, whatever else they have in
common with all others, which is subtracted.

Notation: N names, R relations, E entities, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from lql.cancel import CancelToken
from lql.catalogue import Kind, Question
from lql.inference.asking import Asker
from lql.inference.prompt import PromptEncoder
from vindex.source import ModelSource, QuantTensor, StoredTensor
from vindex.spec import Role

_PROMPTS = 48  # prompts of one forward pass
_ENTITIES = 6
_SAMPLED = 4096  # rows of the embedding that its mean is taken of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Meaning:
    """How well a relation fits a word.

    Attributes:
        agreement: correlation of the answers' profiles, -1..1.
        similarity: cosine of the embeddings, each less the mean embedding, -1..1.
    """

    relation: str
    agreement: float
    similarity: float

    @property
    def confidence(self) -> float:
        """0..1: the mean of both, what is negative counting as nothing."""
        return (max(self.agreement, 0.0) + max(self.similarity, 0.0)) / 2


@torch.inference_mode()
def meanings(
    word: str,
    relations: Sequence[str],
    kind: Kind,
    questions: tuple[Question, ...],
    asker: Asker,
    encoder: PromptEncoder,
    source: ModelSource,
    *,
    cancel: CancelToken | None = None,
) -> list[Meaning]:
    """The relations that a word may mean, the likeliest first.

    Args:
        relations: two at least; with one there is nothing to compare.
        kind: of entities that words are tried on.
        questions: the catalogue's for the kind; they tell best what a relation's answers are.
    """
    names = [word, *relations]
    entities = kind.background[:_ENTITIES]
    logprobs = _answers(names, kind.noun, entities, asker, encoder, cancel)  # [N, E, V]
    said = logprobs[1:].argmax(dim=-1)  # [R, E], what each relation is answered
    asked = asker.ask_all(questions, entities, completed=0, cancel=cancel)
    for at, relation in enumerate(relations):
        places = [n for n, question in enumerate(questions) if question.relation == relation]
        if places:
            said[at] = torch.stack(
                [each.logprobs[places].exp().mean(dim=0).argmax() for each in asked]
            )
    columns = torch.arange(len(entities)).expand_as(said)
    profiles = logprobs[:, columns, said].double().numpy()  # [N, R, E]
    profiles -= profiles[1:].mean(axis=0)
    vectors = _vectors(names, encoder, source)
    found = [
        Meaning(
            relation,
            _cosine(_centred(profiles[0]), _centred(profiles[at])),
            _cosine(vectors[0], vectors[at]),
        )
        for at, relation in enumerate(relations, 1)
    ]
    return sorted(found, key=lambda each: (-each.confidence, each.relation))


def _answers(
    names: Sequence[str],
    noun: str,
    entities: Sequence[str],
    asker: Asker,
    encoder: PromptEncoder,
    cancel: CancelToken | None,
) -> torch.Tensor:
    """Log of the summed probability of the next token after both templates, [N, E, V]."""
    pairs = [
        (
            encoder.ids(f"{noun}: {entity}. The {name} of {entity} is"),
            encoder.ids(f"{noun}: {entity}\n{name[:1].upper()}{name[1:]}:"),
        )
        for name in names
        for entity in entities
    ]
    found = []
    for start in range(0, len(pairs), _PROMPTS // 2):
        part = pairs[start : start + _PROMPTS // 2]
        rows = asker.after([ids for pair in part for ids in pair], cancel=cancel)
        found.append(torch.logaddexp(rows[0::2], rows[1::2]))
    return torch.cat(found).view(len(names), len(entities), -1)


def _vectors(names: Sequence[str], encoder: PromptEncoder, source: ModelSource) -> Floats:
    """The mean embedding of each name's tokens less that of all tokens, [N, D]."""
    table = source.matrix(Role.EMBED)
    step = max(1, table.shape[0] // _SAMPLED)
    mean = np.mean(
        [_row(table, token) for token in range(0, table.shape[0], step)], axis=0, dtype=np.float64
    )
    return np.stack(
        [
            np.mean([_row(table, token) for token in encoder.ids(f" {name}")], axis=0) - mean
            for name in names
        ]
    )


def _row(table: StoredTensor | QuantTensor, token: int) -> Floats:
    return np.asarray(table.rows(token, token + 1)[0], np.float64)


def _centred(profile: Floats) -> Floats:
    """A profile [R, E] less what an entity has for all relations."""
    centred: Floats = profile - profile.mean(axis=0)
    return centred


def _cosine(left: Floats, right: Floats) -> float:
    length = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float((left * right).sum()) / length if length else 0.0
