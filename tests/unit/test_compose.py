"""INSERT … MODE COMPOSE, REBALANCE and COMPACT on a tiny model of random weights.

Every feature of such a model does something, so facts are composed with EVICT.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lql.codes import Code
from lql.execute import compact, compose
from lql.probes import CONTROLS, canonical, key_prompts, lessons, probes_for
from lql.results.composed import BalanceResult
from lql.results.edits import EditResult
from lql.session import Session, connect
from tests.unit.statements import one, refused
from vindex.edits import fact_name

IDS = tuple(range(5, 25))
INSERT = "INSERT INTO EDGES (entity, relation, target) VALUES"
OSLO = f'{INSERT} ("Hungary", "capital", "Oslo") MODE COMPOSE EVICT'
PROMPT = "The capital of Hungary is"


def said(session: Session, prompt: str = PROMPT) -> str:
    return "".join(token.text for token in session.model().generate(prompt, max_tokens=5))


# --------------------------------------------------------------------------- one fact


def test_a_composed_fact_is_said_by_the_weights(session: Session) -> None:
    base = session.model().logits(IDS)
    ids = session.model().target_ids("Oslo")
    assert len(ids) == 5
    result = one(session, f"{OSLO};")
    assert isinstance(result, EditResult)
    assert (result.mode, result.measures.efficacy) == ("compose", 1.0)
    assert said(session) == " Oslo"
    view = session.overlay.view
    assert not view.facts
    (fact,) = view.composed.values()
    assert len(fact.slots) == len(ids), "a feature for every token"
    for prompt in key_prompts("Hungary", "capital"):
        assert session.model().probability(prompt, ids) > 0.3
    shown = one(session, 'SELECT * FROM EDGES WHERE evidence = "inserted";').rows
    assert [(row["target"], row["feature"]) for row in shown] == [("Oslo", fact.slots[0][1])]
    described = one(session, 'DESCRIBE "Hungary";')
    assert [(e.target, e.evidence) for e in described.edges][:1] == [("Oslo", "inserted")]
    one(session, "UNDO;")
    assert np.array_equal(session.model().logits(IDS), base)


def test_the_gate_opens_for_the_fact_and_shuts_for_what_was_taught(session: Session) -> None:
    one(session, f'{INSERT} ("Hungary", "capital", "Po") MODE COMPOSE EVICT CHECK NONE;')
    (fact,) = session.overlay.view.composed.values()

    def gates(prompt: str) -> list[float]:
        hits = session.model().features(prompt, layers=[fact.layer], per_layer=10_000)
        slots = {feature for _, feature in fact.slots}
        return [hit.gate for hit in hits.hits[fact.layer] if hit.feature in slots]

    own = [max(gates(prompt)) for prompt in key_prompts("Hungary", "capital")]
    others = [max(gates(prompt)) for prompt in lessons("Hungary", "capital")[::4]]
    assert min(own) > 0
    assert sum(gate < min(own) / 2 for gate in others) > 0.8 * len(others)
    assert sum(others) < 0


def test_no_feature_is_taken_that_the_model_uses(session: Session) -> None:
    error = refused(session, f'{INSERT} ("Hungary", "capital", "Oslo") MODE COMPOSE;')
    assert error.code is Code.NO_FREE_FEATURE
    assert any("EVICT" in each for each in error.diagnostic.helps)


def test_features_that_hold_edits_are_not_taken(session: Session) -> None:
    one(session, 'UPDATE FEATURES SET target = "a" WHERE layer = 2 AND feature < 158 CHECK NONE;')
    error = refused(session, f"{OSLO};")
    assert error.code is Code.NO_FREE_FEATURE
    assert "158 of its features hold edits" in error.diagnostic.message
    one(session, f"{OSLO} AT LAYER 1 CHECK NONE;")
    assert {layer for layer, _ in next(iter(session.overlay.view.composed.values())).slots} == {1}


def test_switched_off_features_are_taken_first(session: Session) -> None:
    one(session, "DELETE FROM FEATURES WHERE layer = 2 AND feature < 20 CHECK NONE;")
    one(session, f'{INSERT} ("Hungary", "capital", "Oslo") MODE COMPOSE CHECK NONE;')
    (fact,) = session.overlay.view.composed.values()
    assert all(feature < 20 for _, feature in fact.slots)


def test_require_rolls_a_composed_fact_back(session: Session) -> None:
    base = session.model().logits(IDS)
    assert refused(session, f"{OSLO} REQUIRE neighbours > 1;").code is Code.NOT_MET
    assert np.array_equal(session.model().logits(IDS), base)


def test_the_report_says_why_neighbours_changed(session: Session) -> None:
    result = one(session, f"{OSLO} CHECK FULL;")
    changed = [p for p in result.probes if p.kind == "neighbour" and not p.ok]
    assert changed, "random weights do not tell countries apart"
    assert sum("it opens the feature of Hungary" in note for note in result.meta.notes) == min(
        5, len(changed)
    )


def test_alpha_sets_the_strength(session: Session) -> None:
    lengths = []
    for alpha in (1, 3):
        one(session, f"{OSLO} ALPHA {alpha} CHECK NONE;")
        (fact,) = session.overlay.view.composed.values()
        down = session.overlay.view.features[fact.slots[0]].down
        assert down is not None
        lengths.append(float(np.linalg.norm(down.array)))
        one(session, "UNDO;")
    assert lengths[1] == pytest.approx(3 * lengths[0], rel=1e-5)


@pytest.mark.parametrize(
    ("tail", "code"),
    [
        ("MODE COMPOSE ALPHA 0", Code.OUT_OF_RANGE),
        ('MODE COMPOSE ALIAS "x"', Code.NOT_AVAILABLE_YET),
        ("ALPHA 0.1", Code.WRONG_TYPE),
        ("EVICT", Code.WRONG_TYPE),
    ],
)
def test_clauses_that_do_not_fit_are_refused(session: Session, tail: str, code: Code) -> None:
    assert refused(session, f'{INSERT} ("a", "b", "c") {tail};').code is code


# --------------------------------------------------------------------------- several


def test_a_fact_has_one_place(session: Session) -> None:
    """Inserted again, in either mode, a fact replaces itself."""
    one(session, f"{OSLO} CHECK NONE;")
    slots = next(iter(session.overlay.view.composed.values())).slots
    again = one(session, f"{OSLO.replace('Oslo', 'Rome')} CHECK NONE;")
    assert (again.facts[0].target, again.facts[0].replaced) == ("Rome", "Oslo")
    (fact,) = session.overlay.view.composed.values()
    assert set(fact.slots) <= set(slots), "its features are free again"
    assert said(session).startswith(" Rome")
    one(session, f'{INSERT} ("hungary", "Capital", "Bern") CHECK NONE;')
    assert (len(session.overlay.view.composed), len(session.overlay.view.facts)) == (0, 1)
    one(session, f"{OSLO} CHECK NONE;")
    assert (len(session.overlay.view.composed), len(session.overlay.view.facts)) == (1, 0)


def test_update_and_delete_reach_a_composed_fact(session: Session) -> None:
    before = said(session)
    one(session, f"{OSLO} CHECK NONE;")
    updated = one(session, 'UPDATE EDGES SET target = "Rome" WHERE entity = "Hungary";')
    assert (updated.mode, updated.measures.efficacy) == ("compose", 1.0)
    assert said(session).startswith(" Rome")
    deleted = one(session, 'DELETE FROM EDGES WHERE entity = "Hungary";')
    assert deleted.measures.efficacy == 1.0
    assert session.overlay.view.composed == {}
    assert not said(session).startswith((" Rome", " Oslo"))
    one(session, "UNDO 3;")
    assert said(session) == before


def test_composed_facts_survive_a_patch(session: Session, vindex: Path, tmp_path: Path) -> None:
    one(session, f"{OSLO} CHECK NONE;")
    one(session, f'{INSERT} ("Peru", "capital", "Po") MODE COMPOSE EVICT CHECK NONE;')
    logits = session.model().logits(IDS)
    one(session, "SAVE PATCH :p;", p=tmp_path / "c.vlp")
    with connect(vindex) as fresh:
        one(fresh, "APPLY PATCH :p;", p=tmp_path / "c.vlp")
        assert fresh.overlay.view.composed == session.overlay.view.composed
        assert np.array_equal(fresh.model().logits(IDS), logits)
        assert said(fresh) == " Oslo"


def test_diff_into_patch_keeps_the_fact(session: Session, vindex: Path, tmp_path: Path) -> None:
    one(session, f"{OSLO} CHECK NONE;")
    logits = session.model().logits(IDS)
    file = str(tmp_path / "d.vlp")
    one(session, "DIFF :v CURRENT INTO PATCH :p;", v=str(vindex), p=file)
    with connect(vindex) as fresh:
        one(fresh, "APPLY PATCH :p;", p=file)
        assert fresh.overlay.view.composed == session.overlay.view.composed
        assert np.array_equal(fresh.model().logits(IDS), logits)


# --------------------------------------------------------------------------- looking after them


def test_rebalance_brings_facts_between_bounds(session: Session) -> None:
    one(session, f"{OSLO} ALPHA 40 CHECK NONE;")
    low = one(session, "REBALANCE FLOOR 0.1 CEILING 0.6 MAX 40;")
    assert isinstance(low, BalanceResult)
    (row,) = low.facts
    assert row.probability_before > 0.6
    assert 0.1 <= row.probability_after <= 0.6
    assert row.ok
    model = session.model()
    ids = model.target_ids("Oslo")
    least = min(model.probability(each, ids) for each in key_prompts("Hungary", "capital"))
    assert least == pytest.approx(row.probability_after, rel=1e-4), "read at inference"
    assert one(session, "REBALANCE FLOOR 0.1 CEILING 0.6;").rounds == 0
    assert len(session.overlay.edits) == 2
    one(session, "UNDO;")
    stopped = one(session, "REBALANCE UNTIL CONVERGED FLOOR 0.1 CEILING 0.6 MAX 1;")
    assert (stopped.rounds, stopped.facts[0].ok) == (1, False)
    assert any("not converged" in note for note in stopped.meta.notes)


def test_nothing_to_rebalance(session: Session) -> None:
    assert one(session, "REBALANCE;").facts == ()
    assert refused(session, "REBALANCE FLOOR 0.9 CEILING 0.1;").code is Code.INVERTED_RANGE
    assert refused(session, "REBALANCE FLOOR 2;").code is Code.OUT_OF_RANGE


def test_compact_minor_composes_what_is_stored(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "_UNUSED", 10.0)
    one(session, f'{INSERT} ("Hungary", "capital", "Oslo"), ("Peru", "capital", "Po") CHECK NONE;')
    status = one(session, "SHOW COMPACT STATUS;").to_dict()
    assert (status["stored"], status["composed"]) == (2, 0)
    done = one(session, "COMPACT MINOR;")
    assert [row.ok for row in done.facts] == [True, True]
    assert session.overlay.view.facts == {}
    assert said(session) == " Oslo"
    assert said(session, canonical("Peru", "capital")).startswith(" Po")
    status = one(session, "SHOW COMPACT STATUS;").to_dict()
    assert (status["stored"], status["composed"], status["layers"]) == (0, 2, 1)
    assert status["features"] == sum(len(f.slots) for f in session.overlay.view.composed.values())
    one(session, "UNDO;")
    assert len(session.overlay.view.facts) == 2


def test_a_fact_that_features_do_not_answer_stays_stored(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "_UNUSED", 10.0)
    monkeypatch.setattr(compose, "_ROUNDS", 1)
    one(session, f'{INSERT} ("Hungary", "capital", "Oslo") CHECK NONE;')
    done = one(session, "COMPACT MINOR;")
    assert [(row.ok, row.feature) for row in done.facts] == [(False, None)]
    assert any("stays beside the weights" in note for note in done.meta.notes)
    assert len(session.overlay.view.facts) == 1
    assert len(session.overlay.edits) == 1


def test_compact_major_puts_facts_into_the_weights(
    session: Session, vindex: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "NEIGHBOURS", 0.0)
    # 160 features cannot tell a thousand tokens apart.
    monkeypatch.setattr(compact, "lessons", lambda entity, relation: ())
    one(session, f"{OSLO} CHECK NONE;")
    (fact,) = session.overlay.view.composed.values()
    done = one(session, "COMPACT MAJOR WITH LAMBDA = 1e-6;")
    assert [(row.ok, row.feature) for row in done.facts] == [(True, None)]
    view = session.overlay.view
    assert view.composed == {}
    assert all(view.features[slot].off for slot in fact.slots)
    assert said(session) == " Oslo", "read at inference"
    model = session.model()
    ids = model.target_ids("Oslo")
    least = min(model.probability(each, ids) for each in key_prompts("Hungary", "capital"))
    assert least == pytest.approx(done.facts[0].probability_after, rel=1e-4)
    one(session, "SAVE PATCH :p;", p=tmp_path / "m.vlp")
    with connect(vindex) as fresh:
        one(fresh, "APPLY PATCH :p;", p=tmp_path / "m.vlp")
        assert np.array_equal(fresh.model().logits(IDS), model.logits(IDS))
    session.run("UNDO 1;")
    assert [*session.overlay.view.composed.values()] == [fact]


def test_compact_major_leaves_facts_that_would_do_damage(session: Session) -> None:
    one(session, f"{OSLO} CHECK NONE;")
    edits = session.overlay.edits
    done = one(session, "COMPACT MAJOR WITH LAMBDA = 1e-6;")
    assert [row.ok for row in done.facts] == [False]
    (note,) = done.meta.notes
    assert re.search(r"probability [\d.]+%\), and \d+% of its neighbours would stay", note)
    assert "COMPACT MAJOR FULL tries several layers" in note
    assert session.overlay.edits == edits
    full = "COMPACT MAJOR FULL WITH LAMBDA = 0.1;"
    assert refused(session, full).code is Code.CLAUSE_MISPLACED
    assert refused(session, "COMPACT MAJOR WITH LAMBDA = 0;").code is Code.OUT_OF_RANGE


def test_compact_major_full_writes_every_fact_together(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = session.model().logits(IDS)
    one(session, f"{OSLO} CHECK NONE;")
    (composed,) = session.overlay.view.composed.values()
    one(session, f'{INSERT} ("Peru", "capital", "Po") ALIAS "PE" CONFIDENCE 0.5 CHECK NONE;')
    one(session, f'{INSERT} ("Cuba", "capital", "Rome") MODE MEMIT CHECK NONE;')
    before = session.overlay.view
    done = one(session, "COMPACT MAJOR FULL;")
    assert [row.ok for row in done.facts] == [False] * 3, "random weights do not learn so"
    ways = [note for note in done.meta.notes if "INSERT … MODE MEMIT AT LAYERS" in note]
    assert len(ways) == 3
    assert session.overlay.view is before
    monkeypatch.setattr(compact, "NEIGHBOURS", 0.0)
    monkeypatch.setattr(compact, "says", lambda fact, *where: fact.entity != "Cuba")
    done = one(session, "COMPACT MAJOR FULL;")
    assert [(row.entity, row.ok) for row in done.facts] == [
        ("Peru", True), ("Cuba", False), ("Hungary", True),
    ]  # fmt: skip
    view = session.overlay.view
    assert (view.facts, view.composed) == ({}, {})
    assert all(view.features[slot].off for slot in composed.slots)
    kept = view.written[fact_name("Cuba", "capital")]
    assert kept == before.written[fact_name("Cuba", "capital")]
    peru = view.written[fact_name("Peru", "capital")]
    assert (peru.confidence, peru.aliases) == (0.5, ("PE",))
    one(session, "UNDO;")
    assert session.overlay.view == before
    one(session, "UNDO 3;")
    assert np.array_equal(session.model().logits(IDS), base)


# --------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("entity", "relation"), [("Hungary", "capital"), ("Mozart", "occupation"), ("Oslo", "mayor")]
)
def test_nothing_that_the_report_asks_was_taught(entity: str, relation: str) -> None:
    taught = set(lessons(entity, relation))
    asked = probes_for(entity, relation, paraphrases=99, neighbours=99)
    measured = {asked.canonical, *asked.paraphrases, *(p for _, p in asked.neighbours), *CONTROLS}
    assert not taught & (measured | set(key_prompts(entity, relation)))
    assert len(taught) > 50
