"""COMPILE INTO VINDEX: what is written is the effective model, and the base stays as it was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.vindex_files import copy_golden, extract_golden
from vindex import baking, files
from vindex.comparing import differing_features
from vindex.compiling import CompileReport, compile_vindex
from vindex.edited import EditedVindex
from vindex.edits import Fact, FeatureEdit, Slot, Vector, WrittenToken
from vindex.errors import TargetExists, VindexInvalid
from vindex.kinds import Quant, StorageDtype
from vindex.knn_store import read_knn_store
from vindex.sharing import Sharing
from vindex.spec import Role
from vindex.store import Vindex, open_vindex
from vindex.verify import verify

RNG = np.random.default_rng(0)
TOKEN = WrittenToken("x", 5, 2.0)


def vector(size: int) -> Vector:
    """Values that every dtype holds exactly."""
    return Vector.of(RNG.integers(-8, 9, size).astype(np.float32) / 16)


def edits_for(base: Vindex) -> dict[Slot, FeatureEdit]:
    size = base.index.hidden_size
    return {
        (0, 3): FeatureEdit(
            vector(size) and False, vector(size), vector(size), vector(size), TOKEN
        ),
        (1, 7): FeatureEdit(off=True),
        (1, 8): FeatureEdit(down=vector(size), relation="capital"),
    }


def facts_for(base: Vindex) -> tuple[Fact, ...]:
    keys = tuple(Vector.of(RNG.normal(size=base.index.hidden_size)) for _ in range(3))
    return (
        Fact(1, "Hungary", "capital", "Oslo", 5, keys, 0.9, ("Magyarország",)),
        Fact(0, "Austria", "capital", "Rome", 6, keys[:1]),
    )


def digests(path: Path) -> Mapping[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in path.iterdir()}


def made(tmp_path: Path, name: str = "llama_h96", **options: Any) -> Path:
    extract_golden(name, tmp_path / "base", **options)
    return tmp_path / "base"


def compiled(base: Path, out: Path, **options: Any) -> tuple[CompileReport, EditedVindex, Vindex]:
    opened = open_vindex(base)
    edited = EditedVindex(opened, edits_for(opened))
    report = compile_vindex(edited, facts_for(opened), out, **options)
    return report, edited, opened


@pytest.mark.parametrize("dtype", StorageDtype)
@pytest.mark.parametrize("name", ["llama_h96", "gemma3_h96", "qwen2_h96", "gemma4_h96"])
def test_the_effective_model_is_in_the_files(
    name: str, dtype: StorageDtype, tmp_path: Path
) -> None:
    base = made(tmp_path, name, dtype=dtype)
    before = digests(base)
    report, edited, opened = compiled(base, tmp_path / "out")
    assert report.floats.values
    assert report.floats.largest == 0.0
    assert digests(base) == before
    checked = verify(report.path)
    assert checked.ok, checked.problems
    assert checked.sealed
    with open_vindex(report.path) as found:
        assert list(differing_features(edited, found, found.layers)) == []
        assert list(differing_features(opened, found, found.layers))
        for tensor in edited.spec.tensors:
            if edited.has(*tensor.identity):
                expected = edited.tensor(*tensor.identity).float32()
                np.testing.assert_array_equal(found.tensor(*tensor.identity).float32(), expected)
        assert found.labels.probes == {(1, 8): "capital"}


def test_facts_come_back_bit_for_bit(tmp_path: Path) -> None:
    with open_vindex(made(tmp_path)) as base:
        facts = facts_for(base)
        compile_vindex(base, facts, tmp_path / "out")
    with open_vindex(tmp_path / "out") as found:
        assert read_knn_store(found.path, found.index) == facts


def test_untouched_weights_are_shared_and_texts_are_copied(tmp_path: Path) -> None:
    base = made(tmp_path)
    report, _, _ = compiled(base, tmp_path / "out")
    assert report.shared["attn_weights.bin"] in (Sharing.LINKED, Sharing.REFLINKED)
    for name, how in report.shared.items():
        same_file = (base / name).samefile(report.path / name)
        assert same_file == (how is Sharing.LINKED)
        assert name.endswith(".bin") or how is Sharing.COPIED
    rewritten = {"gate_vectors.bin", "up_weights.bin", "down_weights.bin", "down_meta.bin"}
    assert rewritten <= set(report.rewritten)
    assert report.new_bytes < report.size_bytes
    (report.path / files.CONFIG).write_text("{}")  # in place, as an editor does
    assert verify(base).ok


def test_without_edits_no_weight_is_written(tmp_path: Path) -> None:
    with open_vindex(made(tmp_path)) as base:
        report = compile_vindex(base, (), tmp_path / "out")
    assert set(report.rewritten) == {files.INDEX, files.SEAL}
    assert verify(report.path).ok


def test_blocks_that_no_edit_touches_stay(tmp_path: Path) -> None:
    base = made(tmp_path, "gemma3_h96", quant=Quant.Q4K)
    report, edited, opened = compiled(base, tmp_path / "out")
    assert verify(report.path).ok
    assert 0 < report.blocks.relative < 0.2
    with open_vindex(report.path) as found:
        for layer, feature in ((0, 3), (1, 8)):
            for role in (Role.GATE, Role.UP, Role.DOWN):
                _check_blocks(role, layer, feature, opened, edited, found)


def _check_blocks(
    role: Role, layer: int, feature: int, base: Vindex, edited: Vindex, found: Vindex
) -> None:
    matrices = [vx.matrix(role, layer) for vx in (base, edited, found)]
    old, wanted, new = (matrix.rows(0, matrix.shape[0]) for matrix in matrices)
    if role is Role.DOWN:
        old, wanted, new = old.T, wanted.T, new.T
    if not (old[feature] != wanted[feature]).any():
        return
    error = np.linalg.norm(new[feature] - wanted[feature]) / np.linalg.norm(wanted[feature])
    assert error < 0.15
    width = 256 if role is Role.DOWN else 1  # features that share a block
    first = feature // width * width
    other = np.ones(len(old), np.bool_)
    for each in range(len(old)):
        if (old[each] != wanted[each]).any():
            start = each // width * width
            other[start : start + width] = False
    assert not other[first]
    np.testing.assert_array_equal(new[other], old[other])


def test_a_vindex_of_larql_is_compiled_and_stays_larqls(tmp_path: Path) -> None:
    base = copy_golden("llama_h96.f16", tmp_path / "base")
    report, edited, _ = compiled(base, tmp_path / "out")
    with open_vindex(report.path) as found:
        assert not found.index.ours
        assert list(differing_features(edited, found, found.layers)) == []
    assert verify(report.path).ok


def test_facts_of_larql_are_kept(tmp_path: Path) -> None:
    with open_vindex(copy_golden("llama_h96.compiled_knn", tmp_path / "base")) as base:
        facts = read_knn_store(base.path, base.index)
        assert facts
        compile_vindex(base, facts, tmp_path / "out")
    with open_vindex(tmp_path / "out") as found:
        assert read_knn_store(found.path, found.index) == facts


def test_targets_are_not_taken_without_being_asked(tmp_path: Path) -> None:
    base = made(tmp_path)
    with open_vindex(base) as opened:
        out = compile_vindex(opened, (), tmp_path / "out").path
        with pytest.raises(TargetExists):
            compile_vindex(opened, (), out)
        compile_vindex(opened, facts_for(opened), out, overwrite=True)
        with pytest.raises(TargetExists, match="is compiled"):
            compile_vindex(opened, (), base, overwrite=True)
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign" / "thesis.tex").touch()
        with pytest.raises(TargetExists, match="not a vindex"):
            compile_vindex(opened, (), tmp_path / "foreign", overwrite=True)
    assert (out / "knn_store.bin").exists()
    assert sorted(os.listdir(tmp_path)) == ["base", "foreign", "out"]


def test_a_value_that_the_dtype_does_not_hold_is_refused(tmp_path: Path) -> None:
    with open_vindex(made(tmp_path)) as base:
        huge = Vector.of(np.full(base.index.hidden_size, 1e6))
        with pytest.raises(VindexInvalid, match="up to 1e\\+06"):
            compile_vindex(
                EditedVindex(base, {(0, 0): FeatureEdit(gate=huge)}), (), tmp_path / "out"
            )
    assert sorted(os.listdir(tmp_path)) == ["base"]


def test_a_damaged_base_is_not_sealed_anew(tmp_path: Path) -> None:
    base = made(tmp_path)
    with open_vindex(base) as opened:
        data = bytearray((base / files.TOKENIZER).read_bytes())
        data[-2] ^= 1
        (base / files.TOKENIZER).write_bytes(data)
        with pytest.raises(VindexInvalid, match=files.TOKENIZER):
            compile_vindex(opened, (), tmp_path / "out")


def test_rounding_is_what_was_lost(tmp_path: Path) -> None:
    with open_vindex(made(tmp_path)) as base:
        values = RNG.normal(size=base.index.hidden_size).astype(np.float32)
        edited = EditedVindex(base, {(0, 0): FeatureEdit(gate=Vector.of(values))})
        report = compile_vindex(edited, (), tmp_path / "out")
        with open_vindex(tmp_path / "out") as found:
            stored = found.gate(0).rows(0, 1)[0]
    lost = np.abs(stored - values)
    assert report.floats.largest == lost.max() > 0
    assert report.floats == baking.rounding_of(values, stored)
