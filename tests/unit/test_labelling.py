"""What features are called, from what they carry: the counting alone."""

from __future__ import annotations

import random

import pytest

from vindex.labelling import Carried, label_features

A, B, C = (1, 10), (2, 20), (3, 30)


def asked(relation: str, count: int, *features: tuple[int, int]) -> list[Carried]:
    return [
        Carried(f"{relation} {n:02}", relation, f"answer {n}", frozenset(features))
        for n in range(count)
    ]


def test_a_feature_is_called_by_the_relation_whose_answers_it_carries() -> None:
    known = [*asked("capital", 10, A, C), *asked("language", 10, B, C)]
    found = label_features(known, {"capital", "language"}, least_support=3)
    assert [(label.layer, label.feature, label.relation) for label in found.labels] == [
        (*A, "capital"),
        (*B, "language"),
    ]
    assert {(label.support, label.precision) for label in found.labels} == {(10, 1.0)}
    assert found.refused == 1  # C carries everything: half of it is either


def test_precision_weighs_a_relation_as_much_as_all_others() -> None:
    others = [*asked("other", 30), *asked("rest", 10, A)]
    found = label_features([*asked("capital", 4, A), *others], {"capital"}, least_support=2)
    (label,) = found.labels
    assert label.precision == pytest.approx(1 / (1 + 5 / 20))


def test_the_choice_is_tested_on_entities_that_had_no_part_in_it() -> None:
    choosing_only = [
        Carried(f"e{n:02}", "capital", f"answer {n}", frozenset({A} if n % 2 == 0 else ()))
        for n in range(10)
    ]
    found = label_features([*choosing_only, *asked("other", 8)], {"capital"}, least_support=3)
    assert (found.labels, found.refused) == ((), 1)


def test_one_word_said_of_ten_entities_is_one_support() -> None:
    same = [Carried(f"e{n:02}", "continent", "europe", frozenset({A})) for n in range(10)]
    found = label_features([*same, *asked("other", 8)], {"continent"}, least_support=2)
    assert (found.labels, found.refused) == ((), 0)


def test_without_anything_to_compare_with_there_is_no_label() -> None:
    found = label_features(asked("capital", 10, A), {"capital"}, least_support=3)
    assert (found.labels, found.refused) == ((), 1)


def test_other_relations_are_never_labels_and_the_order_does_not_matter() -> None:
    known = [*asked("capital", 9, A, B), *asked("other", 9, B, C)]
    expected = label_features(known, {"capital"}, least_support=2)
    random.Random(1).shuffle(known)
    assert label_features(known, {"capital"}, least_support=2) == expected
    assert {label.relation for label in expected.labels} == {"capital"}
