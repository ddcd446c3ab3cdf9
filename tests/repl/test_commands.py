"""The table of the shell's own commands, and what they do."""

from __future__ import annotations

import io

import pytest

from lql.errors import LqlUsageError
from lql.render import Format
from lql.repl.commands import COMMANDS, Argument, Call, Outcome, call_of, dispatch, find, values
from lql.repl.keys import KEYS
from lql.repl.shell import Shell
from lql.report import Reporter


@pytest.fixture
def shell() -> Shell:
    return Shell(Reporter(io.StringIO(), io.StringIO(), timing=True), keys=KEYS)


def run(shell: Shell, line: str) -> Outcome:
    call = call_of(line)
    assert call is not None
    return dispatch(call, shell)


def printed(shell: Shell) -> str:
    assert isinstance(shell.reporter.out, io.StringIO)
    return shell.reporter.out.getvalue()


def said(shell: Shell) -> str:
    assert isinstance(shell.reporter.err, io.StringIO)
    return shell.reporter.err.getvalue()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("\\q", Call("\\q", "")),
        ("  \\q;  ", Call("\\q", "")),
        ("\\format json", Call("\\format", "json")),
        ("\\format   json ;", Call("\\format", "json")),
        ("\\nonsense", Call("\\nonsense", "")),
        ("exit", Call("exit", "")),
        ("EXIT;", Call("EXIT", "")),
        ("quit", Call("quit", "")),
        ("help", Call("help", "")),
        ("help SHOW LAYERS;", Call("help", "SHOW LAYERS")),
        ("exit now", None),
        ("helper", None),
        ("STATS", None),
        ("", None),
        ("format json", None),
    ],
)
def test_a_line_is_a_command_or_not(line: str, expected: Call | None) -> None:
    assert call_of(line) == expected


def test_no_two_commands_share_a_spelling() -> None:
    spellings = [spelling for command in COMMANDS for spelling in command.spellings]

    assert len(spellings) == len(set(spellings))
    assert all(spelling == spelling.casefold() for spelling in spellings)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_knows_every_command(command: object, shell: Shell) -> None:
    assert command in COMMANDS
    for each in COMMANDS:
        run(shell, f"help {each.name}")
        assert each.meaning in printed(shell)


@pytest.mark.parametrize("line", ["\\q", "\\quit", "exit", "quit", "exit;", "QUIT"])
def test_leaving(line: str, shell: Shell) -> None:
    assert run(shell, line) is Outcome.LEAVE


@pytest.mark.parametrize("line", ["help", "\\?", "\\h", "\\help"])
def test_help_lists_statements_commands_and_keys(line: str, shell: Shell) -> None:
    assert run(shell, line) is Outcome.STAY

    text = printed(shell)
    for word in ("INFER", "SHOW LAYERS", "\\format", "Alt-Enter", "Ctrl-R"):
        assert word in text
    assert max(map(len, text.splitlines())) <= shell.width


def test_help_of_a_statement_shows_syntax_meaning_and_an_example(shell: Shell) -> None:
    run(shell, "help infer")

    assert "Ask the model for the next token." in printed(shell)
    assert 'INFER "prompt" [TOP n]' in printed(shell)
    assert 'INFER "The capital of France is" TOP 5;' in printed(shell)


def test_help_of_a_first_word_lists_its_statements(shell: Shell) -> None:
    run(shell, "help show")

    lines = printed(shell).splitlines()
    assert lines[0].split()[:2] == ["SHOW", "MODELS"]
    assert all(line.split()[0] == "SHOW" for line in lines)


@pytest.mark.parametrize(
    ("topic", "suggestion"),
    [("INFR", "INFER"), ("show layrs", "SHOW LAYERS"), ("\\fromat", "\\format")],
)
def test_help_suggests_what_was_meant(topic: str, suggestion: str, shell: Shell) -> None:
    with pytest.raises(LqlUsageError) as caught:
        run(shell, f"help {topic}")

    assert suggestion in caught.value.diagnostic.suggestions


def test_help_of_a_clause_names_the_statements_that_have_it(shell: Shell) -> None:
    with pytest.raises(LqlUsageError) as caught:
        run(shell, "help TOP")

    assert "INFER" in caught.value.diagnostic.notes[0]


def test_an_unknown_command_suggests_the_nearest(shell: Shell) -> None:
    with pytest.raises(LqlUsageError) as caught:
        run(shell, "\\fromat json")

    assert caught.value.diagnostic.suggestions == ("\\format",)


@pytest.mark.parametrize("chosen", [each for each in Format if each is not Format.PARQUET])
def test_format_is_chosen(chosen: Format, shell: Shell) -> None:
    run(shell, f"\\format {chosen.value.upper()}")

    assert shell.format is chosen
    assert said(shell) == f"format {chosen.value}\n"


def test_format_alone_says_which(shell: Shell) -> None:
    run(shell, "\\format")

    assert shell.format is Format.TABLE
    assert said(shell) == "format table\n"


def test_a_format_that_is_none_suggests_the_nearest(shell: Shell) -> None:
    with pytest.raises(LqlUsageError) as caught:
        run(shell, "\\format jsn")

    assert caught.value.diagnostic.suggestions == ("json",)
    assert shell.format is Format.TABLE


@pytest.mark.parametrize(
    ("line", "timing"), [("\\timing", False), ("\\timing on", True), ("\\timing OFF", False)]
)
def test_timing_is_switched(line: str, timing: bool, shell: Shell) -> None:
    run(shell, line)

    assert shell.reporter.timing is timing
    assert said(shell) == f"timing {'on' if timing else 'off'}\n"


@pytest.mark.parametrize("line", ["\\q now", "\\clear all", "\\timing maybe"])
def test_an_argument_that_makes_no_sense_is_refused(line: str, shell: Shell) -> None:
    with pytest.raises(LqlUsageError):
        run(shell, line)


def test_arguments_that_are_chosen_from_a_list_offer_it() -> None:
    assert (*values(Argument.FORMAT), "parquet") == (
        *(each.value for each in Format if each is not Format.PARQUET),
        "parquet",
    )
    assert find("\\FORMAT") is find("\\format")
