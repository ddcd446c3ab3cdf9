"""Opening a vindex: what is read, what is refused and in which words."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.unit.vindex_files import (
    VINDEXES,
    checkpoint,
    copy_golden,
    edit_json,
    extract_golden,
    open_and_read,
    unseal,
)
from vindex import files, quick_tokenizer, tokens
from vindex.checkpoint import CheckpointSource
from vindex.errors import (
    LevelTooLow,
    VindexError,
    VindexIncomplete,
    VindexInvalid,
    VindexNotFound,
)
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.spec import Role
from vindex.store import open_vindex


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An f16 vindex of llama_h96, inference level. Read only."""
    path = tmp_path_factory.mktemp("store") / "llama"
    extract_golden("llama_h96", path)
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The same, to be damaged."""
    extract_golden("llama_h96", tmp_path / "v")
    return tmp_path / "v"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A vindex of larql's, to be damaged."""
    return copy_golden("llama_h96.f16", tmp_path / "v")


def test_a_vindex_is_the_same_model_source_as_its_checkpoint(ours: Path) -> None:
    with open_vindex(ours) as vx, checkpoint("llama_h96") as source:
        other = CheckpointSource(source)
        assert vx.spec == other.spec
        assert vx.tokenizer_config == other.tokenizer_config
        assert vx.generation_config == other.generation_config
        assert vx.chat_template == other.chat_template
        for tensor in vx.spec.tensors:
            assert vx.has(*tensor.identity)
            stored = vx.tensor(*tensor.identity)
            assert stored.key == tensor.key
            assert stored.shape == tensor.shape
            exact = other.tensor(*tensor.identity).float32()
            assert np.array_equal(stored.array, exact.astype(np.float16))
        assert not vx.has(Role.Q_NORM, 0)
        assert not vx.has(Role.GATE, 4)


def test_arrays_are_read_only_views_of_the_files(ours: Path) -> None:
    with open_vindex(ours) as vx:
        arrays = [vx.embeddings.array, vx.gate(0).array, vx.tensor(Role.Q, 0).array]
    for array in arrays:
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert np.isfinite(array).all()  # still mapped after close


def test_names_notes_and_sizes(ours: Path) -> None:
    with open_vindex(str(ours)) as vx:
        assert vx.name == str(ours)
        assert vx.notes == ()
        assert vx.layers == (0, 1, 2, 3)
        assert [vx.num_features(layer) for layer in (0, 3, 4)] == [160, 160, 0]
        assert vx.gate(4).shape == (0, 96)
        assert vx.bands is None
        assert not vx.labels
        assert vx.size_bytes() == sum(path.stat().st_size for path in ours.iterdir())
        vx.require(ExtractLevel.INFERENCE, "INFER")
        with pytest.raises(LevelTooLow, match="level all"):
            vx.require(ExtractLevel.ALL, "COMPILE")


def test_token_texts_are_the_same_with_and_without_the_table(ours: Path) -> None:
    with open_vindex(ours) as stored, open_vindex(VINDEXES / "llama_h96.f16") as decoded:
        assert type(stored.token_texts) is not type(decoded.token_texts)
        ids = range(stored.index.vocab_size)
        shown = stored.token_texts.texts(ids)
        special = {0, 1, 2}  # decoded with special tokens skipped
        assert shown == decoded.token_texts.texts(ids)
        assert {i for i, text in enumerate(shown) if not text} >= special
        assert stored.token_texts.text(10**6) == decoded.token_texts.text(10**6) == "T1000000"


def test_encode_puts_special_tokens_only_where_asked(ours: Path) -> None:
    with open_vindex(ours) as vx:
        bare, full = (vx.encode("France", special=special) for special in (False, True))
        assert bare
        assert full[-len(bare) :] == bare
        assert vx.tokenizer() is vx.tokenizer()


@pytest.mark.parametrize("name", ["nothing", "file", "empty", "checkpoint"])
def test_what_is_no_vindex_is_not_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    with pytest.raises(VindexNotFound) as caught:
        open_vindex(tmp_path / name)
    if name != "empty":
        assert caught.value.hint is not None
        assert "MODEL" in caught.value.hint


def test_an_interrupted_extract_of_larql_is_refused(theirs: Path) -> None:
    (theirs / files.LARQL_CHECKPOINT).write_text("{}")
    with pytest.raises(VindexIncomplete, match="interrupted"):
        open_vindex(theirs)


def test_a_preliminary_index_of_larql_is_refused(theirs: Path) -> None:
    edit_json(theirs / files.INDEX, lambda index: index.update(has_model_weights=False))
    with pytest.raises(VindexIncomplete, match="no weights were written"):
        open_vindex(theirs)


