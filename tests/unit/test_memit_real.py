"""A fact written into SmolLM2's weights: it is said in other words too, and others stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lql.results.edits import EditResult
from lql.session import Session, connect

pytestmark = pytest.mark.real_model

INSERT = (
    'INSERT INTO EDGES (entity, relation, target) VALUES ("Hungary", "capital", "Oslo") MODE MEMIT'
)
OTHERS = {"Austria": " Vienna", "France": " Paris", "Japan": " Tokyo", "Spain": " Madrid"}


@pytest.fixture(scope="module")
def session(
    smollm2_f32_vindex: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    # Statistics are kept in the vindex, which other tests share.
    own = tmp_path_factory.mktemp("memit") / "smollm2.vindex"
    own.mkdir()
    for file in smollm2_f32_vindex.iterdir():
        (own / file.name).hardlink_to(file)
    with connect(own) as opened:
        yield opened
        opened.discard_edits()


def said(session: Session, prompt: str) -> str:
    return "".join(token.text for token in session.model().generate(prompt, max_tokens=3))


def test_a_written_fact_holds_in_other_words_and_others_stay(session: Session) -> None:
    base = session.model().logits((1, 2, 3))
    (result,) = session.run(f"{INSERT} CHECK FULL REQUIRE efficacy >= 1 AND controls <= 0.02;")
    assert isinstance(result, EditResult)
    assert result.measures.paraphrases is not None
    assert result.measures.paraphrases >= 0.6
    assert result.measures.neighbours is not None
    assert result.measures.neighbours >= 0.6  # six tokens, all of them
    assert said(session, "The capital city of Hungary is").startswith(" Oslo")
    for entity, capital in OTHERS.items():
        assert said(session, f"The capital of {entity} is").startswith(capital)
    assert not np.array_equal(session.model().logits((1, 2, 3)), base)
    session.run("UNDO;")
    assert np.array_equal(session.model().logits((1, 2, 3)), base)
