"""Colours of what is typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.document import Document

from lql.parser import keywords
from lql.repl.highlighter import MAX_LENGTH, STYLES, LqlLexer, fragments
from lql.syntax_tokens import TokenKind


def styled(text: str) -> dict[str, str]:
    return {piece: style for style, piece, *_ in fragments(text)}


def test_each_kind_of_token_has_its_style() -> None:
    found = styled('INFER "Paris" TOP 5; -- why\n')

    assert found["INFER"] == found["TOP"] == "class:lql.keyword"
    assert found['"Paris"'] == "class:lql.string"
    assert found["5"] == "class:lql.number"
    assert found["-- why"] == "class:lql.comment"


def test_every_kind_of_token_is_styled() -> None:
    assert STYLES.keys() == set(TokenKind)


def test_a_keyword_used_as_a_name_looks_like_a_name() -> None:
    assert styled("SELECT layer FROM EDGES;")["layer"] == "class:lql.name"


def test_no_keyword_of_the_grammar_is_forgotten() -> None:
    text = " ".join(keywords().values())

    assert {styled(text)[word] for word in keywords().values()} <= {
        "class:lql.keyword",
        "class:lql.name",
    }


def test_an_open_string_looks_like_a_string() -> None:
    assert styled('INFER "The capi')['"The capi'] == "class:lql.string"


@pytest.mark.parametrize("text", ["\\format json", "  help INFER", "exit;"])
def test_commands_look_like_commands(text: str) -> None:
    assert fragments(text) == [("class:lql.command", text)]


def test_commands_among_statements() -> None:
    found = styled("STATS;\n\\timing off\nSTATS 5;")

    assert found["\\timing off"] == "class:lql.command"
    assert found["5"] == "class:lql.number"


@given(st.text(alphabet=st.sampled_from("aS;\"'\\ \n-*/1:éq€\x1b\r\u2028")))
def test_the_pieces_are_the_text(text: str) -> None:
    assert "".join(piece for _, piece, *_ in fragments(text)) == text


@given(st.text())
def test_the_lines_are_the_lines_of_the_buffer(text: str) -> None:
    document = Document(text)
    line = LqlLexer().lex_document(document)

    shown = ["".join(p for _, p, *_ in line(number)) for number in range(document.line_count)]

    assert shown == document.lines


def test_long_texts_are_plain() -> None:
    text = "STATS;" * MAX_LENGTH

    assert fragments(text) == [("", text)]


def test_colours_are_those_that_light_and_dark_themes_can_show() -> None:
    from lql.repl.app import _COLORS

    readable = {"ansigreen", "ansimagenta", "ansicyan", "ansired", "ansibrightblack"}
    used = {word for style in _COLORS.values() for word in style.split() if word.startswith("ansi")}
    assert used <= readable
    assert not any("bg:" in style or "#" in style for style in _COLORS.values())
