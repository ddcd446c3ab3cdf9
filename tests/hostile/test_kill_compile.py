"""COMPILE killed with SIGKILL at every file operation: no target, or the whole one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.vindex_files import extract_golden
from vindex.checkpoint import CheckpointSource, open_checkpoint
from vindex.knn_store import read_knn_store
from vindex.store import open_vindex
from vindex.verify import verify

ROOT = Path(__file__).parents[2]

#: Compiles two facts and an edited feature; kills itself at the n-th change of the file system.
CHILD = """
import os, signal, sys
from pathlib import Path
from vindex import commit
from vindex.compiling import compile_vindex
from vindex.edited import EditedVindex
from vindex.edits import Fact, FeatureEdit, Vector
from vindex.store import open_vindex

base, out = map(Path, sys.argv[1:3])
overwrite, number = sys.argv[3] == "1", int(sys.argv[4])
key = Vector.of([1.0] * 96)
facts = [Fact(1, name, "capital", "Oslo", 5, (key,)) for name in "ab"]
opened = open_vindex(base)
edited = EditedVindex(opened, {(0, 3): FeatureEdit(gate=key, down=key)})
steps = 0
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}

def step():
    global steps
    steps += 1
    if steps == number:
        os.kill(os.getpid(), signal.SIGKILL)

def watch(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event in CHANGES or (writes and str(out.parent) in str(arguments[0])):
        step()

def stepping(function):
    def wrapped(*arguments):
        step()
        result = function(*arguments)
        step()
        return result
    return wrapped

sys.addaudithook(watch)
commit._renameat2 = stepping(commit._renameat2)
os.fsync = stepping(os.fsync)
if out.suffix == ".gguf":
    from vindex.export.gguf import export_gguf

    export_gguf(edited, out, overwrite=overwrite)
elif out.suffix == ".model":
    from vindex.export.directory import export_safetensors

    export_safetensors(edited, out, overwrite=overwrite)
else:
    compile_vindex(edited, facts, out, overwrite=overwrite)
print(steps, flush=True)
"""


def run(base: Path, out: Path, overwrite: bool, number: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(base), str(out), str(int(overwrite)), str(number)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


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
    _reset(base, out, overwrite)
    counted = run(base, out, overwrite, -1)
    assert counted.returncode == 0, counted.stderr
    steps = int(counted.stdout)
    assert steps >= 40
    assert facts_in(out) == 2
    outcomes = []
    for number in [*range(1, steps - 12, 5), *range(steps - 12, steps + 1)]:
        _reset(base, out, overwrite)
        done = run(base, out, overwrite, number)
        assert done.returncode == -signal.SIGKILL
        outcomes.append(facts_in(out) if out.exists() else None)
        assert verify(base).ok
    old = 0 if overwrite else None
    assert set(outcomes) == {old, 2}, outcomes
    assert outcomes == sorted(outcomes, key=lambda found: found == 2)
    # The next one clears away what the dead ones left.
    assert run(base, out, True, -1).returncode == 0
    assert os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("name", ["m.gguf", "m.model"])
def test_a_killed_compile_into_a_checkpoint_leaves_none_or_a_whole_one(
    name: str, tmp_path: Path
) -> None:
    base, out = tmp_path / "base", tmp_path / "place" / name
    extract_golden("llama_h96", base)
    out.parent.mkdir()
    counted = run(base, out, False, -1)
    assert counted.returncode == 0, counted.stderr
    steps = int(counted.stdout)
    outcomes = []
    for number in [*range(1, steps - 8, 4), *range(max(1, steps - 8), steps + 1)]:
        _reset(base, out, overwrite=False)
        assert run(base, out, False, number).returncode == -signal.SIGKILL
        outcomes.append(out.exists())
        if out.exists():
            with open_checkpoint(out) as found:
                CheckpointSource(found)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}
    assert run(base, out, True, -1).returncode == 0
    assert os.listdir(out.parent) == [name]


def _reset(base: Path, out: Path, overwrite: bool) -> None:
    shutil.rmtree(out.parent)  # with what killed ones left: removing that would be steps, too
    out.parent.mkdir()
    if overwrite:
        shutil.copytree(base, out)
