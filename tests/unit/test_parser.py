from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import pytest

from lql import ast
from lql.ast import Slot
from lql.codes import Code
from lql.errors import LqlLiteralError, LqlSyntaxError, LqlTypeError
from lql.params import bind, parameters
from lql.parser import (
    MAX_OPEN,
    MAX_TOKENS,
    Completeness,
    completeness,
    legal_next,
    parse,
    tokens,
)
from lql.span import Span
from lql.unparse import unparse


def one(text: str) -> Any:
    (pipeline,) = parse(text).items
    (statement,) = pipeline.statements
    return statement


def where(condition: str) -> Any:
    return one(f"DELETE FROM EDGES WHERE {condition}").where


def refusal(text: str) -> LqlSyntaxError:
    with pytest.raises(LqlSyntaxError) as raised:
        parse(text)
    return raised.value


def column(name: str) -> ast.Column:
    return ast.Column(name)


def equals(name: str, value: int) -> ast.Comparison:
    return ast.Comparison(column(name), ast.Comparator.EQ, ast.Integer(value))


class TestStatements:
    def test_clauses_stand_in_any_order(self) -> None:
        first = one('WALK "x" TOP 5 LAYERS 0-3 MODE PURE COMPARE')

        assert first == one('WALK "x" COMPARE MODE = PURE LAYERS 0 - 3 LIMIT 5')
        assert first == ast.Walk(
            prompt=ast.Text("x"),
            top=ast.Integer(5),
            layers=ast.LayerRange(ast.Integer(0), ast.Integer(3)),
            mode=ast.WalkMode.PURE,
            compare=True,
        )

    def test_keywords_do_not_depend_on_case(self) -> None:
        assert one('dEsCrIbE "France" at LAYER 3') == one('DESCRIBE "France" AT layer 3')

    def test_pipes_of_any_length(self) -> None:
        script = parse("STATS |> SHOW MODELS; |> STATS;; SHOW MODELS")

        assert [len(item.statements) for item in script.items] == [3, 1]

    @pytest.mark.parametrize("text", ["", "  \n", ";;", "-- nothing", "/* nothing */ ; -- more"])
    def test_a_script_may_hold_nothing(self, text: str) -> None:
        assert parse(text).items == ()

    def test_comments_stand_between_any_two_tokens(self) -> None:
        text = 'WALK/* a "b" -- c */"x"--d\nTOP /* ** / */ 5;--'

        assert one(text) == one('WALK "x" TOP 5')

    def test_two_dashes_begin_a_comment_inside_a_range(self) -> None:
        assert one('WALK "x" LAYERS 5--10') == one('WALK "x" LAYERS 5')

    def test_explain_keeps_its_own_forms_for_walk_and_infer(self) -> None:
        assert isinstance(one('EXPLAIN WALK "x"'), ast.ExplainWalk)
        assert isinstance(one('EXPLAIN INFER "x"'), ast.ExplainInfer)
        assert one('EXPLAIN ANALYZE WALK "x"') == ast.Explain(ast.Walk(ast.Text("x")), True)
        assert one("EXPLAIN STATS") == ast.Explain(ast.Stats())

    def test_layers_all_is_every_layer_and_all_layers_is_a_band(self) -> None:
        explained = one('EXPLAIN WALK "x" LAYERS ALL ALL LAYERS')

        assert explained.layers is None
        assert explained.band is ast.Band.ALL

    def test_raw_is_a_detail_or_a_prompt_mode(self) -> None:
        assert one('DESCRIBE "x" RAW').detail is ast.Detail.RAW
        assert one('INFER "x" RAW').prompt_mode is ast.PromptMode.RAW

    def test_route_options_end_at_the_next_clause(self) -> None:
        statement = one('INFER "x" ROUTE VERIFY EXIT TOPK 3 TOP 2 COMPARE')

        assert statement.route == ast.Route(topk=ast.Integer(3), exit=True)
        assert statement.top == ast.Integer(2)

    def test_insert_columns_in_any_order_fill_the_same_rows(self) -> None:
        usual = one("INSERT INTO EDGES (entity, relation, target) VALUES ('e', 'r', :t)")
        turned = one("INSERT INTO EDGES (target, relation, entity) VALUES (:t, 'r', 'e')")

        assert turned == usual
        assert usual.rows[0].target == ast.Parameter("t", Slot.TARGET)

    def test_positions_alone_means_the_last(self) -> None:
        assert one('TRACE "x" POSITIONS').positions is ast.TracePositions.LAST

    def test_weights_is_another_word_for_inference(self) -> None:
        assert one('EXTRACT MODEL "m" INTO "o" WITH WEIGHTS').level is ast.ExtractLevel.INFERENCE

    def test_spans_reach_from_the_first_word_to_the_last(self) -> None:
        text = 'STATS; DESCRIBE "France" AT LAYER 26 -- so\n;'
        script = parse(text, "a.lql")
        describe: Any = script.items[1].statements[0]

        assert script.source.slice(script.items[0].span) == "STATS"
        assert script.source.slice(describe.span) == 'DESCRIBE "France" AT LAYER 26'
        assert script.source.slice(describe.entity.span) == '"France"'
        assert script.source.slice(describe.layer.span) == "26"
        assert script.source.name == "a.lql"

    def test_spans_of_conditions_include_their_parentheses(self) -> None:
        text = "DELETE FROM EDGES WHERE (a = 1 OR b = -2) AND c IN (1, 2)"
        condition: Any = one(text).where
        spans = [condition.conditions[0].span, condition.conditions[1].values.span]

        assert [text[span.start : span.end] for span in spans] == ["(a = 1 OR b = -2)", "(1, 2)"]


