"""Kept answers: read without a model, for the model and the question they were given to only."""

# ruff: noqa: F811 (fixtures of a neighbour)

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lql.execute import answer_edges, asking, describe_answer, kept
from lql.results.browse import DescribeResult
from lql.session import Session, connect
from tests.unit.test_describe import SMALL, made, small  # noqa: F401
from vindex import kept_answers
from vindex.edits import DropFeature
from vindex.kept_answers import FILE, KeptAnswer, KeptAnswers, key_of, read_kept, write_kept
from vindex.overlay import Edit
from vindex.seal import read_seal
from vindex.signals import Signal
from vindex.store import open_vindex
from vindex.verify import verify

KEPT = KeptAnswers(
    "2026-01-02",
    ("country", "city"),
    (KeptAnswer("capital", 'Pa"r\nis', 0.1, 1 / 3, -0.0, Signal.WEAK, "The capital of X is"),),
)


@pytest.fixture
def vindex(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "tiny.vindex", ignore=shutil.ignore_patterns(FILE))
    return tmp_path / "tiny.vindex"


@pytest.fixture
def session(vindex: Path) -> Iterator[Session]:
    with connect(vindex) as opened:
        yield opened


def describe(session: Session, text: str) -> DescribeResult:
    (result,) = session.run(text)
    assert isinstance(result, DescribeResult)
    return result


def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (describe_answer, answer_edges):
        monkeypatch.setattr(module, "asking", None)


# --------------------------------------------------------------------------- the sidecar


def test_what_was_kept_is_read_to_the_last_bit(tmp_path: Path) -> None:
    key, other = key_of("X"), key_of("Y")
    write_kept(tmp_path, "model", key, KEPT)
    write_kept(tmp_path, "model", other, KeptAnswers("2026-01-03", (), ()))
    assert read_kept(tmp_path, "model", key) == KEPT
    assert read_kept(tmp_path, "model", other) == KeptAnswers("2026-01-03", (), ())
    assert read_kept(tmp_path, "model", key_of("Z")) is None
    assert read_kept(tmp_path, "another model", key) is None
    write_kept(tmp_path, "another model", key, KEPT)
    assert read_kept(tmp_path, "model", key) is None


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_answers, "MAX_BYTES", 1000)
    for number in range(20):
        write_kept(tmp_path, "model", key_of(str(number)), KEPT)
    there = [read_kept(tmp_path, "model", key_of(str(n))) is not None for n in range(20)]
    assert there == sorted(there)
    assert 2 <= sum(there) < 10
    assert (tmp_path / FILE).stat().st_size < 1300


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_torn_file_is_not_there(tmp_path: Path, keep: int) -> None:
    write_kept(tmp_path, "model", key_of("X"), KEPT)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:keep])
    assert read_kept(tmp_path, "model", key_of("X")) is None


@pytest.mark.parametrize(
    "line", ["", "[]", '{"date": 1}', '{"date": "x", "kinds": [], "answers": [[1]]}', "{", "\\"]
)
def test_a_malformed_line_is_not_there(tmp_path: Path, line: str) -> None:
    from vindex.sidecar import write_sidecar

    payload = f"{key_of('X')} {line}\n".encode()
    write_sidecar(tmp_path / FILE, "model", 1, {}, payload)
    assert read_kept(tmp_path, "model", key_of("X")) is None


