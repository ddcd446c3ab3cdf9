"""SmolLM2's own facts: forgotten, it says something else; others stay, and UNDO is exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lql.codes import Code
from lql.errors import LqlError
from lql.results.edits import EditResult
from lql.session import Session, connect

pytestmark = pytest.mark.real_model

NAMED = 'WHERE entity = "France" AND relation = "capital"'
OTHERS = {"Austria": " Vienna", "Hungary": " Budapest", "Japan": " Tokyo"}


@pytest.fixture(scope="module")
def session(
    smollm2_f32_vindex: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    # Statistics and answers are kept in the vindex, which other tests share.
    own = tmp_path_factory.mktemp("own") / "smollm2.vindex"
    own.mkdir()
    for file in smollm2_f32_vindex.iterdir():
        (own / file.name).hardlink_to(file)
    with connect(own) as opened:
        yield opened
        opened.discard_edits()


def said(session: Session, prompt: str) -> str:
    return "".join(token.text for token in session.model().generate(prompt, max_tokens=8))


def test_a_known_fact_is_forgotten(session: Session) -> None:
    base = session.model().logits((1, 2, 3))
    (result,) = session.run(
        f"DELETE FROM EDGES {NAMED} CHECK FULL REQUIRE efficacy >= 1 AND controls <= 0.01;"
    )
    assert isinstance(result, EditResult)
    assert result.facts[0].replaced == "Paris"
    canonical = result.probes[0]
    assert canonical.probability_before is not None
    assert canonical.probability_after is not None
    assert canonical.probability_before > 0.5
    assert canonical.probability_after < 0.01
    assert (result.measures.paraphrases or 0) >= 0.8
    assert (result.measures.neighbours or 0) >= 0.6  # six tokens, all of them
    assert "Paris" not in said(session, "The capital of France is")
    for entity, capital in OTHERS.items():
        assert said(session, f"The capital of {entity} is").startswith(capital)
    edges = session.query(f'SELECT target FROM EDGES {NAMED} AND signal = "clear"').rows
    assert "Paris" not in [row["target"] for row in edges]
    with pytest.raises(LqlError) as caught:
        session.run(f"DELETE FROM EDGES {NAMED};")
    assert caught.value.code is Code.OWN_FACT_UNKNOWN
    session.run("UNDO;")
    assert np.array_equal(session.model().logits((1, 2, 3)), base)


def test_a_known_fact_is_updated(session: Session) -> None:
    (result,) = session.run(f'UPDATE EDGES SET target = "Rome" {NAMED} REQUIRE efficacy >= 1;')
    assert isinstance(result, EditResult)
    assert (result.facts[0].replaced, result.facts[0].target) == ("Paris", "Rome")
    assert said(session, "The capital of France is").startswith(" Rome")
    session.run("UNDO;")
    assert said(session, "The capital of France is").startswith(" Paris")


def test_what_it_does_not_know_is_refused(session: Session) -> None:
    with pytest.raises(LqlError) as caught:
        session.run(f"DELETE FROM EDGES {NAMED.replace('France', 'Zorblax')};")
    assert caught.value.code is Code.OWN_FACT_UNKNOWN
    assert session.overlay.edits == ()
