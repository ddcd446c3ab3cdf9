"""``layers/layer_XX.weights``: what is written is larql's layout, and what larql writes is read."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from lql.inference import load
from lql.inference.precision import ComputeDtype
from tests.unit import moe_models
from tests.unit.vindex_files import edit_json, unseal
from vindex import files, kquant
from vindex.compiling import compile_vindex
from vindex.downmeta import DownMetaWriter
from vindex.edited import EditedVindex
from vindex.edits import FeatureEdit, Vector
from vindex.errors import Unsupported, VindexError, VindexIncomplete, VindexInvalid
from vindex.kinds import ExtractLevel, Quant, StorageDtype
from vindex.layer_files import Layout
from vindex.quant import BlockFormat, QuantMatrix
from vindex.sharing import Sharing
from vindex.source import QuantTensor
from vindex.spec import Role
from vindex.store import open_vindex
from vindex.verify import verify

IDS = tuple(np.random.default_rng(1).integers(0, 384, 20).tolist())
LAYERS, EXPERTS, WIDTH, DENSE = 4, 4, 12, 24
ROUTER = "layers.{}.router.proj.weight"
NAMES = [files.layer_name(layer) for layer in range(LAYERS)]
AGAIN = "re-extract with: EXTRACT MODEL"


def extracted(directory: Path, hidden: int = 32, **options: Any) -> Path:
    config = {**moe_models.GEMMA4, "hidden_size": hidden}
    return moe_models.extracted(directory, config, quant=Quant.Q4K, **options)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed vindex. Read only."""
    return extracted(tmp_path_factory.mktemp("layers"))


@pytest.fixture
def sealed(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "sealed"))


@pytest.fixture
def bare(sealed: Path) -> Path:
    return unseal(sealed)


def of_larql(path: Path) -> Path:
    """The same weights as larql writes them: no features of experts, nothing of ours."""
    with open_vindex(path) as vx:
        rows = [vx.gate(layer).array[:DENSE].tobytes() for layer in vx.layers]
        records = [vx.down_meta.records(layer)[:DENSE].copy() for layer in vx.layers]
        top_k = vx.down_meta.top_k
    unseal(path)
    (path / files.GATE).write_bytes(b"".join(rows))
    with (path / files.DOWN_META).open("wb") as file:
        meta = DownMetaWriter(file.write, LAYERS, top_k)
        for each in records:
            meta.layer(each)

    def change(index: Any) -> None:
        for name in ("lql", "tie_word_embeddings", "checksums"):
            index.pop(name, None)
        for number, layer in enumerate(index["layers"]):
            size = len(rows[number])
            layer.update(num_features=DENSE, offset=number * size, length=size)

    edit_json(path / files.INDEX, change)
    shutil.move(path / files.CONFIG, path.parent / "config.json")
    for name in ("token_texts.bin", "tokenizer_parts.bin"):
        (path / name).unlink(missing_ok=True)
    return path


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    """Read by the format's description and the gguf package: one flat run, gate rows first."""
    path = extracted(tmp_path, hidden=256)
    index = json.loads((path / files.INDEX).read_text())
    assert index["ffn_layout"] == "per_layer"
    assert index["model_config"]["moe"]["hybrid"] is True
    assert sorted(os.listdir(path / files.LAYERS)) == [f"layer_0{n}.weights" for n in range(LAYERS)]
    assert not (path / kquant.EXPERTS).exists()
    with open_vindex(path) as vx:
        for layer, name in enumerate(NAMES):
            data = (path / name).read_bytes()
            assert struct.unpack("<4s5I", data[:24]) == (b"LYRW", 1, 4, EXPERTS, WIDTH, 256)
            table = np.frombuffer(data, "<u8", 4 * EXPERTS, 24).reshape(EXPERTS, 4)
            end = 24 + 32 * EXPERTS
            for expert, (first, first_bytes, last, last_bytes) in enumerate(table.tolist()):
                assert (first, last) == (end, end + first_bytes)
                end = last + last_bytes
                run = np.frombuffer(data, np.uint8, first_bytes, first)
                values = dequantize(run, GGMLQuantizationType.Q4_K).reshape(2 * WIDTH, 256)
                for role, part in ((Role.EXPERT_GATE, 0), (Role.EXPERT_UP, WIDTH)):
                    matrix = vx.matrix(role, layer, expert)
                    assert isinstance(matrix, QuantTensor)
                    assert np.array_equal(matrix.rows(0, WIDTH), values[part : part + WIDTH])
                down = np.frombuffer(data, np.uint8, last_bytes, last).reshape(256, 144)
                values = dequantize(down, GGMLQuantizationType.Q4_K)
                assert not values[:, 32:].any()  # groups of 32 that are padding alone
                expected = vx.matrix(Role.EXPERT_DOWN, layer, expert).rows(0, 256)
                assert np.array_equal(expected, values[:, :WIDTH])
            assert end == len(data)


