"""Input history on disk."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lql.repl.history import PrivateHistory, history_path


def saved(path: Path) -> list[str]:
    """What a new shell finds, oldest first."""
    return list(PrivateHistory(path).load_history_strings())[::-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "lql" / "history"


def test_entries_are_on_disk_as_soon_as_they_are_entered(path: Path) -> None:
    history = PrivateHistory(path)

    history.append_string("STATS;")

    assert saved(path) == ["STATS;"]


@pytest.mark.parametrize(
    "entry",
    ['INFER\n  "a"\n  TOP 5;', "+STATS;\n# no comment", "été 東京 \U0001f389", "\n\nSTATS;\n"],
)
def test_entries_of_several_lines_stay_whole(path: Path, entry: str) -> None:
    history = PrivateHistory(path)
    history.append_string("first")
    history.append_string(entry)
    history.append_string("last")

    assert saved(path) == ["first", entry, "last"]


def test_two_shells_share_the_file(path: Path) -> None:
    one, other = PrivateHistory(path), PrivateHistory(path)
    one.append_string("a")
    other.append_string("b")
    one.append_string("c")

    assert saved(path) == ["a", "b", "c"]


def test_text_after_a_space_is_not_kept(path: Path) -> None:
    history = PrivateHistory(path)
    history.append_string(' INFER "secret";')
    history.keep_unsent(' INFER "secret')

    assert history.get_strings() == []
    assert not path.exists()


def test_cleared_text_lasts_as_long_as_the_process(path: Path) -> None:
    history = PrivateHistory(path)
    history.append_string("STATS;")
    history.keep_unsent("half a statem")
    history.keep_unsent("half a statem")
    history.keep_unsent("  \n")

    assert history.get_strings() == ["STATS;", "half a statem"]
    assert saved(path) == ["STATS;"]


def test_only_the_user_can_read_the_file(path: Path) -> None:
    PrivateHistory(path).append_string("STATS;")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0


def test_where_nothing_can_be_written_history_lasts_as_long_as_the_process(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    history = PrivateHistory(tmp_path / "file" / "history")

    history.append_string("STATS;")
    history.append_string("SHOW LAYERS;")

    assert history.problem is not None
    assert history.get_strings() == ["STATS;", "SHOW LAYERS;"]


def test_a_history_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    history = PrivateHistory(tmp_path)

    assert list(history.load_history_strings()) == []
    assert history.problem is not None


def test_damaged_history_is_read_as_far_as_it_goes(path: Path) -> None:
    PrivateHistory(path).append_string("STATS;")
    with path.open("ab") as file:
        file.write(b"\n# torn\n+SHOW \xff\xfe")

    assert saved(path)[0] == "STATS;"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_STATE_HOME": "/var/state"}, "/var/state/lql/history"),
        ({"XDG_STATE_HOME": "relative"}, "HOME/.local/state/lql/history"),
        ({"XDG_STATE_HOME": ""}, "HOME/.local/state/lql/history"),
        ({}, "HOME/.local/state/lql/history"),
    ],
)
def test_history_is_kept_in_the_state_directory(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    assert history_path(environment) == Path(expected.replace("HOME", "/home/someone"))
