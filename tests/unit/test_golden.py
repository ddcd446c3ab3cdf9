"""Vindexes written by the real larql: they open, and every tensor is the checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.unit.vindex_files import (
    CHECKPOINTS,
    DATA,
    VINDEXES,
    as_stored_by_larql,
    checkpoint,
    extract_golden,
    larql_f16,
)
from vindex.downmeta import used_slots
from vindex.errors import LevelTooLow, Unsupported, VindexIncomplete
from vindex.families import family_of, spec_from_config
from vindex.features import feature_table, gate_walk, prompt_query
from vindex.index import dump_index, read_index
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.spec import Role
from vindex.store import open_vindex

COMPLETE = [
    "llama_h96.f16",
    "llama_h96.f32",
    "llama_h96.browse",
    "llama_h96.attention",
    "llama_h96.all",
    "gemma3_h96.f16",
    "gemma4_h96.f16",
    "llama3_h96.f16",
]
COMPILED = ["llama_h96.compiled_knn", "llama_h96.compiled_compose"]


@pytest.mark.parametrize("name", [*COMPLETE, "llama_h96.compiled_knn"])
def test_every_tensor_is_the_checkpoints_within_storage_precision(name: str) -> None:
    with open_vindex(VINDEXES / name) as vx, checkpoint(name.split(".")[0]) as source:
        spec = spec_from_config(source.config)
        names = {family_of(spec).key(each): each for each in source.names()}
        compared = 0
        for tensor in spec.needed(vx.level):
            if tensor.role is Role.EMBED:
                stored = vx.embeddings
            elif tensor.role is Role.GATE:
                assert tensor.layer is not None
                stored = vx.gate(tensor.layer)
            elif tensor.key in vx.stored_keys:
                stored = vx.stored(tensor.key)
            else:
                assert tensor.role is Role.HEAD
                continue
            exact = source.read(names[tensor.key], StorageDtype.F32)
            assert stored.dtype is vx.index.dtype
            assert stored.shape == tensor.shape
            assert np.array_equal(stored.array, as_stored_by_larql(exact, stored.dtype)), tensor.key
            compared += 1
        assert compared >= 1 + spec.num_layers


def test_compose_changed_exactly_the_baked_rows() -> None:
    with (
        open_vindex(VINDEXES / "llama_h96.f16") as base,
        open_vindex(VINDEXES / "llama_h96.compiled_compose") as baked,
    ):
        changed = {
            role: [
                (layer, int((a != b).any(axis=axis).sum()))
                for layer in range(4)
                for a, b in [(base.tensor(role, layer).array, baked.tensor(role, layer).array)]
                if (a != b).any()
            ]
            for role, axis in ((Role.GATE, 1), (Role.UP, 1), (Role.DOWN, 0))
        }
    assert set(map(len, changed.values())) == {1}
    assert changed[Role.GATE][0][0] == changed[Role.UP][0][0] == changed[Role.DOWN][0][0]


@pytest.mark.parametrize("name", COMPILED)
def test_a_head_lost_by_compile_is_refused_for_inference_only(name: str) -> None:
    """The manifest still names it: tying it to the embedding would give another answer."""
    with open_vindex(VINDEXES / name) as vx:
        assert any("lm_head.weight" in note for note in vx.notes)
        vx.require(ExtractLevel.BROWSE, "WALK")
        with pytest.raises(VindexIncomplete, match=r"lm_head\.weight") as caught:
            vx.require(ExtractLevel.INFERENCE, "INFER")
    assert "EXTRACT MODEL" in (caught.value.hint or "")


def test_a_level_too_low_names_the_extract_that_mends_it() -> None:
    with (
        open_vindex(VINDEXES / "llama_h96.browse") as vx,
        pytest.raises(LevelTooLow, match="INFER needs a vindex of level inference") as caught,
    ):
        vx.require(ExtractLevel.INFERENCE, "INFER")
    assert caught.value.hint is not None
    assert 'EXTRACT MODEL "gold_src/llama_h96"' in caught.value.hint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen2_h96.f16", "biases"),
        ("llama3_h96.f16", "rope"),
    ],
)
def test_what_larql_recorded_lossily_can_be_browsed_and_not_inferred(
    name: str, reason: str
) -> None:
    with open_vindex(VINDEXES / name) as vx:
        query = prompt_query(vx, "The capital of France is")
        assert query is not None
        assert len(gate_walk(vx, query[0], vx.layers, 3)) == 3 * len(vx.layers)
        with pytest.raises(Unsupported, match=reason):
            vx.require(ExtractLevel.INFERENCE, "INFER")


def _answers(vindex: str, start: str) -> list[str]:
    for line in (DATA / "answers.jsonl").read_text().splitlines():
        answer = json.loads(line)
        if answer["vindex"] == vindex and answer["statement"].startswith(start):
            output: list[str] = answer["output"]
            return output
    raise AssertionError("no such answer")


@pytest.mark.parametrize("name", ["llama_h96.f16", "gemma3_h96.f16"])
def test_walk_gives_larqls_features_and_gates(name: str) -> None:
    text = "\n".join(_answers(name, 'WALK "The capital of France is" TOP 3;'))
    theirs = []
    for line in text.split("  L ")[1:]:
        layer, rest = line.split(":", 1)
        feature, gate = rest.split("gate=")
        theirs.append((int(layer), int(feature.strip()[1:]), float(gate.split()[0])))
    with open_vindex(VINDEXES / name) as vx:
        query = prompt_query(vx, "The capital of France is")
        assert query is not None
        ours = gate_walk(vx, query[0], vx.layers, 3)
    assert [(hit.layer, hit.feature) for hit in ours] == [row[:2] for row in theirs]
    assert [hit.gate for hit in ours] == pytest.approx([row[2] for row in theirs], abs=0.0501)


def test_features_give_larqls_tokens_and_scores() -> None:
    lines = _answers("llama_h96.f16", "SHOW FEATURES 1 LIMIT 8;")[2:]
    with open_vindex(VINDEXES / "llama_h96.f16") as vx:
        table = feature_table(vx, 1)
        for row, line in enumerate(lines):
            feature, token, score = line.split()[:3]
            assert table.features[row] == int(feature[1:])
            assert vx.token_texts.text(int(table.token_ids[row])) == token
            assert float(table.scores[row]) == pytest.approx(float(score), abs=5.01e-5)


@pytest.mark.parametrize("name", ["llama_h96", "gemma3_h96", "gemma4_h96", "llama3_h96"])
def test_our_extract_agrees_with_larqls(name: str, tmp_path: Path) -> None:
    """Same manifest, same index but for our own keys, same down_meta."""
    out = tmp_path / "ours"
    extract_golden(name, out)
    golden = VINDEXES / f"{name}.f16"
    assert json.loads((out / "weight_manifest.json").read_text()) == json.loads(
        (golden / "weight_manifest.json").read_text()
    )
    ours, theirs = (json.loads((path / "index.json").read_text()) for path in (out, golden))
    assert set(ours) - set(theirs) == {"lql", "tie_word_embeddings"}
    for key in set(theirs) - {"model", "source", "checksums", "model_config"}:
        assert ours[key] == theirs[key], key
    assert set(ours["checksums"]) == set(theirs["checksums"])
    for key, value in theirs["model_config"].items():
        assert ours["model_config"][key] == value, key
    with open_vindex(out) as mine, open_vindex(golden) as other:
        for layer in range(mine.index.num_layers):
            a, b = mine.down_meta.records(layer), other.down_meta.records(layer)
            assert np.array_equal(a["top"]["token"], b["top"]["token"])
            assert np.array_equal(used_slots(a), used_slots(b))
            assert a["top"]["score"] == pytest.approx(b["top"]["score"], abs=2e-6)


@pytest.mark.parametrize("path", sorted(VINDEXES.iterdir()), ids=lambda path: path.name)
def test_index_written_back_is_larqls_byte_for_byte(path: Path) -> None:
    assert dump_index(read_index(path)) == (path / "index.json").read_bytes()


def test_the_emulation_of_larqls_f16_differs_from_rounding() -> None:
    """Otherwise the comparison above would prove nothing about the rule of section 4.1."""
    values = np.random.default_rng(0).normal(0, 0.02, 4096).astype(np.float32)
    same = larql_f16(values) == values.astype(np.float16)
    assert 0.3 < same.mean() < 0.7
    assert larql_f16(np.float32([1e-5, -1e-5, 7e4, 0.1])).tolist() == [
        0,
        -0.0,
        np.inf,
        0.0999755859375,
    ]


def test_the_golden_checkpoints_are_those_of_the_vindexes() -> None:
    assert {path.name for path in CHECKPOINTS.iterdir()} >= {
        name.split(".")[0] for name in COMPLETE
    }
