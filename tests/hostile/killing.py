"""Writing jobs in processes of their own that kill themselves with SIGKILL at a file operation.

``python -m tests.hostile.killing NUMBER JOB ROOT ARGUMENT…`` prepares a job, says ``ready``, does
it and prints how many steps it took. A step is a moment just before or after a change of the file
system below ROOT; at step NUMBER (from 1) the process kills itself. 0 counts them, -1 does not.

What changes the file system is announced to Python's audit hooks just before it happens; calls
that are not (``fsync``, ``renameat2`` by ctypes) are wrapped, and so are those after which the
state is a new one. Bytes that are written to an open file are no step: before the ``fsync`` that
follows they count for nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Job = Callable[[], object]

_CHANGES = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"),
    *("os.chmod", "os.chown", "os.utime", "os.setxattr", "fcntl.ioctl"),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts the changes of the file system below a directory, and ends the process at one."""

    def __init__(self, root: Path, last: int) -> None:
        self._root = str(root)
        self._last = last
        self.count = 0

    def step(self) -> None:
        """One more."""
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Count from now on."""
        from vindex import commit

        sys.addaudithook(self._hear)
        for module, names in (
            (os, ("fsync", "replace", "rename", "link")),
            (commit, ("_renameat2",)),
        ):
            for name in names:
                setattr(module, name, self._around(getattr(module, name)))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (
            event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & _WRITING
            and self._root in str(arguments[0])
        ):
            self.step()

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any, **named: Any) -> Any:
            self.step()
            result = function(*arguments, **named)
            self.step()
            return result

        return stepping


# --------------------------------------------------------------------------- jobs


def _extract(source: str, out: str, overwrite: str) -> Job:
    from vindex.checkpoint import open_checkpoint
    from vindex.extract import extract

    checkpoint = open_checkpoint(source)
    return lambda: extract(checkpoint, Path(out), overwrite=overwrite == "1")


def _save_patch(path: str) -> Job:
    """Two facts over a patch of one."""
    from vindex.edits import PutFact
    from vindex.patch import Base, Patch, write_patch

    def made(count: int) -> Patch:
        return Patch(Base("m", None, {}), tuple(PutFact(fact) for fact in _facts()[:count]))

    write_patch(Path(path), made(1))
    return lambda: write_patch(Path(path), made(2))


def _compile(base: str, out: str, overwrite: str) -> Job:
    """Two facts and an edited feature: into a GGUF file, a checkpoint (``.model``) or a vindex."""
    from vindex.compiling import compile_vindex
    from vindex.edited import EditedVindex
    from vindex.edits import FeatureEdit
    from vindex.export.directory import export_safetensors
    from vindex.export.gguf import export_gguf
    from vindex.store import open_vindex

    facts, target, replace = _facts(), Path(out), overwrite == "1"
    (key,) = facts[0].keys
    edited = EditedVindex(open_vindex(Path(base)), {(0, 3): FeatureEdit(gate=key, down=key)})
    match target.suffix:
        case ".gguf":
            return lambda: export_gguf(edited, target, overwrite=replace)
        case ".model":
            return lambda: export_safetensors(edited, target, overwrite=replace)
        case _:
            return lambda: compile_vindex(edited, facts, target, overwrite=replace)


def _merge(source: str, target: str) -> Job:
    from lql.session import Session

    session = Session()
    return lambda: session.run("MERGE :s INTO :t;", parameters={"s": source, "t": target})


def _facts() -> list[Any]:
    from vindex.edits import Fact, Vector

    key = Vector.of([1.0] * 96)
    return [Fact(1, name, "capital", "Oslo", 5, (key,)) for name in "ab"]


_JOBS: dict[str, Callable[..., Job]] = {
    "extract": _extract,
    "save": _save_patch,
    "compile": _compile,
    "merge": _merge,
}


def main(number: str, job: str, root: str, *arguments: str) -> None:
    """Prepare a job and do it; see the module."""
    do = _JOBS[job](*arguments)
    steps = Steps(Path(root), int(number))
    if int(number) >= 0:
        steps.watch()
    print("ready", flush=True)
    do()
    print(steps.count, flush=True)


# --------------------------------------------------------------------------- from outside


def start(job: str, root: Path, *arguments: object, number: int = -1) -> subprocess.Popen[str]:
    """A process that is about to do a job; what it prints after ``ready`` is in its stdout."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hostile.killing", str(number), job, str(root)]
        + [str(int(each)) if isinstance(each, bool) else str(each) for each in arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",  # caches of modules are no steps of the job
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def steps_of(job: str, root: Path, *arguments: object) -> int:
    """Do a job to its end; how many steps it takes."""
    process = start(job, root, *arguments, number=0)
    out, error = process.communicate()
    assert process.returncode == 0, error
    return int(out)


def killed_at(number: int, job: str, root: Path, *arguments: object) -> int:
    """Do a job up to a step; the process's exit status."""
    process = start(job, root, *arguments, number=number)
    process.communicate()
    return process.returncode


def chosen(steps: int, last: int, stride: int) -> Iterator[int]:
    """The last steps one by one, the earlier ones sampled; ``LQL_KILL_STEPS=all``: every one."""
    every = os.environ.get("LQL_KILL_STEPS") == "all"
    early = max(1, steps - last)
    yield from range(1, early, 1 if every else stride)
    yield from range(early, steps + 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
