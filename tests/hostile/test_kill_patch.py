"""SAVE PATCH killed with SIGKILL at every file operation: the old patch or the new one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.unit.vindex_files import VINDEXES
from vindex.edits import PutFact
from vindex.patch import read_patch
from vindex.store import open_vindex

ROOT = Path(__file__).parents[2]

#: Writes a patch of two facts over one of one fact; kills itself before the n-th operation.
CHILD = """
import os, signal, sys
from pathlib import Path
from vindex import commit, patch
from vindex.edits import Fact, PutFact, Vector

path, number = Path(sys.argv[1]), int(sys.argv[2])
facts = [Fact(1, name, "capital", "Oslo", 5, (Vector(b"\\0\\0\\0\\0" * 96),)) for name in "ab"]

def made(count):
    return patch.Patch(patch.Base("m", None, {}), tuple(PutFact(f) for f in facts[:count]))

patch.write_patch(path, made(1))
steps = 0

def step():
    global steps
    steps += 1
    if steps == number:
        os.kill(os.getpid(), signal.SIGKILL)

def watch(event, arguments):
    if event in ("os.rename", "os.remove", "os.truncate"):
        step()
    if event == "open" and str(path.parent) in str(arguments[0]):
        step()

def stepping(function):
    def wrapped(*arguments, **named):
        step()
        result = function(*arguments, **named)
        step()
        return result
    return wrapped

sys.addaudithook(watch)
os.fsync = stepping(os.fsync)
os.replace = stepping(os.replace)
patch.write_patch(path, made(2))
print(steps, flush=True)
"""


def run(path: Path, number: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(number)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def facts_in(path: Path) -> int:
    """How many facts the patch holds; it must be whole."""
    with open_vindex(VINDEXES / "llama_h96.f16") as vindex:
        patch = read_patch(path, vindex)
    assert all(isinstance(operation, PutFact) for operation in patch.operations)
    return len(patch.operations)


def test_a_killed_save_leaves_the_old_patch_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "p.vlp"
    counted = run(path, -1)
    assert counted.returncode == 0, counted.stderr
    steps = int(counted.stdout)
    assert steps >= 6
    outcomes = []
    for number in range(1, steps + 1):
        done = run(path, number)
        assert done.returncode == -signal.SIGKILL
        outcomes.append(facts_in(path))
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}
