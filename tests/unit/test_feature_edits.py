"""UPDATE and DELETE: which rows WHERE chooses, and what becomes of features of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lql.codes import Code
from lql.execute import chosen
from lql.execute.feature_edits import down_vector, head_direction
from lql.session import Session, connect
from tests.unit.statements import one, refused
from vindex.edits import Slot

IDS = tuple(range(5, 25))
INSERT = "INSERT INTO EDGES (entity, relation, target) VALUES"


def activation(session: Session, slot: Slot, prompt: str = "The capital of Hungary is") -> float:
    layer, feature = slot
    found = session.model().features(prompt, layers=[layer], per_layer=10_000)
    return next(hit.activation for hit in found.hits[layer] if hit.feature == feature)


# --------------------------------------------------------------------------- features


def test_delete_switches_a_feature_off_everywhere(session: Session) -> None:
    base = session.model().logits(IDS)
    assert activation(session, (1, 7)) != 0.0
    result = one(session, "DELETE FROM FEATURES WHERE layer = 1 AND feature = 7;")
    assert (result.mode, result.facts) == ("features", ())
    (row,) = result.features
    assert (row.layer, row.feature, row.after) == (1, 7, None)
    assert activation(session, (1, 7)) == 0.0
    off = session.model().logits(IDS)
    assert not np.array_equal(off, base)
    shown = one(session, "SELECT token, edited FROM FEATURES WHERE layer = 1 AND feature = 7;")
    assert shown.rows == [{"token": None, "edited": True}]
    one(session, "UNDO;")
    assert np.array_equal(session.model().logits(IDS), base)


def test_what_is_switched_off_is_what_the_feature_added(session: Session) -> None:
    """At the last layer the residual stream lacks exactly activation times down vector."""
    slot = (3, 11)
    prompt = "The capital of Hungary is"
    ids = session.model().encode(prompt).ids
    down = down_vector(session.source, slot)  # type: ignore[arg-type]
    added = activation(session, slot) * down
    before = session.model().layer_outputs(ids)[3, -1]
    one(session, "DELETE FROM EDGES WHERE layer = 3 AND feature = 11 CHECK NONE;")
    after = session.model().layer_outputs(ids)[3, -1]
    np.testing.assert_allclose(before - after, added, atol=1e-5)
    assert np.abs(added).max() > 1e-4


def test_update_turns_a_feature_to_a_token_as_strong_as_before(session: Session) -> None:
    slot = (3, 11)
    vx = session.source
    assert vx is not None
    before = down_vector(vx, slot)
    result = one(session, 'UPDATE FEATURES SET target = "Oslo" WHERE layer = 3 AND feature = 11;')
    (row,) = result.features
    edit = session.overlay.view.features[slot]
    assert edit.down is not None
    assert edit.writes is not None
    assert row.after == edit.writes.token
    assert np.linalg.norm(edit.down.array) == pytest.approx(np.linalg.norm(before), rel=1e-5)
    wanted = head_direction(vx, edit.writes.token_id)
    assert float(wanted @ edit.down.array) == pytest.approx(np.linalg.norm(before), rel=1e-5)
    shown = one(session, "SELECT token_id, edited FROM FEATURES WHERE layer = 3 AND feature = 11;")
    assert shown.rows == [{"token_id": edit.writes.token_id, "edited": True}]
    kinds = [probe.kind for probe in result.probes]
    assert (kinds.count("feature"), kinds.count("control")) == (1, 3)
    probe = result.probes[0]
    strength = activation(session, slot, probe.prompt)
    rises = probe.probability_after > probe.probability_before
    assert rises == (strength > 0), "what the report measures is what the feature does"


def test_feature_edits_survive_a_patch(session: Session, vindex: Path, tmp_path: Path) -> None:
    one(session, 'UPDATE FEATURES SET target = "Oslo" WHERE layer = 2 AND feature < 5 CHECK NONE;')
    one(session, "DELETE FROM FEATURES WHERE layer = 1 AND feature IN (3, 4) CHECK NONE;")
    logits = session.model().logits(IDS)
    one(session, "SAVE PATCH :p;", p=tmp_path / "f.vlp")
    with connect(vindex) as fresh:
        one(fresh, "APPLY PATCH :p;", p=tmp_path / "f.vlp")
        assert fresh.overlay.view.features == session.overlay.view.features
        assert np.array_equal(fresh.model().logits(IDS), logits)


def test_the_rows_of_where_are_those_of_select(session: Session) -> None:
    where = 'layer BETWEEN 1 AND 2 AND (token LIKE "%a%" OR logit > 0.5) AND NOT feature < 20'
    wanted = one(session, f"SELECT layer, feature FROM FEATURES WHERE {where};").rows
    assert 3 < len(wanted) < 300
    result = one(session, f"DELETE FROM FEATURES WHERE {where} CHECK NONE;")
    assert [(f.layer, f.feature) for f in result.features] == [
        (row["layer"], row["feature"]) for row in wanted
    ]
    assert all(edit.off for edit in session.overlay.view.features.values())


def test_many_rows_need_limit_or_all(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "MAX_ROWS", 100)
    error = refused(session, "DELETE FROM FEATURES WHERE layer = 1 CHECK NONE;")
    assert error.code is Code.TOO_MANY_ROWS
    assert "160 features" in error.diagnostic.message
    limited = one(session, "DELETE FROM FEATURES WHERE layer = 1 LIMIT 120 CHECK NONE;")
    assert len(limited.features) == 120
    one(session, "UNDO;")
    assert len(one(session, "DELETE FROM FEATURES WHERE layer = 1 ALL CHECK NONE;").features) == 160


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ('DELETE FROM FEATURES WHERE entity = "x";', Code.UNKNOWN_COLUMN),
        ('DELETE FROM EDGES WHERE feature = 3 AND entity = "x";', Code.UNKNOWN_COLUMN),
        ('DELETE FROM FEATURES WHERE layer = "x";', Code.WRONG_TYPE),
        ("DELETE FROM EDGES WHERE gate > 3;", Code.UNKNOWN_COLUMN),
        ("UPDATE FEATURES SET confidence = 0.5 WHERE layer = 1;", Code.UNKNOWN_COLUMN),
        ("UPDATE FEATURES SET target = 3 WHERE layer = 1;", Code.WRONG_TYPE),
        (
            "DELETE FROM FEATURES WHERE layer = 1 AND feature = 2 REQUIRE controls < 0;",
            Code.NOT_MET,
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(session: Session, statement: str, code: Code) -> None:
    assert refused(session, statement).code is code


def test_no_row_changes_nothing(session: Session) -> None:
    result = one(session, "DELETE FROM FEATURES WHERE layer = 99;")
    assert result.features == ()
    assert any("nothing was changed" in note for note in result.meta.notes)
    assert session.overlay.edits == ()


# --------------------------------------------------------------------------- inserted facts


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ('entity = "Hungary"', {"Oslo", "forint"}),
        ('entity = "hungary"', set()),
        ('entity LIKE "hun%" AND relation <> "capital"', {"forint"}),
        ("confidence BETWEEN 0.4 AND 0.6", {"Rome"}),
        ("c_score < 0.6", {"Rome"}),
        ('target IN ("Oslo", "Rome")', {"Oslo", "Rome"}),
        ('NOT (evidence = "inserted")', set()),
        ("layer >= 0 AND layer IS NOT NULL", {"Oslo", "forint", "Rome"}),
    ],
)
def test_where_over_inserted_facts(session: Session, where: str, wanted: set[str]) -> None:
    one(session, f'{INSERT} ("Hungary", "capital", "Oslo"), ("Hungary", "currency", "forint") '
                 "CHECK NONE;")  # fmt: skip
    one(session, f'{INSERT} ("Peru", "capital", "Rome") CONFIDENCE 0.5 CHECK NONE;')
    result = one(session, f"DELETE FROM EDGES WHERE {where} CHECK NONE;")
    assert {fact.replaced for fact in result.facts} == wanted
    left = {fact.target for fact in session.overlay.view.facts.values()}
    assert left == {"Oslo", "forint", "Rome"} - wanted
