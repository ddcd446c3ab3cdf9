"""Vindexes without ``gate_vectors.bin``: gates are decoded from the blocks of the FFNs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lql.inference import load
from tests.unit import moe_models
from tests.unit.checkpoint_files import write_directory
from tests.unit.tiny_models import byte_tokenizer
from tests.unit.vindex_files import CHECKPOINTS, VINDEXES, copy_golden, edit_json, extract_golden
from vindex import files, gate_vectors, kquant
from vindex.checkpoint import open_checkpoint
from vindex.compiling import compile_vindex
from vindex.edited import EditedVindex
from vindex.edits import FeatureEdit, Vector
from vindex.errors import OptionsConflict, VindexIncomplete
from vindex.extract import extract
from vindex.features import gate_walk
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.source import QuantTensor
from vindex.spec import Role
from vindex.store import Vindex, open_vindex
from vindex.verify import verify

GOLDEN = "llama_h96.q4k"
IDS = tuple(range(5, 25))


def dropped_by_larql(name: str, out: Path) -> Path:
    """A vindex of larql's as its --drop-gate-vectors writes it: no file, and no checksum of it."""
    path = copy_golden(name, out)
    (path / files.GATE).unlink()
    edit_json(path / files.INDEX, lambda index: index["checksums"].pop(files.GATE))
    return path


