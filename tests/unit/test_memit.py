"""INSERT … MODE MEMIT: the closed form, gradients, and written facts through a session."""

from __future__ import annotations

import base64
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lql.codes import Code
from lql.errors import LqlError
from lql.execute import memit
from lql.inference.closed_form import solve
from lql.inference.decoder import Decoder
from lql.inference.feedforward import FeedForward, dense
from lql.inference.gradients import traced
from lql.inference.linear import Coarse
from lql.inference.packed import PackedSequence
from lql.probes import bystanders, probes_for
from lql.session import Session, connect
from tests.unit.statements import one
from tests.unit.tiny_models import GEMMA3_TINY, LLAMA_TINY, decoder, source
from vindex.edits import WrittenFact
from vindex.errors import PatchInvalid
from vindex.patch import read_patch
from vindex.spec import Role
from vindex.store import open_vindex
from vindex.verify import verify

INSERT = "INSERT INTO EDGES (entity, relation, target) VALUES"
HUNGARY = f'{INSERT} ("Hungary", "capital", "Oslo") MODE MEMIT CHECK NONE;'
IDS = (1, 2, 3, 50)


# --------------------------------------------------------------------------- the closed form


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_keys_are_mapped_to_their_vectors() -> None:
    keys, vectors = _random(5, 40), _random(3, 8)
    owners = torch.tensor([0, 0, 1, 2, 2])
    text = _random(200, 40)
    left = solve(keys, owners, 3, text.T @ text / 200, torch.zeros(0, 40), weight=1e-7, guard=1.0)
    assert torch.allclose(keys @ left @ vectors, vectors[owners], atol=1e-3)


def test_it_is_the_formula_of_the_papers() -> None:
    keys, vectors, guarded = _random(5, 40), _random(3, 8), _random(6, 40)
    owners = torch.tensor([0, 0, 1, 2, 2])
    text = _random(200, 40)
    moments = text.T @ text / 200
    left = solve(keys, owners, 3, moments, guarded, weight=20.0, guard=3.0)
    a = 20 * moments.double()
    a += 1e-4 * a.diagonal().mean() * torch.eye(40) + 3 * (guarded.T @ guarded).double()
    k, r = keys.double().T, vectors[owners].double().T
    change = r @ k.T @ torch.linalg.inv(a + k @ k.T)  # dW [D, F]
    assert torch.allclose((left @ vectors).double().T, change, atol=1e-5)


def test_guarded_keys_stay() -> None:
    keys, guarded = _random(2, 40), _random(6, 40)
    moments = torch.eye(40)
    owners = torch.tensor([0, 1])
    free, kept = (
        solve(keys, owners, 2, moments, guarded, weight=0.01, guard=guard) for guard in (0.0, 1e4)
    )
    assert float((guarded @ free).abs().max()) > 0.1
    assert float((guarded @ kept).abs().max()) < 1e-3
    assert torch.allclose(keys @ kept, torch.eye(2), atol=0.1)


def test_a_projected_change_is_blind_to_what_is_kept() -> None:
    keys, guarded = _random(2, 40), _random(6, 40)
    owners = torch.tensor([0, 1])
    soft, hard = (
        solve(keys, owners, 2, torch.eye(40), guarded, weight=0.01, guard=1.0, threshold=threshold)
        for threshold in (None, 0.5)
    )
    assert float((guarded @ soft).abs().max()) > 1e-5
    assert float((guarded @ hard).abs().max()) < 1e-6
    assert torch.allclose(keys @ hard, torch.eye(2), atol=0.1)


# --------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("config", [LLAMA_TINY, GEMMA3_TINY], ids=["llama", "gemma3"])
def test_gradients_are_slopes_of_the_same_pass(tmp_path: Path, config: dict[str, Any]) -> None:
    with source(tmp_path, config) as opened:
        plain = decoder(opened)
        differentiable = traced(plain)
        hidden = opened.spec.hidden_size
        delta = (_random(hidden) * 0.1).requires_grad_(True)
        logits = _logits(differentiable, delta)
        score = (logits * _random(*logits.shape)).sum()
        (slope,) = torch.autograd.grad(score, delta)
        with torch.no_grad():
            assert torch.equal(_logits(plain, delta), logits)
            direction = slope / slope.norm()
            step = 1e-2
            above, below = (
                float(
                    (_logits(plain, delta + sign * step * direction) * _random(*logits.shape)).sum()
                )
                for sign in (1, -1)
            )
        assert float(slope.norm()) > 1e-3
        assert (above - below) / (2 * step) == pytest.approx(float(slope.norm()), rel=2e-2)


