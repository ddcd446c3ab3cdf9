"""Random sequences of edits of every kind: what reads them agrees, and UNDO gives the base.

``LQL_SEQUENCES`` sets how many random sequences of edits are compared (2,000 for a full run).
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lql.codes import Code
from lql.errors import LqlError
from lql.execute import asking
from lql.results import Result
from lql.results.edits import DiffResult
from lql.session import Session, connect
from tests.unit.statements import one
from tests.unit.test_describe import SMALL

PROMPT = "The capital of Hungary is"
SEQUENCES = int(os.environ.get("LQL_SEQUENCES", "4"))
INSERT = "INSERT INTO EDGES (entity, relation, target) VALUES"
IDS = tuple(range(5, 25))

_REFUSALS = {
    Code.NO_FREE_FEATURE,  # an UPDATE of a composed fact may need more features than are free
    Code.OWN_FACT_UNKNOWN,  # most of what the model is asked about it does not know
    Code.NOT_FORGOTTEN,
}


@pytest.fixture
def session(session: Session, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A model that knows nothing, and whose answers count as clear all the same."""
    from lql.catalogue import parse

    monkeypatch.setattr(asking, "catalogue", lambda: parse(SMALL.encode()))
    for name, value in (
        ("inference.facts._LEAST", 0.0),
        ("inference.facts.WEAK_ANSWER", 0.0),
        ("inference.describing._MARGIN", 0.0),
        ("execute.forgetting._LEAST", 1e-30),
        ("execute.forgetting._MOST", 1e-30),
        ("execute.forgetting._SLACK", 1e30),
    ):
        monkeypatch.setattr(f"lql.{name}", value)
    return session


