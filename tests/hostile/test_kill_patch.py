"""SAVE PATCH killed with SIGKILL at every file operation: the old patch or the new one."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.hostile.killing import killed_at, steps_of
from tests.unit.vindex_files import VINDEXES
from vindex.edits import PutFact
from vindex.patch import read_patch
from vindex.store import open_vindex


def facts_in(path: Path) -> int:
    """How many facts the patch holds; it must be whole."""
    with open_vindex(VINDEXES / "llama_h96.f16") as vindex:
        patch = read_patch(path, vindex)
    assert all(isinstance(operation, PutFact) for operation in patch.operations)
    return len(patch.operations)


def test_a_killed_save_leaves_the_old_patch_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "p.vlp"
    steps = steps_of("save", tmp_path, path)
    assert steps >= 6
    outcomes = []
    for number in range(1, steps + 1):
        assert killed_at(number, "save", tmp_path, path) == -signal.SIGKILL
        outcomes.append(facts_in(path))
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}
