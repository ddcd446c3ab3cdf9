"""The relation catalogue: what to ask a model about an entity, as data.

``relations.toml`` holds kinds of entities and relations, ``others.toml`` more entities; a
``Question`` is one template of one relation for one kind, ready to be put about any entity. Text
of users and models is only ever substituted, never read as a format.
"""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

PLACE = "{entity}"
_RELATIONS = "relations.toml"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of entities.

    Attributes:
        noun: what a card calls it: the first line is ``noun: entity``.
        examples: entities with known answers, shown before a question.
        like: more entities, for telling kinds apart.
        background: entities whose mean answer is what any entity of the kind would get.
    """

    name: str
    noun: str
    examples: tuple[str, ...]
    like: tuple[str, ...]
    background: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation and the templates that ask for it.

    Attributes:
        templates: completed by the answer. One with ``{entity}`` is a sentence; one without is a
            line of a card.
        answers: kind -> the answers for that kind's examples, in their order; empty for a user's
            relation, which is asked without examples.
        kind: the only kind that a user's relation suits, or ``None`` for all.
    """

    name: str
    templates: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]
    kind: str | None = None

    def suits(self, kind: str) -> bool:
        """Whether the relation is asked about entities of a kind."""
        return kind in self.answers if self.answers else self.kind in (None, kind)


@dataclass(frozen=True, slots=True)
class Question:
    """One template for one kind.

    Attributes:
        before: what precedes the template, by examples that it shows.
    """

    relation: str
    template: str
    noun: str
    before: tuple[tuple[str, str], ...]

    def prompt(self, entity: str) -> str:
        """The text that the answer completes. The entity's own example, if any, is left out."""
        shown = "".join(text for name, text in self.before if name.lower() != entity.lower())
        return shown + self.asked(entity)

    def asked(self, entity: str) -> str:
        """The prompt's own part, without examples."""
        if PLACE in self.template:
            return self.template.replace(PLACE, entity)
        return f"{self.noun}: {entity}\n{self.template}"


@dataclass(frozen=True)
class Catalogue:
    """Kinds and relations.

    Attributes:
        made_up: names that nothing bears.
        digest: SHA-256 of the file, in hex.
    """

    kinds: Mapping[str, Kind]
    relations: tuple[Relation, ...]
    made_up: tuple[str, ...]
    digest: str

    def questions(self, kind: str) -> tuple[Question, ...]:
        """Everything that is asked about entities of a kind, in the catalogue's order."""
        chosen = [relation for relation in self.relations if relation.suits(kind)]
        return tuple(
            self._question(self.kinds[kind], relation, template, chosen)
            for relation in chosen
            for template in relation.templates
        )

    def with_relations(self, relations: tuple[Relation, ...]) -> Catalogue:
        """The same kinds with other relations."""
        return replace(self, relations=relations)

    @cached_property
    def kind_question(self) -> Question:
        """Asks what kind of thing an entity is: the answer is a kind's noun in lower case."""
        kinds = self.kinds.values()
        rows = zip(
            *([(e, k.noun.lower()) for e in (*k.examples, *k.like)] for k in kinds), strict=False
        )
        before = tuple((e, f"{e}: {noun}\n") for row in rows for e, noun in row)
        return Question("kind", PLACE + ":", "", before)

    def _question(
        self, kind: Kind, relation: Relation, template: str, chosen: list[Relation]
    ) -> Question:
        if PLACE in template:
            answers = relation.answers.get(kind.name, ())
            before = tuple(
                (example, f"{template.replace(PLACE, example)} {answer}.\n")
                for example, answer in zip(kind.examples, answers, strict=False)
            )
        else:
            before = tuple(
                (example, _card(kind, place, chosen)) for place, example in enumerate(kind.examples)
            )
        return Question(relation.name, template, kind.noun, before)


def _card(kind: Kind, place: int, relations: list[Relation]) -> str:
    """One example with all its answers, a line each."""
    lines = [f"{kind.noun}: {kind.examples[place]}"]
    lines += [
        f"{template} {relation.answers[kind.name][place]}"
        for relation in relations
        for template in relation.templates
        if PLACE not in template and relation.answers
    ]
    return "\n".join(lines) + "\n\n"


@cache
def others() -> Mapping[str, tuple[str, ...]]:
    """More entities of each kind: those that an edit of another one is to leave alone."""
    import tomllib

    document = tomllib.loads(_data("others.toml").decode("utf-8"))
    return {kind: tuple(names) for kind, names in document.items()}


@cache
def catalogue() -> Catalogue:
    """The catalogue that comes with the package."""
    return parse(_data(_RELATIONS))


@cache
def digest() -> str:
    """The digest of that catalogue, without parsing it."""
    return hashlib.sha256(_data(_RELATIONS)).hexdigest()


def _data(name: str) -> bytes:
    data = pkgutil.get_data(__name__, name)
    assert data is not None, "the package holds it"
    return data


def parse(data: bytes) -> Catalogue:
    """A catalogue from the bytes of a TOML file of our own making.

    Raises:
        ValueError: it is not one: the message says what is wrong.
    """
    import tomllib  # not wanted by who asks for the digest only

    document = tomllib.loads(data.decode("utf-8"))
    kinds = {
        name: Kind(
            name,
            each["noun"],
            tuple(each["examples"]),
            tuple(each["like"]),
            tuple(each["background"]),
        )
        for name, each in document["kind"].items()
    }
    relations = tuple(_relation(each, kinds) for each in document["relation"])
    names = [relation.name for relation in relations]
    if len(set(names)) != len(names):
        raise ValueError("two relations have one name")
    return Catalogue(kinds, relations, tuple(document["made_up"]), hashlib.sha256(data).hexdigest())


def _relation(entry: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Relation:
    name, templates = entry["name"], tuple(entry["templates"])
    answers = {kind: tuple(words) for kind, words in entry["answers"].items()}
    for kind, words in answers.items():
        if kind not in kinds or len(words) != len(kinds[kind].examples):
            raise ValueError(f"{name}: the answers for {kind} are not those of its examples")
    if not templates or any(template != template.rstrip() for template in templates):
        raise ValueError(f"{name}: a template ends where the answer begins, without a space")
    return Relation(name, templates, answers)
