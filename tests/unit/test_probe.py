"""PROBE and LABEL FEATURES on a model that knows nothing: what is asked, kept, seen and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lql
from lql.cancel import CancelToken
from lql.catalogue import parse
from lql.codes import Code
from lql.errors import LqlError, LqlRuntimeError
from lql.execute import asking
from lql.inference.probing import Prober
from lql.session import Session, connect
from tests.unit.checkpoint_files import write_directory
from tests.unit.test_describe import SMALL
from tests.unit.tiny_models import LLAMA_TINY, byte_tokenizer, tame_arrays
from vindex.overlay import Overlay

NAMES = ("France", "Peru", "Cuba", "Iran", "Chad")
PROBE = f'PROBE RELATION "capital" FOR ({", ".join(map(json.dumps, NAMES))})'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = tmp_path_factory.mktemp("probe")
    config = {**LLAMA_TINY, "max_position_embeddings": 2048}
    write_directory(checkpoint, config, tame_arrays(config))
    byte_tokenizer().save(str(checkpoint / "tokenizer.json"))
    with Session() as session:
        session.run(
            "EXTRACT MODEL :m INTO :t DTYPE f32; EXTRACT MODEL :m INTO :b WITH BROWSE;",
            parameters={
                "m": checkpoint,
                "t": checkpoint / "tiny.vindex",
                "b": checkpoint / "browse.vindex",
            },
        )
    return checkpoint / "tiny.vindex"


@pytest.fixture
def session(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setattr(asking, "catalogue", lambda: parse(SMALL.encode()))
    monkeypatch.setattr("lql.inference.facts._LEAST", 0.0)  # nothing is probable here
    shutil.copytree(made, tmp_path / "tiny.vindex")
    with connect(tmp_path / "tiny.vindex") as opened:
        yield opened
        opened.discard_edits()


def overlay(session: Session) -> Overlay:
    return session.overlay


def rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the last digits, which depend on what shares a forward pass."""
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()} for r in rows]


# --------------------------------------------------------------------------- PROBE


def test_answers_become_edges_that_every_statement_sees(session: Session) -> None:
    rows = session.query(PROBE).rows
    assert [row["entity"] for row in rows] == [n for n in NAMES if n in {r["entity"] for r in rows}]
    assert rows
    assert all(str(row["entity"]) in str(row["source"]) for row in rows)
    edges = session.query('SELECT * FROM EDGES WHERE evidence = "probe"').rows
    shared = ("entity", "relation", "target", "probability", "lift_nats", "source")
    assert [{k: e[k] for k in shared} for e in edges] == [{k: r[k] for k in shared} for r in rows]
    (relation,) = session.query("SHOW RELATIONS WITH EXAMPLES").rows
    assert (relation["relation"], relation["edges"]) == ("capital", len(rows))
    assert relation["features"] == 0
    assert all(": " in text for text in relation["examples"])
    entities = session.query("SELECT entity, edges FROM ENTITIES WHERE edges > 0").rows
    assert {row["entity"] for row in entities} == {row["entity"] for row in rows}
    described = session.query("DESCRIBE :e EVIDENCE ALL RAW", e=rows[0]["entity"]).rows
    assert [r["target"] for r in described if r["evidence"] == "probe"] == [rows[0]["target"]]
    (edit,) = session.query("SHOW EDITS").rows
    assert (edit["edit"], edit["operations"]) == ("PROBE capital of 5 entities", 5)
    session.query("UNDO")
    assert not session.query('SELECT * FROM EDGES WHERE evidence = "probe"').rows
    assert not session.query("SHOW RELATIONS").rows


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_the_size_of_a_batch_changes_nothing(session: Session, batch: int) -> None:
    expected = rounded(session.query(f"{PROBE} TOP 3").rows)
    session.query("UNDO")
    assert rounded(session.query(f"{PROBE} TOP 3 BATCH {batch}").rows) == expected