def blocks_of(vx: Vindex, layer: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    matrix = vx.matrix(Role.GATE, layer)
    assert isinstance(matrix, QuantTensor)
    return matrix.rows(0, matrix.shape[0])


def test_larqls_are_read(tmp_path: Path) -> None:
    path = dropped_by_larql(GOLDEN, tmp_path / "v")
    with open_vindex(path) as vx, open_vindex(VINDEXES / GOLDEN) as whole:
        assert vx.layers == whole.layers
        for layer in vx.layers:
            found, expected = vx.gate(layer), whole.gate(layer).float32()
            assert found.dtype is StorageDtype.F32
            assert np.array_equal(found.array, blocks_of(whole, layer))
            error = np.linalg.norm(found.array - expected) / np.linalg.norm(expected)
            assert 0 < error < 0.1
            assert np.array_equal(found.array, vx.tensor(Role.GATE, layer).float32())
        query = np.random.default_rng(0).standard_normal(vx.index.hidden_size, np.float32)
        hits = [
            {(h.layer, h.feature) for h in gate_walk(v, query, v.layers, 20)} for v in (vx, whole)
        ]
        assert len(hits[0] & hits[1]) > 0.7 * len(hits[1])
        assert np.array_equal(load(vx).logits(IDS), load(whole).logits(IDS))
    assert verify(path).ok


def test_a_file_that_was_there_is_missed(tmp_path: Path) -> None:
    path = copy_golden(GOLDEN, tmp_path / "v")
    (path / files.GATE).unlink()
    with pytest.raises(VindexIncomplete, match=r"gate_vectors\.bin is missing"):
        open_vindex(path)


@pytest.mark.parametrize("level", [None, "browse"])
def test_blocks_that_are_missing_are_missed(level: str | None, tmp_path: Path) -> None:
    """Below level inference, too, where nothing else needs them."""
    path = dropped_by_larql(GOLDEN, tmp_path / "v")
    if level is not None:
        edit_json(path / files.INDEX, lambda index: index.update(extract_level=level))
        open_vindex(path).close()
    (path / kquant.FFN).unlink()
    (path / kquant.manifest_name(kquant.FFN)).unlink()
    with pytest.raises(VindexIncomplete) as caught:
        open_vindex(path)
    assert "QUANT q4k DROP_GATE_VECTORS OVERWRITE;" in (caught.value.hint or "")


def test_written_without_them(tmp_path: Path) -> None:
    """Everything else is as with them."""
    whole, path = tmp_path / "whole", tmp_path / "v"
    extract_golden("gemma3_h96", whole, quant=Quant.Q4K)
    extract_golden("gemma3_h96", path, quant=Quant.Q4K, drop_gate_vectors=True)
    names = set(files.stored_names(whole))
    assert set(files.stored_names(path)) == names - {files.GATE}
    for name in names - {files.GATE, files.INDEX, files.SEAL}:
        assert (path / name).read_bytes() == (whole / name).read_bytes(), name
    assert verify(path).ok
    with open_vindex(path) as vx, open_vindex(whole) as other:
        assert vx.index.layers == other.index.layers
        assert vx.index.drops_gate_vectors
        assert not other.index.drops_gate_vectors
        for layer in vx.layers:
            assert np.array_equal(vx.gate(layer).array, blocks_of(other, layer))
        assert np.array_equal(load(vx).logits(IDS), load(other).logits(IDS))


def test_features_of_experts_are_decoded_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    whole = moe_models.extracted(tmp_path, moe_models.GEMMA4, quant=Quant.Q4K)
    path = moe_models.extracted(
        tmp_path / "b", moe_models.GEMMA4, quant=Quant.Q4K, drop_gate_vectors=True
    )
    with open_vindex(path) as vx, open_vindex(whole) as other:
        for layer in vx.layers:
            found, expected = vx.gate(layer).array, other.gate(layer).float32()
            assert found.shape == expected.shape
            assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_what_is_decoded_is_kept_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_vindex(dropped_by_larql(GOLDEN, tmp_path / "v")) as vx:
        size = vx.gate(0).array.nbytes
        assert vx.gate(0).array is vx.gate(0).array
        monkeypatch.setattr(gate_vectors, "_KEPT_BYTES", size)
        assert vx.gate(1).array is not vx.gate(1).array
        assert vx.gate_vectors.stored_bytes(0) == vx.quant_entries[vx.gate(0).key].span.length


def test_an_edit_is_compiled_into_the_blocks(tmp_path: Path) -> None:
    extract_golden("llama_h96", tmp_path / "v", quant=Quant.Q4K, drop_gate_vectors=True)
    ones = Vector.of(np.ones(96, np.float32))
    with open_vindex(tmp_path / "v") as base:
        edited = EditedVindex(base, {(1, 3): FeatureEdit(gate=ones)})
        assert np.array_equal(edited.gate(1).array[3], np.ones(96))
        compile_vindex(edited, (), tmp_path / "out")
    assert not (tmp_path / "out" / files.GATE).exists()
    assert verify(tmp_path / "out").ok
    with open_vindex(tmp_path / "out") as vx:
        assert np.allclose(vx.gate(1).array[3], 1, atol=1e-2)
        assert not np.allclose(vx.gate(1).array[4], 1, atol=1e-1)


def test_they_are_dropped_only_where_blocks_hold_them(tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "add QUANT q4k": {},
        "add WITH INFERENCE": {"quant": Quant.Q4K, "level": ExtractLevel.BROWSE},
    }
    for hint, given in options.items():
        with pytest.raises(OptionsConflict) as caught:
            extract_golden("llama_h96", tmp_path / "v", drop_gate_vectors=True, **given)
        assert caught.value.hint == hint
    assert not (tmp_path / "v").exists()


def test_ffns_without_gates_keep_their_rows(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 4}
    arrays = moe_models.released_arrays(config)
    write_directory(tmp_path / "c", config, arrays)
    byte_tokenizer().save(str(tmp_path / "c" / files.TOKENIZER))
    with (
        open_checkpoint(tmp_path / "c") as source,
        pytest.raises(OptionsConflict, match="no gates"),
    ):
        extract(source, tmp_path / "v", quant=Quant.Q4K, drop_gate_vectors=True)


def test_the_checkpoint_of_a_quantised_vindex_is_compared_with_it(tmp_path: Path) -> None:
    """CONFIG with a whole checkpoint: matrices in blocks agree but for their rounding."""
    for make in (copy_golden, dropped_by_larql):
        path = make(GOLDEN, tmp_path / make.__name__)
        with open_vindex(path, config=CHECKPOINTS / "llama_h96") as vx:
            assert np.isfinite(load(vx).logits(IDS)).all()
    shutil.rmtree(path)
