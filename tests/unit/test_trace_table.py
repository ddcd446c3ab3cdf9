"""SELECT … FROM TRACE: the rows of a saved trace, through the same engine as every table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import lql
from lql.codes import Code
from lql.results.trace import TraceResult

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def saved(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "france.safetensors"
    with lql.open(data_dir / "golden" / "vindexes" / "llama_h96.f16") as session:
        session.query(f'TRACE "{PROMPT}" POSITIONS 0, 3, -1 SAVE "{path}"')
    return path


@pytest.fixture(scope="module")
def session(data_dir: Path, saved: Path) -> Iterator[lql.Session]:
    with lql.open(data_dir / "golden" / "vindexes" / "llama_h96.f16") as opened:
        opened.query(f'USE TRACE "{saved}"')
        yield opened


def values(session: lql.Session, statement: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in session.query(statement).rows]


def test_its_rows_are_those_of_trace(session: lql.Session) -> None:
    own = session.query("TRACE DECOMPOSE POSITIONS ALL")
    assert isinstance(own, TraceResult)
    table = session.query("SELECT * FROM TRACE").rows
    assert len(table) == len(own.layers) == 5 * 3
    for row, same in zip(table, own.layers, strict=True):
        for name, value in row.items():
            assert value == getattr(same, name), name
    assert "target" not in table[0]


def test_targets_that_where_names_are_followed(session: lql.Session) -> None:
    own = {
        name: session.query(f'TRACE FOR "{name}" POSITIONS ALL').rows for name in ("Rome", "Paris")
    }
    rows = session.query(
        "SELECT target, layer, position, rank, probability, logit FROM TRACE "
        'WHERE target IN ("Rome", "Paris")'
    ).rows
    assert len(rows) == 2 * 15
    for row in rows:
        (same,) = (
            each
            for each in own[row["target"]]
            if (each["layer"], each["position"]) == (row["layer"], row["position"])
        )
        for name in ("rank", "probability", "logit"):
            assert row[name] == same[name]
    assert values(session, "SELECT rank FROM TRACE WHERE layer = 1 AND position = 0") == [(None,)]


def test_the_engine_filters_groups_orders_and_joins(session: lql.Session) -> None:
    every = session.query("SELECT layer, position, ffn, attention FROM TRACE").rows
    assert values(session, "SELECT COUNT(*) FROM TRACE WHERE layer >= 0") == [(12,)]
    grouped = values(
        session,
        "SELECT layer, MAX(ffn) AS f FROM TRACE WHERE layer >= 0 GROUP BY layer ORDER BY f DESC",
    )
    best = {layer: max(row["ffn"] for row in every if row["layer"] == layer) for layer in range(4)}
    assert grouped == sorted(best.items(), key=lambda pair: -pair[1])
    joined = values(
        session,
        "SELECT x.layer, l.features FROM TRACE AS x JOIN LAYERS AS l USING (layer) "
        "WHERE x.position = 0",
    )
    features = dict(values(session, "SELECT layer, features FROM LAYERS"))
    assert joined == [(layer, features[layer]) for layer in range(4)]
    total = values(session, "SELECT SUM(ffn) FROM TRACE")[0][0]
    assert total == math.fsum(row["ffn"] for row in every if row["ffn"] is not None)


def test_it_is_copied_and_asserted(session: lql.Session, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    session.query(f'COPY (SELECT layer, residual FROM TRACE WHERE position = 3) TO "{path}"')
    assert len(path.read_text().splitlines()) == 1 + 5
    session.query("ASSERT (SELECT MAX(layer) FROM TRACE) = 3")
    session.query("EXPLAIN SELECT * FROM TRACE")


def test_without_a_trace_the_next_step_is_told() -> None:
    with lql.Session() as session, pytest.raises(lql.LqlError) as raised:
        session.query("SELECT * FROM TRACE")
    assert raised.value.code is Code.NO_TRACE
    assert any("USE TRACE" in each for each in raised.value.diagnostic.helps)


def test_without_its_model_it_has_no_lens(saved: Path) -> None:
    with lql.Session() as session:
        session.query(f'USE TRACE "{saved}"')
        count = session.query("SELECT COUNT(*), MAX(residual) FROM TRACE")
        assert not count.meta.notes
        found = session.query("SELECT layer, lens, ffn FROM TRACE WHERE layer = 0")
        assert all(row["lens"] is None and row["ffn"] is not None for row in found.rows)
        assert any("without a lens" in note for note in found.meta.notes)
        with pytest.raises(lql.LqlError) as raised:
            session.query('SELECT rank FROM TRACE WHERE target = "Rome"')
        assert raised.value.code is Code.NO_TRACE


def test_a_vindex_without_weights_gives_no_lens_but_the_rest(
    saved: Path, data_dir: Path, tmp_path: Path
) -> None:
    checkpoint = data_dir / "golden" / "checkpoints" / "llama_h96"
    with lql.Session() as session:
        session.extract(checkpoint, tmp_path / "b.vindex", level="browse")
        session.query(f'USE TRACE "{saved}"')
        found = session.query("SELECT layer, lens FROM TRACE LIMIT 1")
        assert found.rows[0]["lens"] is None
        assert any("without a lens" in note for note in found.meta.notes)
        with pytest.raises(lql.LqlError) as raised:
            session.query('SELECT rank FROM TRACE WHERE target = "Rome"')
        assert raised.value.code is Code.LEVEL_TOO_LOW


def test_a_misspelt_table_is_told(session: lql.Session) -> None:
    with pytest.raises(lql.LqlError) as raised:
        session.query("SELECT * FROM TRACES")
    assert "TRACE" in raised.value.diagnostic.suggestions