def test_the_answers_are_those_of_describe(session: Session) -> None:
    told = session.query('DESCRIBE "France" EVIDENCE ANSWER RAW').rows
    expected = [row for row in told if row["relation"] == "capital"]
    assert expected  # the first kind that France is taken for is asked for its capital
    rows = session.query('PROBE RELATION "capital" FOR ("France") TOP 10').rows
    by_target = {row["target"]: row for row in rounded(rows)}
    for row in rounded(expected):
        found = by_target[row["target"]]
        for name in ("probability", "lift_nats", "source"):
            assert found[name] == row[name]


def test_what_was_probed_is_not_asked_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answers = Prober.answers

    def counted(self: Prober, entities: list[str], *rest: Any, **options: Any) -> Any:
        asked.extend(entities)
        return answers(self, entities, *rest, **options)

    monkeypatch.setattr(Prober, "answers", counted)
    session.query('PROBE RELATION "capital" FOR ("France", "Peru")')
    result = session.query('PROBE RELATION "Capital" FOR ("peru", "Cuba", " France ")')
    assert asked == ["France", "Peru", "Cuba"]
    assert "2 of 3 entities had been probed before" in result.meta.notes
    session.query('PROBE RELATION "capital" FOR ("Peru") TOP 2')  # more than is known
    session.query('PROBE RELATION "capital" FOR ("Peru") TEMPLATE "{entity}: its capital is"')
    assert asked[3:] == ["Peru", "Peru"]
    session.query('PROBE RELATION "capital" FOR ("Cuba")')
    assert len(session.query("SHOW EDITS").rows) == 4


def test_a_cancelled_probe_keeps_what_it_has_and_goes_on(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rounded(session.query(f"{PROBE} BATCH 2").rows)
    session.query("UNDO")
    token = CancelToken()
    answers, calls = Prober.answers, []

    def stopping(self: Prober, entities: list[str], *rest: Any, **options: Any) -> Any:
        found = answers(self, entities, *rest, **options)
        calls.append(tuple(entities))
        if len(calls) == 2:
            token.cancel()
        return found

    monkeypatch.setattr(Prober, "answers", stopping)
    (statement,) = session.prepare(f"{PROBE} BATCH 2").items[0].statements
    with pytest.raises(LqlError) as caught:
        session.execute(statement, cancel=token)
    assert caught.value.code is Code.CANCELLED
    assert "4 of 5 entities are kept" in str(caught.value)
    assert len(overlay(session).view.probes) == 4
    assert rounded(session.query(f"{PROBE} BATCH 2").rows) == expected
    assert calls == [NAMES[:2], NAMES[2:4], NAMES[4:]]


def test_entities_come_from_a_file(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffFrance\r\n\n  Peru  \nFRANCE\n{entity}\n", encoding="utf-8")
    session.query('PROBE RELATION "capital" FROM :p', p=str(path))
    probes = overlay(session).view.probes.values()
    assert [probe.entity for probe in probes] == ["France", "Peru", "{entity}"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "names no entity"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"France\n...\n", "names.txt:2"),
        (b"x " * 70, "names.txt:1"),
    ],
)
def test_a_bad_list_is_refused_before_anything_is_asked(
    session: Session, tmp_path: Path, data: bytes, says: str
) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(data)
    with pytest.raises(LqlRuntimeError, match=says) as caught:
        session.query('PROBE RELATION "capital" FROM :p', p=str(path))
    assert caught.value.code is Code.ENTITIES_INVALID
    assert not overlay(session).edits


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ('PROBE RELATION "capitol" FOR ("France")', Code.UNKNOWN_QUESTION),
        ('PROBE RELATION "capital" FOR ("France") TOP 11', Code.OUT_OF_RANGE),
        ('PROBE RELATION "x" FOR ("France") TEMPLATE "The x is"', Code.OUT_OF_RANGE),
        ('PROBE RELATION " " FOR ("France") TEMPLATE "{entity} is"', Code.OUT_OF_RANGE),
        ('PROBE RELATION "capital" FROM "no such file"', Code.FILE_FAILED),
    ],
)
def test_what_cannot_be_asked_is_refused(session: Session, statement: str, code: Code) -> None:
    with pytest.raises(LqlError) as caught:
        session.query(statement)
    assert caught.value.code is code


