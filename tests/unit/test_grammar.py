"""The grammar, its classes, its help and its corpus agree; nothing is missing anywhere."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any, get_args

import lark
import pytest

from lql import ast
from lql.codes import Code
from lql.errors import LqlSyntaxError
from lql.parser import keywords, parse
from lql.syntax_build import CLAUSES, RULES, SELECT_ORDER, STATEMENTS
from lql.syntax_help import STATEMENT_HELP
from lql.unparse import unparse

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "corpus" / "parse"
GRAMMAR = {
    name: (ROOT / "grammar" / name).read_text(encoding="utf-8")
    for name in ("terminals.lark", "conditions.lark", "lql.lark")
}
LARQL = (CORPUS / "larql.txt").read_text(encoding="utf-8").splitlines()

REPEATING = (
    'COMPILE CURRENT INTO VINDEX "o.vindex" ON CONFLICT FAIL ON CONFLICT LAST_WINS;',
    "SHOW RELATIONS RAW VERBOSE WITH EXAMPLES AT LAYER 3 BRIEF;",
    'DESCRIBE "x" VERBOSE BRIEF RAW;',
    'INSERT INTO EDGES (entity, relation, target) VALUES ("a", "b", "c") '
    "CONFIDENCE 7.5 CONFIDENCE 0.1;",
)
"""The lines of larql's corpus that repeat a clause. larql takes the last; here it is an error."""


def rules() -> list[str]:
    text = re.sub(r"//.*", "", GRAMMAR["conditions.lark"] + GRAMMAR["lql.lark"])
    defined = re.findall(r"^\??(\w+)(?:\{\w+\})?:", text, re.MULTILINE)
    return defined + re.findall(r"-> (\w+)", text)


def built_rules() -> set[str]:
    """The rules that build something: the others are inlined, or always have an alias."""
    inlined = {"statement", "condition", "conjunction", "negatable", "predicate"}
    aliased = {
        *("column_or_aggregate", "bare_column", "not_column", "distinct_column"),
        "distinct_item",
    }
    return {rule for rule in rules() if not rule.startswith("_")} - inlined - aliased


def statements(text: str) -> list[Any]:
    return [statement for item in parse(text).items for statement in item.statements]


