"""TRACE, ABLATE, STEER and WITH ATTENTION as statements, over vindexes that larql wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lql
from lql.codes import Code
from lql.inference.interventions import AblateFeature, AblateHead, AblateLayer, Patch, Steer
from lql.results.forward import ExplainInferResult, InferResult
from lql.results.trace import (
    TraceDiffResult,
    TraceFeaturesResult,
    TraceHeadsResult,
    TraceResult,
)
from vindex.tracefile import read_trace_file

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def golden() -> Path:
    return Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture(scope="module")
def session(golden: Path) -> Iterator[lql.Session]:
    with lql.open(golden / "vindexes" / "llama_h96.f16") as opened:
        yield opened


def trace(session: lql.Session, rest: str = "", **parameters: Any) -> TraceResult:
    result = session.query(f'TRACE "{PROMPT}" {rest}', **parameters)
    assert isinstance(result, TraceResult)
    return result


def failure(session: lql.Session, statement: str) -> lql.LqlError:
    with pytest.raises(lql.LqlError) as raised:
        session.query(statement)
    return raised.value


# --------------------------------------------------------------------------- what larql says


def answers(golden: Path) -> list[tuple[str, str, list[str]]]:
    """Vindex, statement and lines of every TRACE that larql answered."""
    lines = (golden / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    said = [json.loads(line) for line in lines]
    return [
        (each["vindex"], each["statement"], each["output"])
        for each in said
        if each["statement"].startswith("TRACE") and each["exit"] == 0
    ]


@pytest.mark.parametrize("vindex", ["llama_h96.f16", "gemma3_h96.f16"])
def test_norms_and_shares_are_larqls(vindex: str, golden: Path) -> None:
    """larql prints whole numbers. Gemma 4 has more parts here than there."""
    plain, decomposed = (
        next(out for v, s, out in answers(golden) if v == vindex and re.search(kind, s))
        for kind in (r'is";', "DECOMPOSE")
    )
    with lql.open(golden / "vindexes" / vindex) as session:
        rows = trace(session, "DECOMPOSE").layers
    for line, row in zip(plain[3:], rows, strict=True):
        said = [int(each) for each in line.split()[-2:]]
        assert said == [round(row.attention or 0), round(row.ffn or 0)]
    for line, row in zip(decomposed[3:], rows[1:5], strict=True):
        *_, length, share = line.split()
        assert int(length) == round(row.residual or 0)
        assert share == f"{row.attention_share:.0%}"


def test_the_file_is_larqls(session: lql.Session, golden: Path, tmp_path: Path) -> None:
    """The whole trace that larql saved, both ways: vectors within float32 rounding."""
    path = tmp_path / "x.trace"
    trace(session, "POSITIONS ALL SAVE :path", path=path)
    ours, theirs = read_trace_file(path), read_trace_file(golden / "patches" / "trace.trace")
    assert np.abs(ours.residual - theirs.residual).max() < 2e-5
    for name, values in theirs.parts.items():
        assert np.abs(ours.parts[name] - values).max() < 2e-5


# --------------------------------------------------------------------------- layers


def test_the_last_layers_lens_is_the_prediction(session: lql.Session) -> None:
    result = trace(session)
    best = session.query(f'INFER "{PROMPT}" TOP 1').rows[0]
    assert (result.layers[-1].lens, result.prediction[0].token) == (best["token"], best["token"])
    assert result.layers[-1].lens_probability == pytest.approx(best["probability"], rel=1e-5)
    assert [row.layer for row in result.layers] == [-1, 0, 1, 2, 3]
    assert result.gap < 1e-6


def test_contributions_add_up_to_the_logit(session: lql.Session) -> None:
    result = trace(session, 'FOR "Rome"')
    total = sum(row.contribution or 0.0 for row in result.layers) + (result.constant or 0.0)
    assert total == pytest.approx(result.layers[-1].logit, abs=1e-4)
    for row in result.layers[1:]:
        assert row.contribution == pytest.approx((row.attention_logit or 0) + (row.ffn_logit or 0))


def test_a_target_of_several_tokens(session: lql.Session) -> None:
    model = session.model()
    ids = model.target_ids("Rome")
    assert len(ids) > 1
    row = trace(session, 'FOR "Rome"').layers[-1]
    assert row.word_probability == pytest.approx(model.probability(PROMPT, ids), rel=1e-4)
    assert row.word_probability < row.probability
    assert trace(session, 'FOR "Rome"').layers == trace(session, 'FOR " Rome"').layers


def test_heads_add_up_to_attention(session: lql.Session) -> None:
    result = session.query(f'TRACE "{PROMPT}" FOR "Rome" HEADS LIMIT 100')
    assert isinstance(result, TraceHeadsResult)
    layers = trace(session, 'FOR "Rome"').layers
    for layer in range(4):
        heads = [head.logit or 0.0 for head in result.heads if head.layer == layer]
        assert len(heads) == 4
        assert sum(heads) == pytest.approx(layers[layer + 1].attention_logit, abs=1e-5)
    sizes = [abs(head.logit or 0.0) for head in result.heads]
    assert sizes == sorted(sizes, reverse=True)


def test_features_add_up_to_the_ffn(session: lql.Session) -> None:
    result = session.query(f'TRACE "{PROMPT}" FOR "Rome" FEATURES LAYERS 2-2 LIMIT 1000')
    assert isinstance(result, TraceFeaturesResult)
    row = trace(session, 'FOR "Rome"').layers[3]
    assert sum(each.logit or 0.0 for each in result.features) == pytest.approx(
        row.ffn_logit, abs=1e-5
    )
    assert {each.layer for each in result.features} == {2}
    few = session.query(f'TRACE "{PROMPT}" FOR "Rome" FEATURES LAYERS 2-2 LIMIT 3')
    assert few.records() == result.features[:3]
    assert few.meta.truncated is not None
    assert few.meta.truncated.total == len(result.features) == 160


def test_positions(session: lql.Session) -> None:
    every = trace(session, "POSITIONS ALL")
    last = trace(session, "POSITIONS LAST")
    assert len(every.layers) == 5 * 6
    for one, other in zip(every.layers[5::6], last.layers, strict=True):
        assert (one.position, one.token, one.lens) == (5, " is", other.lens)
        assert one.residual == pytest.approx(other.residual, rel=1e-5)


# --------------------------------------------------------------------------- interventions


def test_statements_do_what_the_python_hooks_do(session: lql.Session) -> None:
    model = session.model()
    written = (
        "ABLATE HEAD 1.2, FEATURE 2:104, LAYER 0 "
        'STEER "Rome" - "Paris" BY 3 AT LAYER 1, "of" BY -2.5 AT LAYER 2'
    )
    hooks = [
        AblateHead(1, 2),
        AblateFeature(2, 104),
        AblateLayer(0),
        Steer(1, model.direction("Rome", "Paris"), 3.0),
        Steer(2, model.direction("of"), -2.5),
    ]
    found = session.query(f'INFER "{PROMPT}" {written}')
    assert isinstance(found, InferResult)
    expected = model.infer(PROMPT, interventions=hooks).rows
    assert [row.probability for row in found.tokens] == [row.probability for row in expected]
    assert found.interventions[0] == "ABLATE HEAD 1.2"
    assert len(found.interventions) == 5
    assert trace(session, written).prediction == found.tokens
    assert found.tokens != session.query(f'INFER "{PROMPT}"').records()


def test_steering_raises_the_logit(session: lql.Session) -> None:
    """By its amount over the scale of the final norm, for the last layer has nothing after it."""
    before = trace(session, 'FOR "Rome"')
    after = trace(session, 'FOR "Rome" STEER "Rome" BY 5 AT LAYER 3')
    assert (after.layers[-1].logit or 0) > (before.layers[-1].logit or 0)
    assert after.layers[-1].intervention == pytest.approx(5.0, rel=1e-5)
    assert after.layers[-1].rank < before.layers[-1].rank


def test_an_ablated_layer_hands_on_what_it_got(session: lql.Session) -> None:
    rows = trace(session, "ABLATE LAYER 2").layers
    assert rows[3].residual == rows[2].residual
    assert (rows[3].attention, rows[3].ffn) == (0.0, 0.0)


def test_parameters_of_interventions(session: lql.Session) -> None:
    bound = session.query(
        f'INFER "{PROMPT}" ABLATE HEAD :l::h STEER :t BY :x AT LAYER :l', l=1, h=2, t="Rome", x=2
    )
    plain = session.query(f'INFER "{PROMPT}" ABLATE HEAD 1.2 STEER "Rome" BY 2 AT LAYER 1')
    assert bound.to_dict() == plain.to_dict()


@pytest.mark.parametrize(
    ("statement", "code", "part"),
    [
        ('TRACE "x" ABLATE LAYER 4', Code.OUT_OF_RANGE, "layer 4"),
        ('TRACE "x" ABLATE HEAD 1.4', Code.OUT_OF_RANGE, "head of layer 1"),
        ('INFER "x" ABLATE FEATURE 1:160', Code.OUT_OF_RANGE, "feature of layer 1"),
        ('INFER "x" STEER "a" - "a" BY 1 AT LAYER 0', Code.OUT_OF_RANGE, "same token"),
        ('INFER "x" COMPARE ABLATE LAYER 1', Code.TRACE_CLAUSES, "COMPARE"),
        ('INFER "x" ROUTE VERIFY ABLATE LAYER 1', Code.TRACE_CLAUSES, "ROUTE"),
        ('TRACE "x" HEADS DECOMPOSE', Code.TRACE_CLAUSES, "DECOMPOSE"),
        ('TRACE "x" FEATURES SAVE "y"', Code.TRACE_CLAUSES, "SAVE"),
        ('TRACE "x" DIFF "y" POSITIONS ALL', Code.TRACE_CLAUSES, "POSITIONS"),
        ('TRACE "x" DIFF "y" HEADS', Code.TRACE_CLAUSES, "HEADS"),
        ('TRACE "x" PATCH AT LAYER 1', Code.TRACE_CLAUSES, "DIFF"),
        ('TRACE "x" OVERWRITE', Code.TRACE_CLAUSES, "SAVE"),
        ("TRACE", Code.NO_TRACE, "no saved trace"),
        ("TRACE HEADS", Code.TRACE_CLAUSES, "a prompt"),
        ('TRACE "x" LAYERS 0-4', Code.OUT_OF_RANGE, "layer 4"),
        ('USE TRACE "nowhere.trace"', Code.FILE_FAILED, "nowhere.trace"),
    ],
)
def test_refusals(session: lql.Session, statement: str, code: Code, part: str) -> None:
    error = failure(session, statement)
    assert error.code is code
    assert part in str(error)


# --------------------------------------------------------------------------- DIFF and PATCH


def test_diff_and_patch(session: lql.Session) -> None:
    other = "The capital of Italy is"
    result = session.query(f'TRACE "{PROMPT}" DIFF "{other}" PATCH AT LAYER 1 FOR "Rome"')
    assert isinstance(result, TraceDiffResult)
    model = session.model()
    b = model.trace(other).stream.residual
    patch = Patch(1, b[2, -1:], positions=(-1,))
    expected = model.infer(PROMPT, interventions=[patch]).rows
    patched = [row for row in result.predictions if row.run == "patched"]
    assert [row.probability for row in patched] == [row.probability for row in expected]
    rows = {row.layer: row for row in result.layers}
    assert rows[-1].distance == 0.0  # the last token is the same
    assert rows[0].lens_patched == rows[0].lens_a
    assert rows[1].probability_patched == pytest.approx(rows[1].probability_b, rel=1e-5)
    assert rows[2].distance > 0.0
    assert rows[3].target_patched not in (rows[3].target_a, rows[3].target_b)


def test_a_patch_of_every_position_is_the_other_prompt(session: lql.Session) -> None:
    model, other = session.model(), "The capital of France of"
    stream = model.trace(other, positions=None).stream.residual
    patched = model.infer(PROMPT, interventions=[Patch(0, stream[1])]).rows
    assert [row.token for row in patched] == [row.token for row in model.infer(other).rows]


# --------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["x.trace", "x.safetensors", "X.BIN"])
@pytest.mark.parametrize("positions", ["", "POSITIONS ALL"])
def test_what_is_saved_is_shown_again(
    session: lql.Session, tmp_path: Path, name: str, positions: str
) -> None:
    path = tmp_path / name
    result = trace(session, f"DECOMPOSE {positions} SAVE :path", path=path)
    assert result.saved == str(path)

    session.query("USE TRACE :path", path=path)
    again = session.query(f"TRACE DECOMPOSE {positions}")

    assert isinstance(again, TraceResult)
    assert len(again.layers) == len(result.layers)
    for one, other in zip(again.layers, result.layers, strict=True):
        assert (one.layer, one.lens) == (other.layer, other.lens)
        assert one.residual == pytest.approx(other.residual, rel=1e-6)
        assert (one.ffn or 0.0) == pytest.approx(other.ffn or 0.0, rel=1e-4)
    if path.suffix == ".safetensors":
        assert again.prompt == PROMPT
        assert [row.token for row in again.layers] == [row.token for row in result.layers]


def test_a_saved_trace_is_read_for_another_target(session: lql.Session, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    trace(session, "SAVE :path", path=path)
    session.query("USE TRACE :path", path=path)
    saved, live = session.query('TRACE FOR "Rome"'), trace(session, 'FOR "Rome"')
    for one, other in zip(saved.rows, live.to_rows(), strict=True):
        assert one["rank"] == other["rank"]
        assert one["probability"] == pytest.approx(other["probability"], rel=1e-5)


def test_a_saved_trace_without_its_model(golden: Path) -> None:
    path = golden / "patches" / "trace.trace"
    with lql.Session() as session:
        session.query("USE TRACE :path", path=path)
        result = session.query("TRACE LAYERS 1-2")
        assert [row["lens"] for row in result.rows] == [None, None]
        assert any("without a lens" in note for note in result.meta.notes)
        assert failure(session, 'TRACE FOR "Rome"').code is Code.NO_TRACE


def test_a_file_is_not_overwritten_unasked(session: lql.Session, tmp_path: Path) -> None:
    path = tmp_path / "x.trace"
    path.write_text("mine")
    assert failure(session, f'TRACE "x" SAVE "{path}"').code is Code.TARGET_EXISTS
    assert path.read_text() == "mine"
    trace(session, "SAVE :path OVERWRITE", path=path)
    assert path.read_bytes()[:4] == b"TRAC"


def test_a_quantised_vindex_is_traced_as_well(golden: Path, tmp_path: Path) -> None:
    """larql refuses them."""
    with lql.open(golden / "vindexes" / "llama_h96.q4k") as session:
        result = trace(session, 'FOR "Rome"')
        heads = session.query(f'TRACE "{PROMPT}" FOR "Rome" HEADS')
    assert result.gap < 1e-6
    assert len(heads.rows) == 16


# --------------------------------------------------------------------------- facts, attention


def test_a_stored_fact_has_no_say(golden: Path) -> None:
    with lql.open(golden / "vindexes" / "llama_h96.f16") as session:
        session.query(
            "INSERT INTO EDGES (entity, relation, target) "
            'VALUES ("France", "capital", "Rome") CHECK NONE'
        )
        told = session.query(f'INFER "{PROMPT}"')
        silent = session.query(f'INFER "{PROMPT}" ABLATE HEAD 0.0')
        traced = trace(session)
        session.discard_edits()
    assert isinstance(told, InferResult)
    assert told.fact is not None
    assert "fact" not in silent.rows[0]
    assert any("no stored fact answers" in note for note in silent.meta.notes)
    assert any("a stored fact answers" in note for note in traced.meta.notes)


def test_attention_by_head(session: lql.Session) -> None:
    result = session.query(f'EXPLAIN INFER "{PROMPT}" WITH ATTENTION TOP 6')
    assert isinstance(result, ExplainInferResult)
    assert result.attention is not None
    assert [(head.layer, head.head) for head in result.attention] == [
        (layer, head) for layer in range(4) for head in range(4)
    ]
    for head in result.attention:
        assert sum(head.shares) == pytest.approx(1.0, abs=1e-5)
        assert list(head.shares) == sorted(head.shares, reverse=True)
        assert head.tokens == tuple(result.prompt_tokens[at].token for at in head.positions)
    few = session.query(f'EXPLAIN INFER "{PROMPT}" WITH ATTENTION LAYERS 2-2')
    assert isinstance(few, ExplainInferResult)
    assert few.attention is not None
    assert [len(head.tokens) for head in few.attention] == [3] * 4
    assert few.to_dict()["attention"][0]["tokens"][0]["token"] == few.attention[0].tokens[0]
    plain = session.query(f'EXPLAIN INFER "{PROMPT}"')
    assert plain.to_dict()["attention"] is None