def test_an_unknown_relation_suggests_those_that_are_known(session: Session) -> None:
    session.query('DEFINE RELATION "anthem" TEMPLATE "{entity} sings"')
    with pytest.raises(LqlError) as caught:
        session.query('PROBE RELATION "anthm" FOR ("France")')
    assert caught.value.diagnostic.suggestions == ("anthem",)
    rows = session.query('PROBE RELATION "anthem" FOR ("France")').rows
    assert {row["source"] for row in rows} <= {"France sings"}
    (relation,) = session.query('SELECT * FROM RELATIONS WHERE relation = "anthem"').rows
    assert relation["templates"] == 1


def test_a_browse_vindex_cannot_be_probed(made: Path) -> None:
    with connect(made.with_name("browse.vindex")) as browse, pytest.raises(LqlError) as caught:
        browse.query(PROBE)
    assert caught.value.code is Code.LEVEL_TOO_LOW


# --------------------------------------------------------------------------- patches


def test_probes_and_labels_are_saved_and_applied_and_larql_sees_no_operation(
    session: Session, tmp_path: Path
) -> None:
    labels = tmp_path / "feature_labels.json"
    labels.write_text('{"L0_F1": "capital", "L1_F2": "it\'s"}')
    session.query(f"{PROBE} TOP 2")
    session.query("LABEL FEATURES FROM :p", p=str(labels))
    before = overlay(session).view
    patch = tmp_path / "p.vlp"
    session.query("SAVE PATCH :p", p=str(patch))
    written = json.loads(patch.read_text(encoding="utf-8"))
    assert written["operations"] == []
    assert (len(written["probes"]), len(written["labels"])) == (5, 2)
    session.query("REMOVE PATCH :p", p=str(patch))
    assert not overlay(session).view
    session.query("APPLY PATCH :p", p=str(patch))
    assert overlay(session).view == before


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("probes", {"top": 0}),
        ("probes", {"answers": [{}]}),
        ("probes", {"templates": [1]}),
        ("probes", {"entity": None}),
        ("labels", {"layer": 99}),
        ("labels", {"feature": 10**6}),
        ("labels", {"precision": 1.5}),
        ("labels", {"relation": 3}),
    ],
)
def test_a_malformed_entry_refuses_the_patch(
    session: Session, tmp_path: Path, key: str, change: dict[str, Any]
) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('{"L0_F1": "capital"}')
    session.query('PROBE RELATION "capital" FOR ("France")')
    session.query("LABEL FEATURES FROM :p", p=str(labels))
    patch = tmp_path / "p.vlp"
    session.query("SAVE PATCH :p", p=str(patch))
    session.query("REMOVE PATCH :p", p=str(patch))
    written = json.loads(patch.read_text(encoding="utf-8"))
    written[key][0] |= change
    patch.write_text(json.dumps(written))
    with pytest.raises(LqlError) as caught:
        session.query("APPLY PATCH :p", p=str(patch))
    assert caught.value.code is Code.PATCH_INVALID
    assert not overlay(session).view


def test_a_patch_that_answers_otherwise_is_a_conflict(session: Session, tmp_path: Path) -> None:
    patch = tmp_path / "p.vlp"
    session.query('PROBE RELATION "capital" FOR ("France")')
    session.query("SAVE PATCH :p", p=str(patch))
    written = json.loads(patch.read_text(encoding="utf-8"))
    written["probes"][0]["answers"] = []
    patch.write_text(json.dumps(written))
    session.query("REMOVE PATCH :p", p=str(patch))
    session.query('PROBE RELATION "capital" FOR ("France")')
    result = session.query("APPLY PATCH :p", p=str(patch))
    assert any("the patch wins: probe of France" in note for note in result.meta.notes)