def test_routers_are_where_larql_looks(pristine: Path) -> None:
    """Among the vectors, rows one after the other, in float32."""
    listed = {entry["key"]: entry for entry in json.loads((pristine / files.MANIFEST).read_text())}
    with open_vindex(pristine) as vx:
        for layer in range(LAYERS):
            entry = listed[ROUTER.format(layer)]
            assert (entry["kind"], entry["shape"]) == ("vector", [EXPERTS * 32])
            assert (entry["file"], entry["length"]) == ("norms.bin", 4 * EXPERTS * 32)
            assert vx.tensor(Role.ROUTER, layer).shape == (EXPERTS, 32)


def test_lower_levels_have_none(tmp_path: Path) -> None:
    path = extracted(tmp_path, level=ExtractLevel.ATTENTION)
    assert not (path / files.LAYERS).exists()
    assert json.loads((path / files.INDEX).read_text()).get("ffn_layout") is None


def test_what_larql_writes_is_read(sealed: Path) -> None:
    with open_vindex(sealed) as vx:
        expected = load(vx, dtype=ComputeDtype.F32).logits(IDS)
        gates = [vx.tensor(Role.EXPERT_GATE, 1, expert).float32() for expert in range(EXPERTS)]
    path = of_larql(sealed)
    with open_vindex(path) as vx, pytest.raises(Unsupported):
        vx.require(ExtractLevel.INFERENCE, "INFER")
    with open_vindex(path, config=path.parent / "config.json") as vx:
        assert [vx.num_features(layer) for layer in vx.layers] == [DENSE] * LAYERS
        found = load(vx, dtype=ComputeDtype.F32).logits(IDS)
        for expert, gate in enumerate(gates):
            decoded = vx.tensor(Role.EXPERT_GATE, 1, expert).float32()
            assert 0 < np.abs(decoded - gate).max() < 0.1
    assert np.array_equal(found, expected)


def test_finer_files_and_files_in_another_order_are_read(bare: Path) -> None:
    """Q6_K throughout, experts from the last to the first."""
    layout = Layout(EXPERTS, WIDTH, 32, BlockFormat.Q6_K)
    rng = np.random.default_rng(0)
    file = bare / NAMES[2]
    data = bytearray(layout.header())
    table = np.frombuffer(data, "<u8", offset=24).reshape(EXPERTS, 4)
    table[:] = table[::-1].copy()
    parts = []
    for _ in range(EXPERTS):
        values = rng.standard_normal((2 * WIDTH + 32, 256), np.float32)
        parts += [BlockFormat.Q6_K.encode(values)]
    file.write_bytes(bytes(data) + b"".join(part.tobytes() for part in parts))
    with open_vindex(bare) as vx:
        stored = vx.matrix(Role.EXPERT_UP, 2, 0)
        assert isinstance(stored, QuantTensor)
        rows = parts[EXPERTS - 1].reshape(-1, 210)[WIDTH : 2 * WIDTH]
        expected = QuantMatrix(BlockFormat.Q6_K, WIDTH, 32, rows).decode_rows(0, WIDTH)
        assert np.array_equal(stored.rows(0, WIDTH), expected)


@pytest.mark.parametrize("name", NAMES)
def test_any_one_file_is_missed(name: str, sealed: Path) -> None:
    (sealed / name).unlink()
    for path in (sealed, unseal(sealed)):
        with pytest.raises(VindexIncomplete, match=Path(name).name) as caught:
            open_vindex(path)
        assert AGAIN in (caught.value.hint or "")
        assert "QUANT q4k OVERWRITE;" in (caught.value.hint or "")


def write_at(offset: int, data: bytes) -> Callable[[bytes], bytes]:
    return lambda old: old[:offset] + data + old[offset + len(data) :]


def u32(offset: int, value: int) -> Callable[[bytes], bytes]:
    return write_at(offset, struct.pack("<I", value))


def u64(offset: int, value: int) -> Callable[[bytes], bytes]:
    return write_at(offset, struct.pack("<Q", value))


