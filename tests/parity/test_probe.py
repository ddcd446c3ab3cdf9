"""What PROBE and LABEL FEATURES find in SmolLM2, and which words it takes for which relations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lql.session import Session, connect

pytestmark = pytest.mark.real_model

CAPITALS = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Egypt": "Cairo",
    "Canada": "Ottawa",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Cuba": "Havana",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Hungary": "Budapest",
}


@pytest.fixture(scope="module")
def probed(smollm2_f32_vindex: Path) -> Iterator[Session]:
    names = ", ".join(map(json.dumps, CAPITALS))
    with connect(smollm2_f32_vindex) as session:
        session.query(f'PROBE RELATION "capital" FOR ({names})')
        session.query(f'PROBE RELATION "continent" FOR ({names})')
        session.query('PROBE RELATION "currency" FOR ("Japan", "Spain", "India", "Mexico")')
        session.query("LABEL FEATURES FROM PROBES")
        yield session
        session.discard_edits()


def test_probes_answer_with_the_capitals(probed: Session) -> None:
    edges = probed.query('SELECT * FROM EDGES WHERE evidence = "probe" AND relation = "capital"')
    said = {row["entity"]: row["target"] for row in edges.rows}
    right = [name for name, capital in CAPITALS.items() if said.get(name) == capital]
    assert len(right) >= 14, said


def test_features_are_found_that_carry_capitals_and_hardly_anything_else(probed: Session) -> None:
    labelled = probed.query(
        "SELECT relation, support, precision FROM FEATURES WHERE support IS NOT NULL"
    ).rows
    assert {row["relation"] for row in labelled} >= {"capital", "continent"}
    assert all(0.7 <= row["precision"] <= 1 for row in labelled)  # type: ignore[operator]
    best = max(
        (row for row in labelled if row["relation"] == "capital"),
        key=lambda row: (row["support"], row["precision"]),  # type: ignore[arg-type, return-value]
    )
    assert best["support"] >= 10  # type: ignore[operator]
    assert len(labelled) < 60  # of 46,080


@pytest.mark.parametrize(
    ("word", "relation"), [("money", "currency"), ("coin", "currency"), ("capitals", "capital")]
)
def test_a_word_is_read_as_the_relation_that_means_it(
    probed: Session, word: str, relation: str
) -> None:
    edges = 'SELECT * FROM EDGES WHERE evidence = "probe" AND relation = '
    found = probed.query(f'{edges}"{word}"')
    assert found.rows == probed.query(f'{edges}"{relation}"').rows
    assert found.rows
    assert any(f'"{word}" is read as "{relation}"' in note for note in found.meta.notes)
    assert not probed.query(f'{edges}"{word}" EXACT').rows


@pytest.mark.parametrize("word", ["zzz", "idea"])
def test_a_word_that_means_none_of_them_is_read_as_none(probed: Session, word: str) -> None:
    found = probed.query(f'SELECT * FROM EDGES WHERE evidence = "probe" AND relation = "{word}"')
    assert not found.rows
    assert any("none is near enough" in note for note in found.meta.notes)


def test_a_relation_that_has_no_rows_is_not_read_as_another(probed: Session) -> None:
    found = probed.query(
        'SELECT * FROM EDGES WHERE evidence = "probe" AND relation = "headquarters"'
    )
    assert not found.rows
    assert any('PROBE RELATION "headquarters"' in note for note in found.meta.notes)
