"""The per-layer-embedding sidecar: written as section 11 says, in blocks, and never missed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lql.inference import load
from tests.unit.vindex_files import (
    CHECKPOINTS,
    VINDEXES,
    checkpoint,
    copy_golden,
    edit_json,
    extract_golden,
    larql_f16,
    unseal,
)
from vindex import files, ple, writing
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.errors import VindexIncomplete, VindexInvalid
from vindex.extract import extract
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.source import StoredTensor
from vindex.spec import Role
from vindex.store import open_vindex

NAME = "gemma4_h96"
LARQL = "gemma4_h96.f16"


def manifest(path: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((path / files.MANIFEST).read_text())
    return entries


SIDECAR_KEYS = [
    entry["key"]
    for entry in manifest(VINDEXES / LARQL)
    if entry["file"] == ple.FILE.value or "per_layer" in entry["key"] or "scalar" in entry["key"]
]


def test_the_golden_vindex_has_every_kind_of_entry() -> None:
    layers = 5
    assert len(SIDECAR_KEYS) == 2 + 2 * layers + layers + layers + 1


@pytest.mark.parametrize("dtype", StorageDtype)
def test_the_file_is_f16_in_section_11s_order_whatever_the_dtype(
    dtype: StorageDtype, tmp_path: Path
) -> None:
    extract_golden(NAME, tmp_path / "v", dtype=dtype)
    ours = [e for e in manifest(tmp_path / "v") if e["file"] == ple.FILE.value]
    theirs = [e for e in manifest(VINDEXES / LARQL) if e["file"] == ple.FILE.value]
    assert ours == theirs
    values = load_file(CHECKPOINTS / NAME / "model.safetensors")
    expected = b"".join(values[f"model.{e['key']}"].astype("<f2").tobytes() for e in theirs)
    assert (tmp_path / "v" / ple.FILE.value).read_bytes() == expected


def test_the_norms_file_holds_larqls_bytes(tmp_path: Path) -> None:
    """In our f32 vindex; larql's is the same order, truncated to f16."""
    extract_golden(NAME, tmp_path / "v", dtype=StorageDtype.F32)
    ours = np.frombuffer((tmp_path / "v" / "norms.bin").read_bytes(), "<f4")
    theirs = np.frombuffer((VINDEXES / LARQL / "norms.bin").read_bytes(), "<f2")
    assert np.array_equal(larql_f16(ours), theirs)


def test_the_manifest_is_larqls(tmp_path: Path) -> None:
    extract_golden(NAME, tmp_path / "v")
    assert manifest(tmp_path / "v") == manifest(VINDEXES / LARQL)
    index, theirs = (
        json.loads((path / files.INDEX).read_text()) for path in (tmp_path / "v", VINDEXES / LARQL)
    )
    for key, value in theirs["model_config"].items():
        assert index["model_config"][key] == value, key
    for key in set(theirs) - {"model", "source", "checksums", "model_config"}:
        assert index[key] == theirs[key], key


def test_an_attention_level_vindex_has_the_sidecar_as_well(tmp_path: Path) -> None:
    """Whoever runs attention here and FFNs elsewhere computes the per-layer embeddings here."""
    extract_golden(NAME, tmp_path / "v", level=ExtractLevel.ATTENTION)
    assert set(SIDECAR_KEYS) <= {entry["key"] for entry in manifest(tmp_path / "v")}


def test_tables_are_written_in_blocks_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_golden(NAME, tmp_path / "whole")
    monkeypatch.setattr(writing, "_COPY_BYTES", 4096)
    with checkpoint(NAME) as source:
        read_rows, read = source.read_rows, source.read
        table = "model.embed_tokens_per_layer.weight"
        blocks: list[int] = []

        def spy_rows(name: str, start: int, stop: int, dtype: StorageDtype) -> Any:
            if name == table:
                blocks.append(stop - start)
            return read_rows(name, start, stop, dtype)

        def spy(name: str, dtype: StorageDtype) -> Any:
            assert name != table, "the table is never read whole"
            return read(name, dtype)

        monkeypatch.setattr(source, "read_rows", spy_rows)
        monkeypatch.setattr(source, "read", spy)
        extract(source, tmp_path / "blocks")
    assert sum(blocks) == 384
    assert max(blocks) == 4096 // (40 * 4)
    for name in (ple.FILE.value, "norms.bin"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "blocks" / name).read_bytes()


@pytest.mark.parametrize("dtype", StorageDtype)
def test_a_value_beyond_f16_is_refused_in_every_dtype(dtype: StorageDtype, tmp_path: Path) -> None:
    shutil.copytree(CHECKPOINTS / NAME, tmp_path / "c")
    path = tmp_path / "c" / "model.safetensors"
    tensors = {name: value.copy() for name, value in load_file(path).items()}
    tensors["model.embed_tokens_per_layer.weight"][7, 3] = 70000.0
    save_file(tensors, path, metadata={"format": "pt"})
    with (
        open_checkpoint(tmp_path / "c") as source,
        pytest.raises(VindexInvalid, match=r"embed_tokens_per_layer\.weight .* 70000") as caught,
    ):
        extract(source, tmp_path / "v", dtype=dtype)
    assert "f16 only" in (caught.value.hint or "")
    assert not (tmp_path / "v").exists()


