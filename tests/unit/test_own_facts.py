"""UPDATE and DELETE of the model's own facts: which are chosen, how they are forgotten, what stays.

The model knows nothing; where a fact has to be clear, the thresholds of clearness are taken away.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lql.codes import Code
from lql.errors import LqlError
from lql.execute import asking
from lql.execute.measure import mentions
from lql.inference.forgetting import Regret, Settings, forget
from lql.inference.gradients import traced
from lql.inference.memit import Sentence
from lql.inference.packed import PackedSequence
from lql.inference.statistics import KeyRecorder
from lql.session import Session, connect
from tests.unit.checkpoint_files import write_directory
from tests.unit.statements import one
from tests.unit.test_describe import SMALL
from tests.unit.tiny_models import (
    GEMMA3_TINY,
    LLAMA_TINY,
    byte_tokenizer,
    decoder,
    source,
    tame_arrays,
)
from vindex.edits import ForgottenFact

IDS = (1, 2, 3, 50)
NAMED = 'WHERE entity = "France" AND relation = "capital"'
DELETE = f"DELETE FROM EDGES {NAMED} CHECK NONE;"
UPDATE = f'UPDATE EDGES SET target = "Oslo" {NAMED} CHECK NONE;'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = tmp_path_factory.mktemp("own")
    config = {**LLAMA_TINY, "max_position_embeddings": 2048}
    write_directory(checkpoint, config, tame_arrays(config))
    byte_tokenizer().save(str(checkpoint / "tokenizer.json"))
    with Session() as session:
        session.run(
            "EXTRACT MODEL :m INTO :t DTYPE f32;",
            parameters={"m": checkpoint, "t": checkpoint / "tiny.vindex"},
        )
    return checkpoint / "tiny.vindex"


@pytest.fixture
def ignorant(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Asked about a few kinds of things; nothing that it says is clear."""
    from lql.catalogue import parse

    monkeypatch.setattr(asking, "catalogue", lambda: parse(SMALL.encode()))
    shutil.copytree(made, tmp_path / "tiny.vindex")
    with connect(tmp_path / "tiny.vindex") as opened:
        yield opened
        opened.discard_edits()


@pytest.fixture
def session(ignorant: Session, monkeypatch: pytest.MonkeyPatch) -> Session:
    """The same, where whatever it says counts as clear."""
    monkeypatch.setattr("lql.inference.facts._LEAST", 0.0)
    monkeypatch.setattr("lql.inference.facts.WEAK_ANSWER", 0.0)
    monkeypatch.setattr("lql.inference.describing._MARGIN", 0.0)
    for bound in ("_LEAST", "_MOST"):  # everything is improbable here
        monkeypatch.setattr(f"lql.execute.forgetting.{bound}", 1e-30)
    monkeypatch.setattr("lql.execute.forgetting._SLACK", 1e30)
    return ignorant


def refused(session: Session, statement: str) -> LqlError:
    before = session.overlay.view
    with pytest.raises(LqlError) as caught:
        session.run(statement)
    assert session.overlay.view is before
    return caught.value


def forgotten(session: Session) -> tuple[ForgottenFact, ...]:
    return session.overlay.view.forgotten


# --------------------------------------------------------------------------- the search