TABLE = 24
START = TABLE + 32 * EXPERTS
GATE_UP, DOWN = 2 * WIDTH * 144, 32 * 144
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], type[VindexError], str]] = {
    "empty": (lambda _: b"", VindexIncomplete, "a header"),
    "part of a header": (lambda old: old[:23], VindexIncomplete, "a header"),
    "part of a table": (lambda old: old[: START - 1], VindexIncomplete, "header and table"),
    "cut short": (lambda old: old[:-1], VindexIncomplete, "where down of expert 3 ends"),
    "longer": (lambda old: old + b"\0", VindexInvalid, "1 bytes follow"),
    "another magic": (write_at(0, b"LYRX"), VindexInvalid, "starts with"),
    "a later version": (u32(4, 2), Unsupported, "version 2"),
    "floats": (u32(8, 0), Unsupported, "are f32"),
    "a tag of nothing": (u32(8, 99), VindexInvalid, "tag of no format"),
    "the other tag": (u32(8, 5), VindexInvalid, "in Q6_K takes"),
    "no experts": (u32(12, 0), VindexInvalid, "the model has 4 experts"),
    "more experts": (u32(12, 2**32 - 1), VindexInvalid, "the model has 4 experts"),
    "wider experts": (u32(16, 2**31), VindexInvalid, "the model has 4 experts"),
    "another hidden size": (u32(20, 64), VindexInvalid, "the model has 4 experts"),
    "beyond the file": (u64(TABLE, 2**40), VindexIncomplete, "ends before byte"),
    "beyond all numbers": (u64(TABLE, 2**64 - 1), VindexIncomplete, "ends before byte"),
    "too many bytes": (u64(TABLE + 8, 2**63), VindexInvalid, "gate and up of expert 0 have"),
    "no bytes": (u64(TABLE + 24, 0), VindexInvalid, "down of expert 0 have 0 bytes"),
    "rows inside blocks": (u64(TABLE + 8, 3 * 144), Unsupported, "begin inside blocks"),
    "into the next": (u64(TABLE, START + 144), VindexInvalid, "share bytes"),
    "the same twice": (u64(TABLE + 32, START), VindexInvalid, "share bytes"),
    "into the table": (u64(TABLE, START - 8), VindexInvalid, "inside the header"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused(name: str, bare: Path) -> None:
    change, kind, message = DAMAGE[name]
    file = bare / NAMES[1]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(kind, match=message) as caught:
        open_vindex(bare)
    assert NAMES[1] in caught.value.message
    assert AGAIN in (caught.value.hint or "")


def test_random_damage_never_crashes(bare: Path) -> None:
    rng = np.random.default_rng()
    print(rng.bit_generator.state["state"])
    file = bare / NAMES[0]
    whole = file.read_bytes()
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(0, START, rng.integers(1, 5)):
            data[place] = rng.integers(0, 256)
        file.write_bytes(data[: len(data) - int(rng.integers(0, 2) * rng.integers(0, len(data)))])
        try:
            open_vindex(bare).close()
        except VindexError:
            refused += 1
    assert refused > 150


def test_a_link_to_a_directory_elsewhere_is_refused(bare: Path, tmp_path: Path) -> None:
    shutil.move(bare / files.LAYERS, tmp_path / "elsewhere")
    (bare / files.LAYERS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VindexInvalid, match="symbolic link"):
        open_vindex(bare)
    assert not verify(bare).ok


def test_verify_reads_every_byte(sealed: Path) -> None:
    assert verify(sealed).ok
    assert set(NAMES) <= {file.name for file in verify(sealed).files}
    with (sealed / NAMES[3]).open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\x55")
    (damaged,) = (file for file in verify(sealed).files if file.failed)
    assert damaged.name == NAMES[3]


def test_compiling_carries_the_files(sealed: Path, tmp_path: Path) -> None:
    """Shared where no edit touches them; the file of an edited expert is written anew."""
    feature = DENSE + WIDTH + 3  # of the second expert
    ones = Vector.of(np.ones(32, np.float32))
    with open_vindex(sealed) as base:
        edited = EditedVindex(base, {(2, feature): FeatureEdit(up=ones)})
        report = compile_vindex(edited, (), tmp_path / "out")
        expected = load(edited, dtype=ComputeDtype.F32).logits(IDS)
        before = load(base, dtype=ComputeDtype.F32).logits(IDS)
    assert NAMES[2] in report.rewritten
    for name in set(NAMES) - {NAMES[2]}:
        assert report.shared[name] is not Sharing.COPIED
    assert verify(tmp_path / "out").ok
    with open_vindex(tmp_path / "out") as vx:
        assert vx.index.ffn_layout == "per_layer"
        assert np.allclose(vx.matrix(Role.EXPERT_UP, 2, 1).rows(3, 4), 1, atol=1e-2)
        found = load(vx, dtype=ComputeDtype.F32).logits(IDS)
    assert np.abs(found - expected).max() < 3e-4
    assert np.abs(found - before).max() > 3e-3


def test_dtype_of_the_vindex_changes_nothing(tmp_path: Path, pristine: Path) -> None:
    other = extracted(tmp_path, dtype=StorageDtype.F32)
    for name in NAMES:
        assert (other / name).read_bytes() == (pristine / name).read_bytes()
