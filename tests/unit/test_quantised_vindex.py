"""q4k vindexes on disk: what is written, what is copied, what is refused at load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lql.inference import load
from lql.inference.precision import ComputeDtype
from tests.unit import moe_models
from tests.unit.checkpoint_files import LLAMA, random_arrays, write_gguf
from tests.unit.vindex_files import (
    CHECKPOINTS,
    VINDEXES,
    checkpoint,
    copy_golden,
    edit_json,
    extract_golden,
    unseal,
)
from vindex import files, kquant, manifest, quantising
from vindex.blocks import in_blocks
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.errors import VindexError, VindexIncomplete, VindexInvalid
from vindex.extract import extract
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.quant import BlockFormat
from vindex.source import QuantTensor, StoredTensor
from vindex.spec import GATE_ROLES, QUANTISED, PartKind, Role, StorageFile, part_roles
from vindex.store import open_vindex
from vindex.verify import verify

MANIFESTS = tuple(kquant.manifest_name(name) for name in (kquant.ATTENTION, kquant.FFN))
ALL_MANIFESTS = (*MANIFESTS, files.MANIFEST)
EXPERTS = kquant.manifest_name(kquant.EXPERTS)
GOLDEN = "llama_h96.q4k"
LARQL_ERROR = {BlockFormat.Q4_K: 0.078, BlockFormat.Q6_K: 0.019}  # of its encoder, relative
IDS = tuple(np.random.default_rng(1).integers(0, 384, 40).tolist())


def extract_q4k(name: str, out: Path, **options: Any) -> Path:
    extract_golden(name, out, quant=Quant.Q4K, **options)
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", ALL_MANIFESTS)
def test_manifests_are_larqls(name: str, tmp_path: Path) -> None:
    ours = extract_q4k("llama_h96", tmp_path / "v")
    assert read(ours / name) == read(VINDEXES / GOLDEN / name)


def test_every_file_of_larqls_is_there_with_its_size(tmp_path: Path) -> None:
    ours = extract_q4k("llama_h96", tmp_path / "v")
    for path in (VINDEXES / GOLDEN).iterdir():
        if path.suffix == ".bin":
            assert (ours / path.name).stat().st_size == path.stat().st_size, path.name
    for name in ("norms.bin", "lm_head_kquant.bin"):
        assert (ours / name).exists()
    golden, index = (read(path / files.INDEX) for path in (VINDEXES / GOLDEN, ours))
    for key in ("quant", "dtype", "layers", "has_model_weights", "extract_level"):
        assert index[key] == golden[key], key


def test_norms_are_exact(tmp_path: Path) -> None:
    ours = extract_q4k("gemma3_h96", tmp_path / "v")
    with open_vindex(ours) as vx, checkpoint("gemma3_h96") as source:
        exact = CheckpointSource(source)
        norms = [t for t in vx.spec.tensors if len(t.shape) == 1]
        assert {Role.Q_NORM, Role.FFN_NORM} <= {tensor.role for tensor in norms}
        for tensor in norms:
            stored = vx.tensor(tensor.role, tensor.layer)
            assert stored.dtype is StorageDtype.F32
            expected = exact.tensor(tensor.role, tensor.layer).float32()
            assert np.array_equal(stored.float32(), expected), tensor.key
    assert not (ours / "attn_weights.bin").exists()


def test_roles_have_their_formats(tmp_path: Path) -> None:
    for name, options, down in (
        ("six", {}, BlockFormat.Q6_K),
        ("four", {"down_q4k": True}, BlockFormat.Q4_K),
    ):
        with open_vindex(extract_q4k("llama_h96", tmp_path / name, **options)) as vx:
            for role in {tensor.role for tensor in vx.spec.tensors} & QUANTISED:
                stored = vx.matrix(role, None if role is Role.HEAD else 1)
                assert isinstance(stored, QuantTensor)
                finer = {Role.V: BlockFormat.Q6_K, Role.DOWN: down}
                assert stored.matrix.block_format is finer.get(role, BlockFormat.Q4_K)
                assert stored.matrix.padded_cols % 256 == 0
            assert isinstance(vx.tensor(Role.GATE, 1), StoredTensor)


@pytest.mark.parametrize("name", ["llama_h96", "gemma3_h96", "gemma4_h96"])
def test_every_matrix_is_the_checkpoints_but_for_its_rounding(name: str, tmp_path: Path) -> None:
    """Hidden size 96: rows padded from 64, 96 and 160 columns to 256, and back."""
    compared = set()
    with open_vindex(extract_q4k(name, tmp_path / "v")) as vx, checkpoint(name) as source:
        exact = CheckpointSource(source)
        for tensor in vx.spec.tensors:
            if tensor.key in vx.quantised_keys:
                stored = vx.matrix(*tensor.identity)
                assert isinstance(stored, QuantTensor)
                values = exact.tensor(*tensor.identity).float32()
                found = stored.rows(0, tensor.shape[0])
                error = np.sqrt(np.square(found - values).sum() / np.square(values).sum())
                assert error < LARQL_ERROR[stored.matrix.block_format], tensor.key
                compared.add(tensor.role)
    assert compared >= {Role.Q, Role.K, Role.V, Role.O, *part_roles(PartKind.DENSE)}


class FromGolden(CheckpointSource):
    """The golden checkpoint with what a vindex of it holds, decoded."""

    def __init__(self, vx: Any, source: Any) -> None:
        super().__init__(source)
        self._vx = vx

    def tensor(
        self, role: Role, layer: int | None = None, expert: int | None = None
    ) -> StoredTensor:
        exact = super().tensor(role, layer, expert)
        if not self._vx.has(role, layer):
            return exact
        stored = self._vx.matrix(role, layer)
        if isinstance(stored, QuantTensor):
            return StoredTensor(exact.key, StorageDtype.F32, stored.rows(0, stored.shape[0]))
        return StoredTensor(exact.key, StorageDtype.F32, stored.float32())


def test_larqls_vindex_answers_what_its_blocks_say() -> None:
    """Of a hidden size that is no multiple of 256, on which larql itself answers noise."""
    with open_vindex(VINDEXES / GOLDEN) as vx, checkpoint("llama_h96") as source:
        vx.require(ExtractLevel.INFERENCE, "INFER")
        expected = load(FromGolden(vx, source)).logits(IDS)
        exact = load(CheckpointSource(source)).logits(IDS)
        found = load(vx, dtype=ComputeDtype.F32).logits(IDS)
        rounded = load(vx).logits(IDS)
    assert np.abs(found - expected).max() <= 3e-4
    spread = expected.std()
    assert np.sqrt(np.square(rounded - expected).mean()) <= 0.02 * spread
    assert 0.05 * spread < np.sqrt(np.square(found - exact).mean()) < 0.35 * spread


def test_the_walk_reads_the_same_blocks(tmp_path: Path) -> None:
    with open_vindex(extract_q4k("gemma4_h96", tmp_path / "v")) as vx:
        comparison = load(vx, dtype=ComputeDtype.F32).compare("The capital")
    assert comparison.logit_difference <= 3e-4


def lost(path: Path, name: str, entry: dict[str, Any]) -> VindexError:
    """What opening says about a vindex without one entry."""
    whole = (path / name).read_text()
    try:
        edit_json(path / name, lambda entries: entries.remove(entry))
        with pytest.raises(VindexIncomplete, match="missing") as caught:
            open_vindex(path)
        return caught.value
    finally:
        (path / name).write_text(whole)


def larqls(path: Path) -> Path:
    return copy_golden(GOLDEN, path)


def ours(name: str) -> Callable[[Path], Path]:
    return lambda path: unseal(extract_q4k(name, path))


def sharing(path: Path) -> Path:
    config = {
        **moe_models.GEMMA4,
        "enable_moe_block": False,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    return moe_models.extracted(path, config, quant=Quant.Q4K)


def experts(path: Path) -> Path:
    return unseal(moe_models.extracted(path, moe_models.MIXTRAL, quant=Quant.Q4K))


@pytest.mark.parametrize(
    "make",
    [larqls, ours("llama_h96"), ours("gemma4_h96"), experts],
    ids=["larql", "llama", "gemma4", "experts"],
)
def test_a_vindex_that_lost_any_entry_is_refused_at_load(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make(tmp_path / "v")
    with open_vindex(path) as vx:
        vx.require(ExtractLevel.INFERENCE, "INFER")
    tried = 0
    names = [name for name in (*ALL_MANIFESTS, EXPERTS) if (path / name).exists()]
    assert len(names) == 3
    for name in names:
        for entry in read(path / name):
            if entry["key"] == manifest.HEAD_KEY:
                continue  # larql reads its file without an entry, and so do we
            error = lost(path, name, entry)
            assert entry["key"] in (*error.details, error.message)
            assert "QUANT q4k OVERWRITE;" in (error.hint or "")
            tried += 1
    assert tried > 30


def test_a_head_is_read_without_its_entry_and_missed_without_its_file(tmp_path: Path) -> None:
    path = ours("llama_h96")(tmp_path / "v")
    with open_vindex(path) as vx:
        expected = load(vx).logits(IDS)
    edit_json(path / files.MANIFEST, lambda entries: entries.pop())
    with open_vindex(path) as vx:
        assert np.array_equal(load(vx).logits(IDS), expected)
    (path / kquant.HEAD).unlink()
    with pytest.raises(VindexIncomplete, match=r"lm_head\.weight"):
        open_vindex(path)


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "beyond the file": ({"offset": 1 << 40}, "needs bytes"),
    "into the next": ({"offset": 144}, "share bytes"),
    "negative": ({"offset": -144}, "offset"),
    "wrong length": ({"length": 148 * 64}, "which take"),
    "part of a block": ({"shape": [64, 96]}, "whole number of blocks"),
    "more columns": ({"shape": [32, 512]}, "padded to whole blocks"),
    "no shape": ({"shape": []}, "no shape"),
    "unknown format": ({"format": "Q5_K"}, "none of Q4_K, Q6_K"),
    "a number for a format": ({"format": 4}, "format"),
    "a key twice": ({"key": "layers.1.self_attn.q_proj.weight"}, "twice"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_manifests_are_refused(name: str, tmp_path: Path) -> None:
    path = copy_golden(GOLDEN, tmp_path / "v")
    change, message = DAMAGE[name]
    edit_json(path / MANIFESTS[0], lambda entries: entries[0].update(change))
    with pytest.raises((VindexInvalid, VindexIncomplete), match=message):
        open_vindex(path)


@pytest.mark.parametrize("data", ["{}", "[1]", "[", '[{"key": "x"}]'])
def test_manifests_that_are_none_are_refused(data: str, tmp_path: Path) -> None:
    path = copy_golden(GOLDEN, tmp_path / "v")
    (path / MANIFESTS[1]).write_text(data)
    with pytest.raises(VindexInvalid):
        open_vindex(path)


@pytest.mark.parametrize("name", [kquant.ATTENTION, kquant.FFN, *MANIFESTS])
def test_a_file_that_is_gone_is_refused(name: str, tmp_path: Path) -> None:
    path = copy_golden(GOLDEN, tmp_path / "v")
    (path / name).unlink()
    with pytest.raises(VindexIncomplete, match=r"is missing 1[26] tensors"):
        open_vindex(path)


def test_the_first_names_of_the_files_are_read(tmp_path: Path) -> None:
    path = copy_golden(GOLDEN, tmp_path / "v")
    for old, new in ((kquant.ATTENTION, "attn_weights_q4k"), (kquant.FFN, "interleaved_q4k")):
        (path / old).rename(path / f"{new}.bin")
        (path / kquant.manifest_name(old)).rename(path / f"{new}_manifest.json")
    with open_vindex(path) as vx, open_vindex(VINDEXES / GOLDEN) as expected:
        assert np.array_equal(load(vx).logits(IDS), load(expected).logits(IDS))


def test_verify_finds_a_scale_that_is_no_number(tmp_path: Path) -> None:
    path = unseal(extract_q4k("llama_h96", tmp_path / "v"))
    assert verify(path).ok
    with (path / kquant.FFN).open("r+b") as file:
        file.write(b"\x00\x7e")  # the first block's d
    report = verify(path)
    assert [text for text in report.problems if "layers.0.mlp.gate_proj.weight" in text]


@pytest.mark.parametrize("level", [ExtractLevel.BROWSE, ExtractLevel.ATTENTION])
def test_lower_levels_keep_less(level: ExtractLevel, tmp_path: Path) -> None:
    with open_vindex(extract_q4k("llama_h96", tmp_path / "v", level=level)) as vx:
        wanted = {t.key for t in vx.spec.needed(level) if t.role in QUANTISED}
        gates = {t.key for t in vx.spec.tensors if t.role is Role.GATE}
        assert set(vx.quantised_keys) == wanted - gates
        with pytest.raises(VindexError, match="INFER needs a vindex of level inference") as caught:
            vx.require(ExtractLevel.INFERENCE, "INFER")
    assert "QUANT q4k" in (caught.value.hint or "")


def test_large_matrices_are_written_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extract_q4k("gemma3_h96", tmp_path / "whole")
    monkeypatch.setattr(quantising, "_SLAB_ELEMENTS", 96 * 7)
    pieces = extract_q4k("gemma3_h96", tmp_path / "pieces")
    for name in (kquant.ATTENTION, kquant.FFN):
        assert (whole / name).read_bytes() == (pieces / name).read_bytes()


@pytest.mark.parametrize("make", [ours("llama_h96"), sharing, experts])
def test_every_tensor_is_in_blocks_or_in_floats(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Gate rows are in both; nothing that a family adds gets lost."""
    with open_vindex(make(tmp_path / "v")) as vx:
        for tensor in vx.spec.tensors:
            if tensor.role is Role.HEAD and tensor.optional:
                continue
            blocks = tensor.key in vx.quantised_keys
            assert blocks == in_blocks(tensor, vx.spec), tensor.key
            floats = tensor.key in vx.stored_keys or tensor.role in {Role.EMBED, *GATE_ROLES}
            assert floats == (not blocks or tensor.role in GATE_ROLES), tensor.key