# --------------------------------------------------------------------------- LABEL FEATURES


def test_labels_of_a_file_stand_over_those_of_the_vindex(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "feature_labels.json"
    path.write_text(
        '{"L0_F1": "capital", "L1_F2": "it\'s", "L9_F1": "far", "junk": "x", "L0_F2": 1}'
    )
    result = session.query("LABEL FEATURES FROM :p", p=str(path))
    assert [(r["layer"], r["feature"], r["relation"]) for r in result.rows] == [
        (0, 1, "capital"),
        (1, 2, "it's"),
    ]
    assert result.meta.notes == ("3 of 5 keys name no feature of this vindex",)
    named = "SELECT layer, feature, relation, label_source FROM FEATURES WHERE relation IS NOT NULL"
    assert [tuple(row.values()) for row in session.query(named).rows] == [
        (0, 1, "capital", "probe"),
        (1, 2, "it's", "probe"),
    ]
    before = session.query("DESCRIBE :e EVIDENCE ANSWER RAW", e="France").rows
    session.query("UNDO")
    assert not session.query(named).rows
    assert session.query("DESCRIBE :e EVIDENCE ANSWER RAW", e="France").rows == before


@pytest.mark.parametrize("data", [b"[]", b"{", b"\xff"])
def test_a_file_that_is_no_labels_is_refused(session: Session, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(data)
    with pytest.raises(LqlError):
        session.query("LABEL FEATURES FROM :p", p=str(path))
    assert not overlay(session).edits


def test_labels_need_answers(session: Session) -> None:
    with pytest.raises(LqlRuntimeError) as caught:
        session.query("LABEL FEATURES FROM PROBES")
    assert caught.value.code is Code.NOTHING_PROBED
    session.query(f"{PROBE} TOP 2")
    with pytest.raises(LqlRuntimeError):
        session.query("LABEL FEATURES FROM PROBES MIN SUPPORT 4")


def test_labels_from_probes_are_one_edit_with_support_and_precision(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vindex.labelling.LEAST_PRECISION", 0.0)
    session.query(PROBE)
    session.query('PROBE RELATION "work" FOR ("Ann", "Joe", "Pam", "Ron")')
    rows = session.query("LABEL FEATURES FROM PROBES MIN SUPPORT 1").rows
    assert rows
    shown = session.query("SELECT * FROM FEATURES WHERE support >= 1 AND precision >= 0").rows
    assert {(r["layer"], r["feature"], r["relation"]) for r in shown} == {
        (r["layer"], r["feature"], r["relation"]) for r in rows
    }
    assert len(session.query("SHOW EDITS").rows) == 3
    again = session.query("LABEL FEATURES FROM PROBES MIN SUPPORT 1").rows
    assert again == rows


# --------------------------------------------------------------------------- answers in EDGES


def test_select_asks_about_the_entities_that_where_names(session: Session) -> None:
    told = session.query('DESCRIBE "France" EVIDENCE ANSWER RAW').rows
    answers = 'FROM EDGES WHERE entity IN ("France", "Peru") AND evidence = "answer"'
    rows = session.query(f"SELECT * {answers}").rows
    assert {row["entity"] for row in rows} == {"France", "Peru"}
    shared = ("relation", "target", "probability", "lift_nats", "source")
    found = [{k: row[k] for k in shared} for row in rows if row["entity"] == "France"]
    assert rounded(found) == rounded([{k: row[k] for k in shared} for row in told])
    assert any(row["layer"] is not None and row["share"] > 0 for row in rows)
    signals = session.query(f"SELECT entity, signal {answers}").rows
    assert {row["signal"] for row in signals} <= {"none", "weak", "clear"}


def test_select_without_an_entity_says_that_answers_need_one(session: Session) -> None:
    result = session.query("SELECT * FROM EDGES")
    assert not result.rows
    assert any("answer and static edges are computed" in note for note in result.meta.notes)
    only = session.query('SELECT * FROM EDGES WHERE evidence = "static"')
    assert any(note.startswith("static edges are computed") for note in only.meta.notes)
    assert not session.query('SELECT * FROM EDGES WHERE evidence = "probe"').meta.notes


def test_a_browse_vindex_says_why_it_has_no_answers(made: Path) -> None:
    with lql.open(made.with_name("browse.vindex")) as browse:
        result = browse.query('SELECT * FROM EDGES WHERE entity = "France"')
        assert any(note.startswith("no answer edges") for note in result.meta.notes)


def test_what_is_no_name_gets_no_answers_and_a_note(session: Session) -> None:
    result = session.query('SELECT * FROM EDGES WHERE entity = "..."')
    assert any("it is no name" in note for note in result.meta.notes)


# --------------------------------------------------------------------------- words by meaning


def test_a_word_that_is_no_relation_is_told_and_read_as_written(session: Session) -> None:
    session.query(PROBE)
    edges = 'SELECT * FROM EDGES WHERE evidence = "probe" AND relation = '
    assert session.query(edges + '"capital"').rows
    assert not session.query(edges + '"capital"').meta.notes
    for statement in (edges + '"seat"', 'SHOW FEATURES 0 WHERE relation = "seat"'):
        result = session.query(statement)
        assert not result.rows
        assert any('no relation is called "seat"' in note for note in result.meta.notes)
    assert not session.query(edges + '"seat" EXACT').meta.notes
    likes = 'SELECT * FROM EDGES WHERE evidence = "probe" AND relation LIKE "se%"'
    assert not session.query(likes).meta.notes


def test_a_word_is_read_as_the_relation_that_it_is_taken_for(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lql.execute.meaning._LEAST", 0.0)
    monkeypatch.setattr("lql.execute.meaning._LEAD", 0.0)
    session.query(PROBE)
    result = session.query('SELECT * FROM EDGES WHERE relation = "seat" AND evidence = "probe"')
    assert result.rows == session.query('SELECT * FROM EDGES WHERE evidence = "probe"').rows
    (note,) = result.meta.notes
    assert note.startswith('relation "seat" is read as "capital" (confidence ')


def test_what_a_word_means_is_kept(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.query(PROBE)
    session.query("SAVE PATCH :p", p=str(tmp_path / "p.vlp"))
    statement = 'SELECT * FROM EDGES WHERE relation = "seat" AND evidence = "probe"'
    first = session.query(statement)
    monkeypatch.setattr("lql.execute.meaning.asking", None)
    assert session.query(statement).meta.notes == first.meta.notes
    with connect(tmp_path / "tiny.vindex") as other:
        other.query("APPLY PATCH :p", p=str(tmp_path / "p.vlp"))
        assert other.query(statement).meta.notes == first.meta.notes
        assert not other.loaded
        with pytest.raises(TypeError):  # another word is another question
            other.query(statement.replace("seat", "throne"))


def test_a_relation_is_what_its_own_name_means_most(session: Session) -> None:
    describer = session.model().describer(parse(SMALL.encode()))
    relations = ["capital", "river", "song"]
    for word in relations:
        best, *rest = describer.meanings(word, relations, "country")
        assert best.relation == word
        assert best.similarity == pytest.approx(1, abs=1e-3)
        assert best.agreement == pytest.approx(1, abs=1e-3)
        assert best.confidence > max(each.confidence for each in rest)
        assert sorted(each.relation for each in rest) == sorted({*relations} - {word})


def test_a_browse_vindex_suggests_what_is_spelt_alike(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made.with_name("browse.vindex"), tmp_path / "b.vindex")
    (tmp_path / "labels.json").write_text('{"L0_F1": "capital"}')
    with connect(tmp_path / "b.vindex") as browse:
        browse.query("LABEL FEATURES FROM :p", p=str(tmp_path / "labels.json"))
        result = browse.query('SELECT * FROM FEATURES WHERE relation = "capitl"')
        assert 'no relation is called "capitl"; there is capital' in result.meta.notes
        browse.discard_edits()