@pytest.mark.parametrize("config", [LLAMA_TINY, GEMMA3_TINY], ids=["llama", "gemma3"])
def test_the_answer_goes_down_and_the_others_keep_their_shares(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    with source(tmp_path, config) as opened:
        plain = decoder(opened)
        prompts = ((5, 6, 7, 8, 9), (30, 31, 7, 8, 40, 41))
        sentences = tuple(Sentence(ids, 3) for ids in prompts)
        before = [_shares(plain, ids) for ids in prompts]
        answers = ((int(before[0].argmax()),),)
        whole = [float(_whole(plain, ids, answers[0])) for ids in prompts]
        background = min(whole) / 2
        regret = Regret(sentences, Sentence((70, 71, 8, 72), 2), answers, background)
        found = forget(traced(plain), regret, (0, 1), Settings(steps=150, limit=40.0))
        assert found.probabilities[0] <= background * 1.01
        assert found.keys[0].shape == (2, opened.spec.layers[0].ffn.width)
        # The pass that the search makes is the one that inference makes.
        again = [float(_whole(plain, ids, answers[0], found.vectors)) for ids in prompts]
        assert max(again) == pytest.approx(found.probabilities[0], rel=1e-3)
        for ids, old in zip(prompts, before, strict=True):
            assert _moved(old, _shares(plain, ids, found.vectors), answers[0][0]) < 0.5


@pytest.mark.parametrize("config", [LLAMA_TINY, GEMMA3_TINY], ids=["llama", "gemma3"])
@pytest.mark.parametrize(("kept", "much"), [("rest", 4.0), ("kl", 16.0)])
def test_each_term_keeps_what_it_is_for(
    tmp_path: Path, config: dict[str, Any], kept: str, much: float
) -> None:
    """Without it the same answer goes as far down, and more of what should stay goes with it."""
    with source(tmp_path, config) as opened:
        plain = decoder(opened)
        prompts, essence = ((5, 6, 7, 8, 9), (30, 31, 7, 8, 40, 41)), (70, 71, 8, 72)
        looked_at = prompts if kept == "rest" else (essence,)
        subject = 3 if kept == "rest" else 2
        before = [_shares(plain, ids) for ids in looked_at]
        answer = int(_shares(plain, prompts[0]).argmax())
        background = min(float(_whole(plain, ids, (answer,))) for ids in prompts) / 4
        sentences = tuple(Sentence(ids, 3) for ids in prompts)
        regret = Regret(sentences, Sentence(essence, 2), ((answer,),), background)
        moved = []
        for weight in (0.0, much):
            settings = Settings(steps=400, limit=40.0, rest=0.0, kl=0.0, decay=0.0)
            found = forget(traced(plain), regret, (0, 1), replace(settings, **{kept: weight}))
            assert found.probabilities[0] <= background * 1.05
            after = [_shares(plain, ids, found.vectors, subject) for ids in looked_at]
            gone = answer if kept == "rest" else None
            moved.append(sum(_moved(*each, gone) for each in zip(before, after, strict=True)))
        assert moved[1] < moved[0] * 0.75


def _moved(old: torch.Tensor, new: torch.Tensor, gone: int | None) -> float:
    """How far the shares of next tokens moved, among themselves where one is gone."""
    if gone is not None:
        old, new = old.clone(), new.clone()
        old[gone] = new[gone] = 0.0
    held = (new / new.sum()).log().nan_to_num(neginf=0.0)
    return float(torch.nn.functional.kl_div(held, old / old.sum(), reduction="sum"))


def _rule(vectors: Any, subject: int) -> Any:
    plain = KeyRecorder((), lambda layer, keys: None)

    def rule(x: Any, layer: Any, coarse: Any) -> Any:
        y = plain(x, layer, coarse)
        if layer.layer in (vectors or {}):
            y = y.clone()
            y[subject] += vectors[layer.layer][0]
        return y

    return rule


@torch.inference_mode()
def _logits(
    plain: Any, ids: tuple[int, ...], vectors: Any = None, subject: int = 3
) -> torch.Tensor:
    sequence = PackedSequence(plain, len(ids))
    sequence.tree.add(ids)
    logits: torch.Tensor = plain.logits(sequence.read(feed_forward=_rule(vectors, subject)))
    return logits


def _shares(
    plain: Any, ids: tuple[int, ...], vectors: Any = None, subject: int = 3
) -> torch.Tensor:
    return _logits(plain, ids, vectors, subject)[-1].softmax(-1).clone()


def _whole(plain: Any, ids: tuple[int, ...], answer: tuple[int, ...], vectors: Any = None) -> Any:
    each = _logits(plain, (*ids, *answer[:-1]), vectors).log_softmax(-1)[-len(answer) :]
    return each[range(len(answer)), list(answer)].sum().exp()


# --------------------------------------------------------------------------- statements


def test_delete_forgets_and_undo_is_exact(session: Session, tmp_path: Path) -> None:
    base = session.model().logits(IDS)
    asked = one(session, f'SELECT target FROM EDGES {NAMED} AND evidence = "answer";').to_rows()
    result = one(session, f"DELETE FROM EDGES {NAMED};")
    assert (result.mode, result.statement) == ("memit", "DELETE")
    (row,) = result.facts
    assert (row.target, row.own) == (None, True)
    (fact,) = forgotten(session)
    assert row.replaced == " or ".join(fact.answers)
    assert fact.answers[0] in {each["target"] for each in asked}
    canonical = result.probes[0]
    assert canonical.probability_after <= canonical.probability_before
    assert canonical.ok
    assert not any(mentions(canonical.after or "", answer) for answer in fact.answers)
    edited = session.model().logits(IDS)
    assert not np.array_equal(edited, base)
    # It is no fact: nothing is stored, listed or answered.
    assert session.overlay.view.every_fact == ()
    assert not one(session, f'SELECT * FROM EDGES {NAMED} AND evidence = "inserted";').to_rows()
    (edit,) = session.overlay.edits
    assert edit.title == f"DELETE France —capital→ {row.replaced}"
    path = tmp_path / "gone.vlp"
    one(session, "SAVE PATCH :p;", p=str(path))
    one(session, "UNDO;")
    assert np.array_equal(session.model().logits(IDS), base)
    one(session, "APPLY PATCH :p;", p=str(path))
    assert forgotten(session) == (fact,)
    assert np.array_equal(session.model().logits(IDS), edited)
    one(session, "REMOVE PATCH :p;", p=str(path))
    assert np.array_equal(session.model().logits(IDS), base)


def test_update_writes_the_fact_as_memit_does(session: Session) -> None:
    base = session.model().logits(IDS)
    result = one(session, UPDATE)
    (row,) = result.facts
    assert (row.target, row.own, result.mode) == ("Oslo", True, "memit")
    assert row.replaced
    edited = session.model().logits(IDS)
    one(session, "UNDO;")
    one(
        session,
        'INSERT INTO EDGES (entity, relation, target) VALUES ("France", "capital", "Oslo") '
        "MODE MEMIT CHECK NONE;",
    )
    assert np.array_equal(session.model().logits(IDS), edited)
    # From then on it is an inserted fact: UPDATE writes it anew, DELETE takes it back.
    one(session, f'UPDATE EDGES SET target = "Rome", confidence = 0.5 {NAMED} CHECK NONE;')
    (fact,) = session.overlay.view.every_fact
    assert (fact.target, fact.confidence) == ("Rome", 0.5)
    one(session, DELETE)
    assert np.array_equal(session.model().logits(IDS), base)


def test_several_facts_are_forgotten_together(session: Session) -> None:
    result = one(
        session,
        'DELETE FROM EDGES WHERE entity IN ("France", "Peru") AND relation = "capital" CHECK NONE;',
    )
    assert [row.entity for row in result.facts] == ["France", "Peru"]
    assert [fact.entity for fact in forgotten(session)] == ["France", "Peru"]
    assert len(session.overlay.edits) == 1


def test_a_name_says_one_thing(session: Session) -> None:
    one(session, DELETE)
    one(
        session,
        'INSERT INTO EDGES (entity, relation, target) VALUES ("France", "capital", "Oslo") '
        "CHECK NONE;",
    )
    assert forgotten(session) == ()
    # The inserted fact of that name is what DELETE means, and where WHERE does not match it, none.
    one(session, f'DELETE FROM EDGES {NAMED} AND target = "Rome" CHECK NONE;')
    assert len(session.overlay.view.facts) == 1
    one(session, DELETE)
    assert (forgotten(session), len(session.overlay.view.facts)) == ((), 0)
    one(session, DELETE)
    assert len(forgotten(session)) == 1


def test_what_was_forgotten_stays_forgotten(session: Session) -> None:
    """A second DELETE of the same name takes the next answer along with the first."""
    one(session, DELETE)
    (first,) = forgotten(session)
    one(session, DELETE)
    (second,) = forgotten(session)
    assert set(first.answers) <= set(second.answers)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (DELETE.replace("capital", "mayor"), Code.UNKNOWN_QUESTION),
        (DELETE.replace("France", "?!"), Code.ENTITIES_INVALID),
        (DELETE.replace("CHECK NONE", "REQUIRE beauty > 1"), Code.UNKNOWN_COLUMN),
        (DELETE.replace("CHECK NONE", "REQUIRE efficacy > 1"), Code.NOT_MET),
        (f'DELETE FROM EDGES {NAMED} AND signal = "clear";', Code.UNKNOWN_COLUMN),
        (f"UPDATE EDGES SET confidence = 0.5 {NAMED};", Code.WRONG_TYPE),
    ],
)
def test_what_cannot_be_done_changes_nothing(session: Session, statement: str, code: Code) -> None:
    assert refused(session, statement).code is code


