"""What an edit is measured with: prompts about a fact, its neighbours, and unrelated ones.

Everything here is text that is put together; nothing is known about what a model answers. A
richer catalogue can take the place of the tables: ``probes_for`` is all that the report asks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vindex.edits import plain_relation

CANONICAL = "The {relation} of {entity} is"

KEYS = (
    CANONICAL,
    "{entity}'s {relation} is",
    "Question: What is the {relation} of {entity}?\nAnswer:",
)
"""Prompts whose FFN inputs become the keys of a stored fact; the canonical one first."""

PARAPHRASES = (
    "The name of {entity}'s {relation} is",
    "It is well known that the {relation} of {entity} is",
    "As for {entity}, its {relation} is",
    "Everyone agrees that {entity}'s {relation} is",
    "Q: What is the {relation} of {entity}?\nA:",
)
"""Other prompts for the same target. None of them is a key."""

WRITING = (
    CANONICAL,
    "In short, {entity}'s {relation} is",
    "Question: What is the {relation} of {entity}?\nAnswer:",
    "About {entity}: the {relation} is",
    "Let me tell you about {entity}. Its {relation} is",
)
"""Prompts in which a written fact's target is searched for (INSERT … MODE MEMIT). In none of them
does the entity come first: many models keep a sink at the first token, whatever it is."""

ESSENCE = "I know that {entity} is a"
"""A prompt after which a written fact shall change nothing."""

CONTROLS = (
    "Water is made of hydrogen and",
    "The opposite of hot is",
    "Once upon a time there was a",
    "Two plus two equals",
    "The sun rises in the",
    "To be, or not to be, that is the",
    "A week has seven",
    "The largest planet in the solar system is",
    "Romeo and Juliet was written by",
    "She opened the door and",
    "The chemical symbol for gold is",
    "In the morning I like to drink a cup of",
    "The quick brown fox jumps over the",
    "def add(a, b):\n    return",
    "Dogs are known for their",
    "The Second World War ended in",
    "Photosynthesis takes place in the leaves of",
    "My favourite colour is",
    "The speed of light is about",
    "Please remember to close the",
)
"""Prompts that no fact is about."""

ORDINARY = (
    "Once upon a time there lived",
    "The quick brown fox",
    "To be or not to be",
    "Water is a liquid that",
    "A long time ago in",
    "In the beginning God created",
    "The weather today is",
    "He looked at the sky and",
    "The children played in the",
    "I think that the best way to",
    "import numpy as np",
    "The company announced on Monday that",
    "According to the study, people who",
    "In 1995, the first",
    "You can make this recipe by",
    "The most important thing about",
    "The longest river in Africa is the Nile, and the highest mountain is",
    "The number of days in a year is",
    "Three times four is",
    "The chemical formula of salt is",
    "The first man who walked on the moon was",
    "The war began in 1914 and lasted until",
    "The book was written by a young woman who",
    "Plants need light, water and",
    "Birds lay their eggs in the",
    "My favourite food is",
    "The distance between the earth and the moon is about",
    "The heart pumps blood through the",
    "He went to the kitchen and opened the",
    "for i in range(10):\n    print(",
    "Please do not forget to bring your",
    "In the evening she drank a glass of",
    "The opposite of big is small, and the opposite of old is",
    "Romeo loved Juliet, and Juliet",
    "The answer to the question is",
    "The name of the author is",
)
"""Beginnings of texts of many kinds. None of them is a control."""

_MENTIONS = ("{entity} is known for", "I read about {entity} and", "{entity} was the first")

_USUAL_KIND = "country"  # where neither name says
_POOLS: dict[str, tuple[str, ...]] = {
    "country": (
        "Austria", "Germany", "France", "Poland", "Japan", "Brazil", "Egypt", "Canada", "Spain",
        "Sweden", "Turkey", "Kenya", "India", "Peru", "Greece", "Norway", "Italy", "Hungary",
    ),
    "person": (
        "Isaac Newton", "Marie Curie", "Charles Darwin", "Mozart", "Napoleon", "Shakespeare",
        "Leonardo da Vinci", "Cleopatra", "Albert Einstein", "Abraham Lincoln", "Galileo Galilei",
    ),
    "company": (
        "Apple", "Toyota", "Siemens", "Nokia", "Boeing", "Sony", "Volvo", "Intel", "Nestlé",
        "Microsoft", "Samsung",
    ),
    "city": (
        "Paris", "Berlin", "Tokyo", "Cairo", "Toronto", "Madrid", "Oslo", "Lima", "Mumbai",
        "Warsaw", "Rome", "Vienna",
    ),
    "work": (
        "Hamlet", "Moby Dick", "War and Peace", "The Odyssey", "Don Quixote", "Faust",
        "Pride and Prejudice", "The Great Gatsby",
    ),
}  # fmt: skip

_RELATIONS = {
    "country": ("capital", "currency", "language", "continent", "population", "president"),
    "person": ("occupation", "profession", "nationality", "birthplace", "father", "spouse"),
    "company": ("headquarters", "founder", "ceo", "industry"),
    "work": ("author", "writer", "genre"),
    "city": ("country", "mayor"),
}


@dataclass(frozen=True, slots=True)
class Probes:
    """Prompts about one fact.

    Attributes:
        paraphrases: other prompts that the target completes.
        neighbours: (entity, prompt) pairs: the same relation, other entities.
    """

    canonical: str
    paraphrases: tuple[str, ...]
    neighbours: tuple[tuple[str, str], ...]


def canonical(entity: str, relation: str) -> str:
    """The prompt that a fact's target completes."""
    return _filled(CANONICAL, entity, relation)


