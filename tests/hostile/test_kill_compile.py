"""COMPILE and MERGE INTO killed with SIGKILL at file operations: the old state or the new one.

``LQL_KILL_STEPS=all`` tries every operation; otherwise the earlier ones are sampled.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.hostile.killing import chosen, killed_at, start, steps_of
from tests.unit.vindex_files import extract_golden
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.knn_store import read_knn_store
from vindex.store import open_vindex
from vindex.verify import verify


def facts_in(path: Path) -> int:
    """How many facts the vindex holds; it must be whole."""
    assert verify(path).ok
    with open_vindex(path) as vindex:
        return len(read_knn_store(vindex.path, vindex.index))


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_a_killed_compile_leaves_the_old_state_or_the_new_one(
    overwrite: bool, tmp_path: Path
) -> None:
    base, out = tmp_path / "base", tmp_path / "place" / "out"
    extract_golden("llama_h96", base)
    out.parent.mkdir()
    _reset(out, base if overwrite else None)
    job = ("compile", out.parent, base, out, overwrite)
    steps = steps_of(*job)
    assert steps >= 40
    assert facts_in(out) == 2
    outcomes = []
    for number in chosen(steps, 12, 5):
        _reset(out, base if overwrite else None)
        assert killed_at(number, *job) == -signal.SIGKILL
        outcomes.append(facts_in(out) if out.exists() else None)
        assert verify(base).ok
    old = 0 if overwrite else None
    assert set(outcomes) == {old, 2}, outcomes
    assert outcomes == sorted(outcomes, key=lambda found: found == 2)
    # The next one clears away what the dead ones left.
    assert start("compile", out.parent, base, out, True).wait() == 0
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("name", ["m.gguf", "m.model"])
def test_a_killed_compile_into_a_checkpoint_leaves_none_or_a_whole_one(
    name: str, tmp_path: Path
) -> None:
    base, out = tmp_path / "base", tmp_path / "place" / name
    extract_golden("llama_h96", base)
    out.parent.mkdir()
    job = ("compile", out.parent, base, out, False)
    steps = steps_of(*job)
    outcomes = []
    for number in chosen(steps, 8, 4):
        _reset(out, None)
        assert killed_at(number, *job) == -signal.SIGKILL
        outcomes.append(out.exists())
        if out.exists():
            with open_checkpoint(out) as found:
                CheckpointSource(found)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}
    assert start("compile", out.parent, base, out, True).wait() == 0
    assert os.listdir(out.parent) == [name]


def test_a_killed_merge_leaves_the_old_target_or_the_new_one(tmp_path: Path) -> None:
    base, edited, out = tmp_path / "base", tmp_path / "edited", tmp_path / "place" / "out"
    extract_golden("llama_h96", base)
    assert start("compile", tmp_path, base, edited, False).wait() == 0
    out.parent.mkdir()
    job = ("merge", out.parent, edited, out)
    _reset(out, base)
    assert start(*job).wait() == 0  # what it caches beside the source is no step of the others
    _reset(out, base)
    steps = steps_of(*job)
    assert facts_in(out) == 2
    outcomes = []
    for number in chosen(steps, 12, 5):
        _reset(out, base)
        assert killed_at(number, *job) == -signal.SIGKILL
        outcomes.append(facts_in(out))
        assert facts_in(edited) == 2
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {0, 2}
    shutil.rmtree(out)
    shutil.copytree(base, out)
    assert start(*job).wait() == 0
    assert os.listdir(out.parent) == ["out"]


def _reset(out: Path, old: Path | None) -> None:
    shutil.rmtree(out.parent)  # with what killed ones left: removing that would be steps, too
    out.parent.mkdir()
    if old is not None:
        shutil.copytree(old, out)
