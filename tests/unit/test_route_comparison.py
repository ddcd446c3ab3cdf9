"""INFER … ROUTE VERIFY … COMPARE, and WITH ATTENTION where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lql
from lql.codes import Code
from lql.results.forward import RouteComparison

PROMPT = "The capital of Hungary is"


@pytest.fixture(scope="module")
def session(data_dir: Path) -> Iterator[lql.Session]:
    with lql.open(data_dir / "golden" / "vindexes" / "llama_h96.f16") as opened:
        opened.query(
            "INSERT INTO EDGES (entity, relation, target) "
            'VALUES ("Hungary", "capital", "Oslo") CHECK NONE'
        )
        yield opened
        opened.discard_edits()


def test_both_answers_stand_side_by_side(session: lql.Session) -> None:
    own = session.query(f'INFER "{PROMPT}" ROUTE VERIFY TOP 3').rows
    both = session.query(f'INFER "{PROMPT}" ROUTE VERIFY COMPARE TOP 3')
    alone = session.query(f'INFER "{PROMPT}" ABLATE FEATURE 0:0 TOP 3').rows  # no fact answers
    assert isinstance(both, RouteComparison)
    assert [row["routed"] for row in both.rows] == [row["token"] for row in own]
    assert both.rows[0]["routed_probability"] == 1.0
    assert both.rows[0]["fact"] == "Hungary —capital→ Oslo"
    assert both.rows[1]["fact"] is None
    assert both.rows[0]["dense"] != both.rows[0]["routed"]
    assert both.rows[0]["dense_probability"] == pytest.approx(alone[0]["probability"], abs=0.05)
    assert [row["rank"] for row in both.rows] == [1, 2, 3]


def test_without_a_fact_both_are_alike(session: lql.Session) -> None:
    for row in session.query('INFER "A dog is" ROUTE VERIFY COMPARE').rows:
        assert row["routed"] == row["dense"]
        assert row["routed_logit"] == row["dense_logit"]


def test_a_pass_that_ends_early_has_no_more_ranks(session: lql.Session) -> None:
    rows = session.query(f'INFER "{PROMPT}" ROUTE VERIFY EXIT COMPARE').rows
    assert len(rows) == 5
    assert rows[0]["routed"] is not None
    assert [row["routed"] for row in rows[1:]] == [None] * 4
    assert all(row["dense"] is not None for row in rows)


def test_a_gate_walk_has_no_attention(session: lql.Session) -> None:
    with pytest.raises(lql.LqlError) as raised:
        session.query('EXPLAIN WALK "Paris" WITH ATTENTION')
    assert raised.value.code is Code.CLAUSE_MISPLACED
    assert any("EXPLAIN INFER" in each for each in raised.value.diagnostic.helps)