@pytest.fixture(scope="module")
def others(vindex: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edited copy of the vindex, to merge."""
    path = tmp_path_factory.mktemp("others") / "edited.vindex"
    with connect(vindex) as session:
        session.run(
            f'{INSERT} ("Peru", "capital", "Bern") CHECK NONE;'
            "DELETE FROM FEATURES WHERE layer = 2 AND feature IN (3, 4) CHECK NONE;"
            "COMPILE CURRENT INTO VINDEX :out;",
            parameters={"out": path},
        )
    return path


def edit_at_random(rng: random.Random, golden: Path, others: Path) -> str:
    entity = rng.choice(["Hungary", "Austria", "Peru", "New York"])
    relation = rng.choice(["capital", "currency"])
    target = rng.choice(["Oslo", "Rome", "the river Po"])
    layer, feature = rng.randint(0, 3), rng.randint(0, 158)
    own = f'WHERE entity = "{entity}" AND relation = "capital"'
    conflict = rng.choice(["KEEP_SOURCE", "KEEP_TARGET", "HIGHEST_CONFIDENCE"])
    return rng.choice(
        [
            f'{INSERT} ("{entity}", "{relation}", "{target}") CHECK NONE;',
            f'DELETE FROM EDGES WHERE entity = "{entity}" CHECK NONE;',
            f'UPDATE EDGES SET target = "{target}" WHERE relation = "{relation}" CHECK NONE;',
            f"DELETE FROM FEATURES WHERE layer = {layer} AND feature = {feature} CHECK NONE;",
            f'UPDATE FEATURES SET target = "{target}" WHERE layer = {layer} '
            f"AND feature IN ({feature}, {feature + 1}) CHECK NONE;",
            f'{INSERT} ("{entity}", "{relation}", "Po") MODE COMPOSE EVICT ALPHA 3 CHECK NONE;',
            f'{INSERT} ("{entity}", "{relation}", "{target}") MODE MEMIT CHECK NONE;',
            f"DELETE FROM EDGES {own} CHECK NONE;",
            f'UPDATE EDGES SET target = "{target}" {own} CHECK NONE;',
            f'MERGE "{others}" ON CONFLICT {conflict};',
            "REBALANCE MAX 2;",
            f'APPLY PATCH "{golden / rng.choice(["knn.vlp", "compose.vlp"])}" FORCE;',
            f'REMOVE PATCH "{golden / rng.choice(["knn.vlp", "compose.vlp"])}";',
        ]
    )


def made_at_random(session: Session, seed: int, edits: int, golden: Path, others: Path) -> str:
    """Make so many random edits, leaving out what would be refused; returns their titles."""
    rng = random.Random(seed)
    overlay = session.overlay
    titles = []
    while overlay.depth < edits:
        statement = edit_at_random(rng, golden, others)
        file = statement.partition('"')[2].partition('"')[0]
        applied = file in overlay.patches
        if statement.startswith("APPLY" if applied else "REMOVE"):
            continue
        depth = overlay.depth
        try:
            session.run(statement)
        except LqlError as error:
            if error.code not in _REFUSALS:
                raise
        if overlay.depth > depth and overlay.edits:
            titles.append(overlay.edits[-1].title)
    return "\n".join(titles)


@pytest.mark.parametrize("seed", range(2))
def test_undo_of_fifty_random_edits_gives_the_base_bit_for_bit(
    seed: int, session: Session, data_dir: Path, others: Path
) -> None:
    base, answer = session.model().logits(IDS), one(session, "INFER :p TOP 4;", p=PROMPT)
    made = made_at_random(session, seed, 50, data_dir / "golden/patches", others)
    assert session.overlay.depth == 50
    for kind in ("INSERT", "UPDATE", "DELETE", "MERGE", "REBALANCE", "APPLY"):
        assert kind in made
    rng = random.Random(seed)
    while session.overlay.depth:
        one(session, "UNDO :n;", n=rng.randint(1, min(9, session.overlay.depth)))
    assert np.array_equal(session.model().logits(IDS), base)
    assert one(session, "INFER :p TOP 4;", p=PROMPT) == answer
    assert one(session, "SHOW EDITS;").edits == ()


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_all_that_reads_the_edits_agrees(
    seed: int, session: Session, vindex: Path, others: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Browse, INFER, DIFF, SAVE → APPLY, DIFF INTO PATCH → APPLY and COMPILE."""
    made_at_random(session, seed, 10, data_dir / "golden/patches", others)
    one(session, f'{INSERT} ("Hungary", "capital", "Oslo") CHECK NONE;')
    view = session.overlay.view
    answer, browsed = _answer(session), _browsed(session)
    logits = session.model().logits(IDS)
    saved, differing, compiled = (str(tmp_path / name) for name in ("s.vlp", "d.vlp", "c.vindex"))
    found = one(session, "DIFF :v CURRENT LIMIT 1000000 INTO PATCH :p;", v=str(vindex), p=differing)
    written = {piece.layer for fact in view.written.values() for piece in fact.pieces}
    # An edit may write what stood there already: larql's UPDATE changes the text of a token alone.
    named = {*view.features} | {*view.facts}
    assert {*view.facts} <= _differing(found)
    assert {each for each in _differing(found) if each[0] not in written} <= named

    one(session, "COMPILE CURRENT INTO VINDEX :out;", out=compiled)
    assert one(session, "DIFF CURRENT :c;", c=compiled).differences == ()
    with connect(compiled) as fresh:
        assert fresh.overlay.view.facts.keys() == view.facts.keys()
        assert np.allclose(fresh.model().logits(IDS), logits, atol=1e-4)
        assert _features(fresh) == _features(session)

    one(session, "SAVE PATCH :p;", p=saved)
    patches = [patch for patch in session.overlay.patches if patch != saved]
    with connect(vindex) as fresh:
        for patch in (*patches, saved):
            one(fresh, "APPLY PATCH :p FORCE;", p=patch)
        if not patches:
            assert fresh.overlay.view == view
            assert (_answer(fresh), _browsed(fresh)) == (answer, browsed)
            assert np.array_equal(fresh.model().logits(IDS), logits)
    with connect(vindex) as fresh:
        one(fresh, "APPLY PATCH :p FORCE;", p=differing)
        assert fresh.overlay.view.facts == view.facts
        assert _features(fresh) == _features(session)
        if not written:  # a patch of features holds a written fact's vectors, not the fact
            assert _browsed(fresh) == browsed
        # A feature that was edited and is as before is no difference, but is multiplied apart.
        assert np.allclose(fresh.model().logits(IDS), logits, atol=1e-4)
        again = one(fresh, "DIFF :v CURRENT LIMIT 1000000;", v=str(vindex))
        assert _differing(again) == _differing(found)


def _answer(session: Session) -> Any:
    return _rows(session.run(f'INFER "{PROMPT}" TOP 3;'))


def _browsed(session: Session) -> Any:
    """What browse statements show of the edits."""
    return _rows(
        session.run(
            'DESCRIBE "Hungary" EVIDENCE STATIC; SHOW FEATURES 1; SHOW FEATURES 2; '
            'WALK "The capital of France" TOP 3;'
        )
    )


def _features(session: Session) -> Any:
    """What browse statements say that features write."""
    statement = "SELECT layer, feature, token, token_id, logit FROM FEATURES;"
    return _rows(session.run(statement))


def _rows(results: list[Result]) -> Any:
    return [
        [
            {k: v for k, v in row.items() if k not in ("also", "relation")}
            for row in result.to_rows()
        ]
        for result in results
    ]


def _differing(result: DiffResult) -> set[Any]:
    return {
        (row.layer, row.feature)
        if row.feature is not None
        else (str(row.entity).casefold(), str(row.relation).casefold())
        for row in result.differences
    }