def test_layers_that_share_keys_hold_their_places(tmp_path: Path) -> None:
    """larql's readers count four matrices to a layer; those of a sharing one are zeros."""
    path = sharing(tmp_path)
    entries = read(path / MANIFESTS[0])
    with open_vindex(path) as vx:
        names = [
            f"layers.{layer}.self_attn.{letter}_proj.weight"
            for layer in range(vx.spec.num_layers)
            for letter in "qkvo"
        ]
        assert [entry["key"] for entry in entries] == names
        shared = 0
        for layer in vx.spec.layers:
            attention = layer.attention
            for letter, tag in (("k", "Q4_K"), ("v", "Q6_K")):
                key = f"layers.{layer.index}.self_attn.{letter}_proj.weight"
                entry = entries[names.index(key)]
                assert entry["format"] == tag
                assert entry["shape"] == [attention.kv_heads * attention.head_size, 256]
                values = vx.quantised(key).rows(0, entry["shape"][0])
                assert values.any() == (attention.kv_source is None)
                shared += attention.kv_source is not None
    assert shared


def test_experts_have_files_of_their_own(tmp_path: Path) -> None:
    """A dense layer among them keeps its place in larql's file."""
    path = moe_models.extracted(tmp_path, moe_models.QWEN2, quant=Quant.Q4K)
    dense = [entry["key"] for entry in read(path / MANIFESTS[1])]
    assert dense == [f"layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    entries = {entry["key"]: entry for entry in read(path / EXPERTS)}
    with open_vindex(path) as vx:
        experts = [t for t in vx.spec.tensors if t.role in QUANTISED and t.layer != 1]
        experts = [t for t in experts if t.file is not StorageFile.ATTENTION]
        assert set(entries) == {t.key for t in experts if t.layer is not None}
        assert {t.role for t in experts} >= {
            role for kind in (PartKind.EXPERT, PartKind.SHARED) for role in part_roles(kind)
        }
        for tensor in experts:
            finer = tensor.role in (Role.EXPERT_DOWN, Role.SHARED_DOWN)
            if tensor.layer is not None:
                assert entries[tensor.key]["format"] == ("Q6_K" if finer else "Q4_K")
    assert verify(path).ok


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    directory = tmp_path / "c"
    directory.mkdir()
    for path in (CHECKPOINTS / "llama_h96").iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    tensors = {k: v.copy() for k, v in load_file(directory / "model.safetensors").items()}
    tensors["model.layers.2.self_attn.o_proj.weight"][5, 3] = np.nan
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with (
        open_checkpoint(directory) as source,
        pytest.raises(VindexInvalid, match=r"o_proj\.weight.*row 5, column 3"),
    ):
        extract(source, tmp_path / "v", quant=Quant.Q4K)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("encoding", ["Q4_K", "Q6_K", "Q8_0"])
def test_blocks_of_a_gguf_are_copied(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of whole blocks keep their values to the bit, those of q and k in their own order."""
    config = {
        **LLAMA,
        "vocab_size": 384,
        "hidden_size": 256,
        "intermediate_size": 512,
        "head_dim": 64,
    }
    arrays = random_arrays(config)
    path = write_gguf(tmp_path / "m.gguf", config, arrays, encoding=encoding)
    tokenizer = (CHECKPOINTS / "llama_h96" / files.TOKENIZER).read_bytes()
    with open_checkpoint(path) as source:
        side = {files.CONFIG: json.dumps(source.config).encode(), files.TOKENIZER: tokenizer}
        monkeypatch.setattr(source, "files", lambda: side)
        monkeypatch.setattr(quantising, "_SLAB_ELEMENTS", 256 * 24)
        extract(source, tmp_path / "v", quant=Quant.Q4K)
        exact = CheckpointSource(source)
        copied = set()
        with open_vindex(tmp_path / "v") as vx:
            for tensor in vx.spec.tensors:
                stored = vx.matrix(tensor.role, tensor.layer)
                if isinstance(stored, QuantTensor):
                    expected = exact.tensor(tensor.role, tensor.layer).float32()
                    if np.array_equal(stored.rows(0, stored.shape[0]), expected):
                        copied.add(tensor.role)
    expected_roles = {
        "Q4_K": {Role.Q, Role.K, Role.V, Role.O, Role.GATE, Role.UP, Role.DOWN, Role.HEAD},
        "Q6_K": {Role.V, Role.DOWN},
        "Q8_0": set(),
    }[encoding]
    assert copied == expected_roles
