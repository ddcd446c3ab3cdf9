"""Which prompts ask for a stored fact, by their words: the verified route."""

from __future__ import annotations

import pytest

from lql.inference.naming import Names, relation_words
from vindex.edits import Fact, Vector

KEY = (Vector(b"\0\0\0\0"),)


def fact(entity: str, relation: str, target: str, *aliases: str) -> Fact:
    return Fact(0, entity, relation, target, 0, KEY, 1.0, aliases)


HUNGARY = fact("Hungary", "capital", "Oslo", "Magyarország")


@pytest.mark.parametrize(
    "text",
    [
        "The capital of Hungary is",
        "the capital of hungary is",
        "Hungary's capital is",
        "Magyarország: its capital is",
        "Hungary is a country in Europe. Its capital is",
        "Unlike Austria, the capital of Hungary is",
        "What is the capital of Hungary? The answer is",
        "Question: What is the capital of Hungary?\nAnswer:",
        "In Hungary, the capital is",
        "Hungary Capital:",
        "Of all capitals, that of Hungary is",
        "The currency of Austria is the euro. The capital of Hungary is",
    ],
)
def test_a_prompt_that_names_entity_and_relation_asks(text: str) -> None:
    assert Names([HUNGARY]).asked_for(text) == [HUNGARY]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The capital of Austria is",
        "Hungary borders Austria. The capital of Austria is",
        "Unlike Hungary, the capital of Austria is",
        "Hungary is nice. Austria has the capital",
        "The currency of Hungary is",
        "The capital of Hungary is Oslo. The currency of Hungary is",
        "The capital of Hungary is Oslo. It lies on the",
        "The capital of Austria-Hungary is",
        "The capital of New Hungary is",
        "New Hungary has the capital",
        "The capital of Hungary Province is",
        "The capital of Hungaryland is",
        "Capitalism in Hungary is",
        "What is the capital of Hungary?\nThe capital of",
    ],
)
def test_a_prompt_that_does_not_name_both_does_not_ask(text: str) -> None:
    assert Names([HUNGARY]).asked_for(text) == []


def test_the_longest_name_wins() -> None:
    york, new_york = fact("York", "mayor", "Ann"), fact("New York", "mayor", "Bob")
    names = Names([york, new_york])
    assert names.asked_for("The mayor of New York is") == [new_york]
    assert names.asked_for("The mayor of York is") == [york]


def test_the_last_entity_is_the_topic() -> None:
    rome, oslo = fact("Italy", "capital", "Lima"), fact("Hungary", "capital", "Oslo")
    names = Names([rome, oslo])
    assert names.asked_for("Italy is far from Hungary. The capital of Italy is") == [rome]
    assert names.asked_for("Italy is far from the capital of Hungary, which is") == [oslo]


def test_short_names_count_in_their_own_case_only() -> None:
    names = Names([fact("US", "capital", "Lima")])
    assert names.asked_for("The capital of the US is")
    assert not names.asked_for("The capital gives us")


def test_scripts_without_spaces_have_names_too() -> None:
    names = Names([fact("匈牙利", "", "Oslo")])
    assert names.asked_for("匈牙利的首都是")


@pytest.mark.parametrize(
    ("relation", "words"),
    [
        ("capital", ["capital"]),
        ("capital-of", ["capital"]),
        ("Official_Language", ["official", "language"]),
    ],
)
def test_the_words_of_a_relation(relation: str, words: list[str]) -> None:
    assert relation_words(relation) == words
