"""WHERE: every operator means what SQL says; wrong names and types are errors."""

from __future__ import annotations

import pytest

from lql import ast
from lql.ast import Comparator
from lql.errors import LqlNameError, LqlTypeError
from lql.execute.where import compile_condition
from lql.results import Column, Kind, Row

COLUMNS = (
    Column("layer", Kind.INTEGER),
    Column("logit", Kind.NUMBER),
    Column("token", Kind.TOKEN),
    Column("relation", Kind.TEXT),
    Column("also", Kind.TOKENS),
)
ROW: Row = {"layer": 3, "logit": 1.5, "token": "Paris", "relation": None, "also": ("Rome", "a_b")}


def holds(condition: ast.Condition, row: Row = ROW) -> bool | None:
    return compile_condition(condition, COLUMNS, {"score": "logit"})(row)


def column(name: str) -> ast.Column:
    return ast.Column(name)


def compare(name: str, comparator: Comparator, value: str | float) -> ast.Comparison:
    match value:
        case str():
            literal: ast.Scalar = ast.Text(value)
        case int():
            literal = ast.Integer(value)
        case _:
            literal = ast.Number(value)
    return ast.Comparison(column(name), comparator, literal)


TRUE = compare("layer", Comparator.EQ, 3)
FALSE = compare("layer", Comparator.EQ, 4)
UNKNOWN = compare("relation", Comparator.EQ, "capital")


@pytest.mark.parametrize(
    ("comparator", "two", "three", "four"),
    [
        (Comparator.EQ, False, True, False),
        (Comparator.NE, True, False, True),
        (Comparator.LT, False, False, True),
        (Comparator.LE, False, True, True),
        (Comparator.GT, True, False, False),
        (Comparator.GE, True, True, False),
    ],
)
def test_comparators(comparator: Comparator, two: bool, three: bool, four: bool) -> None:
    found = [holds(compare("layer", comparator, number)) for number in (2, 3, 4)]
    assert found == [two, three, four]


def test_numbers_compare_across_integer_and_float() -> None:
    assert holds(compare("layer", Comparator.LT, 3.5))
    assert holds(compare("logit", Comparator.GT, 1))


def test_equality_of_text_minds_case() -> None:
    assert holds(compare("token", Comparator.EQ, "Paris"))
    assert not holds(compare("token", Comparator.EQ, "paris"))


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("Paris", True),
        ("paris", True),
        ("P%", True),
        ("%ri%", True),
        ("%%s", True),
        ("_aris", True),
        ("____", False),
        ("P.ris", False),
        ("ari", False),
        ("", False),
    ],
)
def test_like(pattern: str, matches: bool) -> None:
    condition = ast.Like(column("token"), ast.Text(pattern))
    assert holds(condition) is matches
    assert holds(ast.Like(column("token"), ast.Text(pattern), negated=True)) is not matches


def test_like_sees_over_line_ends() -> None:
    row = {**ROW, "token": "a\nb"}
    assert holds(ast.Like(column("token"), ast.Text("a%b")), row)


def test_in_and_between() -> None:
    some = ast.ListLiteral((ast.Integer(1), ast.Integer(3)))
    assert holds(ast.In(column("layer"), some))
    assert not holds(ast.In(column("layer"), some, negated=True))
    assert not holds(ast.In(column("layer"), ast.ListLiteral(())))
    assert holds(ast.Between(column("layer"), ast.Integer(3), ast.Integer(3)))
    assert holds(ast.Between(column("layer"), ast.Integer(4), ast.Integer(9), negated=True))


def test_missing_values_are_unknown() -> None:
    assert holds(UNKNOWN) is None
    assert holds(ast.Not(UNKNOWN)) is None
    assert holds(ast.Like(column("relation"), ast.Text("%"), negated=True)) is None
    assert holds(ast.IsNull(column("relation"))) is True
    assert holds(ast.IsNull(column("relation"), negated=True)) is False
    assert holds(ast.IsNull(column("token"))) is False


@pytest.mark.parametrize(
    ("parts", "conjunction", "disjunction"),
    [
        ((TRUE, TRUE), True, True),
        ((TRUE, FALSE), False, True),
        ((FALSE, FALSE), False, False),
        ((TRUE, UNKNOWN), None, True),
        ((UNKNOWN, FALSE), False, None),
        ((UNKNOWN, UNKNOWN), None, None),
    ],
)
def test_logic_is_three_valued(
    parts: tuple[ast.Condition, ...], conjunction: bool | None, disjunction: bool | None
) -> None:
    assert holds(ast.And(parts)) is conjunction
    assert holds(ast.Or(parts)) is disjunction


def test_lists_of_tokens_hold_when_any_does() -> None:
    assert holds(compare("also", Comparator.EQ, "Rome"))
    assert holds(ast.Like(column("also"), ast.Text("ro%")))
    assert holds(ast.In(column("also"), ast.ListLiteral((ast.Text("x"), ast.Text("Rome")))))
    with pytest.raises(LqlTypeError):
        holds(compare("also", Comparator.LT, "Rome"))


def test_aliases() -> None:
    assert holds(compare("score", Comparator.EQ, 1.5))


def test_an_unknown_column_is_an_error_with_suggestions() -> None:
    with pytest.raises(LqlNameError) as caught:
        holds(ast.Or((TRUE, compare("tokn", Comparator.EQ, "x"))))
    assert caught.value.diagnostic.suggestions == ("token",)


@pytest.mark.parametrize(
    "condition",
    [
        compare("layer", Comparator.EQ, "3"),
        compare("token", Comparator.EQ, 3),
        ast.Like(column("layer"), ast.Text("3")),
        ast.In(column("layer"), ast.ListLiteral((ast.Integer(1), ast.Text("x")))),
        ast.Between(column("token"), ast.Integer(1), ast.Integer(2)),
        ast.In(column("layer"), ast.ListLiteral((ast.ListLiteral(()),))),
        ast.Comparison(
            ast.Aggregate(ast.Function.COUNT, ast.Star()), Comparator.GT, ast.Integer(1)
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error(condition: ast.Condition) -> None:
    with pytest.raises(LqlTypeError):
        holds(condition)
