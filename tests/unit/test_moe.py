"""Mixtures of experts from a configuration to an opened vindex."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.moe_models import (
    ALL,
    GEMMA4,
    MIXTRAL,
    QWEN2,
    QWEN3,
    SIZES,
    extracted,
    fused_arrays,
    mixtures,
    released_arrays,
    write,
)
from tests.unit.vindex_files import unseal
from vindex import files
from vindex.checkpoint import CheckpointSource, balance, open_checkpoint
from vindex.dtypes import convert
from vindex.errors import CheckpointError, LedgerRefusal, Unsupported, VindexIncomplete
from vindex.families import spec_from_config, spec_from_index
from vindex.features import describe_layer, gate_walk
from vindex.index import VindexIndex, parse_index
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.scoring import Embeddings, NumpyScorer
from vindex.spec import FfnSpec, Role, ffn_parts, part_roles
from vindex.store import open_vindex

models = pytest.mark.parametrize("config", ALL.values(), ids=ALL)


# --------------------------------------------------------------------------- configurations


def test_defaults_are_those_of_the_classes() -> None:
    (mixtral, *_) = mixtures(spec_from_config({"model_type": "mixtral", **SIZES}))
    assert mixtral is not None
    assert (mixtral.routing.experts, mixtral.routing.chosen) == (8, 2)
    assert mixtral.routing.normalised
    assert mixtral.expert.width == SIZES["intermediate_size"]
    (qwen2, *_) = mixtures(spec_from_config({"model_type": "qwen2_moe", **SIZES}))
    assert qwen2 is not None
    assert (qwen2.routing.experts, qwen2.routing.chosen) == (60, 4)
    assert not qwen2.routing.normalised
    assert qwen2.shared_switch
    assert qwen2.shared is not None
    assert (qwen2.expert.width, qwen2.shared.width) == (1408, 5632)
    (qwen3, *_) = mixtures(spec_from_config({"model_type": "qwen3_moe", **SIZES}))
    assert qwen3 is not None
    assert (qwen3.routing.experts, qwen3.routing.chosen) == (128, 8)
    assert not qwen3.routing.normalised
    assert (qwen3.expert.width, qwen3.shared) == (768, None)


@pytest.mark.parametrize(
    ("changes", "sparse"),
    [
        ({}, [True] * 4),
        ({"mlp_only_layers": [0, 3, 9]}, [False, True, True, False]),
        ({"decoder_sparse_step": 2}, [False, True, False, True]),
        ({"decoder_sparse_step": 2, "mlp_only_layers": [1]}, [False, False, False, True]),
        ({"mlp_only_layers": None}, [True] * 4),
    ],
)
def test_which_layers_have_experts(changes: dict[str, Any], sparse: list[bool]) -> None:
    model = spec_from_config({**QWEN3, **changes})
    assert [moe is not None for moe in mixtures(model)] == sparse
    dense = [layer.ffn for layer in model.layers if isinstance(layer.ffn, FfnSpec)]
    assert {ffn.width for ffn in dense} <= {SIZES["intermediate_size"]}


def test_the_number_of_experts_in_either_spelling() -> None:
    for key in ("num_experts", "num_local_experts"):
        config = {name: value for name, value in QWEN3.items() if name != "num_experts"}
        (moe, *_) = mixtures(spec_from_config({**config, key: 6}))
        assert moe is not None
        assert moe.routing.experts == 6


@pytest.mark.parametrize(
    ("config", "changes", "text"),
    [
        (MIXTRAL, {"num_experts_per_tok": 4}, "num_experts_per_tok is 4 of 3 experts"),
        (MIXTRAL, {"num_local_experts": 0}, "num_local_experts is 0"),
        (QWEN3, {"num_local_experts": 9}, "num_experts is 4 and num_local_experts is 9"),
        (QWEN3, {"mlp_only_layers": "1"}, "a list of integers"),
        (QWEN3, {"mlp_only_layers": [True]}, "a list of integers"),
        (QWEN3, {"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        (GEMMA4, {"top_k_experts": None}, "top_k_experts is missing"),
        (GEMMA4, {"moe_intermediate_size": None}, "moe_intermediate_size is missing"),
    ],
)
def test_contradictions_are_refused(
    config: dict[str, Any], changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(CheckpointError, match=text):
        spec_from_config({**config, **changes})


# --------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("config", [MIXTRAL, QWEN2, QWEN3], ids=["mixtral", "qwen2", "qwen3"])
def test_stacked_experts_are_the_same_model(config: dict[str, Any], tmp_path: Path) -> None:
    apart = released_arrays(config)
    write(tmp_path / "apart", config, apart)
    write(tmp_path / "fused", config, fused_arrays(apart, config))
    with (
        open_checkpoint(tmp_path / "apart") as one,
        open_checkpoint(tmp_path / "fused") as other,
    ):
        assert len(set(one.names()) - set(other.names())) > 20
        left, right = CheckpointSource(one), CheckpointSource(other)
        for tensor in left.spec.tensors:
            own, stacked = left.tensor(*tensor.identity), right.tensor(*tensor.identity)
            assert own.key == stacked.key == tensor.key
            assert np.array_equal(own.array, stacked.array), tensor.key


def _first_expert(config: Mapping[str, Any]) -> str:
    model = spec_from_config(config)
    return next(f"model.{t.key}" for t in model.tensors if t.role is Role.EXPERT_UP)


def test_a_missing_expert_is_refused_by_name(tmp_path: Path) -> None:
    arrays = released_arrays(MIXTRAL)
    lost = _first_expert(MIXTRAL)
    del arrays[lost]
    with open_checkpoint(write(tmp_path, MIXTRAL, arrays)) as checkpoint:
        with pytest.raises(LedgerRefusal) as caught:
            balance(checkpoint, spec_from_config(MIXTRAL))
        assert caught.value.details == (f"missing: {lost.removeprefix('model.')}",)


def test_experts_that_a_checkpoint_has_twice_are_refused(tmp_path: Path) -> None:
    arrays = released_arrays(MIXTRAL)
    fused = fused_arrays(arrays, MIXTRAL)
    name = "model.layers.2.mlp.experts.down_proj"
    arrays[name] = fused[name]
    with open_checkpoint(write(tmp_path, MIXTRAL, arrays)) as checkpoint:
        with pytest.raises(LedgerRefusal) as caught:
            balance(checkpoint, spec_from_config(MIXTRAL))
        assert caught.value.details == (
            f"ambiguous: {name!r} holds what other tensors hold as well",
        )


def test_stacked_experts_of_another_shape_are_refused(tmp_path: Path) -> None:
    arrays = released_arrays(GEMMA4)
    name = "model.layers.1.experts.gate_up_proj"
    arrays[name] = np.ascontiguousarray(arrays[name].swapaxes(1, 2))
    with open_checkpoint(write(tmp_path, GEMMA4, arrays)) as checkpoint:
        with pytest.raises(LedgerRefusal) as caught:
            balance(checkpoint, spec_from_config(GEMMA4))
        assert caught.value.details == (f"shape: {name!r} is [4, 32, 24], expected [4, 24, 32]",)


# --------------------------------------------------------------------------- vindexes


@models
@pytest.mark.parametrize("dtype", StorageDtype, ids=lambda dtype: dtype.value)
def test_every_tensor_survives_extraction(
    config: dict[str, Any], dtype: StorageDtype, tmp_path: Path
) -> None:
    path = extracted(tmp_path, config, dtype=dtype)
    with (
        open_checkpoint(tmp_path / "checkpoint") as checkpoint,
        open_vindex(path) as vindex,
    ):
        exact = CheckpointSource(checkpoint)
        experts = 0
        for tensor in vindex.spec.tensors:
            if tensor.optional:
                continue
            assert vindex.has(*tensor.identity)
            stored, own = vindex.tensor(*tensor.identity), exact.tensor(*tensor.identity)
            wanted = convert(own.array, own.dtype, stored.dtype)
            assert stored.key == own.key == tensor.key
            assert np.array_equal(stored.array, wanted), tensor.key
            experts += tensor.expert is not None
        assert experts == 3 * sum(
            moe.routing.experts for moe in mixtures(vindex.spec) if moe is not None
        )


@models
def test_features_are_numbered_part_by_part(config: dict[str, Any], tmp_path: Path) -> None:
    """Gate rows and what features write, each at its number; browsing needs no more."""
    path = extracted(tmp_path, config, level=ExtractLevel.BROWSE, dtype=StorageDtype.F32)
    with (
        open_checkpoint(tmp_path / "checkpoint") as checkpoint,
        open_vindex(path) as vindex,
    ):
        exact = CheckpointSource(checkpoint)
        embed = exact.tensor(Role.EMBED)
        scorer = NumpyScorer()
        scorer.begin(Embeddings(embed.array, embed.dtype, release=lambda: None))
        assert not vindex.stored_keys
        for layer in vindex.spec.layers:
            gates = vindex.gate(layer.index).float32()
            records = vindex.down_meta.records(layer.index)
            parts = ffn_parts(layer.ffn)
            assert len(gates) == len(records) == sum(part.ffn.width for part in parts)
            for part in parts:
                gate, _, down = part_roles(part.kind)
                own = slice(part.first, part.first + part.ffn.width)
                rows = exact.tensor(gate, layer.index, part.expert).float32()
                assert np.array_equal(gates[own], rows)
                columns = exact.tensor(down, layer.index, part.expert).float32().T
                best = scorer.top(np.ascontiguousarray(columns), 1)
                for token, expected in zip(records["token"][own], best.ids[:, 0], strict=True):
                    # A token without text is left out of a record.
                    assert token == expected or not vindex.token_texts.text(int(expected))
            assert describe_layer(vindex, layer.index).features == layer.ffn.width
        scorer.end()


def test_a_walk_finds_a_feature_of_an_expert(tmp_path: Path) -> None:
    path = extracted(tmp_path, QWEN2, dtype=StorageDtype.F32)
    with open_vindex(path) as vindex:
        part = ffn_parts(vindex.spec.layers[2].ffn)[3]
        query = 50 * vindex.tensor(Role.EXPERT_GATE, 2, 3).float32()[4]
        best = gate_walk(vindex, query, [2], 1)[0]
        assert best.feature == part.first + 4


def test_the_index_says_what_larql_would(tmp_path: Path) -> None:
    path = extracted(tmp_path, MIXTRAL)
    document = json.loads((path / files.INDEX).read_text())
    assert document["intermediate_size"] == 24
    assert document["layers"][1] == {
        "layer": 1,
        "num_features": 72,
        "offset": 72 * 32 * 2,
        "length": 72 * 32 * 2,
        "num_experts": 3,
        "num_features_per_expert": 24,
    }
    moe = document["model_config"]["moe"]
    assert (moe["num_experts"], moe["top_k"], moe["hybrid"]) == (3, 2, False)
    manifest = json.loads((path / files.MANIFEST).read_text())
    names = [entry["key"] for entry in manifest if entry["file"].startswith(("up", "down"))]
    prefix = "layers.0.block_sparse_moe"
    assert names[:7] == [
        *(
            f"{prefix}.experts.{expert}.{part}.weight"
            for expert in range(3)
            for part in ("w3", "w2")
        ),
        f"{prefix}.gate.weight",
    ]


def test_beside_a_dense_ffn_the_index_counts_no_experts_from_its_first_row(tmp_path: Path) -> None:
    document = json.loads((extracted(tmp_path, GEMMA4) / files.INDEX).read_text())
    assert "num_experts" not in document["layers"][0]
    assert document["layers"][0]["num_features"] == 24 + 4 * 12
    assert document["intermediate_size"] == 24
    assert document["model_config"]["moe"]["hybrid"] is True


def lost_tensors(path: Path) -> list[str]:
    """Keys of what an expert or router needs, layer 2."""
    manifest = json.loads((path / files.MANIFEST).read_text())
    return [
        entry["key"]
        for entry in manifest
        if entry["key"].startswith("layers.2.")
        and any(
            word in entry["key"]
            for word in ("expert", "router", "mlp.gate.", "moe.gate", "_1.", "_2.")
        )
    ]


@models
def test_every_lost_tensor_of_a_mixture_is_named(config: dict[str, Any], tmp_path: Path) -> None:
    path = unseal(extracted(tmp_path, config))
    manifest = path / files.MANIFEST
    entries = json.loads(manifest.read_text())
    lost = lost_tensors(path)
    assert len(lost) >= 7
    for key in lost:
        manifest.write_text(json.dumps([entry for entry in entries if entry["key"] != key]))
        with pytest.raises(VindexIncomplete) as caught:
            open_vindex(path)
        assert caught.value.details == (key,)
        assert "EXTRACT MODEL" in (caught.value.hint or "")


@pytest.mark.parametrize("rows", [1, 7, 24, 50])
def test_what_features_write_does_not_depend_on_how_many_are_scored_at_once(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (extracted(tmp_path / "whole", QWEN2) / files.DOWN_META).read_bytes()
    monkeypatch.setattr("vindex.extraction._SCORED_AT_ONCE", rows)
    assert (extracted(tmp_path / "parts", QWEN2) / files.DOWN_META).read_bytes() == whole


# --------------------------------------------------------------------------- larql's vindexes


def as_larql(path: Path, **changes: Any) -> VindexIndex:
    """The index of a vindex as larql would have written it."""
    document = json.loads((path / files.INDEX).read_text())
    del document["lql"]
    document["model_config"] |= changes
    return parse_index(json.dumps(document).encode(), path / files.INDEX)


def test_larqls_mixtral_is_rebuilt_from_its_index(tmp_path: Path) -> None:
    path = extracted(tmp_path, MIXTRAL)
    with open_vindex(path) as vindex:
        expected, keys = vindex.spec, vindex.stored_keys
    rebuilt, notes = spec_from_index(as_larql(path), keys)
    assert rebuilt.layers == expected.layers
    assert any("rope scaling" in note for note in notes)
    with pytest.raises(Unsupported, match="experts are not recorded"):
        spec_from_index(as_larql(path, moe=None), keys)


def test_a_mixtral_written_by_larql_runs(tmp_path: Path) -> None:
    """As larql leaves it: no config.json, no seal, no block of ours in the index."""
    path = extracted(tmp_path, MIXTRAL)
    with open_vindex(path) as own:
        expected = {t.identity: own.tensor(*t.identity).array.copy() for t in own.spec.tensors}
    bare = shutil.copytree(path, tmp_path / "larql")
    for name in (files.SEAL, files.CONFIG):
        (bare / name).unlink()
    document = json.loads((bare / files.INDEX).read_text())
    del document["lql"], document["tie_word_embeddings"]
    (bare / files.INDEX).write_text(json.dumps(document))
    with open_vindex(bare) as vindex:
        vindex.require(ExtractLevel.INFERENCE, "INFER")
        for identity, array in expected.items():
            assert np.array_equal(vindex.tensor(*identity).array, array)


@pytest.mark.parametrize("config", [QWEN2, QWEN3, GEMMA4], ids=["qwen2_moe", "qwen3_moe", "gemma4"])
def test_other_mixtures_of_larql_are_for_browsing(config: dict[str, Any], tmp_path: Path) -> None:
    path = extracted(tmp_path, config)
    with open_vindex(path) as vindex:
        keys = vindex.stored_keys
    with pytest.raises(Unsupported):
        spec_from_index(as_larql(path), keys)
