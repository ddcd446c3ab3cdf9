"""Damage of every class: each ends in a typed error or in a finding, never in a crash.

Damage is done twice: to a sealed vindex, where the seal must notice, and to one without a seal (as
larql writes them), where the checks behind the seal must.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.vindex_files import (
    copy_golden,
    edit_json,
    extract_golden,
    open_and_read,
    unseal,
)
from vindex import files, quick_tokenizer, tokens
from vindex.errors import (
    Unsupported,
    VerifyFailed,
    VindexError,
    VindexIncomplete,
    VindexInvalid,
    VindexNotFound,
)
from vindex.verify import Status, verify

Damage = Callable[[Path], object]

SEEDS = int(os.environ.get("LQL_DAMAGE_SEEDS", "60"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed vindex. Read only."""
    path = tmp_path_factory.mktemp("pristine") / "v"
    extract_golden("llama_h96", path)
    return path


@pytest.fixture
def sealed(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "sealed"))


@pytest.fixture
def bare(pristine: Path, tmp_path: Path) -> Path:
    return unseal(Path(shutil.copytree(pristine, tmp_path / "bare")))


def truncate(name: str, size: int) -> Damage:
    """Cut to ``size`` bytes; negative counts from the end."""

    def damage(path: Path) -> None:
        file = path / name
        os.truncate(file, size if size >= 0 else file.stat().st_size + size)

    return damage


def extend(name: str) -> Damage:
    def damage(path: Path) -> None:
        with open(path / name, "ab") as file:
            file.write(b"\0")

    return damage


def remove(name: str) -> Damage:
    return lambda path: (path / name).unlink()


def replace(name: str, data: bytes) -> Damage:
    return lambda path: (path / name).write_bytes(data)


def index(**changes: Any) -> Damage:
    return lambda path: edit_json(path / files.INDEX, lambda document: document.update(changes))


def layer(number: int, **changes: Any) -> Damage:
    return lambda path: edit_json(
        path / files.INDEX, lambda document: document["layers"][number].update(changes)
    )


def entry(number: int, **changes: Any) -> Damage:
    return lambda path: edit_json(
        path / files.MANIFEST, lambda document: document[number].update(changes)
    )