# --------------------------------------------------------------------------- DESCRIBE


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("detail", ["", " RAW", " EVIDENCE ALL RAW"])
def test_the_second_time_nobody_is_asked(
    vindex: Path, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = f'DESCRIBE "France"{detail};'
    with connect(vindex) as session:
        first = describe(session, statement)
    assert first.kinds
    assert FILE in (read_seal(vindex) or pytest.fail("no seal")).sealed
    assert verify(vindex).ok
    nobody_asks(monkeypatch)
    with connect(vindex) as session:
        again = describe(session, statement)
        assert not session.loaded
        assert (again.edges, again.kinds, again.meta.notes) == (
            first.edges,
            first.kinds,
            first.meta.notes,
        )
        (plan,) = session.run(f"EXPLAIN {statement}")
        steps = [step["step"] for step in plan.to_dict()["steps"]]
        assert ("read kept answers" in steps) == ("ALL" not in statement)


@pytest.mark.usefixtures("small")
def test_select_reads_them_where_it_reads_no_features(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = (
        "SELECT relation, target, probability, source FROM EDGES "
        'WHERE entity = "France" AND evidence = "answer";'
    )
    (first,) = session.run(statement)
    described = describe(session, 'DESCRIBE "France" RAW;')
    nobody_asks(monkeypatch)
    assert session.run(statement)[0].to_rows() == first.to_rows() != []
    assert len(first.to_rows()) == len(described.edges)
    with pytest.raises(TypeError):  # the features that carry answers are not kept
        session.run(statement.replace("relation,", "relation, feature,"))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("statement", ['DESCRIBE "France" VERBOSE;', 'DESCRIBE "France" CAUSAL;'])
def test_what_carries_an_answer_is_asked_anew(
    session: Session, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(session, 'DESCRIBE "France"; '.strip())
    describe(session, 'DESCRIBE "France" RAW;')
    nobody_asks(monkeypatch)
    with pytest.raises(TypeError):
        session.run(statement)


@pytest.mark.usefixtures("small")
def test_other_questions_are_other_answers(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(session, 'DESCRIBE "France";')
    nobody_asks(monkeypatch)
    describe(session, 'DESCRIBE "France";')
    for change in ('DESCRIBE "france";', 'DESCRIBE "France" RAW;'):
        with pytest.raises(TypeError):
            session.run(change)
    session.run('DEFINE RELATION "anthem" TEMPLATE "{entity} sings";')
    with pytest.raises(TypeError):
        session.run('DESCRIBE "France";')


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("changed", ["method", "catalogue"])
def test_another_way_of_asking_is_asked(
    vindex: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(vindex) as session:
        describe(session, 'DESCRIBE "France";')
    nobody_asks(monkeypatch)
    if changed == "method":
        monkeypatch.setattr(kept, "_METHOD", "another")
    else:
        monkeypatch.setattr(kept.catalogue, "digest", lambda: "another")
    with connect(vindex) as session, pytest.raises(TypeError):
        session.run('DESCRIBE "France";')


@pytest.mark.usefixtures("small")
def test_answers_of_other_weights_are_not_taken(
    vindex: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(vindex) as session:
        describe(session, 'DESCRIBE "France";')
        session.overlay.commit(Edit("off", (DropFeature(0, 0),)))
        other = tmp_path / "other.vindex"
        session.run("COMPILE CURRENT INTO VINDEX :o; DISCARD PATCH;", parameters={"o": other})
    assert not (other / FILE).exists()
    shutil.copy(vindex / FILE, other / FILE)
    nobody_asks(monkeypatch)
    with connect(other) as session, pytest.raises(TypeError):
        session.run('DESCRIBE "France";')


@pytest.mark.usefixtures("small")
def test_an_edited_model_neither_reads_nor_keeps(
    session: Session, vindex: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.overlay.commit(Edit("off", (DropFeature(1, 3),)))
    describe(session, 'DESCRIBE "France";')
    assert not (vindex / FILE).exists()
    session.run("UNDO;")
    describe(session, 'DESCRIBE "France";')
    before = (vindex / FILE).read_bytes()
    session.overlay.commit(Edit("off", (DropFeature(1, 3),)))
    asked = []
    real = asking.facts
    monkeypatch.setattr(describe_answer, "facts", lambda *args: asked.append(args) or real(*args))
    describe(session, 'DESCRIBE "France";')
    assert asked
    assert (vindex / FILE).read_bytes() == before
    session.run("UNDO;")
    asked.clear()
    describe(session, 'DESCRIBE "France";')
    assert not asked


@pytest.mark.usefixtures("small")
def test_a_vindex_that_cannot_be_written_leaves_it_to_the_session(
    session: Session, vindex: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(kept, "write_value", refuse)
    first = describe(session, 'DESCRIBE "France";')
    assert not (vindex / FILE).exists()
    nobody_asks(monkeypatch)
    assert describe(session, 'DESCRIBE "France";').edges == first.edges
    session.run("USE :v;", parameters={"v": str(vindex)})
    with pytest.raises(TypeError):
        session.run('DESCRIBE "France";')


@pytest.mark.usefixtures("small")
def test_the_file_may_be_deleted_or_replaced_at_any_time(vindex: Path) -> None:
    with connect(vindex) as session:
        first = describe(session, 'DESCRIBE "France";')
        (vindex / FILE).unlink()
        assert verify(vindex).ok
        assert describe(session, 'DESCRIBE "France";').edges == first.edges
    (vindex / FILE).write_bytes(b"what another process has just put here")
    open_vindex(vindex).close()
    assert not verify(vindex).ok  # but whoever checks the bytes is told


# --------------------------------------------------------------------------- processes

FIRST = """
import sys, lql.execute.asking as asking, lql.inference.facts as facts
from lql.catalogue import parse
from lql.cli import main
asking.catalogue = lambda: parse(%r)
facts._LEAST = 0.0
code = main(sys.argv[1:])
"""
SECOND = """
import sys
from lql.cli import main
code = main(sys.argv[1:])
print(sorted({'torch', 'duckdb', 'transformers'} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("form", ["json", "table"])
def test_a_second_process_prints_the_same_bytes_without_torch(vindex: Path, form: str) -> None:
    statement = f'USE "{vindex}"; DESCRIBE "France" RAW;'

    def run(code: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", code, "-e", statement, "--format", form],
            capture_output=True,
            check=True,
        )

    first, second = run(FIRST % SMALL.encode()), run(SECOND)
    assert first.stdout == second.stdout
    assert b"answer" in first.stdout
    assert second.stderr.rstrip().endswith(b"[]")
    if form == "json":
        assert json.loads(first.stdout)


@pytest.mark.usefixtures("small")
def test_what_is_kept_does_not_make_it_another_base_for_patches(
    vindex: Path, tmp_path: Path
) -> None:
    """Neither for a patch that was saved before anything was asked, nor for one after that."""
    for name in ("before", "after"):
        with connect(vindex) as session:
            session.overlay.commit(Edit("off", (DropFeature(0, 0),)))
            session.run("SAVE PATCH :p;", parameters={"p": tmp_path / f"{name}.vlp"})
        with connect(vindex) as session:
            describe(session, 'DESCRIBE "France";')
    patch = json.loads((tmp_path / "after.vlp").read_text(encoding="utf-8"))
    assert not [name for name in patch["base_files"] if name.startswith("lql_")]
    patch["base_files"][FILE] = patch["base_checksum"] = "0" * 64  # as such patches once were
    (tmp_path / "old.vlp").write_text(json.dumps(patch), encoding="utf-8")
    for name in ("before", "after", "old"):
        with connect(vindex) as session:
            session.run("APPLY PATCH :p;", parameters={"p": tmp_path / f"{name}.vlp"})
            assert session.overlay.edits


SEEDED = """
import json, sys, lql
with lql.open(sys.argv[1]) as session:
    for statement in (
        'DESCRIBE "France" RAW', 'DESCRIBE "Peru" RAW', 'DESCRIBE "France" EVIDENCE STATIC RAW',
        'SELECT relation, target FROM EDGES WHERE entity IN ("France", "Peru")',
        "SELECT token, COUNT(*) FROM FEATURES GROUP BY token", "SHOW FEATURES 1", "SHOW ENTITIES",
    ):
        print(json.dumps(session.query(statement).rows, default=list))
    print("torch" in sys.modules)
"""


@pytest.mark.usefixtures("small")
def test_what_is_kept_is_told_alike_over_twenty_hash_seeds(vindex: Path) -> None:
    with connect(vindex) as session:
        first = [session.query(f'DESCRIBE "{name}" RAW').rows for name in ("France", "Peru")]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SEEDED, str(vindex)],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(20)
    }
    (output,) = outputs
    lines = output.decode().splitlines()
    assert [json.loads(line) for line in lines[:2]] == json.loads(json.dumps(first, default=list))
    assert lines[-1] == "False"