def test_ours_without_a_seal_is_unfinished(mine: Path) -> None:
    (mine / files.SEAL).unlink()
    with pytest.raises(VindexIncomplete, match=r"has no seal\.json") as caught:
        open_vindex(mine)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("WITH INFERENCE OVERWRITE;")


def test_ours_opens_as_larqls_when_stripped_of_what_is_ours(mine: Path) -> None:
    """The reader's deeper checks are reached without the seal; the vindex itself is whole."""
    unseal(mine)
    (mine / files.CONFIG).unlink()
    (mine / tokens.FILE).unlink()
    (mine / quick_tokenizer.FILE).unlink()
    open_and_read(mine)


@pytest.mark.parametrize(
    "key",
    [
        "layers.1.self_attn.q_proj.weight",
        "layers.1.input_layernorm.weight",
        "norm.weight",
        "layers.3.mlp.up_proj.weight",
        "layers.0.mlp.down_proj.weight",
    ],
)
def test_a_tensor_missing_from_the_manifest_is_refused(key: str, theirs: Path) -> None:
    """larql gives another answer without a word (vindex-format.md 23)."""
    edit_json(
        theirs / files.MANIFEST,
        lambda manifest: manifest.remove(next(e for e in manifest if e["key"] == key)),
    )
    with pytest.raises(VindexIncomplete, match=f"is missing 1 tensor .e.g. {key}") as caught:
        open_vindex(theirs)
    assert caught.value.details == (key,)
    assert caught.value.hint is not None
    assert "re-extract with: EXTRACT MODEL" in caught.value.hint


def test_a_missing_file_names_every_tensor_it_held(theirs: Path) -> None:
    (theirs / "up_weights.bin").unlink()
    with pytest.raises(VindexIncomplete, match="is missing 4 tensors") as caught:
        open_vindex(theirs)
    assert len(caught.value.details) == 4


def test_an_untied_model_without_its_head_is_refused(mine: Path) -> None:
    """Our index says that the model is untied, so no note is enough."""
    (mine / files.SEAL).unlink()
    (mine / "lm_head.bin").unlink()
    edit_json(mine / files.INDEX, lambda index: index.pop("lql"))
    edit_json(mine / files.MANIFEST, lambda manifest: manifest.pop())
    with pytest.raises(VindexIncomplete, match=r"is missing 1 tensor \(e\.g\. lm_head\.weight\)"):
        open_vindex(mine)


def test_a_larql_vindex_without_any_trace_of_a_head_is_taken_for_tied(theirs: Path) -> None:
    (theirs / "lm_head.bin").unlink()
    edit_json(theirs / files.MANIFEST, lambda manifest: manifest.pop())
    with open_vindex(theirs) as vx:
        assert vx.spec.tied
        assert any("tied embeddings are assumed" in note for note in vx.notes)
        vx.require(ExtractLevel.INFERENCE, "INFER")


def test_a_config_beside_a_larql_vindex_is_believed(theirs: Path) -> None:
    config = (VINDEXES.parent / "checkpoints" / "llama_h96" / "config.json").read_bytes()
    (theirs / files.CONFIG).write_bytes(config)
    with open_vindex(theirs) as vx:
        assert vx.spec.max_positions == 256
        assert vx.notes == ()


def test_a_config_of_another_model_is_refused(theirs: Path) -> None:
    config = (VINDEXES.parent / "checkpoints" / "gemma3_h96" / "config.json").read_bytes()
    (theirs / files.CONFIG).write_bytes(config)
    with pytest.raises(VindexInvalid, match="disagree about the layers: 6 and 4"):
        open_vindex(theirs)


def test_a_wrong_shape_is_refused(theirs: Path) -> None:
    """Rows and columns exchanged: the same bytes, another matrix."""

    def transpose(manifest: list[dict[str, object]]) -> None:
        entry = next(e for e in manifest if e["key"] == "layers.0.self_attn.k_proj.weight")
        entry["shape"] = [96, 32]

    edit_json(theirs / files.MANIFEST, transpose)
    with pytest.raises(VindexInvalid, match=r"has shape \[96, 32\]; the model needs \[32, 96\]"):
        open_vindex(theirs)


