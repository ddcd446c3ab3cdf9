"""Edits through the session: facts at work in the model, patches, DIFF, UNDO, REQUIRE."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lql.codes import Code
from lql.errors import LqlError
from lql.results.browse import DescribeResult
from lql.results.edits import EditResult, EditsResult, PatchResult
from lql.results.forward import InferResult
from lql.session import Session, connect
from lql.syntax_words import PromptMode
from tests.unit.statements import one
from tests.unit.vindex_files import VINDEXES
from vindex.edits import FeatureEdit
from vindex.store import open_vindex

PROMPT = "The capital of Hungary is"
IDS = tuple(range(5, 25))
INSERT = "INSERT INTO EDGES (entity, relation, target) VALUES"
HUNGARY = f'{INSERT} ("Hungary", "capital", "Oslo") CHECK NONE;'


def infer(session: Session, prompt: str = PROMPT) -> InferResult:
    result: InferResult = one(session, "INFER :p TOP 4;", p=prompt)
    return result


def said(session: Session, prompt: str = PROMPT, tokens: int = 8) -> str:
    return "".join(token.text for token in session.model().generate(prompt, max_tokens=tokens))


def refused(session: Session, statement: str, **parameters: Any) -> LqlError:
    before = (session.overlay.edits, session.overlay.view, session.overlay.recording)
    with pytest.raises(LqlError) as caught:
        session.run(statement, parameters=parameters)
    assert (session.overlay.edits, session.overlay.view, session.overlay.recording) == before
    return caught.value


# --------------------------------------------------------------------------- one fact


def test_an_inserted_fact_answers_and_delete_takes_it_back(session: Session) -> None:
    base = infer(session)
    logits = session.model().logits((1, 2, 3))
    result = one(session, f'{INSERT} ("Hungary", "capital", "Oslo");')
    assert isinstance(result, EditResult)
    assert result.measures.efficacy == 1.0
    assert result.measures.neighbours == 1.0
    assert result.measures.controls == 0.0
    edited = infer(session)
    first = edited.tokens[0]
    assert (first.token, first.probability) == (" ", 1.0) or "Oslo".startswith(first.token.strip())
    assert edited.fact is not None
    assert (edited.fact.target, edited.fact.own) == ("Oslo", base.tokens[0].token)
    assert list(edited.to_rows()[0]) == [
        *("rank", "token", "token_id", "probability", "logit", "fact")
    ]
    assert [row.token_id for row in edited.tokens[1:]] == [
        row.token_id for row in base.tokens if row.token_id != first.token_id
    ][:3]
    assert infer(session, "The capital of Austria is").fact is None
    assert np.array_equal(session.model().logits((1, 2, 3)), logits)
    deleted = one(session, 'DELETE FROM EDGES WHERE entity = "Hungary" AND relation = "capital";')
    assert deleted.facts[0].target is None
    assert infer(session) == base


def test_a_target_of_many_tokens_is_said_whole(session: Session) -> None:
    model_said = said(session)
    one(session, f'{INSERT} ("Hungary", "capital", "Oslo upon Danube") CHECK NONE;')
    assert len(session.model().target_ids("Oslo upon Danube")) > 4
    text = said(session, tokens=40)
    assert text.startswith(" Oslo upon Danube")
    assert text.count("Oslo upon Danube") == 1
    assert not model_said.startswith(" Oslo")


def test_inserting_again_replaces(session: Session) -> None:
    one(session, HUNGARY)
    result = one(session, f'{INSERT} ("hungary", "Capital", "Rome") CHECK NONE;')
    assert (result.facts[0].target, result.facts[0].replaced) == ("Rome", "Oslo")
    assert len(session.overlay.view.facts) == 1
    one(session, HUNGARY.replace("Oslo", "Bern"))
    assert said(session).startswith(" Bern")
    assert len(session.overlay.view.facts) == 1


def test_update_reaches_the_fact(session: Session) -> None:
    one(session, HUNGARY)
    result = one(
        session, 'UPDATE EDGES SET target = "Rome", confidence = 0.5 WHERE target = "Oslo";'
    )
    assert result.facts[0].confidence == 0.5
    assert said(session).startswith(" Rome")
    (row,) = session.overlay.view.facts.values()
    assert (row.target, row.confidence) == ("Rome", 0.5)


def test_an_alias_names_the_entity(session: Session) -> None:
    one(session, f'{INSERT} ("Hungary", "capital", "Oslo") ALIAS "Magyar Land" CHECK NONE;')
    keys = next(iter(session.overlay.view.facts.values())).keys
    assert len(keys) == 3
    fact = infer(session, "The capital of Hungary is").fact
    assert fact is not None
    routed = one(session, 'INFER "The capital of Magyar Land is" ROUTE VERIFY TOPK 1;')
    cosine = session.model().facts
    assert cosine.facts[0].aliases == ("Magyar Land",)
    assert routed.fact is None or routed.fact.entity == "Hungary"


def test_exit_stops_at_the_fact_and_fallback_goes_by_likeness(session: Session) -> None:
    one(session, HUNGARY)
    stopped = one(session, f'INFER "{PROMPT}" ROUTE VERIFY EXIT;')
    assert len(stopped.tokens) == 1
    assert stopped.fact.own is None
    assert np.isnan(stopped.tokens[0].logit)
    like = one(session, 'INFER "The capital of Austria is" ROUTE VERIFY FALLBACK;')
    assert like.fact is None or like.fact.cosine > 0.75


def test_facts_come_from_files(session: Session, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(
        "entity,relation,target,aliases\nHungary,capital,Oslo,Magyar|HU\nAustria,capital,Rome,\n"
    )
    (tmp_path / "f.jsonl").write_text(
        '{"entity": "Peru", "relation": "capital", "target": "Bern", "aliases": ["PE"]}\n\n'
    )
    one(session, "INSERT INTO EDGES FROM :f CHECK NONE;", f=tmp_path / "f.csv")
    one(session, "INSERT INTO EDGES FROM :f CHECK NONE;", f=tmp_path / "f.jsonl")
    facts = list(session.overlay.view.facts.values())
    assert [fact.target for fact in facts] == ["Oslo", "Rome", "Bern"]
    assert [fact.aliases for fact in facts] == [("Magyar", "HU"), (), ("PE",)]
    assert len(session.overlay.edits) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "entity,relation\nx,y\n"),
        ("b.csv", "entity,relation,target\nx,y\n"),
        ("c.csv", 'entity,relation,target\nx,y,"z\n'),
        ("d.csv", "entity,relation,target\nx,,z\n"),
        ("e.jsonl", "{"),
        ("f.jsonl", '["x"]'),
        ("g.jsonl", '{"entity": "x", "relation": "y", "target": 3}'),
        ("h.txt", "x"),
        ("i.csv", "entity,relation,target\nx,y,z\nx,y,w\n"),
    ],
)
def test_a_bad_file_changes_nothing(session: Session, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    error = refused(session, "INSERT INTO EDGES FROM :f CHECK NONE;", f=tmp_path / name)
    assert error.code is Code.FACTS_INVALID


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (f'{INSERT} ("a", "b", "c") MODE COMPOSE;', Code.NO_FREE_FEATURE),
        (f'{INSERT} ("a", "b", "c") ALPHA 0.1;', Code.WRONG_TYPE),
        (f'{INSERT} ("a", "b", "c") CONFIDENCE 2;', Code.OUT_OF_RANGE),
        (f'{INSERT} ("a", "b", "c") AT LAYER 99;', Code.OUT_OF_RANGE),
        (f'{INSERT} ("", "b", "c");', Code.FACTS_INVALID),
        (f'{INSERT} ("a", "b", "c"), ("d", "e", "f") ALIAS "g";', Code.WRONG_TYPE),
        (f'{INSERT} ("a", "b", "c") REQUIRE beauty > 1;', Code.UNKNOWN_COLUMN),
        (f'{INSERT} ("a", "b", "c") CHECK NONE REQUIRE efficacy > 0;', Code.WRONG_TYPE),
        (f'{INSERT} ("a", "b", "c") REQUIRE efficacy > 1;', Code.NOT_MET),
        ('DELETE FROM EDGES WHERE feature = 2 AND target = "x";', Code.UNKNOWN_COLUMN),
        ('DELETE FROM EDGES WHERE colour = "red";', Code.UNKNOWN_COLUMN),
        ('UPDATE EDGES SET entity = "x" WHERE target = "y";', Code.UNKNOWN_COLUMN),
        ('UPDATE EDGES SET target = 3 WHERE target = "y";', Code.WRONG_TYPE),
        ("UNDO;", Code.FAILED),
        ("SAVE PATCH;", Code.FAILED),
        ('SAVE PATCH "x.vlp";', Code.FAILED),
        ('REMOVE PATCH "x.vlp";', Code.UNKNOWN_PATCH),
        ('APPLY PATCH "hf://a/b";', Code.NOT_AVAILABLE_YET),
    ],
)
def test_what_cannot_be_done_changes_nothing(session: Session, statement: str, code: Code) -> None:
    assert refused(session, statement).code is code


def test_what_is_required_and_met_is_made(session: Session) -> None:
    result = one(
        session,
        f'{INSERT} ("Hungary", "capital", "Oslo") '
        "REQUIRE efficacy >= 1 AND neighbours >= 0.95 AND controls <= 0.02;",
    )
    assert result.check == "quick"
    assert {probe.kind for probe in result.probes} == {
        "canonical", "paraphrase", "neighbour", "control",
    }  # fmt: skip
    full = one(session, f'{INSERT} ("Peru", "capital", "Oslo") CHECK FULL;')
    assert len([probe for probe in full.probes if probe.kind == "control"]) == 20
    assert len([probe for probe in full.probes if probe.kind == "neighbour"]) == 10


def test_chat_and_describe_see_the_fact(session: Session) -> None:
    one(session, HUNGARY)
    described = one(session, 'DESCRIBE "hungary";')
    assert isinstance(described, DescribeResult)
    row = described.edges[0]
    assert (row.relation, row.target, row.evidence) == ("capital", "Oslo", "inserted")
    explained = one(session, f'EXPLAIN INFER "{PROMPT}";')
    assert any("stored fact" in note for note in explained.meta.notes)


# --------------------------------------------------------------------------- going back, leaving


def test_use_refuses_to_drop_edits(session: Session, vindex: Path) -> None:
    one(session, HUNGARY)
    for statement in ("USE :v;", "USE MODEL :v;", "EXTRACT MODEL :v INTO :v OVERWRITE;"):
        assert refused(session, statement, v=str(vindex)).code is Code.UNSAVED_EDITS
    one(session, "DISCARD PATCH;")
    one(session, "USE :v;", v=str(vindex))
    assert infer(session).fact is None


def test_closing_with_unsaved_edits_warns(vindex: Path) -> None:
    session = connect(vindex)
    session.run(HUNGARY)
    with pytest.warns(UserWarning, match="closing the session drops 1 edit"):
        session.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        connect(vindex).close()


# --------------------------------------------------------------------------- patches


def test_a_patch_survives_into_a_new_session(
    session: Session, vindex: Path, tmp_path: Path
) -> None:
    file = tmp_path / "h.vlp"
    one(session, "BEGIN PATCH :p;", p=str(file))
    one(session, HUNGARY)
    answer = infer(session)
    saved = one(session, "SAVE PATCH;")
    assert isinstance(saved, PatchResult)
    assert saved.size_bytes == file.stat().st_size
    assert session.overlay.unsaved == ()
    with connect(vindex) as fresh:
        one(fresh, "APPLY PATCH :p;", p=str(file))
        assert infer(fresh) == answer
        assert said(fresh).startswith(" Oslo")
        shown = one(fresh, "SHOW PATCHES;")
        assert [row["operations"] for row in shown.rows] == [1]
        error = refused(fresh, "APPLY PATCH :p;", p=str(file))
        assert "already" in error.diagnostic.message
        one(fresh, "REMOVE PATCH :p;", p=str(file))
        assert infer(fresh).fact is None
        one(fresh, "UNDO;")
        assert infer(fresh) == answer
    edits = one(session, "SHOW EDITS;")
    assert isinstance(edits, EditsResult)
    assert edits.edits[0].patch == str(file)


def test_saving_twice_keeps_what_was_saved_before(session: Session, tmp_path: Path) -> None:
    file = str(tmp_path / "h.vlp")
    one(session, HUNGARY)
    one(session, "SAVE PATCH :p;", p=file)
    one(session, f'{INSERT} ("Peru", "capital", "Bern") CHECK NONE;')
    saved = one(session, "SAVE PATCH :p;", p=file)
    assert saved.operations == 2
    one(session, f'{INSERT} ("Peru", "capital", "Rome") CHECK NONE;')
    (tmp_path / "other").write_text("mine")
    assert refused(session, "SAVE PATCH :p;", p=tmp_path / "other").code is Code.TARGET_EXISTS
    assert (tmp_path / "other").read_text() == "mine"
    one(session, "SAVE PATCH :p OVERWRITE;", p=str(tmp_path / "other"))


def test_conflicts_are_listed_and_the_patch_wins(session: Session, tmp_path: Path) -> None:
    file = str(tmp_path / "h.vlp")
    one(session, HUNGARY)
    one(session, "SAVE PATCH :p;", p=file)
    one(session, "UNDO;")
    one(session, f'{INSERT} ("Hungary", "capital", "Rome") CHECK NONE;')
    applied = one(session, "APPLY PATCH :p;", p=file)
    (conflict,) = applied.conflicts
    assert (conflict.before, conflict.after) == ("Rome", "Oslo")
    assert said(session).startswith(" Oslo")


def test_another_base_is_refused_unless_forced(
    session: Session, data_dir: Path, tmp_path: Path
) -> None:
    one(session, HUNGARY)
    file = str(tmp_path / "h.vlp")
    one(session, "SAVE PATCH :p;", p=file)
    with Session() as other:
        other.run(
            "EXTRACT MODEL :m INTO :t;",
            parameters={"m": data_dir / "golden/checkpoints/llama_h96", "t": tmp_path / "f16"},
        )
        error = refused(other, "APPLY PATCH :p;", p=file)
        assert error.code is Code.OTHER_BASE
        assert any("gate_vectors.bin" in note for note in error.diagnostic.notes)
        one(other, "APPLY PATCH :p FORCE;", p=file)


def test_a_composed_patch_of_larql_gives_larqls_own_weights(data_dir: Path) -> None:
    """INFER and browse over the applied patch read what larql's COMPILE baked in."""
    from vindex.edited import EditedVindex

    with connect(VINDEXES / "llama_h96.f16") as session:
        before = session.model().logits(IDS)
        one(session, "APPLY PATCH :p;", p=data_dir / "golden/patches/compose.vlp")
        after = session.model().logits(IDS)
        assert not np.array_equal(before, after)
        columns = "SELECT token_id, relation, edited FROM FEATURES"
        shown = one(session, f"{columns} WHERE layer = 2 AND feature = 130;")
        assert shown.rows == [{"token_id": 377, "relation": "capital", "edited": True}]
        gone = one(session, f"{columns} WHERE layer = 1 AND feature = 7;")
        assert gone.rows == [{"token_id": None, "relation": None, "edited": True}]
        edited = session.overlay.view.features
        assert edited[1, 7] == FeatureEdit(off=True)
        with open_vindex(VINDEXES / "llama_h96.f16") as base:
            compiled = EditedVindex(base, edited)
            assert not compiled.gate(1).float32()[7].any()
            gate = edited[2, 130].gate
            assert gate is not None
            assert np.array_equal(compiled.gate(2).float32()[130], gate.array)


