"""Trace files: larql's own is read and written alike, ours come back whole, damaged ones do not."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from vindex.errors import TargetExists, TraceInvalid
from vindex.tracefile import ATTENTION, REST, TraceFile, read_trace_file, write_trace_file

PARTS = ("attention", "attention_norm", "ffn", "per_layer", "scalar")


def made(layers: int = 3, places: int = 2, hidden: int = 5) -> TraceFile:
    random = np.random.default_rng(0)
    parts = {
        name: random.normal(size=(layers, places, hidden)).astype(np.float32) for name in PARTS
    }
    start = random.normal(size=(1, places, hidden)).astype(np.float32)
    changed = np.cumsum(sum(parts.values()), axis=0, dtype=np.float32)
    return TraceFile(
        residual=np.concatenate([start, start + changed]),
        parts=parts,
        positions=(1, 3),
        token_ids=(7, 8, 9, 10),
        pieces=("a", "\n", '"', "é"),
        prompt='a\n"é',
        model="tiny",
        interventions=("ABLATE LAYER 1",),
    )


def test_larqls_own_file(data_dir: Path) -> None:
    trace = read_trace_file(data_dir / "golden" / "patches" / "trace.trace")

    assert trace.residual.shape == (5, 6, 96)
    changed = np.diff(trace.residual, axis=0)
    assert np.abs(changed - trace.parts[ATTENTION] - trace.parts[REST]).max() < 1e-5


def test_what_is_read_from_larqls_file_is_written_the_same(data_dir: Path, tmp_path: Path) -> None:
    """All but the last vectors of a layer, which are written as what is missing from the sum."""
    original = data_dir / "golden" / "patches" / "trace.trace"
    copy = tmp_path / "copy.trace"

    write_trace_file(copy, read_trace_file(original))

    assert copy.read_bytes()[:64] == original.read_bytes()[:64]
    ours, theirs = (np.frombuffer(path.read_bytes(), "<f4", offset=64) for path in (copy, original))
    by_kind = np.abs(ours - theirs).reshape(6, 5, 3, 96).max(axis=(0, 1, 3))
    assert by_kind[0] == by_kind[1] == 0.0
    assert by_kind[2] < 1e-5


def test_larqls_format_puts_norms_with_what_they_follow(tmp_path: Path) -> None:
    trace, path = made(), tmp_path / "x.trace"

    write_trace_file(path, trace)

    back = read_trace_file(path)
    attention = trace.parts["attention"] + trace.parts["attention_norm"]
    assert np.array_equal(back.residual, trace.residual)
    assert np.array_equal(back.parts[ATTENTION], attention)
    assert np.allclose(back.parts[REST], np.diff(trace.residual, axis=0) - attention, atol=1e-6)
    assert (back.positions, back.prompt, back.pieces) == (None, None, ())


def test_safetensors_keep_everything(tmp_path: Path) -> None:
    trace, path = made(), tmp_path / "x.safetensors"

    write_trace_file(path, trace)

    back = read_trace_file(path)
    assert np.array_equal(back.residual, trace.residual)
    assert back.parts.keys() == trace.parts.keys()
    assert all(np.array_equal(back.parts[name], trace.parts[name]) for name in PARTS)
    nothing = {"residual": None, "parts": None}
    assert replace(back, **nothing).__repr__() == replace(trace, **nothing).__repr__()


@pytest.mark.parametrize("name", ["x.trace", "x.safetensors"])
def test_a_file_that_exists_is_kept_unless_told_otherwise(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("mine")

    with pytest.raises(TargetExists):
        write_trace_file(path, made())
    assert path.read_text() == "mine"

    write_trace_file(path, made(), overwrite=True)
    assert read_trace_file(path).num_layers == 3
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nowhere/x\.trace") as raised:
        write_trace_file(tmp_path / "nowhere" / "x.trace", made())
    assert raised.value.filename.endswith("x.trace")


def header(**changed: int) -> bytes:
    fields = {"version": 1, "hidden": 5, "layers": 3, "tokens": 2, **changed}
    return struct.pack("<4sIIII", b"TRAC", *fields.values()).ljust(64, b"\0")


BODY = bytes(2 * 4 * 3 * 5 * 4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"TRAC",
        header(),
        header() + BODY[:-1],
        header() + BODY + b"\0",
        header(version=2) + BODY,
        header(tokens=0),
        header(hidden=0, tokens=2**32 - 1, layers=2**32 - 1),
        header(hidden=2**32 - 1, tokens=2**32 - 1, layers=2**32 - 1) + BODY,
        header() + BODY[:-4] + struct.pack("<f", float("nan")),
        b"BNDX" + bytes(60),
        b"\xff" * 200,
        b"{}" * 100,
    ],
    ids=range(13),
)
def test_what_is_no_trace_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.trace"
    path.write_bytes(data)

    with pytest.raises(TraceInvalid, match=r"bad\.trace"):
        read_trace_file(path)


def test_safetensors_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    good, path = made(), tmp_path / "x.safetensors"
    bad = [
        replace(good, positions=(1, 4)),
        replace(good, positions=(1,)),
        replace(good, token_ids=(1, 2)),
        replace(good, residual=good.residual[:1]),
        replace(good, parts={"ffn": good.parts["ffn"][1:]}),
        replace(good, parts={"ffn": good.parts["ffn"].astype(np.float64)}),
    ]
    for trace in bad:
        write_trace_file(path, trace, overwrite=True)
        with pytest.raises(TraceInvalid, match="is no trace"):
            read_trace_file(path)


def test_other_safetensors_are_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for metadata in (None, {"kind": "other"}, {"kind": "lql-trace-1", "about": "["}):
        path.write_bytes(save({"residual": np.zeros((2, 1, 1), np.float32)}, metadata))
        with pytest.raises(TraceInvalid, match="neither"):
            read_trace_file(path)


def test_every_cut_and_flip_of_a_header_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_trace_file(path, made())
    data = path.read_bytes()
    random = np.random.default_rng(3)
    for _ in range(400):
        broken = bytearray(data[: random.integers(1, len(data) + 1)])
        broken[random.integers(0, min(len(broken), 900))] ^= int(random.integers(1, 256))
        path.write_bytes(broken)
        try:
            read_trace_file(path)
        except TraceInvalid:
            continue