class TestLiterals:
    @pytest.mark.parametrize(
        ("literal", "value"),
        [
            ('""', ""),
            ('"it\'s"', "it's"),
            ("'it''s'", "it's"),
            ('"a ""b"" c"', 'a "b" c'),
            ("'''quoted'''", "'quoted'"),
            (r'"\\ \" \' \n \t \r \0"', "\\ \" ' \n \t \r \0"),
            (r'"a\qb\u00e9"', "aqbu00e9"),
            ('"line\nbreak"', "line\nbreak"),
            ('"\\é\\\n"', "é\n"),
            ("\"it''s\"", "it''s"),
            ('"a|>b;--c/*d"', "a|>b;--c/*d"),
        ],
    )
    def test_strings(self, literal: str, value: str) -> None:
        assert one(f"DESCRIBE {literal};").entity == ast.Text(value)

    @pytest.mark.parametrize(
        ("literal", "value"),
        [
            ("5", ast.Integer(5)),
            ("-5", ast.Integer(-5)),
            ("- 5", ast.Integer(-5)),
            ("007", ast.Integer(7)),
            ("9223372036854775807", ast.Integer(2**63 - 1)),
            ("-9223372036854775808", ast.Integer(-(2**63))),
            ("1.5", ast.Number(1.5)),
            (".5", ast.Number(0.5)),
            ("-.5", ast.Number(-0.5)),
            ("1e-3", ast.Number(1e-3)),
            ("2.5E+3", ast.Number(2500.0)),
            ("1e3", ast.Number(1000.0)),
        ],
    )
    def test_numbers(self, literal: str, value: ast.Value) -> None:
        assert where(f"a = {literal}").value == value

    def test_a_number_slot_always_holds_a_number(self) -> None:
        assert one("REBALANCE FLOOR 1 CEILING = -2").floor == ast.Number(1.0)
        assert one("REBALANCE FLOOR 1 CEILING = -2").ceiling == ast.Number(-2.0)

    @pytest.mark.parametrize(
        ("text", "code", "place"),
        [
            ('WALK "x" TOP 0', Code.OUT_OF_RANGE, "0"),
            ('INFER "x" TOP 0', Code.OUT_OF_RANGE, "0"),
            ('INFER "x" ROUTE VERIFY TOPK 0', Code.OUT_OF_RANGE, "0"),
            ("SHOW MODELS TOP 0", Code.OUT_OF_RANGE, "0"),
            ("REBALANCE MAX 0", Code.OUT_OF_RANGE, "0"),
            ('WALK "x" TOP -5', Code.OUT_OF_RANGE, "-5"),
            ('DESCRIBE "x" AT LAYER -1', Code.OUT_OF_RANGE, "-1"),
            ('WALK "x" TOP 9223372036854775808', Code.OUT_OF_RANGE, "9223372036854775808"),
            ('WALK "x" TOP ' + "9" * 9999, Code.OUT_OF_RANGE, "9" * 9999),
            (
                "DELETE FROM EDGES WHERE a = -9223372036854775809",
                Code.OUT_OF_RANGE,
                "-9223372036854775809",
            ),
            ("DELETE FROM EDGES WHERE a = 1e999", Code.OUT_OF_RANGE, "1e999"),
            ("REBALANCE FLOOR 1e999", Code.OUT_OF_RANGE, "1e999"),
            ('WALK "x" LAYERS 10-5', Code.INVERTED_RANGE, "10-5"),
        ],
    )
    def test_ranges_are_checked_where_they_are_written(
        self, text: str, code: Code, place: str
    ) -> None:
        error = refusal(text)

        assert error.code is code
        assert isinstance(error, LqlLiteralError)
        assert isinstance(error, LqlTypeError)
        assert error.diagnostic.source is not None
        assert error.diagnostic.source.slice(error.diagnostic.span or Span(0, 0)) == place

    def test_a_limit_of_nothing_is_allowed(self) -> None:
        assert one("SELECT * FROM EDGES LIMIT 0").limit == ast.Integer(0)

    def test_parameters_know_what_they_stand_for(self) -> None:
        text = """
            EXTRACT MODEL :a INTO :b LAYERS :c-:d;
            SELECT * FROM EDGES NEAREST TO :e AT LAYER :f WHERE g = :g AND h LIKE :h AND i IN :i
            LIMIT :j OFFSET :k;
            INSERT INTO EDGES (entity, relation, target) VALUES (:l, :m, :n) ALPHA :o;
            INFER :p TOP :q; BEGIN PATCH :r; USE REMOTE :s; COMPILE CURRENT INTO MODEL :t;
            REBALANCE MAX :u
        """
        assert {p.name: p.slot for p in parameters(parse(text))} == {
            "a": Slot.MODEL,
            "b": Slot.VINDEX_PATH,
            "c": Slot.LAYER,
            "d": Slot.LAYER,
            "e": Slot.ENTITY,
            "f": Slot.LAYER,
            "g": Slot.VALUE,
            "h": Slot.PATTERN,
            "i": Slot.VALUES,
            "j": Slot.COUNT,
            "k": Slot.OFFSET,
            "l": Slot.ENTITY,
            "m": Slot.RELATION,
            "n": Slot.TARGET,
            "o": Slot.NUMBER,
            "p": Slot.PROMPT,
            "q": Slot.TOP,
            "r": Slot.PATCH_PATH,
            "s": Slot.URL,
            "t": Slot.OUTPUT_PATH,
            "u": Slot.STEPS,
        }


