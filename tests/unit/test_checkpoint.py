"""Safetensors checkpoints: exact reading, strict headers, and everything a reference may name."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file as save_torch

from tests.unit.checkpoint_files import (
    LLAMA,
    random_arrays,
    raw_safetensors,
    write_directory,
    write_gguf,
)
from vindex.checkpoint import balance, open_checkpoint
from vindex.checkpoint._safetensors import SafetensorsFile
from vindex.errors import CheckpointError, Unsupported, VindexError
from vindex.families import spec_from_config
from vindex.kinds import StorageDtype

F32, F16, BF16 = StorageDtype.F32, StorageDtype.F16, StorageDtype.BF16
TORCH = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}


def bits(values: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor as its carrier: bf16 as uint16."""
    if values.dtype is torch.bfloat16:
        return values.view(torch.uint16).numpy()
    return values.numpy()


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "llama", LLAMA, random_arrays(LLAMA))


def hostile_values() -> torch.Tensor:
    """Float32 values where rounding, overflow and subnormals matter."""
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(64, 48, generator=generator) * 10 ** torch.randint(-9, 6, (64, 48))
    values[0, :6] = torch.tensor([0.0, -0.0, 65519.9, 65520.0, 1e-8, -1e-45])
    values[1, :4] = torch.tensor([float("nan"), float("inf"), 1.00390625, 1.01171875])
    return values