def test_what_is_not_clear_is_refused(ignorant: Session) -> None:
    for statement in (DELETE, UPDATE):
        error = refused(ignorant, statement)
        assert error.code is Code.OWN_FACT_UNKNOWN
        assert any(help.startswith("INSERT INTO EDGES") for help in error.diagnostic.helps)
    result = one(ignorant, 'DELETE FROM EDGES WHERE entity = "France" CHECK NONE;')
    assert "WHERE entity = … AND relation = …" in result.meta.notes[0]
    result = one(ignorant, DELETE.replace(" CHECK", ' AND evidence = "inserted" CHECK'))
    assert result.facts == ()


def test_too_many_are_refused_before_anything_is_asked(session: Session) -> None:
    names = ", ".join(f'"Name{number}"' for number in range(1_001))
    statement = f'DELETE FROM EDGES WHERE entity IN ({names}) AND relation = "capital";'
    assert refused(session, statement).code is Code.TOO_MANY_ROWS


def test_what_is_never_said_is_not_forgotten(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the questions with examples before them get the answer: no edit is claimed."""
    monkeypatch.setattr("lql.execute.forgetting._LEAST", 0.9)
    monkeypatch.setattr("lql.execute.forgetting._MOST", 0.9)
    error = refused(session, DELETE)
    assert error.code is Code.NOT_FORGOTTEN
    assert "examples" in error.diagnostic.message


def test_what_stays_said_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no strength is tried the statement says so, and claims no change."""
    monkeypatch.setattr("lql.execute.forgetting._ROUNDS", 0)
    assert refused(session, DELETE).code is Code.NOT_FORGOTTEN


def test_answers_are_named_as_whole_words() -> None:
    assert mentions("It is the city of PARIS.", "Paris")
    assert not mentions("Parisian", "Paris")
    assert mentions("the U.S. are", "U.S.")