def _logits(model: Decoder, delta: Tensor) -> Tensor:
    def rule(x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
        y = dense(x, layer, coarse)
        return y.index_add(0, torch.tensor([1]), delta[None]) if layer.layer == 1 else y

    sequence = PackedSequence(model, len(IDS))
    sequence.tree.add(IDS)
    return model.logits(sequence.read(feed_forward=rule))


# --------------------------------------------------------------------------- written facts


@pytest.fixture
def few_bystanders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model has fewer features than its bystanders have keys, which leaves no room."""
    monkeypatch.setattr(memit, "bystanders", lambda entity, relation: ("Denmark", "Iceland"))


def written(session: Session) -> list[WrittenFact]:
    return list(session.overlay.view.written.values())


@pytest.mark.usefixtures("few_bystanders")
def test_a_written_fact_is_said_and_undo_is_exact(session: Session) -> None:
    base = session.model().logits(IDS)
    result = one(session, f'{INSERT} ("Hungary", "capital", "Oslo") MODE MEMIT;')
    assert result.mode == "memit"
    controls = [probe.divergence for probe in result.probes if probe.kind == "control"]
    assert all(drift is not None and drift > 0 for drift in controls)
    canonical = result.probes[0]
    # Random weights: five tokens that nothing leads to become likelier by many orders.
    assert canonical.probability_after > 1e6 * canonical.probability_before
    assert not np.array_equal(session.model().logits(IDS), base)
    one(session, "UNDO;")
    assert np.array_equal(session.model().logits(IDS), base)


def test_what_reads_the_vindex_reads_the_fact(session: Session, vindex: Path) -> None:
    one(session, HUNGARY)
    (fact,) = written(session)
    edited = session._state.effective()
    assert edited is not None
    with open_vindex(vindex) as base:
        for piece in fact.pieces:
            change = np.outer(piece.right.array, piece.left.array)  # [D, F]
            before = base.tensor(Role.DOWN, piece.layer).float32()
            for found in (
                edited.tensor(Role.DOWN, piece.layer), edited.matrix(Role.DOWN, piece.layer)
            ):  # fmt: skip
                assert np.allclose(found.rows(0, len(before)), before + change, atol=1e-6)
            up = edited.tensor(Role.UP, piece.layer).float32()
            assert np.array_equal(up, base.tensor(Role.UP, piece.layer).float32())
    compared = session.model().compare("The capital of Hungary is")
    assert compared.logit_difference < 1e-3  # the walk reads the stored vectors one by one
    assert compared.dense.rows[0].token_id == compared.walk.rows[0].token_id
    differences = one(session, "DIFF :v CURRENT LIMIT 5000;", v=str(vindex)).differences
    layers = {piece.layer for piece in fact.pieces}
    assert {(row.layer, row.changed) for row in differences} == {(at, "down") for at in layers}


def test_a_patch_carries_it(session: Session, vindex: Path, tmp_path: Path) -> None:
    base = session.model().logits(IDS)
    one(session, HUNGARY)
    edited = session.model().logits(IDS)
    path = tmp_path / "hungary.vlp"
    one(session, "SAVE PATCH :p;", p=str(path))
    with connect(vindex) as other:
        one(other, "APPLY PATCH :p;", p=str(path))
        assert written(other) == written(session)
        assert np.array_equal(other.model().logits(IDS), edited)
        one(other, "REMOVE PATCH :p;", p=str(path))
        assert np.array_equal(other.model().logits(IDS), base)


def _shorten(piece: dict[str, Any]) -> None:
    piece["left_b64"] = base64.b64encode(base64.b64decode(piece["left_b64"])[4:]).decode()


def _spoil(piece: dict[str, Any]) -> None:
    data = np.frombuffer(base64.b64decode(piece["right_b64"]), "<f4").copy()
    data[0] = np.nan
    piece["right_b64"] = base64.b64encode(data.tobytes()).decode()


@pytest.mark.parametrize(
    "damage",
    [_shorten, _spoil, lambda piece: piece.update(layer=99)],
    ids=["short", "nan", "layer"],
)
def test_a_bad_piece_refuses_the_patch(
    session: Session, vindex: Path, tmp_path: Path, damage: Any
) -> None:
    one(session, HUNGARY)
    path = tmp_path / "bad.vlp"
    one(session, "SAVE PATCH :p;", p=str(path))
    document = json.loads(path.read_text())
    damage(document["operations"][0]["pieces"][0])
    path.write_text(json.dumps(document))
    with open_vindex(vindex) as base, pytest.raises(PatchInvalid):
        read_patch(path, base)


def test_a_fact_has_one_target_however_it_is_held(session: Session) -> None:
    base = session.model().logits(IDS)
    one(session, HUNGARY)
    one(session, HUNGARY.replace("Oslo", "Rome"))
    assert [fact.target for fact in written(session)] == ["Rome"]
    assert len(session.overlay.edits) == 2
    once = session.model().logits(IDS)
    one(session, "UNDO 2;")
    one(session, HUNGARY.replace("Oslo", "Rome"))
    assert np.array_equal(session.model().logits(IDS), once)  # the first one left nothing behind
    one(session, f'{INSERT} ("hungary", "capital", "Bern") CHECK NONE;')
    assert (written(session), len(session.overlay.view.facts)) == ([], 1)
    assert np.array_equal(session.model().logits(IDS), base)
    one(session, HUNGARY)
    assert (len(written(session)), len(session.overlay.view.facts)) == (1, 0)
    one(session, 'DELETE FROM EDGES WHERE entity = "Hungary" CHECK NONE;')
    assert np.array_equal(session.model().logits(IDS), base)


@pytest.mark.usefixtures("few_bystanders")
def test_facts_are_written_together(session: Session) -> None:
    result = one(
        session,
        f'{INSERT} ("Hungary", "capital", "Oslo"), ("Peru", "capital", "Bern") '
        "AT LAYERS 1-2 MODE MEMIT;",
    )
    asked = [probe for probe in result.probes if probe.kind == "canonical"]
    assert all(probe.probability_after > 2 * probe.probability_before for probe in asked)
    assert [[piece.layer for piece in fact.pieces] for fact in written(session)] == [[1, 2]] * 2
    rows = one(session, 'SELECT entity, target FROM EDGES WHERE entity = "Peru";').to_rows()
    assert {"entity": "Peru", "target": "Bern"} in [
        {key: row[key] for key in ("entity", "target")} for row in rows
    ]


def test_what_is_not_met_is_rolled_back(session: Session) -> None:
    base = session.model().logits(IDS)
    with pytest.raises(LqlError) as caught:
        session.run(f'{INSERT} ("Hungary", "capital", "Oslo") MODE MEMIT REQUIRE efficacy > 1;')
    assert caught.value.code is Code.NOT_MET
    assert not session.overlay.edits
    assert np.array_equal(session.model().logits(IDS), base)


def test_statistics_are_kept_under_the_seal(vindex: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.vindex"
    shutil.copytree(vindex, held)
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    with_text = HUNGARY.replace("CHECK", "STATISTICS FROM :t CHECK")
    found, stamps = [], []
    for statement in (HUNGARY, HUNGARY, with_text):
        with connect(held) as session:
            session.run(statement, parameters={"t": str(text)} if ":t" in statement else None)
            found.append(written(session))
            session.discard_edits()
        own = {path.name: path.stat().st_mtime_ns for path in held.glob("lql_moments_*_own.bin")}
        stamps.append(own)
    assert found[0] == found[1] != found[2]
    assert len(stamps[0]) == 3
    assert stamps[0] == stamps[1] == stamps[2]  # computed once
    assert len(list(held.glob("lql_moments_*_user.bin"))) == 3
    assert verify(held).ok


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        (f'{INSERT} ("a", "b", "c") AT LAYERS 1-2;', Code.WRONG_TYPE),
        (f'{INSERT} ("a", "b", "c") STATISTICS FROM "x.txt";', Code.WRONG_TYPE),
        (f'{INSERT} ("a", "b", "c") MODE MEMIT ALPHA 0.1;', Code.WRONG_TYPE),
        (f'{INSERT} ("a", "b", "c") MODE MEMIT AT LAYER 99;', Code.OUT_OF_RANGE),
        (f'{INSERT} ("a", "b", "c") MODE MEMIT AT LAYER 1 AT LAYERS 1-2;', Code.WRONG_TYPE),
        (f'{INSERT} ("a", "b", "c") MODE MEMIT STATISTICS FROM "none.txt";', Code.FILE_FAILED),
        (f'{INSERT} ("a", "b", "c"), ("A", "b", "d") MODE MEMIT;', Code.FACTS_INVALID),
    ],
)
def test_what_cannot_be_written_changes_nothing(
    session: Session, statement: str, code: Code
) -> None:
    with pytest.raises(LqlError) as caught:
        session.run(statement)
    assert caught.value.code is code
    assert not session.overlay.edits


def test_a_written_fact_is_updated(session: Session) -> None:
    one(session, HUNGARY)
    one(session, 'UPDATE EDGES SET confidence = 0.5 WHERE entity = "Hungary" CHECK NONE;')
    assert [fact.confidence for fact in written(session)] == [0.5]
    one(session, 'UPDATE EDGES SET target = "Rome" WHERE entity = "Hungary" CHECK NONE;')
    assert [(fact.target, fact.confidence) for fact in written(session)] == [("Rome", 0.5)]
    updated = session.model().logits(IDS)
    one(session, "UNDO 3;")
    one(session, HUNGARY.replace("Oslo", "Rome"))
    assert np.array_equal(session.model().logits(IDS), updated)


# --------------------------------------------------------------------------- what shall stay


@pytest.mark.parametrize(
    ("entity", "relation"), [("Hungary", "capital"), ("Mozart", "occupation"), ("Sony", "ceo")]
)
def test_bystanders_are_not_what_is_measured(entity: str, relation: str) -> None:
    names = bystanders(entity, relation)
    asked = probes_for(entity, relation, paraphrases=0, neighbours=99)
    assert not set(names) & {entity, *(name for name, _ in asked.neighbours)}
    data = tomllib.loads((Path(__file__).parents[1] / "bench" / "edits.toml").read_text())
    measured = {
        pair[0]
        for relation in data["relation"].values()
        for pair in relation["pairs"][-data["neighbours"] :]
    }
    assert not set(names) & measured
    assert len(set(names)) == len(names) > 40
