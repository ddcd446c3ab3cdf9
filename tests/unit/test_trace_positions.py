"""POSITIONS lists and ranges: in rows, in files of both formats, in pictures, and refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import lql
from lql import ast
from lql.codes import Code
from lql.inference.errors import PositionInvalid
from lql.parser import parse
from lql.results.pictures import PlotResult
from lql.results.trace import TraceResult
from lql.unparse import unparse
from vindex.tracefile import read_trace_file

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def session(data_dir: Path) -> Iterator[lql.Session]:
    with lql.open(data_dir / "golden" / "vindexes" / "llama_h96.f16") as opened:
        yield opened


@pytest.fixture(scope="module")
def every(session: lql.Session) -> TraceResult:
    """The trace at every position, which parts of it must equal."""
    return traced(session, f'TRACE "{PROMPT}" FOR "Rome" POSITIONS ALL DECOMPOSE')


def traced(session: lql.Session, statement: str) -> TraceResult:
    result = session.query(statement)
    assert isinstance(result, TraceResult)
    return result


def places(result: TraceResult) -> list[int]:
    """The positions of the embedding's rows, in their order."""
    return [row.position for row in result.layers if row.layer == -1]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0", [0]),
        ("-1", ["last"]),
        ("0, 3", [0, 3]),
        ("3, 0, 3", [0, 3]),
        ("1-3", [1, 2, 3]),
        ("0, 2-3, 3-4", [0, 2, 3, 4]),
        ("-2 - -1, 0", [0, "before", "last"]),
        ("1 - -2", "from 1"),
    ],
)
def test_lists_and_ranges_choose_rows(
    session: lql.Session, every: TraceResult, written: str, meant: list[int | str] | str
) -> None:
    count = len(places(every))
    names = {"last": count - 1, "before": count - 2}
    expected = (
        list(range(1, count - 1))
        if isinstance(meant, str)
        else [names[each] if isinstance(each, str) else each for each in meant]
    )
    found = traced(session, f'TRACE "{PROMPT}" FOR "Rome" POSITIONS {written} DECOMPOSE')

    assert places(found) == expected
    for row, same in zip(
        found.layers, [row for row in every.layers if row.position in expected], strict=True
    ):
        assert (row.layer, row.position, row.token) == (same.layer, same.position, same.token)
        assert row.residual == pytest.approx(same.residual, rel=1e-5)
        assert row.probability == pytest.approx(same.probability, rel=1e-4)
        assert (row.contribution is None) == (same.contribution is None)
        assert (row.word_probability is None) == (same.word_probability is None)


def test_contributions_belong_to_the_last_position_alone(session: lql.Session) -> None:
    without = traced(session, f'TRACE "{PROMPT}" FOR "Rome" POSITIONS 0-1')
    assert all(row.contribution is None for row in without.layers)
    assert without.constant is None
    assert any("POSITIONS leaves out" in note for note in without.meta.notes)
    with_it = traced(session, f'TRACE "{PROMPT}" FOR "Rome" POSITIONS 0, -1')
    assert sum(row.contribution is not None for row in with_it.layers) == len(with_it.layers) / 2


@pytest.mark.parametrize("written", ["99", "-99", "0, 3-99", "0 - -99", "9223372036854775807"])
def test_a_position_that_is_not_there_is_told_with_the_tokens(
    session: lql.Session, every: TraceResult, written: str
) -> None:
    with pytest.raises(lql.LqlError) as raised:
        session.query(f'TRACE "{PROMPT}" POSITIONS {written}')
    diagnostic = raised.value.diagnostic
    assert raised.value.code is Code.NO_POSITION
    count = len(places(every))
    assert diagnostic.label is not None
    assert f"it has {count} tokens: 0-{count - 1}" in diagnostic.label
    tokens = [row.token for row in every.layers if row.layer == -1]
    assert all(f'{at}:"{token}"' in diagnostic.notes[0] for at, token in enumerate(tokens))


@pytest.mark.parametrize("written", ["3-1", "-1 - -2", "-1 - 0"])
def test_a_range_that_ends_before_it_begins_is_refused(session: lql.Session, written: str) -> None:
    with pytest.raises(lql.LqlError) as raised:
        session.query(f'TRACE "{PROMPT}" POSITIONS {written}')
    assert raised.value.code is Code.INVERTED_RANGE


def test_parameters_are_positions(session: lql.Session) -> None:
    result = session.query(f'TRACE "{PROMPT}" POSITIONS :a - :b, :c', a=0, b=1, c=-1)
    assert isinstance(result, TraceResult)
    assert places(result)[:2] == [0, 1]
    assert len(places(result)) == 3


@pytest.mark.parametrize("name", ["x.trace", "x.safetensors"])
def test_what_is_saved_holds_these_positions(
    session: lql.Session, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    saved = traced(session, f'TRACE "{PROMPT}" POSITIONS 0, 3 SAVE "{path}"')
    file = read_trace_file(path)
    assert file.residual.shape[1] == 2
    session.query(f'USE TRACE "{path}"')
    again = traced(session, "TRACE POSITIONS ALL")
    for one, other in zip(again.layers, saved.layers, strict=True):
        assert one.residual == pytest.approx(other.residual, rel=1e-6)
        assert one.lens == other.lens
    last = traced(session, "TRACE")
    if name.endswith(".safetensors"):
        assert file.positions == (0, 3)
        assert places(again) == [0, 3]
        assert places(last) == [3]
        assert places(traced(session, "TRACE POSITIONS 0")) == [0]
        with pytest.raises(lql.LqlError) as raised:
            session.query("TRACE POSITIONS 0-1")
        assert raised.value.code is Code.NO_POSITION
        assert "saved without position 1" in raised.value.diagnostic.message
    else:
        assert any("does not say which positions" in note for note in saved.meta.notes)
        assert places(traced(session, "TRACE POSITIONS -1")) == [1]
    with pytest.raises(lql.LqlError):
        session.query("TRACE POSITIONS 99")


def test_plots_show_these_positions(session: lql.Session, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "x.svg"
    drawn = session.query(f'PLOT TRACE "{PROMPT}" POSITIONS 1, 3 TO "{path}"')
    assert isinstance(drawn, PlotResult)
    assert path.read_bytes().startswith(b"<?xml")
    tokens = [row.token for row in traced(session, f'TRACE "{PROMPT}" POSITIONS ALL').layers]
    lens = traced(session, f'TRACE "{PROMPT}" POSITIONS 1, 3').lens_map()
    assert lens is not None
    assert lens.tokens == (tokens[1], tokens[3])


def test_the_backend_refuses_positions_too(session: lql.Session) -> None:
    model = session.model()
    assert model.trace(PROMPT, positions=(2, 0, -1)).positions[:2] == (0, 2)
    for wrong in ((), (99,), (0, -99)):
        with pytest.raises(PositionInvalid):
            model.trace(PROMPT, positions=wrong)


def test_heads_take_no_other_position(session: lql.Session) -> None:
    with pytest.raises(lql.LqlError) as raised:
        session.query(f'TRACE "{PROMPT}" HEADS POSITIONS 0')
    assert raised.value.code is Code.TRACE_CLAUSES


def test_ranges_are_written_without_a_comment() -> None:
    """Two signs in a row would begin one."""
    written = 'TRACE "x" POSITIONS -3 - -1, 0, 2-4, 1 - -1;'
    assert unparse(parse(written)) == written
    (item,) = parse(written).items
    (statement,) = item.statements
    assert isinstance(statement, ast.Trace)
    assert isinstance(statement.positions, tuple)
    assert len(statement.positions) == 4