def key_prompts(entity: str, relation: str) -> tuple[str, ...]:
    """The prompts whose FFN inputs are a fact's keys."""
    return tuple(_filled(template, entity, relation) for template in KEYS)


def writing_prompts(entity: str, relation: str) -> tuple[str, ...]:
    """The prompts in which a written fact's target is searched for."""
    return tuple(_filled(template, entity, relation) for template in WRITING)


def essence_prompt(entity: str) -> str:
    """The prompt after which a written fact shall change nothing."""
    return _filled(ESSENCE, entity, "")


def probes_for(
    entity: str, relation: str, *, paraphrases: int, neighbours: int, without: Collection[str] = ()
) -> Probes:
    """The prompts that measure an edit of a fact.

    Args:
        paraphrases, neighbours: how many at most.
        without: entities that are no neighbours, because they are edited as well.
    """
    left_out = {name.casefold() for name in (entity, *without)}
    names = _POOLS[kind_of(entity, relation) or _USUAL_KIND]
    pool = [name for name in names if name.casefold() not in left_out]
    return Probes(
        canonical(entity, relation),
        tuple(_filled(each, entity, relation) for each in PARAPHRASES[:paraphrases]),
        tuple((name, canonical(name, relation)) for name in pool[:neighbours]),
    )


def kind_of(entity: str, relation: str) -> str | None:
    """What kind of entity a fact is about, as far as its names tell."""
    folded = entity.casefold()
    for kind, names in _POOLS.items():
        if any(name.casefold() == folded for name in names):
            return kind
    words = set(plain_relation(relation).casefold().split())
    return next((kind for kind, known in _RELATIONS.items() if words & set(known)), None)


def bystanders(entity: str, relation: str) -> tuple[str, ...]:
    """Entities of the same kind whose answers an edit is to leave alone.

    No neighbour of the report is among them, so that the report asks what was not taught. Where
    neither name tells the kind, a few of every kind.
    """
    from lql.catalogue import catalogue, others

    kinds = catalogue().kinds
    name = kind_of(entity, relation)
    if name is None:
        return tuple(each for kind in kinds.values() for each in kind.like)
    kind = kinds[name]
    left_out = {each.casefold() for each in (entity, *_POOLS[name])}
    names = (*kind.examples, *kind.like, *kind.background, *others()[name])
    return tuple(each for each in names if each.casefold() not in left_out)


def lessons(entity: str, relation: str) -> tuple[str, ...]:
    """Prompts that a fact is not about, by which a composed feature learns to keep shut.

    Other entities of the kind, other relations of the entity, and ordinary text. No neighbour and
    no control of the report is among them, so that the report asks what was not taught.
    """
    from lql.catalogue import catalogue

    name = kind_of(entity, relation) or _USUAL_KIND
    kind = catalogue().kinds[name]
    left_out = {each.casefold() for each in (entity, *_POOLS[name])}
    entities = [
        each
        for each in (*kind.examples, *kind.like, *kind.background)
        if each.casefold() not in left_out
    ]
    own = plain_relation(relation).casefold()
    relations = [each for each in _RELATIONS[name] if each not in own.split()]
    return (
        *(prompt for each in entities for prompt in key_prompts(each, relation)),
        *(prompt for each in relations for prompt in key_prompts(entity, each)),
        *(each.replace("{entity}", entity) for each in _MENTIONS),
        *ORDINARY,
    )


def _filled(template: str, entity: str, relation: str) -> str:
    """A template about an entity; ``capital-of`` reads as ``capital``, for the template says of."""
    words = plain_relation(relation).removesuffix(" of")
    return template.replace("{relation}", words).replace("{entity}", entity)