def non_file(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        (path / name).unlink()
        make(path / name)

    return damage


HUGE = [2**31, 2**32, 2**53 - 1, 2**63, 2**64, 10**400]
BINARIES = [
    "gate_vectors.bin",
    "embeddings.bin",
    "attn_weights.bin",
    "up_weights.bin",
    "down_weights.bin",
    "norms.bin",
    "lm_head.bin",
    "down_meta.bin",
    tokens.FILE,
    quick_tokenizer.FILE,
]

DAMAGES: dict[str, Damage] = {
    **{f"{name} cut by one byte": truncate(name, -1) for name in BINARIES},
    **{f"{name} cut in half": truncate(name, 1000) for name in BINARIES},
    **{f"{name} empty": truncate(name, 0) for name in BINARIES},
    **{
        f"{name} longer": extend(name)
        for name in (
            "gate_vectors.bin",
            "embeddings.bin",
            "down_meta.bin",
            tokens.FILE,
            quick_tokenizer.FILE,
        )
    },
    **{
        f"{name} missing": remove(name)
        for name in BINARIES
        if name not in ("down_meta.bin", tokens.FILE, quick_tokenizer.FILE)
    },
    "tokenizer missing": remove(files.TOKENIZER),
    "manifest missing": remove(files.MANIFEST),
    "index empty": truncate(files.INDEX, 0),
    "index cut": truncate(files.INDEX, 700),
    "manifest cut": truncate(files.MANIFEST, 700),
    "config cut": truncate(files.CONFIG, 60),
    "config of another type": replace(files.CONFIG, b"[]"),
    "config with NaN": replace(files.CONFIG, b'{"model_type": "llama", "rope_theta": NaN}'),
    "manifest an object": replace(files.MANIFEST, b"{}"),
    "manifest of numbers": replace(files.MANIFEST, b"[1]"),
    "manifest nested": replace(files.MANIFEST, b"[" * 100_000),
    "manifest with a key twice": replace(
        files.MANIFEST, b'[{"key": "a", "key": "b", "kind": "vector"}]'
    ),
    "hidden size doubled": index(hidden_size=192),
    "vocabulary halved": index(vocab_size=192),
    "vocabulary one less": index(vocab_size=383),
    "one layer more": index(num_layers=5),
    "one layer less": index(num_layers=3),
    "other dtype": index(dtype="f32"),
    "bf16 of an f16 checkpoint": index(dtype="bf16", embed_scale="x"),
    "level too high": index(extract_level="all", has_model_weights=False),
    "gate offset negative": layer(1, offset=-30720),
    "gate offset odd": layer(3, offset=92161),
    "gate layers overlap": layer(1, offset=30718),
    "gate layer twice": layer(1, layer=0),
    "gate layer unknown": layer(1, layer=4),
    "gate length wrong": layer(1, length=30718),
    "gate features wrong": layer(1, num_features=159, length=159 * 192),
    "gate features a fraction": layer(1, num_features=160.0),
    **{f"gate offset {value:.3g}": layer(3, offset=value) for value in HUGE[:5]},
    **{f"gate features {value:.3g}": layer(3, num_features=value) for value in HUGE[:5]},
    "gate features beyond any size": layer(3, num_features=10**400),
    "entry offset negative": entry(0, offset=-1),
    "entry length negative": entry(0, length=-12288),
    "entry offset beyond the file": entry(0, offset=147456),
    "entry reaching beyond the file": entry(0, offset=147456 - 12286),
    "entry inside another": entry(1, offset=2),
    "entries at one place": entry(1, offset=0),
    "entry twice": entry(1, key="layers.0.self_attn.q_proj.weight"),
    "entry renamed": entry(1, key="layers.0.self_attn.z_proj.weight"),
    "entry of rank 1": entry(0, shape=[6144]),
    "entry of rank 3": entry(0, shape=[8, 8, 96]),
    "entry of rank 0": entry(0, shape=[]),
    "entry of rank 9": entry(0, shape=[1] * 9),
    "entry with a zero dimension": entry(0, shape=[0, 96], length=0),
    "entry with a negative dimension": entry(0, shape=[-64, -96]),
    "entry with a fractional dimension": entry(0, shape=[64.0, 96]),
    "entry with a boolean dimension": entry(0, shape=[True, 96]),
    "entry whose product wraps to 4": entry(
        0, shape=[4194305, 4194305, 211106198978564], length=16
    ),
    "entry whose two-dimensional product wraps": entry(0, shape=[2**31, 2**31], length=0),
    "entry with three bytes an element": entry(0, length=64 * 96 * 3),
    "entry transposed": entry(1, shape=[96, 32]),
    "entry of an unknown kind": entry(0, kind="tensor_q4k"),
    "entry as a vector": entry(0, kind="vector"),
    **{f"entry offset {value:.3g}": entry(0, offset=value) for value in HUGE[:5]},
    **{f"entry length {value:.3g}": entry(0, length=value) for value in HUGE[:5]},
    "entry offset beyond any size": entry(0, offset=10**400),
    "entry offset a string": entry(0, offset="0"),
    "entry offset null": entry(0, offset=None),
    "entry in the gate file": entry(0, file="gate_vectors.bin"),
    "entry in down_meta": entry(0, file="down_meta.bin"),
    "entry in no file": entry(0, file="absent.bin"),
    **{
        f"entry in {name!r}": entry(0, file=name)
        for name in ("../outside.bin", "/etc/hostname", "a/b", "..", ".", "a\\b", "a\0b", "é.bin")
    },
    "gate a directory": non_file("gate_vectors.bin", lambda path: path.mkdir()),
    "gate a pipe": non_file("gate_vectors.bin", os.mkfifo),
    "gate a device": non_file("gate_vectors.bin", lambda path: path.symlink_to("/dev/zero")),
    "gate a link to itself": non_file("gate_vectors.bin", lambda path: path.symlink_to(path)),
    "norms a link out": non_file("norms.bin", lambda path: path.symlink_to("/etc/hostname")),
    "index a directory": non_file(files.INDEX, lambda path: path.mkdir()),
    "index a pipe": non_file(files.INDEX, os.mkfifo),
    "tokenizer a directory": non_file(files.TOKENIZER, lambda path: path.mkdir()),
    "tokenizer cut": truncate(files.TOKENIZER, 5000),
    "tokenizer nonsense": replace(files.TOKENIZER, b"\xff\xfe"),
    "tokenizer_config an array": replace(files.TOKENIZER_CONFIG, b"[]"),
    "token texts of another size": replace(tokens.FILE, struct.pack("<4sII", b"LQTT", 1, 5)),
    "token texts of another kind": replace(tokens.FILE, b"LQTX" + bytes(4000)),
    "down_meta of other layers": replace(
        files.DOWN_META, struct.pack("<4sIIIII", b"TEMD", 1, 2, 10, 0, 0)
    ),
    "down_meta with other widths": replace(
        files.DOWN_META,
        struct.pack("<4sIII", b"TEMD", 1, 4, 1) + (struct.pack("<I", 1) + bytes(16)) * 4,
    ),
}


def touch(path: Path) -> None:
    """Open, read everything a query could, and read the side files."""
    from vindex.store import open_vindex

    open_and_read(path)
    with open_vindex(path) as vx:
        _ = vx.tokenizer_config, vx.generation_config, vx.chat_template


def test_the_undamaged_ones_are_whole(sealed: Path, bare: Path) -> None:
    for path in (sealed, bare):
        touch(path)
        assert verify(path).ok


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_of_an_unsealed_vindex_is_refused(damage: Damage, bare: Path) -> None:
    damage(bare)
    with pytest.raises((VindexInvalid, VindexIncomplete, Unsupported, VindexNotFound)) as caught:
        touch(bare)
    assert caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_of_a_sealed_vindex_is_refused_and_found(damage: Damage, sealed: Path) -> None:
    damage(sealed)
    with pytest.raises((VindexInvalid, VindexIncomplete, VindexNotFound)):
        touch(sealed)
    if (sealed / files.INDEX).exists():
        report = verify(sealed)
        assert not report.ok
        with pytest.raises(VerifyFailed, match="is damaged"):
            report.raise_if_damaged()


@pytest.mark.parametrize(
    "name",
    [
        *BINARIES,
        files.INDEX,
        files.MANIFEST,
        files.CONFIG,
        files.TOKENIZER,
        files.TOKENIZER_CONFIG,
        files.SEAL,
    ],
)
def test_verify_finds_any_flipped_bit(name: str, sealed: Path) -> None:
    data = (sealed / name).read_bytes()
    rng = random.Random(name)
    for position in [0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(4))]:
        flipped = bytearray(data)
        flipped[position] ^= 1 << rng.randrange(8)
        (sealed / name).write_bytes(flipped)
        report = verify(sealed)
        assert not report.ok, position
        if name != files.SEAL:
            (status,) = (file for file in report.files if file.name == name)
            assert status.failed or report.problems, position
    (sealed / name).write_bytes(data)
    assert verify(sealed).ok