def snake(cls: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def lark_grammar(**options: Any) -> lark.Lark:
    return lark.Lark(
        "\n".join(GRAMMAR.values()),
        parser="lalr",
        lexer="contextual",
        start="script",
        keep_all_tokens=True,
        maybe_placeholders=False,
        **options,
    )


def test_every_rule_builds_something_and_nothing_builds_without_a_rule() -> None:
    assert built_rules() == set(RULES)


def test_statement_rules_are_called_like_their_classes() -> None:
    assert {rule: snake(cls) for rule, cls in STATEMENTS.items()} == {
        rule: rule for rule in STATEMENTS
    }
    assert set(STATEMENTS.values()) == set(get_args(ast.Statement))


def test_every_clause_rule_is_used_by_a_statement() -> None:
    clauses = {rule for rule in rules() if rule.endswith("_clause")}
    body = GRAMMAR["lql.lark"]

    assert clauses >= set(CLAUSES)
    assert all(len(re.findall(rf"\b{rule}\b", body)) > 1 for rule in clauses)


def test_clauses_fill_attributes_that_exist() -> None:
    attributes = {
        field.name
        for cls in (*get_args(ast.Statement), ast.Route)
        for field in dataclasses.fields(cls)
    }

    assert {field for field, _ in CLAUSES.values()} <= attributes
    assert set(SELECT_ORDER) <= set(RULES)


def test_keywords_are_named_word_bounded_and_one_a_line() -> None:
    block = GRAMMAR["terminals.lark"].split("// literals and names")[0]
    lines = [line for line in block.splitlines() if line and not line.startswith("//")]

    assert [line.split(".")[0] for line in lines] == list(keywords())
    assert all(re.fullmatch(r"([A-Z0-9_]+)\.2: /\1\\b/i", line) for line in lines)
    assert len(lines) == len(set(lines))


def test_every_terminal_is_used() -> None:
    used = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", GRAMMAR["conditions.lark"] + GRAMMAR["lql.lark"]))
    ignored = set(re.findall(r"%ignore (\w+)", GRAMMAR["terminals.lark"]))
    defined = re.findall(r"^([A-Z][A-Z0-9_]*)(?:\.\d)?:", GRAMMAR["terminals.lark"], re.MULTILINE)

    assert set(defined) - used - ignored == set()


def test_the_grammar_has_no_conflicts() -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    level = lark.logger.level
    lark.logger.addHandler(handler)
    lark.logger.setLevel(logging.DEBUG)
    try:
        lark_grammar(debug=True)
    finally:
        lark.logger.removeHandler(handler)
        lark.logger.setLevel(level)

    assert not [record.getMessage() for record in records if "conflict" in record.getMessage()]


@pytest.mark.parametrize("cls", get_args(ast.Statement), ids=lambda cls: cls.__name__)
def test_every_statement_has_a_corpus_file_of_its_kind(cls: type) -> None:
    text = (CORPUS / f"{snake(cls)}.lql").read_text(encoding="utf-8")

    parsed = statements(text)

    assert parsed
    assert {type(statement) for statement in parsed} == {cls}
    assert parse(unparse(parse(text))) == parse(text)


# What no words stand for: where it is, and what only ``lql extract`` sets.
UNWRITTEN = ("span", "down_q4k")


@pytest.mark.parametrize("cls", get_args(ast.Statement), ids=lambda cls: cls.__name__)
def test_the_corpus_writes_every_attribute_of_the_statement(cls: type) -> None:
    parsed = statements((CORPUS / f"{snake(cls)}.lql").read_text(encoding="utf-8"))

    for field in dataclasses.fields(cls):
        if field.name not in UNWRITTEN and field.default is not dataclasses.MISSING:
            written = [getattr(statement, field.name) for statement in parsed]
            assert any(value != field.default for value in written), field.name


def test_there_is_no_corpus_file_without_a_statement() -> None:
    assert {path.stem for path in CORPUS.glob("*.lql")} == set(STATEMENTS)


@pytest.mark.parametrize("line", LARQL)
def test_what_larql_accepts_parses(line: str) -> None:
    if line in REPEATING:
        with pytest.raises(LqlSyntaxError) as raised:
            parse(line)
        assert raised.value.code is Code.REPEATED_CLAUSE
    else:
        assert parse(unparse(parse(line))) == parse(line)


def test_the_larql_corpus_is_whole() -> None:
    assert len(LARQL) == 390
    assert set(REPEATING) <= set(LARQL)
    assert (
        len({line.split()[1] for line in LARQL if re.fullmatch(r"SELECT \w+ FROM EDGES;", line)})
        > 60
    )


def test_every_keyword_can_name_a_column_everywhere() -> None:
    for word in keywords().values():
        name = word.lower()
        select = statements(
            f"SELECT a, {word}, COUNT({word}), {word} AS {word} FROM EDGES WHERE {word} = 1 "
            f"GROUP BY {word} HAVING {word} > 1 ORDER BY {word} DESC"
        )[0]
        assert select.items[1].expression == ast.Column(name)
        assert select.items[3].alias == word
        assert select.where == ast.Comparison(ast.Column(name), ast.Comparator.EQ, ast.Integer(1))
        assert select.group_by == (ast.Column(name),)
        update = statements(f"UPDATE EDGES SET {word} = 1 WHERE {word} LIKE 'x'")[0]
        assert update.assignments[0].column == ast.Column(name)


def test_help_covers_every_statement_with_an_example_of_its_kind() -> None:
    titles = {cls.title: cls for cls in get_args(ast.Statement)}

    assert sorted(entry.title for entry in STATEMENT_HELP) == sorted(titles)
    for entry in STATEMENT_HELP:
        (statement,) = statements(entry.example)
        assert type(statement) is titles[entry.title]
        assert entry.syntax.split()[0] == entry.title.split()[0]
