"""EXTRACT: levels, dtypes, exactness, refusals, and what is on the disk when."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from gguf import GGUFWriter

from lql.inference.token_scorer import TorchScorer
from tests.unit.checkpoint_files import LLAMA, random_arrays, write_directory, write_gguf
from tests.unit.vindex_files import (
    CHECKPOINTS,
    checkpoint,
    copy_golden,
    extract_golden,
    open_and_read,
)
from vindex import commit, files, tokens
from vindex.checkpoint import open_checkpoint
from vindex.dtypes import from_float32
from vindex.errors import (
    CheckpointError,
    Interrupted,
    LedgerRefusal,
    TargetExists,
    VindexError,
    VindexIncomplete,
    VindexInvalid,
)
from vindex.extract import extract
from vindex.families import family_of, spec_from_config
from vindex.files import CONFIG, TOKENIZER
from vindex.kinds import ExtractLevel, StorageDtype
from vindex.manifest import dump_manifest
from vindex.spec import Role
from vindex.store import open_vindex
from vindex.verify import verify
from vindex.writing import Clock, StageWriter

BROWSE = {
    "config.json",
    "down_meta.bin",
    "embeddings.bin",
    "gate_vectors.bin",
    "generation_config.json",
    "index.json",
    "seal.json",
    "token_texts.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer_parts.bin",
}
ATTENTION = BROWSE | {"attn_weights.bin", "norms.bin", "weight_manifest.json"}
INFERENCE = ATTENTION | {"up_weights.bin", "down_weights.bin", "lm_head.bin"}


def make_checkpoint(path: Path, arrays: Mapping[str, Any], **config: Any) -> Path:
    """A llama checkpoint with the golden tokenizer."""
    write_directory(path, LLAMA | {"vocab_size": 384} | config, dict(arrays))
    for name in (TOKENIZER, files.TOKENIZER_CONFIG):
        shutil.copy(CHECKPOINTS / "llama_h96" / name, path / name)
    return path


def arrays_of(**config: Any) -> dict[str, Any]:
    return random_arrays(LLAMA | {"vocab_size": 384} | config)


def extract_path(source: Path, out: Path, **options: Any) -> Path:
    with open_checkpoint(source) as opened:
        extract(opened, out, **options)
    return out


# ---------------------------------------------------------------------------- what is written


@pytest.mark.parametrize(
    ("level", "names"),
    [
        (ExtractLevel.BROWSE, BROWSE),
        (ExtractLevel.ATTENTION, ATTENTION),
        (ExtractLevel.INFERENCE, INFERENCE),
        (ExtractLevel.ALL, INFERENCE),
    ],
)
def test_each_level_writes_its_files_and_opens(
    level: ExtractLevel, names: set[str], tmp_path: Path
) -> None:
    report = extract_golden("llama_h96", tmp_path / "v", level=level)
    assert {path.name for path in (tmp_path / "v").iterdir()} == names == set(report.files)
    open_and_read(tmp_path / "v")
    with open_vindex(tmp_path / "v") as vx:
        assert vx.level is level
        assert vx.index.has_model_weights is (level > ExtractLevel.BROWSE)
        assert vx.notes == ()
        vx.require(level, "this")
    assert verify(tmp_path / "v").ok


@pytest.mark.parametrize("dtype", list(StorageDtype))
@pytest.mark.parametrize("name", ["llama_h96", "gemma3_h96"])
def test_every_tensor_is_the_checkpoints_rounded_once(
    name: str, dtype: StorageDtype, tmp_path: Path
) -> None:
    extract_golden(name, tmp_path / "v", dtype=dtype)
    with open_vindex(tmp_path / "v") as vx, checkpoint(name) as source:
        names = {family_of(vx.spec).key(each): each for each in source.names()}
        for tensor in vx.spec.tensors:
            if not vx.has(*tensor.identity):
                assert tensor.role is Role.HEAD
                continue
            stored = vx.tensor(*tensor.identity)
            exact = source.read(names[tensor.key], StorageDtype.F32)
            assert stored.dtype is dtype
            assert np.array_equal(stored.array, from_float32(exact, dtype))


def test_bf16_checkpoints_stay_bit_exact(tmp_path: Path) -> None:
    """Also NaN payloads aside: every bit pattern of every finite bfloat16."""
    import torch
    from safetensors.torch import save_file

    arrays = {key: torch.from_numpy(value).bfloat16() for key, value in arrays_of().items()}
    source = make_checkpoint(tmp_path / "source", {"x": np.zeros(1, np.float32)})
    save_file(arrays, source / "model.safetensors")
    with open_vindex(extract_path(source, tmp_path / "v", dtype=StorageDtype.BF16)) as vx:
        for tensor in vx.spec.tensors:
            bits = arrays[family_of(vx.spec).checkpoint_name(tensor.key)].view(torch.uint16)
            assert np.array_equal(vx.tensor(*tensor.identity).array, bits.numpy())


@pytest.mark.parametrize("dtype", list(StorageDtype))
def test_down_meta_does_not_depend_on_the_storage_dtype_or_the_scorer(
    dtype: StorageDtype, tmp_path: Path
) -> None:
    """Scores come from the checkpoint's values, not from the rounded ones beside them."""
    extract_golden("llama_h96", tmp_path / "a", dtype=StorageDtype.F32)
    extract_golden("llama_h96", tmp_path / "b", dtype=dtype, scorer=TorchScorer())
    one, other = ((tmp_path / name / "down_meta.bin").read_bytes() for name in "ab")
    assert one == other


