"""The shell as a whole, typed into through a pipe."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lql.repl.app import ReplOptions
from lql.repl.history import history_path
from lql.results import Result
from tests.repl.conftest import Typing

NEWLINE = "\x1b\r"  # Alt-Enter
CTRL_A, CTRL_C, CTRL_D, CTRL_E = "\x01", "\x03", "\x04", "\x05"


def paste(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


def saved() -> list[str]:
    """The history on disk, oldest first."""
    path = history_path(os.environ)
    if not path.exists():
        return []
    entries = path.read_text(encoding="utf-8").split("\n# ")[1:]
    return ["\n".join(line[1:] for line in entry.split("\n")[1:] if line) for entry in entries]


def test_a_statement_runs_and_shows_its_table(typing: Typing) -> None:
    out = typing("SHOW LAYERS 1-2;\r")

    lines = out.splitlines()
    assert lines[0].split()[:2] == ["layer", "attention"]
    assert [line.split()[0] for line in lines[2:]] == ["1", "2"]
    assert typing.bugs == []


def test_a_statement_needs_no_semicolon_on_one_line(typing: Typing) -> None:
    assert "layer" in typing("SHOW LAYERS\r")


def test_enter_goes_on_where_a_statement_is_unfinished(typing: Typing) -> None:
    out = typing("SHOW\rLAYERS\r1-1;\r")

    assert [line.split()[0] for line in out.splitlines()[2:]] == ["1"]
    assert saved() == ["SHOW\nLAYERS\n1-1;"]


def test_a_message_counts_every_line_of_a_paste(typing: Typing) -> None:
    typing(paste("\\timing off\nSTATS;\n\\timing on\n\nSHOW LAYERS 99;") + "\r")

    assert "<input>:5:13" in typing.err.getvalue()
    assert "5 | SHOW LAYERS 99;" in typing.err.getvalue()


def test_ctrl_c_clears_what_is_typed(typing: Typing) -> None:
    out = typing(f"SHOW LAYERS;{CTRL_C}SHOW LAYERS 1-1;\r")

    assert [line.split()[0] for line in out.splitlines()[2:]] == ["1"]
    assert saved() == ["SHOW LAYERS 1-1;"]


def test_ctrl_c_right_after_enter_stops_what_enter_began(typing: Typing) -> None:
    assert typing(f"SHOW LAYERS;\r{CTRL_C}") == ""
    assert "cancelled\n" in typing.err.getvalue()


def test_alt_enter_always_begins_a_new_line(typing: Typing) -> None:
    typing(f"STATS{NEWLINE};\r")

    assert saved() == ["STATS\n;"]
    assert typing.err.getvalue().count("error") == 0


def test_a_wrong_statement_runs_to_be_told_why(typing: Typing) -> None:
    out = typing("SHOW LAYRS;\rSHOW LAYERS 0-0;\r")

    assert "error[LQL0104]" in typing.err.getvalue()
    assert "did you mean LAYERS" in typing.err.getvalue()
    assert "<input>:1:6" in typing.err.getvalue()
    assert len(out.splitlines()) == 3  # the next statement ran


def test_a_paste_runs_only_with_enter(typing: Typing) -> None:
    assert typing(paste("SHOW LAYERS;\nSHOW LAYERS;\n") + CTRL_C) == ""
    assert saved() == []


def test_a_paste_runs_all_its_statements_in_order(typing: Typing) -> None:
    text = "SHOW LAYERS 2-2;\n-- a remark\nSHOW LAYERS\n  0-0;\n\\format json\nSHOW LAYERS 3-3;"
    out = typing(paste(text) + "\r")

    *tables, last = out.splitlines()
    assert [line.split()[0] for line in tables if line.split()[1:2] == ["full"]] == ["2", "0"]
    assert json.loads(last)[0]["layer"] == 3
    assert saved() == [text]


def test_a_paste_stops_at_the_first_failure(typing: Typing) -> None:
    out = typing(paste("SHOW LAYERS 2-2;\nSHOW LAYERS 99;\nSHOW LAYERS 3-3;\n\\format json") + "\r")

    assert len(out.splitlines()) == 3
    assert "1 statement after it did not run" in typing.err.getvalue()
    assert "format json" not in typing.err.getvalue()


def test_a_paste_with_a_syntax_error_runs_nothing(typing: Typing) -> None:
    assert typing(paste("SHOW LAYERS;\nSHOW LAYRS;") + "\r") == ""


def test_ctrl_c_without_text_says_how_to_leave(typing: Typing) -> None:
    typing(CTRL_C)

    assert "Ctrl-D or \\q leaves\n" in typing.err.getvalue()


def test_history_that_cannot_be_saved_is_said_once(
    typing: Typing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lql").write_text("no directory")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    typing("STATS;\rSTATS;\rSTATS;\r")

    assert typing.err.getvalue().count("history is not saved") == 1


@pytest.mark.parametrize("line", ["exit", "quit;", "\\q", "QUIT"])
def test_leaving_by_word(line: str, typing: Typing) -> None:
    assert typing(f"{line}\rSHOW LAYERS;\r") == ""


def test_ctrl_d_leaves_only_where_nothing_is_typed(typing: Typing) -> None:
    out = typing(f"XSHOW LAYERS;{CTRL_A}{CTRL_D}{CTRL_E}\r")

    assert out.startswith("layer")


def test_what_is_pasted_after_leaving_does_not_run(typing: Typing) -> None:
    assert typing(paste("\\q\nSHOW LAYERS;") + "\r") == ""


def test_a_command_that_is_wrong_leaves_the_shell_as_it_was(typing: Typing) -> None:
    out = typing("\\fromat json\r\\format jsonn\rSHOW LAYERS 1-1;\r")

    assert out.startswith("layer")
    assert "did you mean \\format?" in typing.err.getvalue()
    assert "did you mean json?" in typing.err.getvalue()


def test_timing_follows_each_result(typing: Typing) -> None:
    typing("\\timing on\rSHOW LAYERS 1-2;\r\\timing off\rSHOW LAYERS;\r")

    assert typing.err.getvalue().count("2 rows, ") == 1
    assert typing.err.getvalue().count(" rows, ") == 1


def test_parameters_are_bound_where_they_occur(typing: Typing) -> None:
    typing.options = ReplOptions(parameters={"from": "1", "to": "2"})

    out = typing("SHOW LAYERS :from-:to;\rSTATS;\r")

    assert "error" not in typing.err.getvalue()
    assert out.splitlines()[3].split()[0] == "2"


def test_an_unbound_parameter_is_an_error(typing: Typing) -> None:
    typing("INFER :prompt;\r")

    assert "error[LQL0201]" in typing.err.getvalue()


def test_the_shell_outlives_a_bug(typing: Typing, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*arguments: object, **options: object) -> Result:
        raise ZeroDivisionError("a bug")

    execute = typing.session.execute
    monkeypatch.setattr(typing.session, "execute", crash)
    typing("STATS;\r")
    monkeypatch.setattr(typing.session, "execute", execute)

    assert [str(bug) for bug in typing.bugs] == ["a bug"]
    assert typing("SHOW LAYERS 1-1;\r").splitlines()[-1].split()[0] == "1"


def test_the_banner_says_how_to_get_help_and_out(typing: Typing) -> None:
    typing("")

    first = typing.err.getvalue().splitlines()[0]
    assert first.startswith("lql ")
    assert "help" in first
    assert "Ctrl-D" in first