@pytest.mark.parametrize("seed", range(SEEDS))
def test_mutated_json_never_crashes(seed: int, bare: Path) -> None:
    """Values swapped for others of every type, keys dropped or doubled, bytes flipped."""
    rng = random.Random(seed)
    name = rng.choice([files.INDEX, files.MANIFEST, files.CONFIG])
    path = bare / name
    if rng.random() < 0.3:
        data = bytearray(path.read_bytes())
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
    else:
        edit_json(path, lambda document: _mutate(document, rng))
    with contextlib.suppress(VindexError):
        touch(bare)


ODD_VALUES: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    2,
    95,
    97,
    1.5,
    -0.0,
    1e308,
    *HUGE,
    "",
    "f16",
    "..",
    [],
    [0],
    {},
    {"a": 1},
]


def _mutate(document: Any, rng: random.Random) -> None:
    """Change one random place of a JSON document."""
    while True:
        keys = list(document) if isinstance(document, dict) else range(len(document))
        key = rng.choice(list(keys))
        child = document[key]
        if isinstance(child, dict | list) and child and rng.random() < 0.8:
            document = child
            continue
        match rng.randrange(4):
            case 0:
                del document[key]
            case 1 if isinstance(document, list):
                document.append(child)
            case _:
                document[key] = rng.choice(ODD_VALUES)
        return