def test_biases_are_f32_vectors_in_the_norms(tmp_path: Path) -> None:
    """larql drops biases on extract but applies them when they stand there (section 23)."""
    changes = {"attention_bias": True, "mlp_bias": True, "head_dim": 16, "hidden_size": 33}
    arrays = arrays_of(**changes)
    source = make_checkpoint(tmp_path / "s", arrays, **changes)
    with open_vindex(extract_path(source, tmp_path / "v")) as vx:
        entries = json.loads((vx.path / files.MANIFEST).read_text())
        biases = [entry for entry in entries if entry["key"].endswith(".bias")]
        assert len(biases) == 2 * 7
        for entry in biases:
            assert (entry["kind"], entry["file"]) == ("vector", "norms.bin")
            assert entry["offset"] % 4 == 0
            assert entry["length"] == 4 * entry["shape"][0]
            stored = vx.stored(entry["key"])
            assert stored.dtype is StorageDtype.F32
            assert np.array_equal(stored.array, arrays[f"model.{entry['key']}"])
        assert vx.tensor(Role.ATTN_NORM, 0).dtype is StorageDtype.F16


def test_a_tied_model_has_no_head(tmp_path: Path) -> None:
    changes = {"tie_word_embeddings": True}
    source = make_checkpoint(tmp_path / "s", arrays_of(**changes), **changes)
    with open_vindex(extract_path(source, tmp_path / "v")) as vx:
        assert vx.index.tie_word_embeddings is True
        assert not vx.has(Role.HEAD)
        assert not (vx.path / "lm_head.bin").exists()
        vx.require(ExtractLevel.INFERENCE, "INFER")


def test_a_head_that_differs_from_the_embedding_it_is_tied_to_is_kept(tmp_path: Path) -> None:
    arrays = arrays_of()
    source = make_checkpoint(tmp_path / "s", arrays, tie_word_embeddings=True)
    with open_checkpoint(source) as opened:
        report = extract(opened, tmp_path / "v", dtype=StorageDtype.F32)
    assert any("head" in note for note in report.notes)
    with open_vindex(tmp_path / "v") as vx:
        assert vx.index.tie_word_embeddings is False
        assert np.array_equal(vx.tensor(Role.HEAD).array, arrays["lm_head.weight"])
    (tmp_path / "v" / "lm_head.bin").unlink()
    with pytest.raises(VindexError, match=r"lm_head\.bin is missing"):
        open_vindex(tmp_path / "v")


