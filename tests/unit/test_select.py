"""SELECT: DuckDB's rows are those of a plain Python loop; hostile texts stay texts.

``LQL_SELECT_CASES=20000 pytest tests/unit/test_select.py`` runs the long form.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lql import ast
from lql.errors import LqlNameError, LqlTypeError
from lql.session import Session, open_session
from lql.unparse import unparse
from tests.unit import sql_tables
from tests.unit.sql_oracle import Oracle
from tests.unit.sql_random import Generator

CASES = int(os.environ.get("LQL_SELECT_CASES", "600"))


@pytest.fixture(scope="module")
def vindex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sql_tables.make(tmp_path_factory.mktemp("sql") / "known.vindex")


@pytest.fixture(scope="module")
def session(vindex: Path) -> Iterator[Session]:
    with open_session(vindex) as opened:
        yield opened


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(sql_tables.tables(), sql_tables.COLUMNS)


def test_random_selects_give_the_rows_of_a_plain_loop(session: Session, oracle: Oracle) -> None:
    filled = 0
    for seed in range(CASES):
        select = Generator(seed).select()
        statement, values = with_parameters(select, random.Random(seed))
        text = unparse(statement)
        result = session.query(text, **values)
        expected = oracle.answer(select)
        assert [column.name for column in result.columns] == expected.names, text
        found = [tuple(row.values()) for row in result.to_rows()]
        assert found == expected.rows, f"{text}\n{values}"
        cut = result.meta.truncated
        shown = len(expected.rows)
        offset = select.offset.value if isinstance(select.offset, ast.Integer) else 0
        assert (cut is not None) == (offset + shown < expected.total and offset < expected.total)
        assert cut is None or (cut.shown, cut.total) == (shown, expected.total), text
        filled += bool(found)
    assert filled > CASES / 3  # not all of them ask for nothing


def with_parameters(
    select: ast.Select, pick: random.Random
) -> tuple[ast.Select, Mapping[str, Any]]:
    """The statement with some of its values as parameters, and those values."""
    values: dict[str, Any] = {}
    share = pick.choice((0.0, 0.3, 1.0))

    def changed(node: Any) -> Any:
        match node:
            case ast.Text() | ast.Integer() | ast.Number() if pick.random() < share:
                name = f"p{len(values)}"
                values[name] = node.value
                return ast.Parameter(name)
            case tuple():
                return tuple(map(changed, node))
            case ast.Node():
                parts = {field.name: getattr(node, field.name) for field in fields(node)}
                return replace(node, **{name: changed(part) for name, part in parts.items()})
            case _:
                return node

    return replace(select, where=changed(select.where), having=changed(select.having)), values


def test_a_missing_list_is_unknown_even_where_nothing_matches(session: Session) -> None:
    joined = "SELECT COUNT(*) AS n FROM FEATURES AS f LEFT JOIN RELATIONS AS r USING (relation)"
    (found,) = session.query(f'{joined} WHERE NOT r.examples IN ("no such token")').rows
    labelled = sum(row["relation"] is not None for row in sql_tables.features())
    assert found["n"] == labelled


# --------------------------------------------------------------------------- hostile values


@pytest.mark.parametrize("text", sorted(set(sql_tables.HOSTILE)))
def test_a_hostile_text_is_found_as_itself(session: Session, text: str) -> None:
    rows = session.query("SELECT token FROM TOKENS WHERE token = :t", t=text).rows
    assert [row["token"] for row in rows] == [text] * sql_tables.TEXTS.count(text)
    spelt = unparse(ast.Comparison(ast.Column("token"), ast.Comparator.EQ, ast.Text(text)))
    assert session.query(f"SELECT token FROM TOKENS WHERE {spelt}").rows == rows
    assert session.query("SELECT token FROM TOKENS WHERE token IN :t", t=[text]).rows == rows


def test_hostile_aliases_are_not_sql(session: Session) -> None:
    result = session.query("SELECT COUNT(*) AS select, layer AS from FROM LAYERS GROUP BY layer")
    assert [column.name for column in result.columns] == ["select", "from"]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_is_refused(session: Session, text: str) -> None:
    with pytest.raises(LqlTypeError):
        session.query("SELECT * FROM TOKENS WHERE token = :t", t=text)


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("statement", "suggestion"),
    [
        ("SELECT tokn FROM FEATURES", "token"),
        ("SELECT layer FROM FEATURES WHERE relations = 'x'", "relation"),
        ("SELECT layer FROM FEATURES GROUP BY layr", "layer"),
        ("SELECT layer FROM FEATURES ORDER BY feture", "feature"),
        ("SELECT SUM(logits) FROM FEATURES", "logit"),
        ("SELECT feat.layer FROM FEATURES AS feats", "feats"),
        ("SELECT band FROM FEATURES JOIN LAYERS USING (layer)", "features.band"),
        ("SELECT f.layer FROM FEATURES AS f JOIN LAYERS AS l ON f.layer = l.laier", "layer"),
    ],
)
def test_an_unknown_name_is_an_error_with_suggestions(
    session: Session, statement: str, suggestion: str
) -> None:
    with pytest.raises(LqlNameError) as caught:
        session.query(statement)
    assert suggestion in caught.value.diagnostic.suggestions
    assert caught.value.diagnostic.span is not None


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM FEATURES WHERE layer = '3'",
        "SELECT * FROM FEATURES WHERE token = 3",
        "SELECT * FROM FEATURES WHERE layer LIKE '3'",
        "SELECT * FROM FEATURES WHERE layer IN (1, 'x')",
        "SELECT * FROM FEATURES WHERE token BETWEEN 1 AND 2",
        "SELECT * FROM FEATURES WHERE layer IN ((1))",
        "SELECT * FROM FEATURES WHERE also < 'x'",
        "SELECT * FROM FEATURES WHERE edited = 'x'",
        "SELECT SUM(token) FROM FEATURES",
        "SELECT MIN(also) FROM FEATURES",
        "SELECT DISTINCT also FROM FEATURES",
        "SELECT also, COUNT(*) FROM FEATURES GROUP BY also",
        "SELECT layer FROM FEATURES ORDER BY also",
        "SELECT * FROM FEATURES GROUP BY layer",
        "SELECT feature FROM FEATURES GROUP BY layer",
        "SELECT layer FROM FEATURES HAVING COUNT(*) > 1",
        "SELECT layer FROM FEATURES GROUP BY layer HAVING feature > 1",
        "SELECT DISTINCT layer FROM FEATURES ORDER BY feature",
        "SELECT * FROM FEATURES AS f JOIN LAYERS AS l ON f.layer = l.band",
        'SELECT * FROM ENTITIES NEAREST TO "x" AT LAYER 1',
        'SELECT * FROM FEATURES NEAREST TO "x" AT LAYER 4',
    ],
)
def test_what_makes_no_sense_is_a_typed_error(session: Session, statement: str) -> None:
    with pytest.raises(LqlTypeError) as caught:
        session.query(statement)
    assert caught.value.diagnostic.source is not None


def test_names_of_the_result_differ(session: Session) -> None:
    for statement in (
        "SELECT layer, feature AS layer FROM FEATURES",
        "SELECT layer, layer FROM FEATURES",
        "SELECT * FROM FEATURES JOIN FEATURES USING (layer)",
    ):
        with pytest.raises(LqlNameError):
            session.query(statement)
    both = session.query("SELECT * FROM LAYERS JOIN RELATIONS ON layer = first_layer LIMIT 1")
    assert {"layers.features", "relations.features"} <= set(both.rows[0])


# --------------------------------------------------------------------------- tables of their own


def test_static_edges_are_those_of_describe(session: Session, vindex: Path) -> None:
    entities = ("France", "Paris")
    expected = sql_tables.edges(vindex, entities)
    assert expected
    found = session.query('SELECT * FROM EDGES WHERE entity IN ("France", "Paris")').rows
    assert found == expected
    some = 'SELECT * FROM EDGES WHERE (entity = "France" OR entity = "Paris") AND layer = 3'
    assert session.query(some).rows == [row for row in expected if row["layer"] == 3]
    assert session.query('SELECT * FROM EDGES WHERE entity = "x" AND entity = "y"').rows == []
    joined = session.query(
        "SELECT e.target, f.token FROM EDGES AS e JOIN FEATURES AS f USING (layer, feature) "
        'WHERE e.entity = "France"'
    ).rows
    assert joined
    assert all(row["target"].lower() == row["token"].lower() for row in joined)


def test_edges_without_an_entity_say_what_they_need(session: Session) -> None:
    for where in (
        "",
        'WHERE entity LIKE "F%"',
        'WHERE entity = "x" OR layer = 1',
        "WHERE layer = 1",
    ):
        result = session.query(f"SELECT * FROM EDGES {where}")
        assert result.rows == []
        assert any("entity" in note for note in result.meta.notes)
    assert not session.query('SELECT * FROM EDGES WHERE evidence = "probe"').meta.notes


def test_nearest_ranks_by_the_size_of_the_gate(session: Session, vindex: Path) -> None:
    from vindex.features import entity_query
    from vindex.gates import gate_scores
    from vindex.store import open_vindex

    with open_vindex(vindex) as opened:
        query = entity_query(opened, "France")
        assert query is not None
        scores = gate_scores(opened, 2, query).tolist()
    order = sorted(range(len(scores)), key=lambda feature: (-abs(scores[feature]), feature))
    found = session.query('SELECT feature, gate FROM FEATURES NEAREST TO "France" AT LAYER 2')
    assert [(r["feature"], r["gate"]) for r in found.rows] == [(f, scores[f]) for f in order[:20]]
    assert found.meta.truncated is not None
    assert found.meta.truncated.total == sql_tables.FEATURES
    where = 'FROM FEATURES NEAREST TO "France" AT LAYER 2 WHERE gate > 0 ORDER BY feature LIMIT 999'
    some = session.query(f"SELECT feature {where}").rows
    assert [row["feature"] for row in some] == [f for f, s in enumerate(scores) if s > 0]
    edges = session.query('SELECT feature, gate FROM EDGES NEAREST TO "France" AT LAYER 2 LIMIT 5')
    described = [f for f in order if sql_tables.RECORDS[2][f]]
    assert [row["feature"] for row in edges.rows] == described[:5]


def test_gate_is_a_column_of_nearest_only(session: Session) -> None:
    with pytest.raises(LqlNameError) as caught:
        session.query("SELECT gate FROM FEATURES")
    assert "NEAREST" in caught.value.diagnostic.helps[0]


@pytest.mark.parametrize(
    ("show", "select"),
    [
        ("SHOW LAYERS 1-2", "SELECT * FROM LAYERS WHERE layer BETWEEN 1 AND 2"),
        (
            "SHOW FEATURES 1 WHERE logit > 1 LIMIT 9",
            "SELECT layer, feature, token, token_id, logit, relation, also FROM FEATURES "
            "WHERE layer = 1 AND logit > 1 LIMIT 9",
        ),
        ("SHOW ENTITIES", "SELECT * FROM ENTITIES LIMIT 50"),
        ("SHOW RELATIONS VERBOSE WITH EXAMPLES", "SELECT * FROM RELATIONS"),
        (
            "SHOW RELATIONS RAW AT LAYER 1",
            "SELECT relation, label_source, layer, feature, token, support, precision "
            "FROM FEATURES "
            "WHERE relation IS NOT NULL AND layer = 1",
        ),
        ("SHOW PATCHES", "SELECT * FROM PATCHES"),
    ],
)
def test_show_is_a_select(session: Session, show: str, select: str) -> None:
    shown, selected = session.query(show), session.query(select)
    assert shown == selected
    assert shown.columns == selected.columns


def test_show_at_a_layer_counts_that_layer(session: Session) -> None:
    rows = [row for row in sql_tables.features() if row["layer"] == 2]
    assert session.query("SHOW ENTITIES 2 LIMIT 999").rows == sql_tables.entities(rows)
    found = session.query("SHOW RELATIONS AT LAYER 2 WITH EXAMPLES").rows
    assert found == sql_tables.relations(rows)
