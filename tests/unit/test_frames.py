"""The Python API of results: rows, Arrow, pandas, polars, HTML; and ``Session.query``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lql
from lql.errors import LqlCapabilityError, LqlError, LqlUsageError
from lql.session import Session
from tests.unit import samples, sql_tables


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    path = sql_tables.make(tmp_path_factory.mktemp("frames") / "known.vindex")
    with lql.open(path) as opened:
        yield opened


QUERY = "SELECT layer, token, logit, also, relation, edited FROM FEATURES WHERE layer = :n"


def test_query_runs_one_statement_with_parameters(session: Session) -> None:
    result = session.query(QUERY, n=2)
    assert result.rows == result.to_rows()
    wanted = [row for row in sql_tables.features() if row["layer"] == 2]
    assert [row["token"] for row in result.rows] == [row["token"] for row in wanted]


@pytest.mark.parametrize("text", ["", "STATS; STATS", "-- nothing"])
def test_query_refuses_anything_but_one_statement(session: Session, text: str) -> None:
    with pytest.raises(LqlUsageError):
        session.query(text)


def test_open_reports_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LqlError):
        lql.open(tmp_path / "nowhere")


def test_arrow_pandas_and_polars_hold_the_rows(session: Session) -> None:
    import pandas as pd

    result = session.query(QUERY, n=1)
    rows = [{**row, "also": list(row["also"] or ())} for row in result.rows]  # type: ignore[arg-type]
    arrow, polars, pandas = result.to_arrow(), result.to_polars(), result.to_pandas()
    assert arrow.to_pylist() == rows
    assert polars.to_dicts() == rows
    found = pandas.astype(object).where(pandas.notna(), None).to_dict("records")
    assert found == rows
    assert pandas["layer"].dtype == pd.Int64Dtype()
    assert [str(field.type) for field in arrow.schema][:3] == ["int64", "string", "double"]


@pytest.mark.parametrize("result", samples.EVERY, ids=lambda result: type(result).__name__)
def test_every_result_is_a_frame_and_html(result: lql.Result) -> None:
    names = [column.name for column in result.columns]
    assert result.to_arrow().column_names == names
    assert list(result.to_pandas().columns) == names
    assert result.to_polars().columns == names
    html = result._repr_html_()
    assert html.count("<th>") == len(names)
    assert "\x1b" not in html


def test_no_rows_keep_their_types(session: Session) -> None:
    result = session.query("SELECT layer, also FROM FEATURES WHERE layer = 99")
    assert str(result.to_arrow().schema.field("layer").type) == "int64"
    assert len(result.to_pandas()) == len(result.to_polars()) == 0


def test_html_shows_texts_as_texts(session: Session) -> None:
    hostile = '<script>alert("x")</script>&\x1b[31m'
    from lql.results import Column, Kind
    from lql.results.table import TableResult

    result = TableResult(shape=(Column("<b>", Kind.TOKEN),), values=((hostile,),))
    html = result._repr_html_()
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;\\x1b[31m" in html
    many = session.query("SELECT token FROM TOKENS")
    assert "100 of 384 rows" in many._repr_html_()


@pytest.mark.parametrize(
    ("library", "method", "extra"),
    [
        ("pyarrow", "to_arrow", "arrow"),
        ("pandas", "to_pandas", "pandas"),
        ("polars", "to_polars", "polars"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str, method: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LqlCapabilityError) as caught:
        getattr(samples.TABLE, method)()
    assert f"lql[{extra}]" in caught.value.diagnostic.helps[0]


def test_without_duckdb_select_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with lql.open(str(session.source.path)) as fresh, pytest.raises(LqlCapabilityError) as caught:  # type: ignore[union-attr]
        fresh.query("SELECT * FROM LAYERS")
    assert "pip install duckdb" in caught.value.diagnostic.helps[0]
