"""Rendering: exact machine formats, readable and harmless formats for people."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from lql.errors import LqlUsageError
from lql.render import Expand, Format, RenderOptions, renderer
from lql.render.text import duration, percent, printable, size, visible
from lql.results import Column, Form, Kind, Result
from lql.results.browse import FeatureRow, WalkResult
from lql.results.forward import InferResult, TokenRow
from lql.results.table import TableResult
from tests.unit import samples

TEXTS = tuple(each for each in Format if each is not Format.PARQUET)
PEOPLE = (Format.TABLE, Format.VERTICAL, Format.MARKDOWN)
NARROW = RenderOptions(width=40)


def render(chosen: Format, *rendered: Result, options: RenderOptions | None = None) -> str:
    out = io.StringIO()
    writer = renderer(chosen, out, options)
    for result in rendered:
        writer.write(result)
    return out.getvalue()


# --------------------------------------------------------------------------- every format


@pytest.mark.parametrize("chosen", TEXTS)
@pytest.mark.parametrize("result", samples.EVERY, ids=lambda result: type(result).__name__)
def test_every_result_prints_in_every_format(chosen: Format, result: Result) -> None:
    text = render(chosen, result)
    silent = chosen is Format.NONE or result.form is Form.STATUS
    if silent:
        assert text == ""
    elif result.to_rows() or chosen is not Format.JSONL:
        assert text.endswith("\n")
        assert text.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResult(Result):
    """A type that no renderer knows."""

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column("number", Kind.INTEGER), Column("word", Kind.TOKEN))

    def records(self) -> Sequence[object]:
        @dataclass
        class Record:
            number: int
            word: str

        return (Record(3, " drei"),)


@pytest.mark.parametrize("chosen", [f for f in TEXTS if f is not Format.NONE])
def test_a_new_result_type_prints_in_every_format(chosen: Format) -> None:
    text = render(chosen, NewResult())
    assert "3" in text
    assert "drei" in text


@pytest.mark.parametrize("chosen", PEOPLE)
@pytest.mark.parametrize("result", samples.EVERY, ids=lambda result: type(result).__name__)
def test_formats_for_people_never_carry_control_characters(chosen: Format, result: Result) -> None:
    text = render(chosen, result)
    odd = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co")} - {"\n"}
    assert not odd


# --------------------------------------------------------------------------- machine formats


def test_json_is_one_line_per_result_and_exact() -> None:
    lines = render(Format.JSON, samples.INFER, samples.USE, samples.STATS).splitlines()
    assert len(lines) == 2
    rows = json.loads(lines[0])
    assert rows == samples.INFER.to_rows()
    assert json.loads(lines[1])["features"] == 46080


def test_json_of_no_rows_is_an_empty_array() -> None:
    empty = samples.DESCRIBE.__class__(entity="x", edges=(), detailed=False)
    assert render(Format.JSON, empty) == "[]\n"


def test_jsonl_is_one_line_per_row() -> None:
    lines = render(Format.JSONL, samples.WALK).splitlines()
    assert [json.loads(line)["also"] for line in lines] == [[" France", "\u202eabc"], [], ["a,b"]]


def test_json_spells_what_it_cannot_say_as_null() -> None:
    token = TokenRow(1, "x\x9b", 1, float("nan"), float("-inf"))
    text = render(Format.JSON, InferResult(prompt="", prompt_mode="raw", tokens=(token,)))
    row = json.loads(text)[0]
    assert (row["probability"], row["logit"]) == (None, None)
    assert "\\u009b" in text


def test_csv_reads_back_exactly() -> None:
    text = render(Format.CSV, samples.INFER)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["token"] for row in rows] == [token.token for token in samples.TOKENS]
    assert float(rows[0]["probability"]) == samples.TOKENS[0].probability
    assert "\r\n" not in text


def test_csv_lists_are_json() -> None:
    rows = list(csv.DictReader(io.StringIO(render(Format.CSV, samples.WALK))))
    assert json.loads(rows[0]["also"]) == [" France", "\u202eabc"]


def test_tsv_reads_back_exactly_by_its_escapes() -> None:
    lines = render(Format.TSV, samples.INFER).splitlines()
    assert all(line.count("\t") == 4 for line in lines)
    unescape = {"\\t": "\t", "\\n": "\n", "\\r": "\r", "\\\\": "\\"}
    tokens = [
        re.sub(r"\\.", lambda match: unescape[match.group()], line.split("\t")[1])
        for line in lines[1:]
    ]
    assert tokens == [token.token for token in samples.TOKENS]


def test_tsv_marks_missing_values() -> None:
    assert "\t\\N\t" in render(Format.TSV, samples.DESCRIBE)


@pytest.mark.parametrize("chosen", [Format.CSV, Format.TSV])
def test_results_are_separated_by_an_empty_line(chosen: Format) -> None:
    text = render(chosen, samples.INFER, samples.USE, samples.INFER)
    first, second = text.split("\n\n")
    assert first + "\n" == second


@pytest.mark.parametrize("chosen", [Format.JSON, Format.JSONL, Format.CSV, Format.TSV])
def test_machine_formats_do_not_depend_on_the_terminal(chosen: Format) -> None:
    options = RenderOptions(width=20, color=True)
    assert render(chosen, samples.INFER, options=options) == render(chosen, samples.INFER)


# --------------------------------------------------------------------------- tables


def test_infer_table() -> None:
    tokens = (*samples.TOKENS[:2], TokenRow(3, "\n", 198, 0.0000645, -6.5))
    table = render(Format.TABLE, InferResult(prompt="", prompt_mode="raw", tokens=tokens))
    assert table.splitlines() == [
        "rank  token   token_id  probability  logit",
        "──────────────────────────────────────────",
        "   1  ␣Paris      7042      77.25 %  18.03",
        "   2  巴黎         260       6.45 %  16.50",
        "   3  \\n           198     0.0064 %  -6.50",
    ]


def test_model_text_is_never_markup() -> None:
    assert "\\n[/INST]:smile:" in render(Format.TABLE, samples.INFER)


def test_a_pipe_has_no_width_limit() -> None:
    long = WalkResult(
        prompt="", token="x", token_id=1, features=(FeatureRow(0, 0, 1.0, "y" * 500, ("z" * 500,)),)
    )
    assert "y" * 500 + "  " + "z" * 500 in render(Format.TABLE, long)


def test_a_terminal_table_fits_and_shows_what_was_cut() -> None:
    _, *lines = render(Format.TABLE, samples.WALK, options=NARROW).splitlines()
    assert max(map(len, lines)) <= 40
    assert any(line.endswith("…") for line in lines)
    assert any(line.split()[:3] == ["20", "154", "+6.28"] for line in lines)


def test_a_hopelessly_narrow_terminal_gets_rows_vertically() -> None:
    text = render(Format.TABLE, samples.INFER, options=RenderOptions(width=20))
    assert text == render(Format.VERTICAL, samples.INFER)


def test_colour_adds_only_escape_sequences() -> None:
    plain = render(Format.TABLE, samples.INFER)
    colored = render(Format.TABLE, samples.INFER, options=RenderOptions(color=True))
    assert "\x1b[1m" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain


def test_columns_without_any_value_are_left_out_of_tables_only() -> None:
    assert "relation" not in render(Format.TABLE, samples.DESCRIBE)
    assert "relation" in render(Format.CSV, samples.DESCRIBE)


def test_comparison_stands_side_by_side() -> None:
    lines = render(Format.TABLE, samples.COMPARISON).splitlines()
    assert "dense token" in lines[0]
    assert "walk token" in lines[0]
    assert "␣Paris" in lines[2]
    assert "probability 1.3e-06, logit 3.5e-05" in "\n".join(lines)


def test_explained_layers_are_not_repeated() -> None:
    text = render(Format.TABLE, samples.EXPLAIN)
    assert len([line for line in text.splitlines() if line.split()[:1] == ["20"]]) == 1


def test_markdown_cells_cannot_break_the_table() -> None:
    lines = render(Format.MARKDOWN, samples.INFER).splitlines()
    assert lines[0] == "| rank | token | token_id | probability | logit |"
    assert lines[1] == "| ---: | --- | ---: | ---: | ---: |"
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in lines)


# --------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" Paris", "␣Paris"),
        ("  ", "␣␣"),
        ("", ""),
        ("a b ", "a b␣"),
        ("\n\t\r", "\\n\\t\\r"),
        ("\\n", "\\\\n"),
        ("␣", "\\u2423"),
        ("\x1b[2J\x9b", "\\x1b[2J\\x9b"),
        ("\u202e\u200b\ufeff", "\\u202e\\u200b\\ufeff"),
        ("\U000e0001", "\\U000e0001"),
        ("\u00a0x\u3000", "\\xa0x\\u3000"),
        ("\u0301", "\\u0301"),
        ("e\u0301", "e\u0301"),
        ("\N{MAN}\u200d\N{WOMAN}", "\N{MAN}\u200d\N{WOMAN}"),
        ("naïve 巴黎 🎉", "naïve 巴黎 🎉"),
        ("\ud800", "\\ud800"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_other_text_keeps_backslashes_and_spaces() -> None:
    assert printable("C:\\x y ") == "C:\\x y "
    assert printable("a\nb\x1b") == "a\\nb\\x1b"


@given(st.text())
def test_visible_text_can_be_read_back(text: str) -> None:
    def original(match: re.Match[str]) -> str:
        escape = match.group()
        named = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\\\": "\\", "␣": " "}
        return named.get(escape) or chr(int(escape[2:], 16))

    pattern = r"\\[nrt\\]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8}|␣"
    assert re.sub(pattern, original, visible(text)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.7725308, "77.25 %"),
        (1.0, "100.00 %"),
        (0.0099, "0.99 %"),
        (0.000645, "0.065 %"),
        (0.0000012, "0.00012 %"),
        (1e-12, "1e-10 %"),
        (0.0, "0.00 %"),
    ],
)
def test_percent(value: float, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0.4 ms"),
        (0.0312, "31 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (200, "3 min 20 s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")]
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


# --------------------------------------------------------------------------- parquet


def parquet(path: Path, *written: Result) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as out:
        writer = renderer(Format.PARQUET, out)
        for result in written:
            writer.write(result)


@pytest.mark.parametrize("result", samples.EVERY, ids=lambda result: type(result).__name__)
def test_parquet_holds_every_row_exactly(result: Result, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    parquet(tmp_path / "x.parquet", result)

    if result.form is Form.STATUS:
        assert (tmp_path / "x.parquet").read_bytes() == b""
        return
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == [column.name for column in result.columns]
    assert table.num_rows == len(result.to_rows())
    for column in result.columns:
        if column.kind is Kind.TOKEN:
            values = [row[column.name] for row in result.to_rows()]
            assert table[column.name].to_pylist() == values


def test_parquet_refuses_a_second_result_and_what_takes_no_bytes(tmp_path: Path) -> None:
    with pytest.raises(LqlUsageError, match="one result"):
        parquet(tmp_path / "x.parquet", samples.INFER, samples.INFER)
    with pytest.raises(LqlUsageError, match="no text"):
        render(Format.PARQUET, samples.INFER)


# --------------------------------------------------------------------------- widths


WIDE = (
    "Paris",
    "巴黎の",  # two cells each
    "e\u0301te\u0301",  # combining accents: no cell of their own
    "นี้",  # Thai vowel and tone marks above a consonant
    "한국",
    "🙂",
    "ｶﾞ",  # half-width
    " \n",
)


@pytest.mark.parametrize("width", [None, 34, 60])
def test_columns_stand_straight_whatever_is_in_them(width: int | None) -> None:
    rows = tuple((index, text, "|") for index, text in enumerate(WIDE))
    shape = (Column("n", Kind.INTEGER), Column("text", Kind.TOKEN), Column("end", Kind.TEXT))
    lines = render(
        Format.TABLE, TableResult(shape=shape, values=rows), options=RenderOptions(width=width)
    ).splitlines()

    ends = {wcswidth(line[: line.index("|")]) for line in lines[2:]}
    assert len(ends) == 1
    assert lines[-1].split() == ["7", "␣\\n", "|"]


@pytest.mark.parametrize(
    ("expand", "vertical"), [(Expand.ON, True), (Expand.OFF, False), (Expand.AUTO, True)]
)
def test_rows_stand_vertically_where_that_was_asked_for(expand: Expand, vertical: bool) -> None:
    options = RenderOptions(width=20, expand=expand)

    assert ("── row 1 " in render(Format.TABLE, samples.INFER, options=options)) is vertical