def test_diff_into_patch_turns_one_vindex_into_the_other(vindex: Path, tmp_path: Path) -> None:
    """Two vindexes on disk, one of them larql's with a compiled fact and features."""
    left, right = VINDEXES / "llama_h96.f16", VINDEXES / "llama_h96.compiled_compose"
    patch = str(tmp_path / "d.vlp")
    with Session() as session:
        found = one(session, "DIFF :a :b LIMIT 1000000 INTO PATCH :p;", a=left, b=right, p=patch)
        assert found.differences
        session.run("USE :a; APPLY PATCH :p;", parameters={"a": str(left), "p": patch})
        assert one(session, "DIFF CURRENT :b;", b=right).differences == ()
        session.run("REMOVE PATCH :p;", parameters={"p": patch})
        assert one(session, "DIFF CURRENT :a;", a=left).differences == ()
        only = one(session, "DIFF :a :b LAYER 2 LIMIT 1000000;", a=left, b=right)
        assert {row.layer for row in only.differences} <= {2}
        assert refused(session, 'DIFF :a :b RELATION "zzz";', a=left, b=right).code is (
            Code.UNKNOWN_RELATION
        )


def test_a_fact_compiled_in_by_larql_answers(tmp_path: Path) -> None:
    copy = tmp_path / "knn.vindex"
    shutil.copytree(VINDEXES / "llama_h96.compiled_knn", copy)
    # larql's COMPILE loses it, and such a vindex is refused.
    shutil.copy(VINDEXES / "llama_h96.f16" / "lm_head.bin", copy)
    with connect(copy) as session:
        result = infer(session, "The capital of France is")
        assert result.fact is not None
        assert (result.fact.target, result.fact.cosine > 0.99) == ("Rome", True)
        one(session, 'DELETE FROM EDGES WHERE entity = "France" CHECK NONE;')
        assert infer(session, "The capital of France is").fact is None
        assert infer(session, "The capital of Italy is").fact is not None
        session.discard_edits()


def test_chat_prompts_are_routed_by_what_the_user_typed(session: Session) -> None:
    one(session, HUNGARY)
    encoded = session.model().encode(PROMPT, PromptMode.RAW)
    assert encoded.text == PROMPT
