"""Every result type as Parquet, and tables whose cells are wide, combining or begin with space."""

from __future__ import annotations

import io
import json
import unicodedata

import pyarrow.parquet as pq
import pytest

from lql.render import Format, renderer
from lql.results import Form, Result
from lql.results.forward import InferResult, TokenRow
from tests.unit import samples

TOKENS = ("巴黎", "e\u0301t", " Paris", "\n", "\t", "  ", "ｗｉｄｅ", "한국", "👍", "क्षि")


@pytest.mark.parametrize("result", samples.EVERY, ids=lambda result: type(result).__name__)
def test_every_result_is_written_as_parquet(result: Result) -> None:
    data = io.BytesIO()
    out = io.TextIOWrapper(data, encoding="utf-8")
    renderer(Format.PARQUET, out).write(result)
    if result.form is Form.STATUS:
        assert not data.getvalue()
        return
    read = pq.read_table(io.BytesIO(data.getvalue())).to_pylist()
    rows = result.to_rows()
    assert len(read) == len(rows)
    for one, other in zip(read, rows, strict=True):
        for name in one:
            if name == "value" and not isinstance(other[name], str | None):
                assert isinstance(one[name], str)  # a record's facts: a column has one type
                continue
            assert json.dumps(one[name]) == json.dumps(other[name])


def made() -> InferResult:
    rows = (TokenRow(at, token, at, 0.5, 1.0) for at, token in enumerate(TOKENS, start=1))
    return InferResult(prompt="x", prompt_mode="raw", tokens=tuple(rows))


def width(text: str) -> int:
    """Cells of a text of the characters above, told by Unicode's own tables."""
    return sum(
        0
        if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Mc")
        else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def test_columns_stay_in_line_whatever_the_cells_hold() -> None:
    out = io.StringIO()
    renderer(Format.TABLE, out).write(made())
    header, rule, *rows = out.getvalue().splitlines()
    assert len(rows) == len(TOKENS)
    # Terminals disagree about the last one, whose vowel signs take a cell or none.
    assert {width(row) for row in rows[:-1]} == {width(header)} == {len(rule)}


def test_spaces_and_newlines_are_seen_in_tables_and_exact_for_programs() -> None:
    shown = {}
    for chosen in Format:
        if chosen is Format.PARQUET:
            continue
        out = io.StringIO()
        renderer(chosen, out).write(made())
        shown[chosen] = out.getvalue()
    assert "␣Paris" in shown[Format.TABLE]
    assert "␣Paris" in shown[Format.VERTICAL]
    assert len(shown[Format.TABLE].splitlines()) == 2 + len(TOKENS)
    assert [row["token"] for row in json.loads(shown[Format.JSON])] == list(TOKENS)
    lines = [json.loads(line)["token"] for line in shown[Format.JSONL].splitlines()]
    assert lines == list(TOKENS)
