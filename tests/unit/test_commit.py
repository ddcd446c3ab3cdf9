"""Publication: all of a directory or nothing, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vindex import commit
from vindex.commit import Stage, remove_leftovers, write_file
from vindex.errors import TargetExists, VindexError


def fill(stage: Stage, text: str = "new") -> None:
    write_file(stage.path / "file", text.encode())


def stages(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if ".stage-" in path.name]


@pytest.fixture(params=[True, False], ids=["renameat2", "plain"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A target, with and without the system call that renames without replacing."""
    if not request.param:
        monkeypatch.setattr(commit, "_renameat2", lambda *arguments: False)
    return tmp_path / "out"


def old(target: Path) -> Path:
    target.mkdir()
    (target / "file").write_text("old")
    (target / "other").write_text("old")
    return target


def test_nothing_bears_the_name_before_publish(target: Path) -> None:
    with Stage(target, overwrite=False) as stage:
        fill(stage)
        assert not target.exists()
        assert stage.path.parent == target.parent
        stage.publish()
        assert (target / "file").read_text() == "new"
    assert os.listdir(target.parent) == ["out"]


def test_leaving_without_publishing_removes_the_stage(target: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Stage(target, overwrite=False) as stage:  # noqa: PT012
        fill(stage)
        raise KeyboardInterrupt
    assert os.listdir(target.parent) == []


def test_an_existing_target_is_refused(target: Path) -> None:
    old(target)
    with pytest.raises(TargetExists, match="exists") as caught:
        Stage(target, overwrite=False)
    assert caught.value.hint is not None
    assert "OVERWRITE" in caught.value.hint
    assert (target / "file").read_text() == "old"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_only_a_directory_is_overwritten(kind: str, target: Path) -> None:
    if kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(target.parent)
    with pytest.raises(TargetExists, match="not a directory"):
        Stage(target, overwrite=True)


def test_overwriting_replaces_the_whole_directory(target: Path) -> None:
    old(target)
    with Stage(target, overwrite=True) as stage:
        fill(stage)
        assert (target / "other").read_text() == "old"
        stage.publish()
    assert os.listdir(target) == ["file"]
    assert (target / "file").read_text() == "new"
    assert os.listdir(target.parent) == ["out"]


def test_overwriting_nothing_just_publishes(target: Path) -> None:
    with Stage(target, overwrite=True) as stage:
        fill(stage)
        stage.publish()
    assert os.listdir(target.parent) == ["out"]


def test_a_target_that_appears_meanwhile_is_not_touched(target: Path) -> None:
    with Stage(target, overwrite=False) as stage:
        fill(stage)
        old(target)
        with pytest.raises(TargetExists, match="another process"):
            stage.publish()
    assert (target / "file").read_text() == "old"
    assert os.listdir(target.parent) == ["out"]


@pytest.mark.parametrize("existing", [False, True])
def test_a_failing_rename_leaves_the_target_as_it_was(
    existing: bool, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if existing:
        old(target)
    real = os.rename

    def failing(source: Path, destination: Path) -> None:
        if Path(destination) == target and Path(source).name.startswith(".out.stage-"):
            moved_aside = (Path(source) / "other").exists()
            if not moved_aside:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, destination)

    monkeypatch.setattr(commit, "_renameat2", lambda *arguments: False)
    monkeypatch.setattr(os, "rename", failing)
    with Stage(target, overwrite=existing) as stage:
        fill(stage)
        with pytest.raises(VindexError, match="Input/output error"):
            stage.publish()
    assert os.listdir(target.parent) == (["out"] if existing else [])
    assert not existing or (target / "other").read_text() == "old"


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "Read-only file system")]
)
def test_a_failing_sync_is_final(
    number: int, message: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(number, os.strerror(number))

    with Stage(target, overwrite=False) as stage:
        fill(stage)
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(VindexError, match=message):
            stage.publish()
    assert len(calls) == 1
    assert os.listdir(target.parent) == []


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(VindexError, match="there is no directory") as caught:
        Stage(tmp_path / "no" / "out", overwrite=False)
    assert caught.value.hint is not None
    assert "mkdir" in caught.value.hint


def test_leftovers_of_the_dead_are_removed_and_no_others(target: Path) -> None:
    """A killed process loses its lock; a living one, another target's stage and files do not."""
    code = f"""
        import os, signal
        from pathlib import Path
        from vindex.commit import Stage
        stage = Stage(Path({str(target)!r}), overwrite=False)
        (stage.path / "half").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -9
    (dead,) = stages(target.parent)
    (target.parent / f".other.stage-{'0' * 32}").mkdir()
    (target.parent / ".out.stage-short").mkdir()
    (target.parent / f".out.stage-{'1' * 32}").write_text("a file")
    with Stage(target, overwrite=False) as living:
        assert not dead.exists()
        assert remove_leftovers(target) == []
        with Stage(target, overwrite=False) as another:
            assert living.path.exists()
            fill(another, "second")
            another.publish()
        with pytest.raises(TargetExists):
            living.publish()
    assert sorted(os.listdir(target.parent)) == sorted(
        [f".other.stage-{'0' * 32}", ".out.stage-short", f".out.stage-{'1' * 32}", "out"]
    )


def test_a_relative_target_is_resolved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Stage(Path("out"), overwrite=False) as stage:
        fill(stage)
        monkeypatch.chdir("/")
        stage.publish()
    assert (tmp_path / "out" / "file").exists()


def test_write_file_does_not_replace(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "x", b"new")