class TestConditions:
    def test_and_binds_tighter_than_or_and_not_tighter_than_and(self) -> None:
        assert where("a = 1 OR NOT b = 2 AND c = 3") == ast.Or(
            (equals("a", 1), ast.And((ast.Not(equals("b", 2)), equals("c", 3))))
        )

    def test_chains_are_flat(self) -> None:
        assert where("a = 1 AND (b = 2 AND (c = 3))") == where("a = 1 AND b = 2 AND c = 3")
        assert len(where("a = 1 OR (b = 2 OR c = 3) OR d = 4").conditions) == 4

    def test_between_takes_its_own_and(self) -> None:
        assert where("a BETWEEN 1 AND 2 AND b = 1") == ast.And(
            (ast.Between(column("a"), ast.Integer(1), ast.Integer(2)), equals("b", 1))
        )

    def test_not_before_an_operator_is_a_column(self) -> None:
        assert where("not = 1") == equals("not", 1)
        assert where("NOT not = 1") == ast.Not(equals("not", 1))
        assert where("not LIKE 'x'") == ast.Like(column("not"), ast.Text("x"))
        assert where("NOT NOT IN (1)") == ast.Not(
            ast.In(column("not"), ast.ListLiteral((ast.Integer(1),)))
        )
        assert where("NOT (like = 1)") == ast.Not(equals("like", 1))

    def test_two_spellings_of_unequal(self) -> None:
        assert where("a <> 1") == where("a != 1")

    def test_column_names_do_not_depend_on_case(self) -> None:
        assert where("ENTITY = 1") == where("entity = 1")

    def test_aggregates_stand_in_having_and_not_in_where(self) -> None:
        statement = one("SELECT a FROM EDGES GROUP BY a HAVING COUNT(DISTINCT b) > 1")

        assert statement.having.operand == ast.Aggregate(ast.Function.COUNT, column("b"), True)
        assert refusal("SELECT a FROM EDGES WHERE COUNT(b) > 1").code is Code.UNEXPECTED


