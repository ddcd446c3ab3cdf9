from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lql import ast
from lql.parser import parse
from lql.unparse import unparse
from tests.unit.syntax_strategies import SCRIPTS, STATEMENTS, conditions

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def one(text: str) -> Any:
    (pipeline,) = parse(text).items
    (statement,) = pipeline.statements
    return statement


def test_every_statement_has_a_strategy() -> None:
    assert set(STATEMENTS) == set(get_args(ast.Statement))


@pytest.mark.parametrize("cls", list(STATEMENTS), ids=lambda cls: cls.__name__)
@given(data=st.data())
@QUICK
def test_what_unparse_writes_parses_to_the_same_statement(cls: type, data: st.DataObject) -> None:
    statement = data.draw(STATEMENTS[cls])

    text = unparse(statement)

    assert one(text) == statement, text
    assert hash(one(text)) == hash(statement)


@given(script=SCRIPTS)
@QUICK
def test_scripts_survive_the_round_trip(script: ast.Script) -> None:
    assert parse(unparse(script)) == script


@given(condition=conditions())
@settings(QUICK, max_examples=300)
def test_conditions_survive_the_round_trip(condition: ast.Condition) -> None:
    assert one(f"DELETE FROM EDGES WHERE {unparse(condition)}").where == condition


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("stats", "STATS"),
        ("walk 'it''s' layers all limit 5", 'WALK "it\'s" TOP 5'),
        ("walk 'a' layers 7", 'WALK "a" LAYERS 7-7'),
        ("show features at layer 3", "SHOW FEATURES 3"),
        ("show layers 0 - 3", "SHOW LAYERS RANGE 0-3"),
        (
            "insert into edges (target, entity, relation) values ('t', 'e', 'r')",
            'INSERT INTO EDGES (entity, relation, target) VALUES ("e", "r", "t")',
        ),
        (
            "delete from edges where (((a = 1) and (b <> 2 or c is not null)))",
            "DELETE FROM EDGES WHERE a = 1 AND (b != 2 OR c IS NOT NULL)",
        ),
        ("delete from edges where not (like = 1)", "DELETE FROM EDGES WHERE NOT (like = 1)"),
        ("delete from edges where not not = 1", "DELETE FROM EDGES WHERE NOT not = 1"),
        (
            'infer "line\nbreak\t\\q" route verify exit topk 3 chat',
            'INFER "line\\nbreak\\tq" ROUTE VERIFY TOPK 3 EXIT CHAT',
        ),
        (
            "select Top as Best from edges order by TOP",
            "SELECT top AS Best FROM EDGES ORDER BY top ASC",
        ),
        ("rebalance floor -.5", "REBALANCE FLOOR -0.5"),
        ("describe :who at layer :n", "DESCRIBE :who AT LAYER :n"),
    ],
)
def test_the_canonical_spelling(text: str, canonical: str) -> None:
    assert unparse(one(text)) == canonical


def test_a_script_is_one_pipeline_a_line() -> None:
    script = parse("STATS; WALK 'a' |> STATS |> SHOW MODELS")

    assert unparse(script) == 'STATS;\nWALK "a" |> STATS |> SHOW MODELS;'
