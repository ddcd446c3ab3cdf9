"""COMPILE and MERGE through the session: what is written answers as the session did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lql.codes import Code
from lql.errors import LqlError
from lql.results.compile import CompileModelResult, CompileVindexResult, MergeResult
from lql.session import Session, connect
from tests.unit.statements import one
from vindex.comparing import differing_features
from vindex.edits import (
    ChangeFeature,
    DropFeature,
    Fact,
    Operation,
    PutFact,
    PutFeature,
    Vector,
    WrittenToken,
)
from vindex.overlay import Edit
from vindex.patch import Patch, base_of, write_patch
from vindex.probes import FeatureLabel, Probe, PutLabel, PutProbe
from vindex.store import open_vindex
from vindex.verify import verify

PROMPT = "The capital of Hungary is"
HUNGARY = (
    'INSERT INTO EDGES (entity, relation, target) VALUES ("Hungary", "capital", "Oslo") CHECK NONE;'
)


def refused(session: Session, statement: str, code: Code, **parameters: Any) -> LqlError:
    with pytest.raises(LqlError) as caught:
        session.run(statement, parameters=parameters)
    assert caught.value.code is code
    return caught.value


def logits(session: Session) -> np.ndarray:
    model = session.model()
    ids = model.encode(PROMPT).ids
    return model.logits(ids)


def targets(session: Session) -> set[str]:
    return {fact.target for fact in session.overlay.view.facts.values()}


def patch(vindex: Path, path: Path, *operations: Operation) -> Path:
    with open_vindex(vindex) as base:
        write_patch(path, Patch(base_of(base), operations))
    return path


def written(feature: int, confidence: float | None = None, scale: float = 1.0) -> PutFeature:
    """A feature of layer 1 with other vectors, large enough to show in the logits."""
    random = np.random.default_rng(feature)
    up, down = (Vector.of(scale * random.integers(-8, 9, 96) / 4) for _ in range(2))
    token = WrittenToken("x", 7, scale)
    return PutFeature(
        1, feature, "Hungary", "Oslo", "capital", confidence, up, up, down, writes=token
    )


def fact(target: str, token: int, confidence: float = 1.0, entity: str = "Hungary") -> PutFact:
    key = Vector.of(np.arange(96, dtype=np.float32))
    return PutFact(Fact(1, entity, "capital", target, token, (key,), confidence))


# --------------------------------------------------------------------------- COMPILE


def test_a_stored_fact_answers_from_the_compiled_vindex(session: Session, tmp_path: Path) -> None:
    session.run(HUNGARY)
    asked = one(session, "INFER :p TOP 4;", p=PROMPT)
    assert asked.rows[0]["fact"] == "Hungary —capital→ Oslo"
    result: CompileVindexResult = one(
        session, "COMPILE CURRENT INTO VINDEX :out;", out=tmp_path / "out"
    )
    assert result.facts == 1
    with connect(tmp_path / "out") as again:
        assert one(again, "INFER :p TOP 4;", p=PROMPT).rows == asked.rows
        assert targets(again) == {"Oslo"}


def test_an_edit_of_weights_answers_from_everything_compiled(
    session: Session, vindex: Path, tmp_path: Path
) -> None:
    before = logits(session)
    edit = patch(vindex, tmp_path / "p.vlp", written(5), DropFeature(0, 3))
    one(session, "APPLY PATCH :p;", p=edit)
    expected = logits(session)
    assert np.abs(expected - before).max() > 0.1
    one(session, "COMPILE CURRENT INTO VINDEX :out;", out=tmp_path / "v")
    result: CompileModelResult = one(
        session, "COMPILE CURRENT INTO MODEL :out DTYPE f32;", out=tmp_path / "m"
    )
    assert result.encodings == {"f32": len(load_names(tmp_path / "m"))}
    for kind, within in (("F32", 1e-5), ("Q8_0", 0.1)):
        quant = "DTYPE F32" if kind == "F32" else f"QUANT {kind}"
        statement = f"COMPILE CURRENT INTO MODEL :out FORMAT gguf {quant};"
        one(session, statement, out=tmp_path / f"{kind}.gguf")
        with Session() as other:
            other.run("USE MODEL :m;", parameters={"m": tmp_path / f"{kind}.gguf"})
            found = logits(other)
        assert np.linalg.norm(found - expected) < within * np.linalg.norm(expected)
        assert np.linalg.norm(found - expected) < np.linalg.norm(found - before) / 2
    with connect(tmp_path / "v") as again:
        np.testing.assert_allclose(logits(again), expected, atol=1e-4)
    ids = torch.tensor([session.model().encode(PROMPT).ids])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    with torch.no_grad():
        found = model(input_ids=ids).logits[0].numpy()
        told = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    ours = [token.token_id for token in session.model().generate(PROMPT, max_tokens=6)]
    assert told.tolist()[: len(ours)] == ours


def load_names(directory: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(directory / "model.safetensors", "pt") as file:
        return list(file.keys())


def test_what_is_compiled_is_not_lost(session: Session, vindex: Path, tmp_path: Path) -> None:
    """USE and quit go on without DISCARD PATCH, until the edits are others than those compiled."""
    overlay = session.overlay
    one(session, HUNGARY)
    one(session, "COMPILE :v INTO VINDEX :out;", v=vindex, out=tmp_path / "other")
    assert overlay.at_risk == overlay.edits  # it was not these edits that were compiled
    one(session, "COMPILE CURRENT INTO VINDEX :out;", out=tmp_path / "one")
    assert (overlay.at_risk, overlay.unsaved) == ((), overlay.edits)  # SAVE PATCH can still write
    assert session.unsaved_edits("") is None
    one(session, HUNGARY.replace("Hungary", "Peru"))
    error = refused(session, "USE :v;", Code.UNSAVED_EDITS, v=vindex)
    assert error.diagnostic.notes == ("INSERT Hungary —capital→ Oslo", "INSERT Peru —capital→ Oslo")
    one(session, "UNDO;")
    assert overlay.at_risk == ()  # the edits that were compiled
    one(session, HUNGARY.replace("Oslo", "Rome"))
    one(session, "COMPILE CURRENT INTO VINDEX :out;", out=tmp_path / "two")
    one(session, "UNDO;")
    assert len(overlay.at_risk) == 1  # no target holds just the first
    one(session, "COMPILE CURRENT INTO VINDEX :out;", out=tmp_path / "three")
    one(session, "BEGIN PATCH :p;", p=tmp_path / "p.vlp")
    assert len(overlay.at_risk) == 1  # the patch is not written yet
    one(session, "SAVE PATCH;")
    one(session, "USE :v;", v=vindex)


def test_what_a_target_does_not_hold_is_still_unsaved(session: Session, tmp_path: Path) -> None:
    overlay = session.overlay
    label = PutLabel(FeatureLabel(1, 2, "capital"))
    overlay.commit(Edit("labels", (label,)))
    overlay.commit(Edit("PROBE", (PutProbe(Probe("France", "capital", "country", (), 1, ())),)))
    one(session, "DELETE FROM FEATURES WHERE layer = 1 AND feature = 3 CHECK NONE;")
    one(session, "COMPILE CURRENT INTO MODEL :out;", out=tmp_path / "m")
    assert [edit.title for edit in overlay.at_risk] == ["labels", "PROBE"]
    one(session, "COMPILE CURRENT INTO VINDEX :out;", out=tmp_path / "v")
    assert not overlay.at_risk


def test_facts_are_not_dropped_from_a_checkpoint(session: Session, tmp_path: Path) -> None:
    session.run(HUNGARY)
    for out in ("m", "m.gguf"):
        error = refused(
            session,
            "COMPILE CURRENT INTO MODEL :out;",
            Code.FACTS_NO_WEIGHTS,
            out=tmp_path / out,
        )
        assert "MODE MEMIT" in str(error.diagnostic.helps)
    assert list(tmp_path.iterdir()) == []


def test_a_vindex_that_is_not_in_use_is_compiled(vindex: Path, tmp_path: Path) -> None:
    with Session() as session:
        one(session, "COMPILE :v INTO MODEL :out;", v=vindex, out=tmp_path / "m")
        one(session, "COMPILE :v INTO VINDEX :out;", v=vindex, out=tmp_path / "v")
    assert verify(tmp_path / "v").ok


def test_shards_have_an_index(vindex: Path, tmp_path: Path) -> None:
    from vindex.export.directory import export_safetensors

    with open_vindex(vindex) as source:
        report = export_safetensors(source, tmp_path / "m", max_shard_bytes=100_000)
    assert sum(name.endswith(".safetensors") for name in report.files) > 2
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    with connect(vindex) as session:
        ids = torch.tensor([session.model().encode(PROMPT).ids])
        with torch.no_grad():
            found = whole(input_ids=ids).logits[0].numpy()
        np.testing.assert_allclose(found, logits(session), atol=1e-4)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("COMPILE CURRENT INTO VINDEX :out FORMAT gguf;", "FORMAT belongs to"),
        ("COMPILE CURRENT INTO MODEL :out QUANT Q8_0 FORMAT safetensors;", "QUANT belongs to"),
        ("COMPILE CURRENT INTO MODEL :out FORMAT gguf;", "does not end in .gguf"),
        ('COMPILE CURRENT INTO MODEL "m.gguf" QUANT Q8_0 DTYPE f16;', "exclude each other"),
    ],
)
def test_clauses_that_do_not_belong_together(
    session: Session, statement: str, told: str, tmp_path: Path
) -> None:
    parameters = {"out": tmp_path / "m"} if ":out" in statement else {}
    assert told in str(refused(session, statement, Code.CLAUSE_MISPLACED, **parameters))
    assert list(tmp_path.iterdir()) == []


def test_targets_are_replaced_only_when_asked(
    session: Session, vindex: Path, tmp_path: Path
) -> None:
    for out, kind in (("v", "VINDEX"), ("m", "MODEL"), ("m.gguf", "MODEL")):
        statement = f"COMPILE CURRENT INTO {kind} :out"
        one(session, f"{statement};", out=tmp_path / out)
        refused(session, f"{statement};", Code.TARGET_EXISTS, out=tmp_path / out)
        one(session, f"{statement} OVERWRITE;", out=tmp_path / out)
    refused(session, "COMPILE CURRENT INTO VINDEX :v OVERWRITE;", Code.TARGET_EXISTS, v=vindex)
    refused(
        session, "COMPILE CURRENT INTO MODEL :v OVERWRITE;", Code.TARGET_EXISTS, v=tmp_path / "v"
    )


def test_conflicts_between_patches(session: Session, vindex: Path, tmp_path: Path) -> None:
    first = patch(vindex, tmp_path / "a.vlp", fact("Oslo", 5, 0.9), written(5, 0.9))
    second = patch(vindex, tmp_path / "b.vlp", fact("Rome", 6, 0.4), written(5, 0.4, 2.0))
    for each in (first, second):
        one(session, "APPLY PATCH :p;", p=each)
    statement = "COMPILE CURRENT INTO VINDEX :out ON CONFLICT"
    error = refused(session, f"{statement} FAIL;", Code.PATCH_CONFLICT, out=tmp_path / "x")
    assert "2 facts or features" in str(error)
    assert any("Oslo at confidence 0.9" in note for note in error.diagnostic.notes)
    for strategy, target, scale in (
        ("LAST_WINS", "Rome", 2.0),
        ("HIGHEST_CONFIDENCE", "Oslo", 1.0),
    ):
        out = tmp_path / strategy
        result = one(session, f"{statement} {strategy};", out=out)
        assert result.conflicts == 2
        with connect(out) as again, open_vindex(out) as found:
            assert targets(again) == {target}
            expected = written(5, scale=scale).down
            assert expected is not None
            down = found.stored("layers.1.mlp.down_proj.weight").float32()
            np.testing.assert_array_equal(down[:, 5], expected.array)


def test_patches_that_agree_do_not_conflict(session: Session, vindex: Path, tmp_path: Path) -> None:
    one(session, "APPLY PATCH :p;", p=patch(vindex, tmp_path / "a.vlp", written(5), written(6)))
    one(session, "APPLY PATCH :p;", p=patch(vindex, tmp_path / "b.vlp", written(5), written(7)))
    result = one(session, "COMPILE CURRENT INTO VINDEX :out ON CONFLICT FAIL;", out=tmp_path / "v")
    assert result.conflicts == 0


# --------------------------------------------------------------------------- MERGE


@pytest.fixture
def edited(vindex: Path, tmp_path: Path) -> Path:
    """A vindex with a fact and two features of its own."""
    with connect(vindex) as session:
        path = patch(
            vindex,
            tmp_path / "edited.vlp",
            fact("Oslo", 5, 0.5),
            written(5, scale=1000.0),
            ChangeFeature(0, 2, down=Vector.of(np.ones(96))),
        )
        one(session, "APPLY PATCH :p;", p=path)
        one(session, "COMPILE CURRENT INTO VINDEX :out;", out=tmp_path / "edited.vindex")
    return tmp_path / "edited.vindex"


def test_merge_into_the_session_is_an_edit(session: Session, edited: Path, tmp_path: Path) -> None:
    before = logits(session)
    result: MergeResult = one(session, "MERGE :a;", a=edited)
    assert (result.target, result.facts, result.features) == ("CURRENT", 1, 2)
    assert one(session, "DIFF :a CURRENT;", a=edited).rows == []
    with connect(edited) as other:
        expected = logits(other)
    np.testing.assert_allclose(logits(session), expected, atol=1e-4)
    one(session, "SAVE PATCH :p;", p=tmp_path / "merged.vlp")
    one(session, "UNDO;")
    assert np.array_equal(logits(session), before)
    one(session, "APPLY PATCH :p;", p=tmp_path / "merged.vlp")
    np.testing.assert_allclose(logits(session), expected, atol=1e-4)


def test_merge_into_a_vindex_writes_it(vindex: Path, edited: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.vindex"
    with Session() as session:
        one(session, "COMPILE :v INTO VINDEX :t;", v=vindex, t=target)
        result = one(session, "MERGE :a INTO :t;", a=edited, t=target)
        assert (result.facts, result.features) == (1, 2)
        again = one(session, "MERGE :a INTO :t;", a=edited, t=target)
        assert (again.facts, again.features) == (0, 0)
    assert verify(target).ok
    assert verify(vindex).ok
    with connect(target) as found, connect(edited) as wanted:
        assert np.array_equal(logits(found), logits(wanted))
        assert targets(found) == {"Oslo"}


def test_merge_into_a_patch(session: Session, edited: Path, tmp_path: Path) -> None:
    one(session, "MERGE :a INTO :p;", a=edited, p=tmp_path / "merged.vlp")
    assert session.overlay.edits == ()
    one(session, "APPLY PATCH :p;", p=tmp_path / "merged.vlp")
    assert one(session, "DIFF :a CURRENT;", a=edited).rows == []


@pytest.mark.parametrize(
    ("strategy", "facts", "features"),
    [
        ("KEEP_SOURCE", {"Oslo", "Bern"}, 2),
        ("KEEP_TARGET", {"Rome", "Bern"}, 0),
        ("HIGHEST_CONFIDENCE", {"Rome", "Bern"}, 1),
    ],
)
def test_who_wins(
    strategy: str,
    facts: set[str],
    features: int,
    session: Session,
    vindex: Path,
    edited: Path,
    tmp_path: Path,
) -> None:
    """The target's fact is surer, one of the source's features scores higher."""
    own = patch(
        vindex,
        tmp_path / "own.vlp",
        fact("Rome", 6, 0.8),
        fact("Bern", 7, entity="Switzerland"),
        written(5, scale=0.5),
    )
    one(session, "APPLY PATCH :p;", p=own)
    result: MergeResult = one(session, f"MERGE :a ON CONFLICT {strategy};", a=edited)
    assert targets(session) == facts
    assert result.features == features
    assert result.conflicts == 3
    assert result.kept == 3 - result.features - result.facts


def test_vindexes_of_other_models_are_not_merged(
    session: Session, tmp_path: Path, data_dir: Path, vindex: Path
) -> None:
    with Session() as other:
        parameters = {
            "model": data_dir / "golden/checkpoints/llama_h96",
            "q": tmp_path / "q4k.vindex",
            "h": tmp_path / "f16.vindex",
        }
        other.run(
            "EXTRACT MODEL :model INTO :q QUANT q4k; EXTRACT MODEL :model INTO :h;",
            parameters=parameters,
        )
    refused(session, "MERGE :a;", Code.MERGE_MISFIT, a=tmp_path / "q4k.vindex")
    refused(session, "MERGE :a;", Code.MERGE_MISFIT, a=tmp_path / "f16.vindex")
    refused(session, "MERGE :a INTO :v;", Code.MERGE_MISFIT, a=vindex, v=vindex)
    assert session.overlay.edits == ()
    with open_vindex(vindex) as one_side, open_vindex(tmp_path / "f16.vindex") as other_side:
        assert list(differing_features(one_side, other_side, (0,)))