class TestRepeatsAndOrder:
    @pytest.mark.parametrize(
        ("text", "first", "second"),
        [
            ('WALK "x" TOP 5 TOP 6', "TOP 5", "TOP 6"),
            ('WALK "x" TOP 5 LIMIT 6', "TOP 5", "LIMIT 6"),
            ('DESCRIBE "x" RAW LIMIT 5 VERBOSE', "RAW", "VERBOSE"),
            ('INFER "x" RAW CHAT', "RAW", "CHAT"),
            ('INFER "x" ROUTE VERIFY TOPK 1 EXIT TOPK 2', "TOPK 1", "TOPK 2"),
            ("SHOW ENTITIES 5 AT LAYER 6", "5", "AT LAYER 6"),
            ("SHOW LAYERS 0-3 RANGE 0-4", "0-3", "RANGE 0-4"),
            ('EXTRACT MODEL "m" INTO "o" RESUME OVERWRITE', "RESUME", "OVERWRITE"),
            ('USE MODEL "m" AUTO_EXTRACT AUTO_EXTRACT', "AUTO_EXTRACT", "AUTO_EXTRACT"),
            ("SELECT * FROM EDGES WHERE a = 1 WHERE b = 2", "WHERE a = 1", "WHERE b = 2"),
            ("UPDATE EDGES SET a = 1, A = 2 WHERE b = 3", "a = 1", "A = 2"),
        ],
    )
    def test_a_clause_that_repeats_names_both_places(
        self, text: str, first: str, second: str
    ) -> None:
        diagnostic = refusal(text).diagnostic

        assert diagnostic.code is Code.REPEATED_CLAUSE
        assert diagnostic.span is not None
        assert text[diagnostic.span.start : diagnostic.span.end] == second
        (related,) = diagnostic.related
        assert text[related.span.start : related.span.end] == first

    @pytest.mark.parametrize(
        "clauses",
        [
            "LIMIT 5 WHERE a = 1",
            "ORDER BY a GROUP BY a",
            "WHERE a = 1 NEAREST TO 'x' AT LAYER 1",
            "HAVING a = 1 GROUP BY a",
            "OFFSET 1 ORDER BY a",
        ],
    )
    def test_select_has_one_order(self, clauses: str) -> None:
        assert refusal(f"SELECT * FROM EDGES {clauses}").code is Code.CLAUSE_ORDER

    def test_offset_and_limit_may_change_places(self) -> None:
        assert one("SELECT * FROM EDGES OFFSET 1 LIMIT 2") == one(
            "SELECT * FROM EDGES LIMIT 2 OFFSET 1"
        )

    def test_insert_takes_three_columns(self) -> None:
        text = "INSERT INTO EDGES (entity, target, target) VALUES ('a', 'b', 'c')"

        assert refusal(text).code is Code.BAD_COLUMNS


