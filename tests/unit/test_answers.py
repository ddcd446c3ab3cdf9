"""The background sidecar: whole or not at all, and part of the seal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vindex import commit, files, sidecar
from vindex.answers import AnswerBackground, file_name, read_background, write_background
from vindex.seal import read_seal
from vindex.store import open_vindex
from vindex.verify import verify

BACKGROUND = AnswerBackground(
    12,
    np.arange(6, dtype=np.int32).reshape(2, 3),
    np.array([[0.5, 0.25, 0.125], [1, 0, 0]], np.float32),
    1.5,
)


@pytest.fixture
def vindex(tmp_path: Path, data_dir: Path) -> Path:
    import lql

    target = tmp_path / "t.vindex"
    with lql.Session() as session:
        session.run(
            "EXTRACT MODEL :m INTO :t WITH BROWSE;",
            parameters={"m": data_dir / "golden/checkpoints/llama_h96", "t": target},
        )
    return target


def same(found: AnswerBackground | None) -> bool:
    return (
        found is not None
        and (found.entities, found.clear) == (BACKGROUND.entities, BACKGROUND.clear)
        and np.array_equal(found.ids, BACKGROUND.ids)
        and np.array_equal(found.shares, BACKGROUND.shares)
    )


def test_it_joins_the_seal_and_the_vindex_stays_whole(vindex: Path) -> None:
    for _ in range(2):  # the second one replaces the first
        write_background(vindex, "country", "x", BACKGROUND)
        assert same(read_background(vindex, "country", "x"))
        seal = read_seal(vindex)
        assert seal is not None
        assert file_name("country") in seal.sealed
        assert verify(vindex).ok
        open_vindex(vindex).close()
    assert not [path for path in vindex.iterdir() if path.name.startswith(".")]


def test_one_made_for_other_questions_is_not_there(vindex: Path) -> None:
    write_background(vindex, "country", "x", BACKGROUND)
    assert read_background(vindex, "country", "y") is None
    assert read_background(vindex, "city", "x") is None


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_torn_one_is_not_there(tmp_path: Path, keep: int) -> None:
    write_background(tmp_path, "country", "x", BACKGROUND)
    path = tmp_path / file_name("country")
    path.write_bytes(path.read_bytes()[:keep])
    assert read_background(tmp_path, "country", "x") is None


@pytest.mark.parametrize("change", [{"questions": 99}, {"clear": "x"}, {"kept": -3}, {"format": 9}])
def test_a_malformed_one_is_not_there(tmp_path: Path, change: dict[str, object]) -> None:
    write_background(tmp_path, "country", "x", BACKGROUND)
    path = tmp_path / file_name("country")
    head, _, payload = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps({**json.loads(head), **change}).encode() + b"\n" + payload)
    assert read_background(tmp_path, "country", "x") is None


def test_dying_between_the_renames_leaves_a_vindex_that_opens(
    vindex: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_background(vindex, "country", "x", BACKGROUND)
    real, calls = sidecar._replace, []

    for fatal in range(3):  # out of the seal, the file, into the seal
        copy = vindex.with_name(f"copy{fatal}.vindex")
        shutil.copytree(vindex, copy)
        calls.clear()

        def dying(path: Path, data: bytes, fatal: int = fatal) -> None:
            calls.append(path)
            if len(calls) > fatal:
                raise KeyboardInterrupt
            real(path, data)

        monkeypatch.setattr(sidecar, "_replace", dying)
        with pytest.raises(KeyboardInterrupt):
            write_background(copy, "country", "y", BACKGROUND)
        monkeypatch.setattr(sidecar, "_replace", real)
        open_vindex(copy).close()
        assert verify(copy).ok
        write_background(copy, "country", "y", BACKGROUND)
        assert same(read_background(copy, "country", "y"))


def test_a_directory_lock_is_waited_for(tmp_path: Path) -> None:
    with commit.directory_lock(tmp_path):
        pass
    with commit.directory_lock(tmp_path):
        assert files.SEAL not in {path.name for path in tmp_path.iterdir()}
