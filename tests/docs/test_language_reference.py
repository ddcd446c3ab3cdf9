"""grammar/README.md, the home of the language's facts, agrees with the parser and the executors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

import lql
from lql import ast
from lql.errors import LqlNotAvailableError
from lql.parser import parse
from tests.docs.reference_tables import written

REFERENCE = (Path(__file__).parents[2] / "grammar" / "README.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### (?P<title>[A-Z ]+)\n(?P<body>.*?)(?=^##|\Z)", re.M | re.S)
SECTIONS = {match["title"]: match["body"] for match in SECTION.finditer(REFERENCE)}
NOT_YET = "*Not available yet.*"


def titles() -> set[str]:
    """The statement names of the AST, as a user writes them."""
    return {statement.title for statement in get_args(ast.Statement)}


def documented(title: str) -> str:
    """The section a statement belongs to: USE MODEL and USE REMOTE stand in USE's."""
    return "USE" if title.startswith("USE ") else title


def test_every_statement_has_a_section_and_every_section_a_statement() -> None:
    assert {documented(title) for title in titles()} == set(SECTIONS)


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_has_a_meaning_a_syntax_and_an_example(title: str) -> None:
    body = SECTIONS[title].strip()
    meaning = body.split("\n")[0]
    assert meaning[0].isupper()
    assert "```ebnf\n" + title.split(" ")[0] in body
    assert "```lql\n" in body


EXAMPLES = [
    (title, example)
    for title, body in SECTIONS.items()
    for example in re.findall(r"```lql\n(.*?)```", body, re.S)
]


@pytest.mark.parametrize(("title", "example"), EXAMPLES)
def test_an_example_parses_as_its_statement(title: str, example: str) -> None:
    (pipeline,) = parse(example).items
    (statement,) = pipeline.statements
    assert documented(statement.title) == title


@pytest.mark.parametrize(("title", "example"), EXAMPLES)
def test_what_is_marked_as_not_available_is_refused_and_nothing_else(
    title: str, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with lql.Session() as session:
        try:
            session.run(example)
            refused: Any = None
        except LqlNotAvailableError as error:
            refused = error
        except lql.LqlError:
            refused = None
    assert (refused is not None) == (NOT_YET in SECTIONS[title])


def test_the_tables_are_those_of_the_program() -> None:
    assert written(REFERENCE) == REFERENCE, "python -m tests.docs.reference_tables writes them anew"


def test_statements_of_a_later_version_are_the_same_everywhere() -> None:
    later = set(re.findall(r"^\| ([A-Z ]+) \| .* \| \*a later version\* \|$", REFERENCE, re.M))
    marked = {title for title, body in SECTIONS.items() if NOT_YET in body}
    assert {documented(title) for title in later} - {"USE"} == marked


def test_keywords_of_the_syntax_blocks_are_keywords_of_the_grammar() -> None:
    from lql.parser import keywords

    known = {spelling.upper() for spelling in keywords().values()}
    blocks = " ".join(re.findall(r"```ebnf\n(.*?)```", REFERENCE, re.S))
    written = set(re.findall(r"\b[A-Z][A-Z_]+\b", re.sub(r"--.*", "", blocks)))
    assert written <= known, written - known