def _golden_tokenizer(writer: GGUFWriter) -> None:
    document = json.loads((CHECKPOINTS / "llama_h96" / TOKENIZER).read_text())
    vocab, added = document["model"]["vocab"], {t["id"] for t in document["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
    writer.add_token_types([3 if token_id in added else 1 for token_id in range(len(vocab))])
    writer.add_token_merges([" ".join(pair) for pair in document["model"]["merges"]])


def test_a_gguf_file_becomes_a_vindex(tmp_path: Path) -> None:
    """Block-quantised embeddings are exact only in float32, so scoring keeps them aside."""
    golden = CHECKPOINTS / "llama_h96"
    config = json.loads((golden / CONFIG).read_text())
    with open_checkpoint(golden) as opened:
        arrays = {name: np.asarray(opened.read(name, StorageDtype.F32)) for name in opened.names()}
    gguf = write_gguf(
        tmp_path / "m.gguf", config, arrays, encoding="Q8_0", extend=_golden_tokenizer
    )
    with open_checkpoint(gguf) as opened:
        extract(opened, tmp_path / "v")
        exact = opened.read("model.embed_tokens.weight", StorageDtype.F32)
        down = opened.read("model.layers.2.mlp.down_proj.weight", StorageDtype.F32)
    with open_vindex(tmp_path / "v") as vx:
        record = vx.down_meta.records(2)[7]["top"][0]
        assert record["score"] == np.float32(
            exact[record["token"]].astype(float) @ down[:, 7].astype(float)
        )
        assert not np.array_equal(vx.embeddings.float32(), exact)
    assert verify(tmp_path / "v").ok


# ---------------------------------------------------------------------------- what larql needs


def test_the_index_has_all_that_larql_requires(tmp_path: Path) -> None:
    """vindex-format.md sections 5 and 21; larql's parser wants exact JSON types."""
    extract_golden("gemma3_h96", tmp_path / "v")
    index = json.loads((tmp_path / "v" / files.INDEX).read_text())
    assert index["version"] == 2
    types = {
        "model": str,
        "family": str,
        "num_layers": int,
        "hidden_size": int,
        "intermediate_size": int,
        "vocab_size": int,
        "embed_scale": float,
        "layers": list,
        "down_top_k": int,
        "has_model_weights": bool,
        "model_config": dict,
        "source": dict,
        "checksums": dict,
    }
    for key, kind in types.items():
        assert type(index[key]) is kind, key
    assert (index["extract_level"], index["dtype"], index["quant"]) == ("inference", "f16", "none")
    assert "layer_bands" in index
    assert type(index["source"]["extracted_at"]) is str
    assert type(index["source"]["larql_version"]) is str
    config = index["model_config"]
    for key in ("head_dim", "num_q_heads", "num_kv_heads", "sliding_window"):
        assert type(config[key]) is int, key
    for key in ("rope_base", "rope_local_base", "query_pre_attn_scalar", "norm_eps"):
        assert type(config[key]) is float, key
    assert config["model_type"] == "gemma3_text"
    assert (config["attention_k_eq_v"], config["moe"]) == (False, None)
    assert config["layer_types"] == ["sliding_attention"] * 2 + ["full_attention"] + [
        "sliding_attention"
    ] * 2 + ["full_attention"]
    offsets = [(layer["layer"], layer["offset"], layer["length"]) for layer in index["layers"]]
    assert offsets == [(layer, layer * 30720, 30720) for layer in range(6)]
    for name, digest in index["checksums"].items():
        assert hashlib.sha256((tmp_path / "v" / name).read_bytes()).hexdigest() == digest
    manifest = json.loads((tmp_path / "v" / files.MANIFEST).read_text())
    for entry in manifest:
        assert list(entry) == ["key", "kind", "shape", "offset", "length", "file"]
        assert entry["kind"] == ("vector" if len(entry["shape"]) == 1 else "tensor")
        assert (tmp_path / "v" / entry["file"]).stat().st_size >= entry["offset"] + entry["length"]
    document = json.loads((tmp_path / "v" / TOKENIZER).read_text())
    assert document["model"]["type"] == "BPE"


def test_the_seal_covers_every_other_file(tmp_path: Path) -> None:
    extract_golden("llama_h96", tmp_path / "v")
    seal = json.loads((tmp_path / "v" / files.SEAL).read_text())
    assert set(seal["files"]) == INFERENCE - {"seal.json"}
    for name, entry in seal["files"].items():
        data = (tmp_path / "v" / name).read_bytes()
        assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_side_files_are_the_checkpoints_own(tmp_path: Path) -> None:
    extract_golden("llama_h96", tmp_path / "v")
    for name in (CONFIG, TOKENIZER, files.TOKENIZER_CONFIG, files.GENERATION_CONFIG):
        own = (CHECKPOINTS / "llama_h96" / name).read_bytes()
        assert (tmp_path / "v" / name).read_bytes() == own


def test_the_report_says_what_was_done(tmp_path: Path) -> None:
    report = extract_golden("llama_h96", tmp_path / "v", dtype=StorageDtype.BF16)
    assert (report.family, report.num_layers, report.num_features) == ("llama", 4, 640)
    assert report.size_bytes == sum(path.stat().st_size for path in report.path.iterdir())
    assert {phase.name for phase in report.phases} == {
        "read",
        "hash",
        "write",
        "score",
        "sync",
        "other",
    }
    assert report.seconds == pytest.approx(sum(phase.seconds for phase in report.phases))
    assert all(phase.seconds >= 0 for phase in report.phases)
    assert report.peak_rss_bytes > 10 << 20
    assert report.dropped == ()


# ---------------------------------------------------------------------------- progress, cancelling


class Call(NamedTuple):
    phase: str
    total: int
    unit: str


class Recorder:
    """A progress that counts, and cancels at its n-th check."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.phases: list[Call] = []
        self.done: dict[str, int] = {}
        self.checks = 0
        self._cancel_at = cancel_at

    def phase(self, name: str, total: int, unit: str = "B") -> None:
        self.phases.append(Call(name, total, unit))
        self.done[name] = 0

    def advance(self, amount: int) -> None:
        self.done[self.phases[-1].phase] += amount

    def check(self) -> None:
        self.checks += 1
        if self.checks == self._cancel_at:
            raise Interrupted("cancelled")


def test_progress_reaches_every_total(tmp_path: Path) -> None:
    progress = Recorder()
    extract_golden("llama_h96", tmp_path / "v", progress=progress)
    assert [(call.phase, call.unit) for call in progress.phases] == [
        ("embeddings", "B"),
        ("weights", "B"),
        ("features", "features"),
    ]
    assert progress.done == {call.phase: call.total for call in progress.phases}
    assert progress.done["features"] == 640


@pytest.mark.parametrize("existing", [False, True])
def test_cancelling_anywhere_leaves_nothing_new(existing: bool, tmp_path: Path) -> None:
    counting = Recorder()
    extract_golden("llama_h96", tmp_path / "count", progress=counting)
    shutil.rmtree(tmp_path / "count")
    out = tmp_path / "v"
    if existing:
        copy_golden("llama_h96.browse", out)
    for number in range(1, counting.checks + 1, 5):
        with pytest.raises(Interrupted):
            extract_golden("llama_h96", out, overwrite=existing, progress=Recorder(number))
        assert os.listdir(tmp_path) == (["v"] if existing else [])
    if existing:
        open_and_read(out)
    assert counting.checks > 40


# ---------------------------------------------------------------------------- refusals


def assert_refused(
    source: Path, tmp_path: Path, kind: type[VindexError], match: str, **options: Any
) -> VindexError:
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(kind, match=match) as caught:
        extract_path(source, tmp_path / "v", **options)
    assert sorted(os.listdir(tmp_path)) == before
    return caught.value


def test_an_existing_target_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    assert_refused(CHECKPOINTS / "llama_h96", tmp_path, TargetExists, "exists")


def test_overwriting_replaces_stale_files(tmp_path: Path) -> None:
    """An old lm_head.bin left behind would defeat larql's test for tied models."""
    extract_golden("llama_h96", tmp_path / "v")
    extract_golden("llama_h96", tmp_path / "v", level=ExtractLevel.BROWSE, overwrite=True)
    assert {path.name for path in (tmp_path / "v").iterdir()} == BROWSE


@pytest.mark.parametrize("names", [["letter.txt"], ["index.json", "app.js"]])
def test_somebody_elses_directory_is_not_overwritten(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for name in names:
        (tmp_path / "v" / name).write_text("dear")
    assert_refused(
        CHECKPOINTS / "llama_h96", tmp_path, TargetExists, "is not a vindex", overwrite=True
    )
    assert sorted(os.listdir(tmp_path / "v")) == sorted(names)


@pytest.mark.parametrize("damage", ["empty", "unsealed", "index cut"])
def test_an_empty_directory_or_a_damaged_vindex_is_overwritten(damage: str, tmp_path: Path) -> None:
    out = tmp_path / "v"
    match damage:
        case "empty":
            out.mkdir()
        case "unsealed":
            extract_golden("llama_h96", out)
            (out / files.SEAL).unlink()
        case _:
            extract_golden("llama_h96", out)
            os.truncate(out / files.INDEX, 10)
    extract_golden("llama_h96", out, overwrite=True)
    assert verify(out).ok


@pytest.mark.parametrize(
    "key",
    [
        "model.embed_tokens.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ],
)
def test_values_beyond_f16_are_refused_with_the_dtype_to_use(key: str, tmp_path: Path) -> None:
    arrays = arrays_of()
    arrays[key].reshape(-1)[7] = -70000.0
    source = make_checkpoint(tmp_path / "s", arrays)
    error = assert_refused(
        source, tmp_path, VindexInvalid, f"{key} holds values up to 70000, beyond 65504"
    )
    assert error.hint == "extract with DTYPE bf16 or DTYPE f32"
    for dtype in (StorageDtype.BF16, StorageDtype.F32):
        extract_path(source, tmp_path / dtype.value, dtype=dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "key", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"]
)
@pytest.mark.parametrize("level", [ExtractLevel.BROWSE, ExtractLevel.INFERENCE])
def test_values_that_are_not_finite_are_refused(
    level: ExtractLevel, key: str, value: float, tmp_path: Path
) -> None:
    """Also at browse level, where the down matrix is only scored: larql panics there."""
    arrays = arrays_of()
    arrays[key].reshape(-1)[3] = value
    source = make_checkpoint(tmp_path / "s", arrays)
    assert_refused(source, tmp_path, VindexInvalid, f"{key} holds NaN or infinity", level=level)


def test_unknown_tensors_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "s", arrays_of() | {"extra": np.zeros(3, np.float32)})
    assert_refused(source, tmp_path, LedgerRefusal, "unknown: 'extra'|unknown: extra")


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "s", arrays_of())
    (source / TOKENIZER).unlink()
    assert_refused(source, tmp_path, CheckpointError, r"has no tokenizer\.json")


def test_a_tokenizer_with_too_many_tokens_is_refused(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "s", random_arrays(LLAMA), vocab_size=LLAMA["vocab_size"])
    assert_refused(source, tmp_path, VindexInvalid, "384 tokens, the embedding only 64 rows")


def test_too_little_space_is_noticed_before_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 << 20))
    assert_refused(CHECKPOINTS / "llama_h96", tmp_path, VindexError, r"needs 0\.00 GB.*free")


