"""Completion: which kinds of things can stand at the cursor, and their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from lql.parser import Completeness, completeness, keywords, tokens
from lql.repl.commands import Argument
from lql.repl.completer import (
    MAX_LENGTH,
    MAX_NAMES,
    NOTHING,
    CommandArgument,
    CommandNames,
    Keywords,
    LqlCompleter,
    PathIn,
    Want,
    names,
    wanted,
)
from lql.repl.help_topics import Topic, load_topics
from lql.repl.paths import PathKind
from lql.syntax_tokens import TokenKind

BARE, BACKSLASH = CommandNames(backslash=False), CommandNames(backslash=True)


def kinds(wants: tuple[Want, ...]) -> list[Want | type[Keywords]]:
    return [Keywords if isinstance(want, Keywords) else want for want in wants]


@pytest.mark.parametrize(
    ("before", "typed", "expected"),
    [
        ("", "", [Keywords, BARE]),
        ("  sh", "sh", [Keywords, BARE]),
        ("STATS; ", "", [Keywords]),
        ("STATS;\nSH", "SH", [Keywords, BARE]),
        ("\\timing off\nSH", "SH", [Keywords, BARE]),
        ("-- a remark\nSH", "SH", [Keywords, BARE]),
        ('INFER "x" TO', "TO", [Keywords]),
        ("INFER ", "", []),
        ('INFER "The cap', '"The cap', []),
        ('INFER "x" TOP ', "", []),
        ("\\", "\\", [BACKSLASH]),
        ("\\fo", "\\fo", [BACKSLASH]),
        ("\\format js", "js", [CommandArgument(Argument.FORMAT)]),
        ("\\timing ", "", [CommandArgument(Argument.SWITCH)]),
        ("help SHOW L", "SHOW L", [CommandArgument(Argument.TOPIC)]),
        ("\\? inf", "inf", [CommandArgument(Argument.TOPIC)]),
        ("\\q ", "", []),
        ("\\nonsense x", "", []),
        ("USE ", "", [Keywords, PathIn(PathKind.VINDEX, "")]),
        ('USE "smo', "smo", [PathIn(PathKind.VINDEX, '"')]),
        ("USE 'smo", "smo", [PathIn(PathKind.VINDEX, "'")]),
        ("USE MO", "MO", [Keywords]),
        ('USE MODEL "', "", [PathIn(PathKind.MODEL, '"')]),
        ('EXTRACT MODEL "a" INTO "o', "o", [PathIn(PathKind.VINDEX, '"')]),
        ('STATS "a', "a", [PathIn(PathKind.VINDEX, '"')]),
        ('APPLY PATCH "f', "f", [PathIn(PathKind.PATCH, '"')]),
        ('USE "a" ', "", [Keywords]),
        ('USE "a" CONFIG "', "", [PathIn(PathKind.MODEL, '"')]),
        ('USE REMOTE "a" ', "", []),
        ("SELEC ent", "", []),
        ("INFER 5 ", "", []),
        ("-- USE ", "", []),
        ("/* USE ", "", []),
    ],
)
def test_the_grammar_says_what_can_stand_at_the_cursor(
    before: str, typed: str, expected: list[Want | type[Keywords]]
) -> None:
    request = wanted(before)

    assert kinds(request.wants) == expected
    if expected:
        assert request.typed == typed


def offered(before: str, directory: Path, topics: tuple[Topic, ...] = ()) -> list[str]:
    return [name.text for name in names(wanted(before), directory, lambda: topics)]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("SH", ["SHOW"]),
        ("sh", ["show"]),
        ("SHOW L", ["LAYERS"]),
        ('INFER "x" T', ["TOP"]),
        ('INFER "x" TOP 5 T', []),
        ('INFER "x" TOP 5 ', ["ABLATE", "CHAT", "COMPARE", "RAW", "ROUTE", "STEER"]),
        ('USE "a"; US', ["USE"]),
        ("he", ["help"]),
        ("e", ["explain", "extract", "exit"]),
        ("\\f", ["\\format"]),
        ("\\format j", ["json", "jsonl"]),
        ("\\format jsonl", []),
        ("\\timing o", ["on", "off"]),
        ('COMPILE CURRENT INTO VINDEX "v" ON CONFLICT CONF', ["HIGHEST_CONFIDENCE"]),
        ("nothing that is known", []),
    ],
)
def test_names_begin_with_what_is_typed(before: str, expected: list[str], tmp_path: Path) -> None:
    assert offered(before, tmp_path) == expected


def test_help_offers_the_statements_of_the_reference(tmp_path: Path) -> None:
    topics = load_topics()

    assert offered("help show l", tmp_path, topics) == ["show layers"]
    assert offered("help \\fo", tmp_path, topics) == ["\\format"]


def prefixes() -> list[str]:
    """Every example of the reference, cut after each token."""
    found = {""}
    for topic in load_topics():
        text = topic.example
        found |= {
            text[: token.span.end]
            for token in tokens(text)
            if token.kind not in (TokenKind.SPACE, TokenKind.COMMENT)
        }
    return sorted(found)


@pytest.mark.parametrize("prefix", prefixes())
def test_no_keyword_is_offered_that_the_parser_would_refuse(prefix: str) -> None:
    for want in wanted(f"{prefix} ").wants:
        if isinstance(want, Keywords):
            for word in want.spellings:
                assert completeness(f"{prefix} {word}") is not Completeness.INVALID, word


def test_every_keyword_of_the_examples_is_offered_where_it_stands() -> None:
    for topic in load_topics():
        for token in tokens(topic.example):
            if token.kind is TokenKind.KEYWORD:
                before = topic.example[: token.span.start]
                spelt = [w for w in wanted(before).wants if isinstance(w, Keywords)]
                assert token.text.upper() in spelt[0].spellings, (topic.name, token.text)


def test_every_keyword_of_the_grammar_can_be_offered_somewhere() -> None:
    assert len(keywords()) > 100  # the two tests above would pass on an empty vocabulary


# --------------------------------------------------------------------------- paths


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("small.vindex", "sub/deep.vindex", "it's.vindex", 'say"what.vindex'):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "index.json").write_text("{}")
    (tmp_path / ".hidden").mkdir()
    for name in ("model.gguf", "model.safetensors", "edits.vlp", "notes.txt"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ('USE "sm', ['small.vindex"']),
        ("USE 'sm", ["small.vindex'"]),
        ('USE "su', ["sub/"]),
        ('USE "sub/', ['deep.vindex"']),
        ('USE "./sub/d', ['deep.vindex"']),
        ('USE ".h', [".hidden/"]),
        ('USE "no such directory/', []),
        ("USE 'it", ["it''s.vindex'"]),
        ("USE 'it''", ["it''s.vindex'"]),
        ('USE "say', ['say\\"what.vindex"']),
        ('USE MODEL "mo', ['model.gguf"', 'model.safetensors"']),
        ('APPLY PATCH "ed', ['edits.vlp"']),
    ],
)
def test_paths_are_completed_inside_a_string(
    before: str, expected: list[str], directory: Path
) -> None:
    assert offered(before, directory) == expected


def test_a_path_without_its_quote_is_offered_with_it(directory: Path) -> None:
    found = offered("STATS ", directory)

    assert '"small.vindex"' in found
    assert '"sub/' in found


def test_a_completed_path_means_the_file_it_names(directory: Path) -> None:
    from lql import ast
    from lql.parser import parse

    for start in ('USE "it', "USE 'it", 'USE "say', "USE 'say"):
        (name,) = names(wanted(start), directory, tuple)
        text = start[: len(start) - name.replaces] + name.text
        statement = parse(text).items[0].statements[0]
        assert isinstance(statement, ast.UseVindex)
        assert isinstance(statement.path, ast.Text)
        assert (directory / statement.path.value / "index.json").is_file(), text


def test_a_path_below_the_home_directory(
    directory: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(directory))

    assert offered('USE "~/sm', tmp_path_factory.mktemp("elsewhere")) == ['small.vindex"']


def test_names_that_would_act_on_the_terminal_are_shown_harmless(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m<b>&").mkdir()

    (name,) = names(wanted('USE "'), tmp_path, tuple)

    assert name.shown == "a␛[31m<b>&"


def test_a_huge_directory_costs_a_bounded_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lql.repl.paths.MAX_SCANNED", 20)
    for number in range(30):
        (tmp_path / f"{number}.gguf").touch()

    assert len(offered('USE MODEL "', tmp_path)) == 20


def test_no_more_is_offered_than_a_person_reads(tmp_path: Path) -> None:
    for number in range(MAX_NAMES + 10):
        (tmp_path / f"{number}.gguf").touch()

    assert len(offered('USE MODEL "', tmp_path)) == MAX_NAMES


# --------------------------------------------------------------------------- prompt_toolkit


def completions(before: str, after: str = "", *, asked: bool = True) -> list[str]:
    document = Document(before + after, len(before))
    event = CompleteEvent(completion_requested=asked)
    return [c.text for c in LqlCompleter(tuple).get_completions(document, event)]


def test_nothing_pops_up_before_anything_is_typed() -> None:
    assert completions("", asked=False) == []
    assert completions('INFER "x" ', asked=False) == []
    assert "INFER" in completions("")


def test_a_quote_that_is_there_already_is_not_written_twice(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)

    assert completions('USE "sm', '";') == ["small.vindex"]
    assert completions('USE "sm', ";") == ['small.vindex"']


def test_very_long_texts_are_left_alone() -> None:
    assert wanted("STATS;" * MAX_LENGTH) == NOTHING
