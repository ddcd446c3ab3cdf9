"""Random and mutated texts: the parser answers each with a tree or its typed error.

``LQL_FUZZ_CASES=100000 pytest tests/unit/test_parser_fuzz.py`` runs the long form.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lql.diagnostics import render_short, render_text, to_json
from lql.errors import LqlSyntaxError, LqlTypeError
from lql.params import ParameterValue, bind, parameters
from lql.parser import Completeness, completeness, expectation, keywords, legal_next, parse, tokens
from lql.syntax_words import SlotType
from lql.unparse import unparse

CASES = int(os.environ.get("LQL_FUZZ_CASES", "4000"))
CORPUS = Path(__file__).parents[1] / "corpus"
LINES = (CORPUS / "parse" / "larql.txt").read_text(encoding="utf-8").splitlines() + [
    path.read_text(encoding="utf-8") for path in sorted(CORPUS.glob("*/*.lql"))
]
SYMBOLS = (
    *("'", '"', '"a"', "'b'", "5", "-", "1e-3", ".5", ":p", "name", "(", ")", ",", ";", "|>", "*"),
    *(
        "=",
        "!=",
        "<>",
        "<=",
        "--",
        "/*",
        "*/",
        "\n",
        "\\",
        "“",
        "é",
        "日",
        "\x00",
        "\u00a0",
        "\ud800",
    ),
)

Source = random.Random


def noise(source: Source) -> str:
    return "".join(
        chr(source.choice((source.randrange(128), source.randrange(0x110000))))
        for _ in range(source.randrange(40))
    )


def soup(source: Source) -> str:
    words = [*keywords().values(), *SYMBOLS]
    glue = source.choice((" ", " ", ""))
    return glue.join(source.choices(words, k=source.randrange(1, 25)))


def mutated(source: Source) -> str:
    text = source.choice(LINES)
    for _ in range(source.randrange(1, 5)):
        start = source.randrange(len(text) + 1)
        end = min(len(text), start + source.randrange(8))
        insert = source.choice(("", soup(source), source.choice(SYMBOLS), noise(source)))
        text = text[:start] + source.choice((insert, text[start:end] * 2)) + text[end:]
    return text


def spliced(source: Source) -> str:
    first, second = source.choice(LINES), source.choice(LINES)
    return first[: source.randrange(len(first) + 1)] + second[source.randrange(len(second)) :]


def shuffled(source: Source) -> str:
    words = source.choice(LINES).split(" ")
    source.shuffle(words)
    return " ".join(words)


def legal(source: Source) -> str:
    """A text that is legal token by token, so that it comes deep into the grammar."""
    text = ""
    for _ in range(source.randrange(1, 12)):
        choices = sorted(legal_next(text) - {"$END", "OPEN"} or {"SEMICOLON"})
        text += " " + SPELT.get(name := source.choice(choices), name)
    return text


SPELT = {
    "STRING": '"s"',
    "INTEGER": "7",
    "FLOAT": "0.5",
    "PARAMETER": ":p",
    "NAME": "relation",
    "SEMICOLON": ";",
    "PIPE": "|>",
    "COMMA": ",",
    "DOT": ".",
    "COLON": ":",
    "OPEN": "(",
    "CLOSE": ")",
    "STAR": "*",
    "MINUS": "-",
    "EQ": "=",
    "NE": "!=",
    "LE": "<=",
    "GE": ">=",
    "LT": "<",
    "GT": ">",
}
KINDS: tuple[Callable[[Source], str], ...] = (
    noise,
    soup,
    mutated,
    mutated,
    spliced,
    shuffled,
    legal,
)


def check(text: str) -> bool:
    """Parse ``text`` and use what comes out; return whether it was right."""
    try:
        script = parse(text)
    except LqlSyntaxError as error:
        diagnostic = error.diagnostic
        span = diagnostic.span
        assert diagnostic.source is not None
        assert span is not None
        assert 0 <= span.start <= span.end <= len(text)
        assert render_text(diagnostic).startswith("error[LQL0")
        assert "\n" not in render_short(diagnostic)
        assert to_json(diagnostic)["line"] >= 1
        assert diagnostic.label or diagnostic.helps or diagnostic.suggestions or diagnostic.notes
        return False
    assert parse(unparse(script)) == script
    assert hash(script) == hash(parse(text))
    values = {p.name: VALUES[p.slot.type] for p in parameters(script)}
    with contextlib.suppress(LqlTypeError):  # one name at places of different types
        bound = bind(script, values)
        assert repr(bound)
        assert not parameters(bound)
    return True


VALUES: dict[SlotType, ParameterValue] = {
    SlotType.TEXT: "x",
    SlotType.INTEGER: 7,
    SlotType.NUMBER: 0.5,
    SlotType.VALUE: 1,
    SlotType.LIST: [1],
}


def test_any_text_gives_a_tree_or_a_typed_error() -> None:
    right = 0
    for case in range(CASES):
        source = random.Random(case)
        right += check(KINDS[case % len(KINDS)](source))

    assert CASES * 0.05 < right < CASES * 0.9  # the texts are neither all noise nor all right


@pytest.mark.parametrize("case", range(min(CASES // 20, 2000)))
def test_the_helpers_of_the_shell_never_raise(case: int) -> None:
    text = KINDS[case % len(KINDS)](random.Random(-case - 1))

    assert "".join(token.text for token in tokens(text)) == text
    assert completeness(text) in Completeness
    assert expectation(text).start <= len(text)


@given(text=st.text())
@settings(max_examples=300, deadline=None)
def test_any_unicode_text_is_answered(text: str) -> None:
    check(text)


@pytest.mark.parametrize("seed", range(min(CASES // 40, 1000)))
def test_what_is_offered_never_makes_the_parse_fail(seed: int) -> None:
    source = random.Random(seed)
    columns = iter(["entity", "relation", "target"] * 9)
    text = ""
    for _ in range(14):
        offered = legal_next(text)
        if not text.strip() or completeness(text) is Completeness.COMPLETE:
            assert "$END" in offered
        for name in offered - {"$END"}:
            word = SPELT.get(name, name)
            if name == "NAME" and text.rstrip().endswith(("(", ",")):
                word = "relation"
            outcome = completeness(f"{text} {word}")
            assert outcome is not Completeness.INVALID, f"{text} {word}"
        choices = sorted(offered - {"$END"})
        if not choices:
            break
        name = source.choice(choices)
        text += " " + (next(columns) if name == "NAME" else SPELT.get(name, name))
        if " SET " in text and "," in text:
            break  # the same column again would be wrong: a matter of names, not of terminals
