"""The relation catalogue is whole, and text is substituted in it and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from lql.catalogue import PLACE, Relation, catalogue, parse


def test_it_has_sixty_relations_of_eight_kinds() -> None:
    known = catalogue()
    assert len(known.relations) >= 60
    assert set(known.kinds) == {
        "country", "person", "city", "landmark", "company", "work", "species", "substance",
    }  # fmt: skip
    assert all(2 <= len(relation.templates) <= 3 for relation in known.relations)
    suited = Counter(kind for relation in known.relations for kind in relation.answers)
    assert min(suited[kind] for kind in known.kinds) >= 8


def test_examples_and_background_are_different_entities() -> None:
    for kind in catalogue().kinds.values():
        names = [*kind.examples, *kind.like, *kind.background]
        assert len({name.lower() for name in names}) == len(names)


def test_an_entity_is_never_asked_about_with_its_own_answers_in_the_prompt() -> None:
    for question in catalogue().questions("country"):
        assert "Sweden" in question.prompt("France")
        assert question.prompt("sweden").count("weden") == 1


@pytest.mark.parametrize("name", ["{entity}", "{0}", "%s", "[red]x", "a{b}c{", "\\"])
def test_a_name_with_braces_is_a_name(name: str) -> None:
    for kind in catalogue().kinds:
        for question in catalogue().questions(kind):
            assert question.asked(name).count(name) >= 1
            before, asked = question.prompt("@@").split("@@")
            assert question.prompt(name) == before + name + asked


def test_a_users_relation_is_asked_without_examples() -> None:
    own = (Relation("anthem", (f"The anthem of {PLACE} is",), {}, "country"),)
    known = catalogue().with_relations(own)
    assert [q.prompt("France") for q in known.questions("country")] == ["The anthem of France is"]
    assert known.questions("person") == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "currency"', 'name = "capital"', "one name"),
        ('["ringgit", "krona", "peso"]', '["ringgit"]', "not those of its examples"),
        ('"Capital:"', '"Capital: "', "without a space"),
    ],
)
def test_a_broken_catalogue_is_refused(old: str, new: str, message: str) -> None:
    from importlib import resources

    data = (resources.files("lql.catalogue") / "relations.toml").read_text("utf-8")
    with pytest.raises(ValueError, match=message):
        parse(data.replace(old, new, 1).encode())