def test_dtype_is_told_entry_by_entry(theirs: Path) -> None:
    """larql's gate converter leaves f16 weights under an f32 index; its q4k path f32 norms."""
    gate = np.fromfile(theirs / files.GATE, np.float16).astype(np.float32)
    gate.tofile(theirs / files.GATE)

    def to_f32(index: dict[str, object]) -> None:
        index["dtype"] = "f32"
        for layer in index["layers"]:  # type: ignore[attr-defined]
            layer["offset"] *= 2
            layer["length"] *= 2

    edit_json(theirs / files.INDEX, to_f32)
    with open_vindex(theirs) as vx, open_vindex(VINDEXES / "llama_h96.f16") as before:
        assert vx.gate(2).dtype is StorageDtype.F32
        assert np.array_equal(vx.gate(2).float32(), before.gate(2).float32())
        assert vx.embeddings.dtype is StorageDtype.F16
        assert vx.tensor(Role.Q, 0).dtype is StorageDtype.F16


def test_the_wrong_dtype_of_the_gate_is_refused(theirs: Path) -> None:
    """larql reads whatever index.json says and never looks at the size."""
    edit_json(theirs / files.INDEX, lambda index: index.update(dtype="f32"))
    with pytest.raises(VindexInvalid, match="bytes of gate vectors"):
        open_vindex(theirs)


def test_unknown_kinds_and_absent_files_are_no_tensors(theirs: Path) -> None:
    """larql ignores them (vindex-format.md 23), and so may a later version write them."""

    def extend(manifest: list[dict[str, object]]) -> None:
        manifest += [
            {"key": "a", "kind": "tensor_q9", "shape": [3], "offset": 0, "length": 1, "file": "x"},
            {
                "key": "b",
                "kind": "vector",
                "shape": [3],
                "offset": 0,
                "length": 12,
                "file": "gone.bin",
                "new": True,
            },
        ]

    edit_json(theirs / files.MANIFEST, extend)
    with open_vindex(theirs) as vx:
        assert {"a", "b"}.isdisjoint(vx.stored_keys)


def test_a_tokenizer_of_another_model_is_refused(theirs: Path) -> None:
    edit_json(
        theirs / files.TOKENIZER,
        lambda document: document["model"]["vocab"].update(
            {f"extra{number}": 384 + number for number in range(16)}
        ),
    )
    with open_vindex(theirs) as vx, pytest.raises(VindexInvalid, match="another model"):
        vx.tokenizer()


@pytest.mark.parametrize("text", ["", "{}", '{"model": 3}', "[" * 9999])
def test_a_tokenizer_that_does_not_load_is_refused(text: str, theirs: Path) -> None:
    (theirs / files.TOKENIZER).write_text(text)
    with open_vindex(theirs) as vx, pytest.raises(VindexInvalid, match="tokenizer"):
        vx.tokenizer()


def test_a_tokenizer_that_panics_is_refused(theirs: Path) -> None:
    """The Rust library answers this file with an exception outside ``Exception``."""
    edit_json(
        theirs / files.TOKENIZER,
        lambda document: document.update(
            model={"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}
        ),
    )
    with open_vindex(theirs) as vx, pytest.raises(VindexInvalid, match="tokenizer"):
        vx.tokenizer()


def test_no_down_meta_still_opens_and_says_so_when_asked(theirs: Path) -> None:
    (theirs / files.DOWN_META).unlink()
    with open_vindex(theirs) as vx, pytest.raises(VindexIncomplete, match="features have no tok"):
        _ = vx.down_meta


def test_a_link_into_a_hub_cache_is_followed_and_others_are_not(
    theirs: Path, tmp_path: Path
) -> None:
    hub = tmp_path / "models--a--b"
    snapshot = hub / "snapshots" / "rev"
    blobs = hub / "blobs"
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir()
    os.rename(theirs, snapshot)
    for path in snapshot.iterdir():
        os.rename(path, blobs / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    open_and_read(snapshot)
    outside = tmp_path / "outside.bin"
    (blobs / "norms.bin").rename(outside)
    (snapshot / "norms.bin").unlink()
    (snapshot / "norms.bin").symlink_to(outside)
    with pytest.raises(VindexInvalid, match="symbolic link out of the vindex"):
        open_vindex(snapshot)


def test_errors_carry_what_a_message_needs(theirs: Path) -> None:
    (theirs / files.GATE).write_bytes(b"")
    with pytest.raises(VindexError) as caught:
        open_vindex(theirs)
    assert caught.value.path == theirs / files.GATE
    assert caught.value.code == "VDX03"
    assert "0 bytes" in caught.value.message


def test_a_seal_notices_a_changed_small_file_at_open(mine: Path) -> None:
    manifest = mine / files.MANIFEST
    manifest.write_text(manifest.read_text().replace("input_layernorm", "inpuT_layernorm", 1))
    with pytest.raises(VindexInvalid, match=r"is not the file that seal\.json was written for"):
        open_vindex(mine)