def test_a_file_cut_after_opening_is_noticed_by_whoever_checks(bare: Path) -> None:
    """The one thing mapping cannot survive is a file cut while it is open; see the README.

    A process of its own proves that cutting *before* opening never gets that far.
    """
    code = (
        "import sys, os\n"
        "from tests.unit.vindex_files import open_and_read\n"
        "from vindex.errors import VindexError\n"
        "from pathlib import Path\n"
        "path = Path(sys.argv[1])\n"
        "for name in sorted(os.listdir(path)):\n"
        "    size = (path / name).stat().st_size\n"
        "    data = (path / name).read_bytes()\n"
        "    for cut in (0, 1, size // 3, size // 2, size - 1):\n"
        "        os.truncate(path / name, cut)\n"
        "        try:\n"
        "            open_and_read(path)\n"
        "        except VindexError:\n"
        "            pass\n"
        "        (path / name).write_bytes(data)\n"
        "open_and_read(path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bare)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_verify_reports_numbers_that_are_not_finite(bare: Path) -> None:
    weights = np.fromfile(bare / "up_weights.bin", np.uint16)
    weights[[5, 6]] = 0x7E00, 0xFC00
    weights.tofile(bare / "up_weights.bin")
    edit_json(bare / files.INDEX, lambda document: document.pop("checksums"))
    report = verify(bare)
    assert report.problems == (
        "layers.0.mlp.up_proj.weight holds 2 values that are NaN or infinite",
    )


def test_verify_reports_token_ids_beyond_the_vocabulary(bare: Path) -> None:
    data = bytearray((bare / files.DOWN_META).read_bytes())
    data[28:32] = (384).to_bytes(4, "little")
    (bare / files.DOWN_META).write_bytes(data)
    edit_json(bare / files.INDEX, lambda document: document.pop("checksums"))
    assert [problem for problem in verify(bare).problems if "outside the vocabulary" in problem]


def test_verify_of_larqls_vindex_uses_its_checksums(tmp_path: Path) -> None:
    path = copy_golden("llama_h96.f16", tmp_path / "v")
    report = verify(path)
    assert report.ok
    assert not report.sealed
    status = {file.name: file.status for file in report.files}
    assert status["gate_vectors.bin"] is Status.OK
    assert status["tokenizer.json"] is Status.UNSEALED
    gate = bytearray((path / "gate_vectors.bin").read_bytes())
    gate[1] ^= 1
    (path / "gate_vectors.bin").write_bytes(gate)
    (path / "norms.bin").unlink()
    damaged = {file.name: file.status for file in verify(path).files if file.failed}
    assert damaged == {"gate_vectors.bin": Status.DAMAGED, "norms.bin": Status.MISSING}


def test_verify_needs_a_vindex(tmp_path: Path) -> None:
    with pytest.raises(VindexNotFound):
        verify(tmp_path)


def test_a_foreign_file_in_a_sealed_vindex_is_shown(sealed: Path) -> None:
    (sealed / "notes.txt").write_text("mine")
    report = verify(sealed)
    assert report.ok
    assert [file.name for file in report.files if file.status is Status.UNSEALED] == ["notes.txt"]


def test_a_seal_that_names_a_path_is_refused(sealed: Path) -> None:
    edit_json(
        sealed / files.SEAL,
        lambda seal: seal["files"].update({"../../etc/hostname": {"size": 1, "sha256": "0" * 64}}),
    )
    with pytest.raises(VindexInvalid, match="no name of a sealed file"):
        touch(sealed)


def test_reading_hostile_numbers_allocates_nothing(bare: Path) -> None:
    """A terabyte promised by index.json costs no memory: sizes are compared first."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for value in HUGE[:3]:
        index(vocab_size=value)(bare)
        with pytest.raises(VindexError):
            touch(bare)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_json_written_by_the_damages_is_what_larql_could_have_written(bare: Path) -> None:
    """The edits go through ``json``; a plain rewrite must not count as damage."""
    for name in (files.INDEX, files.MANIFEST, files.CONFIG):
        edit_json(bare / name, lambda document: None)
        json.loads((bare / name).read_text())
    touch(bare)