DEPTH = 10_000
DEEP: dict[str, Callable[[int], str]] = {
    "parentheses": lambda n: f"DELETE FROM EDGES WHERE {'(' * n}a = 1{')' * n}",
    "open parentheses": lambda n: f"DELETE FROM EDGES WHERE {'(' * n}",
    "lists": lambda n: f"DELETE FROM EDGES WHERE a IN {'(' * n}1{')' * n}",
    "lists of several": lambda n: f"DELETE FROM EDGES WHERE a IN {'(1, ' * n}1{')' * n}",
    "NOT": lambda n: f"DELETE FROM EDGES WHERE {'NOT ' * n}a = 1",
    "NOT and parentheses": lambda n: f"DELETE FROM EDGES WHERE {'NOT (' * n}a = 1{')' * n}",
    "AND in OR": lambda n: f"DELETE FROM EDGES WHERE {'a = 1 OR (b = 2 AND (' * n}a = 1{'))' * n}",
    "EXPLAIN": lambda n: f"{'EXPLAIN ' * n}STATS",
    "EXPLAIN ANALYZE": lambda n: f"{'EXPLAIN ANALYZE ' * n}STATS",
}


def answered(text: str) -> float:
    """Seconds of processor time until ``text`` is answered, with a tree or a typed error."""
    gc.freeze()  # what other tests have left in memory is not the parser's to look through
    start = time.process_time()
    try:
        parse(text)
    except LqlSyntaxError as error:
        str(error)
    finally:
        gc.unfreeze()
    return time.process_time() - start


class TestLimits:
    @pytest.mark.parametrize("shape", DEEP)
    def test_deep_nesting_is_refused_at_once(self, shape: str) -> None:
        text = DEEP[shape](DEPTH)

        assert answered(text) < 1
        assert refusal(text).code is Code.TOO_DEEP
        assert completeness(text) is Completeness.INVALID
        assert legal_next(text) == frozenset()
        assert "".join(token.text for token in tokens(text)) == text

    @pytest.mark.parametrize("shape", [shape for shape in DEEP if not shape.startswith("open")])
    def test_what_parses_at_the_limit_can_be_walked(self, shape: str) -> None:
        deepest = max(n for n in range(1, MAX_OPEN) if _parses(DEEP[shape](n)))
        assert deepest >= (20 if shape == "AND in OR" else 40)

        script = parse(DEEP[shape](deepest))

        assert hash(script) == hash(parse(DEEP[shape](deepest)))
        assert script == parse(unparse(script)) == bind(script, {})
        assert repr(script)

    def test_long_chains_do_not_nest(self) -> None:
        count = MAX_TOKENS // 5
        condition = where(" AND ".join(["a = 1"] * count))

        assert len(condition.conditions) == count
        assert hash(condition) == hash(ast.And(condition.conditions))

    @pytest.mark.parametrize(
        "text",
        [
            'WALK "' + "x" * 1_000_000 + '"',
            'WALK "' + '\\"' * 500_000 + '"',
            "WALK '" + "''" * 500_000 + "'",
            'WALK "' + "x" * 1_000_000,
            "WALK " + '"' * 1_000_001,
            "WALK " + "x" * 1_000_000,
            'WALK "x" TOP ' + "1" * 1_000_000,
            "/*" + "* " * 500_000,
            "-" * 1_000_000,
            "(" * 1_000_000,
            ";" * 1_000_000,
            "STATS;" * 166_667,
            "DELETE FROM EDGES WHERE " + "a = 1 AND " * 100_000 + "a = 1",
            "DELETE FROM EDGES WHERE a IN (" + "1, " * 333_333 + "1)",
            "STATS |> " * 111_111 + "STATS",
            " " * 1_000_000,
            "é" * 1_000_000,
        ],
        ids=range(17),
    )
    def test_a_megabyte_is_answered_within_a_second(self, text: str) -> None:
        answered("STATS")  # builds the grammar

        assert answered(text) < 1

    def test_a_script_has_a_limit_of_tokens(self) -> None:
        assert len(parse(";" * MAX_TOKENS).items) == 0
        assert refusal(";" * (MAX_TOKENS + 1)).code is Code.TOO_LONG


def _parses(text: str) -> bool:
    """Whether ``text`` is shallow enough; it must be right in every other way."""
    codes = set()
    try:
        parse(text)
    except LqlSyntaxError as error:
        codes.add(error.code)
    assert codes <= {Code.TOO_DEEP}
    return not codes
