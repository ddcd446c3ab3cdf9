"""What the shell's commands do, typed into a shell on a pipe."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from lql.repl import actions
from lql.repl.showing import Screen, pager, show
from tests.repl.conftest import Typing


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def layers(text: str) -> list[str]:
    """The first words of the rows of SHOW LAYERS."""
    return [line.split()[0] for line in text.splitlines() if line.split()[2:3] == ["full"]] or [
        line.split()[0] for line in text.splitlines() if line.split()[1:2] == ["full"]
    ]


def test_a_script_runs_and_its_messages_name_it(typing: Typing) -> None:
    Path("two.lql").write_text("SHOW LAYERS 1-1;\nSHOW LAYERS :last-:last;\n")
    Path("bad.lql").write_text("STATS;\nSHOW LAYRS;\n")

    out = typing('\\set last 2\r\\i two.lql\r\\i "bad.lql"\r\\i none.lql\r')

    assert layers(out) == ["1", "2"]
    assert "bad.lql:2:6" in typing.err.getvalue()
    assert "cannot read none.lql: no such file" in typing.err.getvalue()


def test_results_go_to_a_file_and_back_and_nothing_in_it_is_lost(typing: Typing) -> None:
    Path("out.txt").write_text("mine\n")

    out = typing("\\o out.txt\rSHOW LAYERS 1-1;\rSHOW LAYERS 2-2;\r\\o\rSHOW LAYERS 3-3;\r")

    assert layers(out) == ["3"]
    assert Path("out.txt").read_text().startswith("mine\n")
    assert layers(Path("out.txt").read_text()) == ["1", "2"]
    assert "results go to out.txt, at its end" in typing.err.getvalue()


def test_once_takes_one_result(typing: Typing) -> None:
    out = typing("\\once one.json\r\\format json\rSHOW LAYERS 1-1; SHOW LAYERS 2-2;\r")

    assert json.loads(Path("one.json").read_text())[0]["layer"] == 1
    assert json.loads(out)[0]["layer"] == 2


def test_tee_copies(typing: Typing) -> None:
    out = typing("\\tee log.txt\rSHOW LAYERS 1-1;\r\\tee\rSHOW LAYERS 2-2;\r")

    assert layers(out) == ["1", "2"]
    assert layers(Path("log.txt").read_text()) == ["1"]


def test_a_file_that_cannot_be_written_is_said(typing: Typing) -> None:
    typing("\\o no/such/file\rSTATS;\r")

    assert "cannot write no/such/file" in typing.err.getvalue()


def test_variables_are_set_listed_and_forgotten(typing: Typing) -> None:
    out = typing(
        "\\set a 1\r\\set b 'x; y'\r\\set\r\\unset a\r\\set\rSHOW LAYERS :a-1;\r\\unset c\r"
    )

    assert out.splitlines() == ["a = 1", "b = x; y", "b = x; y"]
    assert "LQL0201" in typing.err.getvalue()
    assert 'no variable is called "c"' in typing.err.getvalue()


def test_the_last_result_is_shown_again_in_any_format(typing: Typing) -> None:
    out = typing("SHOW LAYERS 1-1;\r\\last json\r\\last\r")

    assert layers(out) == ["1", "1"]
    assert '[{"layer": 1' in out


def test_expanded_rows(typing: Typing) -> None:
    out = typing("\\x on\rSHOW LAYERS 1-1;\r\\x auto\rSHOW LAYERS 2-2;\r\\x\r")

    lines = out.splitlines()
    assert lines[0].startswith("── row 1 ")
    assert lines[1].split() == ["layer", "1"]
    assert layers("\n".join(lines[-3:])) == ["2"]
    assert typing.err.getvalue().endswith("expanded on\n")


def test_history_is_listed_and_searched(typing: Typing) -> None:
    out = typing("SHOW LAYERS 1-1;\r\\history layers\r\\history nothing like it\r")

    assert out.splitlines()[-1] == "SHOW LAYERS 1-1;"
    assert 'nothing that was typed holds "nothing like it"' in typing.err.getvalue()


def test_tables_and_their_columns_are_listed(typing: Typing) -> None:
    out = typing("\\d\r\\d features\r\\d festures\r")

    assert "EDGES" in out
    assert "token_id" in out
    assert "did you mean FEATURES?" in typing.err.getvalue()


def test_info_tells_versions_and_what_is_open(typing: Typing) -> None:
    out = typing("\\info\r")

    assert "packages.torch" in out
    assert "tiny.vindex" in out


def test_an_editors_text_stands_at_the_next_prompt(
    typing: Typing, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = Path("editor.py")
    editor.write_text(
        "import pathlib, sys; p = pathlib.Path(sys.argv[1]);"
        "p.write_text(p.read_text().replace('1-1', '2-2') + '\\n')"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {editor.resolve()}")
    monkeypatch.delenv("VISUAL", raising=False)

    out = typing("SHOW LAYERS 1-1;\r\\e\r\r")

    assert layers(out) == ["1", "2"]


def test_an_editor_that_fails_changes_nothing(
    typing: Typing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "false")
    typing("STATS;\r\\e\r")
    monkeypatch.setenv("VISUAL", "/no/such/editor")
    typing("\\e\r")

    assert "the editor false ended with code 1, and nothing was taken" in typing.err.getvalue()
    assert "cannot start the editor /no/such/editor" in typing.err.getvalue()


def test_watch_runs_again_until_ctrl_c(typing: Typing, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(actions.time, "sleep", sleep)
    monkeypatch.setattr(actions.watch, "__defaults__", (sleep,))
    out = typing("SHOW LAYERS 1-1;\r\\watch 0.5\r\\watch x\r\\watch 0\r")

    assert naps == [0.5] * 3
    assert layers(out) == ["1"] * 4
    assert typing.err.getvalue().count("every 500 ms") == 3
    assert '"x" is no number of seconds' in typing.err.getvalue()


@pytest.mark.parametrize("command", ["\\i", "\\once"])
def test_a_command_that_needs_a_file_says_so(command: str, typing: Typing) -> None:
    typing(f"{command}\r")

    assert f"{command} takes the name of a file" in typing.err.getvalue()


@pytest.mark.parametrize(
    ("text", "paged"),
    [
        ("x\n" * 17, False),
        ("x\n" * 18, True),
        ("x" * 16 * 40 + "\n", False),
        ("x" * 18 * 40 + "\n", True),
        ("漢" * 9 * 40 + "\n", True),  # two cells each
    ],
)
def test_the_pager_comes_only_where_a_text_does_not_fit(
    text: str, paged: bool, tmp_path: Path
) -> None:
    seen: list[str] = []

    def page(shown: str) -> bool:
        seen.append(shown)
        return True

    with (tmp_path / "out").open("w") as out:
        show(text, Screen(out, 40, 20, page))
        show(text, Screen(out, None, None, page))

    assert bool(seen) is paged
    assert (tmp_path / "out").read_text() == text * (1 if paged else 2)


def test_a_pager_that_is_missing_or_unwanted_leaves_the_text_to_the_terminal() -> None:
    missing = pager({**os.environ, "PAGER": "/no/such/pager"})

    assert missing is not None
    assert missing("text") is False
    assert pager({"PAGER": ""}) is None
    assert pager({"PAGER": "cat"}) is None
