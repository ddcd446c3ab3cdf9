"""What Enter does, and what a text consists of."""

from __future__ import annotations

import pytest

from lql.repl.buffer import CommandLine, Enter, Statements, enter, split

RUN, NEWLINE = Enter.RUN, Enter.NEWLINE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", RUN),
        ("   ", RUN),
        ("STATS", RUN),
        ("STATS;", RUN),
        ("STATS; -- and why", RUN),
        ("STATS; SHOW LAYERS;", RUN),
        ("INFER", NEWLINE),
        ('INFER "The capital', NEWLINE),
        ('INFER "The capital;', NEWLINE),
        ('INFER "a";\nINFER', NEWLINE),
        ("SELECT entity, target", NEWLINE),
        ("/* a comment", NEWLINE),
        ('EXPLAIN INFER "a" |>', NEWLINE),
        ("SELEC entity;", RUN),
        ('SELEC entity FROM "', RUN),
        ('INFER "a" TOPP 5;', RUN),
        ("\\q", RUN),
        ("\\no such command", RUN),
        ("help INFER", RUN),
        ("exit;", RUN),
        ("STATS;\n\\timing off", RUN),
    ],
)
def test_enter_runs_what_is_finished_or_wrong_and_goes_on_with_the_rest(
    text: str, expected: Enter
) -> None:
    assert enter(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT entity\nFROM EDGES", NEWLINE),
        ("SELECT entity\nFROM EDGES\n", RUN),
        ("SELECT entity\nFROM EDGES;", RUN),
        ('DELETE FROM EDGES\nWHERE entity = "x"', NEWLINE),
        ('DELETE FROM EDGES\nWHERE entity = "x"\nAND layer = 3;', RUN),
        ("\n\nSTATS", RUN),
    ],
)
def test_a_statement_of_several_lines_ends_with_a_semicolon_or_an_empty_line(
    text: str, expected: Enter
) -> None:
    assert enter(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n-- nothing\n", []),
        ("STATS;", ["STATS;"]),
        ("\\timing", [("\\timing", "")]),
        ("\\format json;", [("\\format", "json")]),
        ("help SHOW LAYERS", [("help", "SHOW LAYERS")]),
        ("exit;", [("exit", "")]),
        ("\\timing off\nSTATS;", [("\\timing", "off"), "STATS;"]),
        ("STATS;\n\\q\nSTATS;", ["STATS;\n", ("\\q", ""), "STATS;"]),
        ("STATS\nquit", ["STATS\n", ("quit", "")]),
        ('INFER "a\n\\q\nb";', ['INFER "a\n\\q\nb";']),
        ("INFER\nhelp", ["INFER\nhelp"]),
        ("exit now", ["exit now"]),
    ],
)
def test_commands_stand_where_a_statement_could_begin(
    text: str, expected: list[str | tuple[str, str]]
) -> None:
    found: list[str | tuple[str, str]] = []
    for part in split(text):
        match part:
            case Statements(text=statements):
                found.append(statements)
            case CommandLine(call=call):
                found.append((call.word, call.argument))
    assert found == expected


def test_parts_know_their_place() -> None:
    text = "STATS;\n\\timing off\nSHOW LAYERS;"

    first, command, last = split(text)

    assert isinstance(first, Statements)
    assert isinstance(command, CommandLine)
    assert isinstance(last, Statements)
    assert first.start == 0
    assert text[command.span.start : command.span.end] == "\\timing off"
    assert text[last.start :] == "SHOW LAYERS;"