@pytest.mark.parametrize("nth", [1, 4, 9, 17])
def test_a_full_disk_is_an_error_and_leaves_nothing(
    nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th sync fails, wherever it happens: in a file, a directory, or behind the scenes."""
    calls = 0
    real = os.fsync

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    assert_refused(CHECKPOINTS / "llama_h96", tmp_path, VindexError, "disk is full")


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_before_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = os.fsync, commit._renameat2

    def synced(descriptor: int) -> None:
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def renamed(*arguments: Any) -> bool:
        events.append("RENAME")
        return rename(*arguments)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(commit, "_renameat2", renamed)
    extract_golden("llama_h96", tmp_path / "v")
    before = events[: events.index("RENAME")]
    assert set(before) >= INFERENCE
    assert before[-2] == "seal.json"
    assert before[-1].startswith(".v.stage-")
    assert events[events.index("RENAME") + 1 :] == [tmp_path.name]


def test_the_vocabulary_of_the_texts_is_that_of_the_embedding(tmp_path: Path) -> None:
    """Rows beyond the tokenizer's tokens are padding: no text, so never a feature's token."""
    changes = {"vocab_size": 400}
    arrays = arrays_of(**changes)
    arrays["model.embed_tokens.weight"][384:] *= 100
    source = make_checkpoint(tmp_path / "s", arrays, **changes)
    with open_vindex(extract_path(source, tmp_path / "v")) as vx:
        assert vx.token_texts.texts([399]) == [""]
        for layer in vx.layers:
            assert vx.down_meta.records(layer)["top"]["token"].max() < 384
        assert (vx.path / tokens.FILE).exists()


def test_the_spec_of_a_vindex_is_the_checkpoints(tmp_path: Path) -> None:
    """Rope scaling, which index.json cannot hold, survives through config.json."""
    extract_golden("llama3_h96", tmp_path / "v")
    with open_vindex(tmp_path / "v") as vx, checkpoint("llama3_h96") as source:
        assert vx.spec == spec_from_config(source.config)
        assert vx.spec.layers[0].attention.rope is not None
        assert vx.spec.layers[0].attention.rope.factor is not None


def test_a_result_that_does_not_open_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's own mistakes are caught by the reader before anybody sees them."""
    monkeypatch.setattr(
        "vindex.extraction.dump_manifest", lambda entries: dump_manifest(entries[1:])
    )
    assert_refused(
        CHECKPOINTS / "llama_h96",
        tmp_path,
        VindexIncomplete,
        r"missing 1 tensor \(e\.g\. layers\.0\.self_attn\.q_proj\.weight\)",
    )


def test_float32_entries_are_aligned_behind_odd_float16_ones(tmp_path: Path) -> None:
    """larql reinterprets their bytes without a look at the offset."""
    with StageWriter(tmp_path, Clock()) as writer:
        file = writer.file("norms.bin")
        file.write(np.ones(3, "<f2").tobytes())
        file.align(4)
        assert file.size == 8
        file.align(4)
        assert file.size == 8
        writer.finish("norms.bin")
        writer.settle()
        assert writer.seal().sealed["norms.bin"].size == 8
    assert (tmp_path / "norms.bin").read_bytes() == b"\x00\x3c" * 3 + b"\0\0"