def larqls(path: Path) -> Path:
    return copy_golden(LARQL, path)


def our_f16(path: Path) -> Path:
    extract_golden(NAME, path)
    return unseal(path)


def our_bf16(path: Path) -> Path:
    extract_golden(NAME, path, dtype=StorageDtype.BF16)
    return unseal(path)


@pytest.mark.parametrize("make", [larqls, our_f16, our_bf16])
def test_a_vindex_that_lost_any_entry_is_refused_at_load(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path / "v")
    open_vindex(path).close()
    whole = (path / files.MANIFEST).read_text()
    for lost in SIDECAR_KEYS:
        edit_json(path / files.MANIFEST, lambda entries, lost=lost: _remove(entries, lost))
        with pytest.raises(VindexIncomplete) as caught:
            open_vindex(path)
        message, hint = caught.value.message, caught.value.hint or ""
        assert f"missing 1 tensor of Gemma 4's per-layer embeddings ({lost})" in message
        assert "near-random" in message
        assert caught.value.details == (lost,)
        assert f'EXTRACT MODEL "{open_index(path)["model"]}" INTO "{path}" WITH INFERENCE' in hint
        (path / files.MANIFEST).write_text(whole)


def _remove(entries: list[dict[str, Any]], key: str) -> None:
    entries[:] = [entry for entry in entries if entry["key"] != key]


def open_index(path: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((path / files.INDEX).read_text())
    return index


def test_a_vindex_of_larql_before_the_fix_is_refused_with_count_and_examples(
    tmp_path: Path,
) -> None:
    """It wrote neither the file nor the vectors."""
    path = larqls(tmp_path / "v")
    (path / ple.FILE.value).unlink()
    edit_json(
        path / files.MANIFEST,
        lambda entries: [_remove(entries, key) for key in SIDECAR_KEYS],
    )
    with pytest.raises(VindexIncomplete, match=f"missing {len(SIDECAR_KEYS)} tensors") as caught:
        open_vindex(path)
    assert "per_layer_model_projection.weight, embed_tokens_per_layer.weight" in str(caught.value)
    assert f"and {len(SIDECAR_KEYS) - 6} more" in str(caught.value)
    assert "chrishayuk/larql#49" in str(caught.value)
    assert set(caught.value.details) == set(SIDECAR_KEYS)


def test_a_vindex_whose_sidecar_file_is_gone_is_refused(tmp_path: Path) -> None:
    path = larqls(tmp_path / "v")
    (path / ple.FILE.value).unlink()
    with pytest.raises(VindexIncomplete, match="missing 12 tensors"):
        open_vindex(path)


class AsLarqlStores(CheckpointSource):
    """The checkpoint with every value as larql's writer rounds it."""

    def __init__(self, source: Any, dtype: StorageDtype) -> None:
        super().__init__(source)
        self._stored_dtype = dtype

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        stored = super().tensor(role, layer, expert)
        spec = self.spec.by_key()[stored.key]
        if self._stored_dtype is StorageDtype.F32 and spec.file is not ple.FILE:
            return stored
        return StoredTensor(stored.key, StorageDtype.F16, larql_f16(stored.float32()))


def test_larqls_vindex_answers_what_the_checkpoint_does_with_its_rounding() -> None:
    ids = tuple(np.random.default_rng(1).integers(0, 384, 40).tolist())
    with open_vindex(VINDEXES / LARQL) as vindex, checkpoint(NAME) as source:
        assert vindex.notes == ()
        found = load(vindex).logits(ids)
        rounded = load(AsLarqlStores(source, StorageDtype.F16)).logits(ids)
        exact = load(CheckpointSource(source)).logits(ids)
    assert np.abs(found - rounded).max() <= 3e-4
    assert 3e-4 < np.abs(found - exact).max() <= 0.2


@pytest.mark.parametrize("dtype", StorageDtype)
def test_our_vindex_of_every_dtype_answers(dtype: StorageDtype, tmp_path: Path) -> None:
    extract_golden(NAME, tmp_path / "v", dtype=dtype)
    with open_vindex(tmp_path / "v") as vindex, checkpoint(NAME) as source:
        rows = load(vindex).infer("The capital of France is", top=384).rows
        expected = load(CheckpointSource(source)).infer("The capital of France is", top=3).rows
    found = {row.token_id: row.logit for row in rows}
    close = 0.05 if dtype is StorageDtype.BF16 else 0.005
    for row in expected:
        assert found[row.token_id] == pytest.approx(row.logit, abs=close)


def test_the_table_stays_in_its_file() -> None:
    with open_vindex(VINDEXES / LARQL) as vindex:
        model = load(vindex)
        held = model._decoder._weights.per_layer
        assert held is not None
        mapped = vindex.tensor(Role.PLE_TABLE).array
        assert np.shares_memory(held.table.array, mapped)
        assert held(range(3), torch.zeros(3, 96)).shape == (3, 5, 8)
