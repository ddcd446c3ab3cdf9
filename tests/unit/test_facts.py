"""Which answers are facts, and how they are spelt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lql.inference.facts import (
    STOP_WORDS,
    Fact,
    Signal,
    clean,
    fold,
    is_answer,
    merge,
    sounds_like,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" Paris", "Paris"),
        (" Paris, France", "Paris"),
        (" F. Scott Fitzgerald.", "F. Scott Fitzgerald"),
        (" Washington D.C. is", "Washington D.C"),
        (" the Netherlands", "Netherlands"),
        (" palm oil and", "palm oil"),
        (" Don Quixote de", "Don Quixote"),
        ("\n", ""),
        (" the", ""),
        (" caf\ufffd", "caf"),
    ],
)
def test_an_answer_is_its_words(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_an_unfinished_word_is_left_out_unless_it_is_all() -> None:
    assert clean(" Hungarian Rhaps", cut=True) == "Hungarian"
    assert clean(" Rhaps", cut=True) == "Rhaps"


@pytest.mark.parametrize(
    ("target", "entity", "said"),
    [
        ("Paris", "France", True),
        ("france", "France", False),
        ("lions", "lion", False),
        ("Gustave Eiffel", "Eiffel Tower", True),
        ("Eiffel", "Eiffel Tower", False),
        ("U", "uranium", True),
        ("u", "uranium", False),
        ("", "France", False),
        ("42", "France", False),
        ("{entity}", "France", True),
    ],
)
def test_an_answer_says_something_besides_the_name(target: str, entity: str, said: bool) -> None:
    assert is_answer(target, entity) is said


@pytest.mark.parametrize(
    ("target", "entity", "alike"),
    [
        ("Norwegian", "Norway", True),
        ("Zanthorian", "Zanthoria", True),
        ("Paris", "France", False),
        ("French", "France", False),  # "Fr": too short to be guessed from
        ("Germany", "Gerda", False),
    ],
)
def test_what_can_be_guessed_from_the_letters(target: str, entity: str, alike: bool) -> None:
    assert sounds_like(target, entity) is alike


@given(st.text(max_size=40), st.text(max_size=10))
def test_any_text_of_a_model_can_be_cleaned(text: str, entity: str) -> None:
    shown = clean(text)
    assert shown == shown.strip()
    assert "\n" not in shown
    if shown and is_answer(shown, entity):
        assert fold(shown.split()[0]) not in STOP_WORDS


def fact(target: str, score: float, relation: str = "r") -> Fact:
    return Fact(relation, target, 0.5, 1.0, score, Signal.WEAK, "country", "", (), ())


def test_merged_facts_are_ranked_and_none_comes_twice() -> None:
    merged = merge([[fact("Paris", 2.0), fact("euro", 1.0)], [fact("PARIS", 3.0), fact("a", 1.0)]])
    assert [(each.target, each.score) for each in merged] == [
        ("PARIS", 3.0),
        ("a", 1.0),
        ("euro", 1.0),
    ]