@pytest.mark.parametrize("stored", list(StorageDtype))
@pytest.mark.parametrize("wanted", list(StorageDtype))
def test_reading_rounds_as_torch_does(
    tmp_path: Path, stored: StorageDtype, wanted: StorageDtype
) -> None:
    values = hostile_values().to(TORCH[stored])
    write_directory(tmp_path, LLAMA, {})
    save_torch({"t": values}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        info = checkpoint.info("t")
        assert (info.shape, info.dtype) == ((64, 48), stored)
        found = checkpoint.read("t", wanted)
        expected = bits(values.to(TORCH[wanted]))
        assert found.dtype == np.dtype(wanted.carrier)
        nan = torch.isnan(values).numpy()
        np.testing.assert_array_equal(found[~nan], expected[~nan])
        as_float = torch.from_numpy(found.copy())
        as_float = as_float.view(torch.bfloat16) if wanted is BF16 else as_float
        assert torch.isnan(as_float[torch.isnan(values)]).all()
        rows = checkpoint.read_rows("t", 5, 9, wanted)
        np.testing.assert_array_equal(rows, found[5:9])
        assert checkpoint.read_rows("t", 9, 9, wanted).shape == (0, 48)


def test_unchanged_dtypes_are_read_only_views(llama: Path) -> None:
    with open_checkpoint(llama) as checkpoint:
        first = checkpoint.read("model.embed_tokens.weight", F32)
        second = checkpoint.read("model.embed_tokens.weight", F32)
    assert first.ctypes.data == second.ctypes.data
    assert not first.flags.writeable
    assert np.isfinite(first).all()  # a view outlives the checkpoint


def test_a_golden_checkpoint(data_dir: Path) -> None:
    directory = data_dir / "golden" / "checkpoints" / "llama_h96"
    with open_checkpoint(directory) as checkpoint:
        assert checkpoint.config["model_type"] == "llama"
        assert set(checkpoint.files()) == {
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        with safe_open(directory / "model.safetensors", "np") as reference:
            assert sorted(checkpoint.names()) == sorted(reference.keys())
            for name in reference.keys():  # noqa: SIM118 - not a dict
                np.testing.assert_array_equal(
                    checkpoint.read(name, F32), reference.get_tensor(name)
                )
        ledger = balance(checkpoint, spec_from_config(checkpoint.config))
        assert len(ledger.used) == len(checkpoint.names())


def test_a_single_file_by_its_name(llama: Path) -> None:
    with open_checkpoint(llama / "model.safetensors") as checkpoint:
        assert len(checkpoint.names()) == 21


def sharded(directory: Path) -> dict[str, Any]:
    """Rewrite a single-file checkpoint as two shards; returns the index."""
    with safe_open(directory / "model.safetensors", "pt") as whole:
        tensors = {name: whole.get_tensor(name) for name in whole.keys()}  # noqa: SIM118
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {
        name: f"model-0000{1 + (position >= 10)}-of-00002.safetensors"
        for position, name in enumerate(names)
    }
    for shard in set(weight_map.values()):
        save_torch({n: tensors[n] for n in names if weight_map[n] == shard}, directory / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_shards_read_as_one(llama: Path) -> None:
    arrays = random_arrays(LLAMA)
    sharded(llama)
    with open_checkpoint(str(llama)) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(arrays)
        for name, values in arrays.items():
            np.testing.assert_array_equal(checkpoint.read(name, F32), values)


@pytest.mark.parametrize(
    "shard",
    ["../model-00001-of-00002.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x.bin",
     "C:\\x.safetensors", "nul\0.safetensors", 7, None, "…safetensors"],
)  # fmt: skip
def test_shard_names_cannot_lead_elsewhere(llama: Path, shard: object) -> None:
    index = sharded(llama)
    index["weight_map"]["model.norm.weight"] = shard
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="expected a plain file name"):
        open_checkpoint(llama)


def test_a_missing_shard_is_named(llama: Path) -> None:
    sharded(llama)
    (llama / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors is missing"):
        open_checkpoint(llama)


def test_an_index_that_lies_is_refused(llama: Path) -> None:
    index = sharded(llama)
    path = llama / "model.safetensors.index.json"
    swapped = dict(index["weight_map"])
    swapped["model.norm.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps({"weight_map": swapped}))
    with pytest.raises(CheckpointError, match="which does not hold it"):
        open_checkpoint(llama)
    del index["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="does not list 1 tensors"):
        open_checkpoint(llama)
    path.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(CheckpointError, match="has no weight_map"):
        open_checkpoint(llama)


def test_a_tensor_in_two_shards_is_refused(llama: Path) -> None:
    index = sharded(llama)
    with safe_open(llama / "model-00002-of-00002.safetensors", "pt") as shard:
        tensors = {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    first = next(name for name, file in index["weight_map"].items() if "00001" in file)
    tensors[first] = torch.zeros(3)
    save_torch(tensors, llama / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="is in both"):
        open_checkpoint(llama)


def entry(dtype: str = "F32", shape: Any = (2, 2), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HEADERS: list[tuple[str, Any, bytes, str]] = [
    ("no object", [1], b"", "does not start its header"),
    ("leading space", b' {"a":1}', b"", "does not start its header"),
    ("not JSON", b"{nope", b"", "is not valid JSON"),
    ("NaN", b'{"a":NaN}', b"", "is not valid JSON"),
    ("duplicate", b'{"a":1,"a":1}', b"", "twice"),
    ("deep", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "nested too deeply"),
    ("string entry", {"t": "x"}, b"", "describes tensor 't' as 'x'"),
    ("extra key", {"t": {**entry(), "x": 1}}, bytes(16), "describes tensor"),
    ("no offsets", {"t": {"dtype": "F32", "shape": []}}, b"", "describes tensor"),
    ("dtype", {"t": entry("F128")}, bytes(16), "unknown dtype 'F128'"),
    ("negative axis", {"t": entry(shape=(-2, -2))}, bytes(16), "impossible shape"),
    ("float axis", {"t": entry(shape=(2.0, 2))}, bytes(16), "impossible shape"),
    ("bool axis", {"t": entry(shape=(True, 4))}, bytes(16), "impossible shape"),
    ("rank 9", {"t": entry(shape=(1,) * 8 + (4,))}, bytes(16), "impossible shape"),
    ("wrapping product", {"t": entry(shape=(4194305, 4194305, 211106198978564))}, bytes(16),
     "impossible shape"),
    ("wrapping in 64 bits", {"t": entry(shape=(2**32, 2**32))}, bytes(16), "of 16 bytes, expected"),
    ("too long", {"t": entry(shape=(2, 3))}, bytes(16), "of 16 bytes, expected 24"),
    ("reversed", {"t": entry(offsets=(16, 0))}, bytes(16), "impossible offsets"),
    ("negative", {"t": entry(offsets=(-16, 0))}, bytes(16), "impossible offsets"),
    ("past the end", {"t": entry()}, bytes(8), "bytes, expected"),
    ("trailing", {"t": entry()}, bytes(17), "bytes, expected"),
    ("gap", {"t": entry(offsets=(4, 20))}, bytes(20), "overlap or leave a gap"),
    ("overlap", {"a": entry(), "b": entry(offsets=(8, 24))}, bytes(24), "overlap or leave a gap"),
    ("alias", {"a": entry(), "b": entry()}, bytes(16), "overlap or leave a gap"),
    ("empty in the middle", {"a": entry(), "b": entry(shape=(0,), offsets=(8, 8))}, bytes(16),
     "overlap or leave a gap"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "data", "text"), [row[1:] for row in HEADERS],
                         ids=[row[0] for row in HEADERS])  # fmt: skip
def test_hostile_headers(tmp_path: Path, header: Any, data: bytes, text: str) -> None:
    path = raw_safetensors(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    assert text in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"\x01\x02", "too few"),
        ((2**63).to_bytes(8, "little") + b"{}", "claims a header of"),
        ((100).to_bytes(8, "little") + b"{}", "claims a header of 100 bytes in a file of 10"),
    ],
)
def test_hostile_beginnings(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=text):
        SafetensorsFile(path)


def test_a_header_of_gigabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((3 << 30).to_bytes(8, "little") + b"{")
        file.truncate(4 << 30)  # sparse
    with pytest.raises(CheckpointError, match="claims a header"):
        SafetensorsFile(path)


def test_special_files_do_not_block(tmp_path: Path) -> None:
    write_directory(tmp_path, LLAMA, {})
    (tmp_path / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is not a regular file"):
        SafetensorsFile(tmp_path / "model.safetensors")
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json is not a regular file"):
        open_checkpoint(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    header = {"a": entry(), "b": entry("BF16", (3,), (16, 22))}
    whole = raw_safetensors(tmp_path / "whole", header, bytes(22)).read_bytes()
    path = tmp_path / "model.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            SafetensorsFile(path)


def test_whatever_we_accept_the_library_accepts(tmp_path: Path) -> None:
    """Random damage to a header: we may refuse more than the library, never accept more."""
    header = {"a": entry(), "b": entry("BF16", (3,), (16, 22)), "__metadata__": {"k": "v"}}
    whole = raw_safetensors(tmp_path / "whole", header, bytes(22)).read_bytes()
    path = tmp_path / "model.safetensors"
    rng = random.Random(11)
    accepted = 0
    for _ in range(1200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 2)):
            damaged[rng.randrange(8, len(whole) - 22)] = rng.choice(b'0123456789-,[]{}":.eabt "')
        path.write_bytes(damaged)
        try:
            names = SafetensorsFile(path).names
        except VindexError:
            continue
        accepted += 1
        try:
            with safe_open(path, "np") as theirs:
                assert sorted(theirs.keys()) == sorted(names)
        except SafetensorError as error:
            pytest.fail(f"accepted {bytes(damaged)!r}, the library does not: {error}")
    assert accepted > 20


def test_unreadable_dtypes_are_listed_but_not_read(tmp_path: Path) -> None:
    raw_safetensors(tmp_path / "m", {"t": entry("I64", (2,), (0, 16))}, bytes(16))
    file = SafetensorsFile(tmp_path / "m")
    assert file.names == ("t",)
    with pytest.raises(Unsupported, match="stored as I64"):
        file.info("t")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "is not valid JSON"),
        (b"[]", "expected an object"),
        (b'{"a": NaN}', "is not valid JSON"),
        (b'{"vocab_size": 1, "vocab_size": 2}', "twice"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_hostile_configs(llama: Path, content: bytes, text: str) -> None:
    (llama / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=text):
        open_checkpoint(llama)


def test_a_directory_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot open .*config\.json"):
        open_checkpoint(tmp_path)


def test_an_empty_directory_with_a_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.ckpt"])
def test_pickles_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    torch.save({"t": torch.zeros(2)}, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    for ref in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match="reading a pickle can run any code") as caught:
            open_checkpoint(ref)
        assert "save_pretrained" in (caught.value.hint or "")


def test_a_renamed_pickle_stays_a_pickle(tmp_path: Path) -> None:
    torch.save({"t": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a pickle"):
        open_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "ref",
    ["", "/no/such/place", "./nothing", "nothing", "models/x.gguf", "a b/c", "x\0y", "~nobody9/x",
     "a/b/c/d", "../..//x.safetensors"],
)  # fmt: skip
def test_references_to_nothing(ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(ref)
    assert str(caught.value).isprintable()


def test_a_directory_with_one_gguf(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", LLAMA, random_arrays(LLAMA))
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.info("model.norm.weight").stored == "F32"
    (tmp_path / "b.gguf").write_bytes((tmp_path / "a.gguf").read_bytes())
    with pytest.raises(CheckpointError, match="holds 2 GGUF files") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.hint == "name one of them: a.gguf, b.gguf"


RELEASE = """
import sys
from pathlib import Path
from vindex.checkpoint import open_checkpoint
from vindex.kinds import StorageDtype

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

checkpoint = open_checkpoint(sys.argv[1])
checkpoint.read("t0", StorageDtype.F32).sum()
checkpoint.release()
start, peak = resident(), 0
for name in checkpoint.names():
    checkpoint.read(name, StorageDtype.F32).sum()
    peak = max(peak, resident())
    checkpoint.release()
print(peak - start)
"""


def test_memory_stays_bounded_when_pages_are_released(tmp_path: Path) -> None:
    """160 MiB read tensor by tensor: never much more than one tensor of 16 MiB is resident."""
    write_directory(tmp_path, LLAMA, {})
    save_torch(
        {f"t{index}": torch.ones(1024, 4096) for index in range(10)}, tmp_path / "model.safetensors"
    )
    command = [sys.executable, "-c", RELEASE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 24 << 20
