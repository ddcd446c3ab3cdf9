from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from lql import ast
from lql.codes import Code
from lql.diagnostics import render_text
from lql.errors import LqlNameError, LqlSyntaxError, LqlTypeError
from lql.params import ParameterValue, bind, from_text, parameters
from lql.parser import parse
from lql.span import Span
from lql.syntax_words import SlotType
from lql.unparse import unparse
from tests.unit.syntax_strategies import SCRIPTS


def bound(text: str, **values: ParameterValue) -> Any:
    (pipeline,) = bind(parse(text), values).items
    return pipeline.statements[0]


class TestBind:
    def test_values_become_literals_of_their_slot(self) -> None:
        statement = bound("WALK :p TOP :n LAYERS :a-:b", p="x", n=5, a=0, b=3)

        assert statement == bound('WALK "x" TOP 5 LAYERS 0-3')

    def test_a_bound_text_is_never_read_as_language(self) -> None:
        attack = '"; DELETE FROM EDGES WHERE a = 1; --'

        assert bound("DESCRIBE :who", who=attack).entity == ast.Text(attack)

    def test_a_literal_stands_where_its_parameter_stood(self) -> None:
        assert bound("DESCRIBE :who", who="x").entity.span == Span(9, 13)

    @pytest.mark.parametrize(
        ("value", "literal"),
        [
            ("x", ast.Text("x")),
            (3, ast.Integer(3)),
            (-3, ast.Integer(-3)),
            (0.5, ast.Number(0.5)),
            (np.int64(3), ast.Integer(3)),
            (np.float32(0.5), ast.Number(0.5)),
            (Path("a/b"), ast.Text("a/b")),
        ],
    )
    def test_a_compared_value_takes_text_and_numbers(self, value: Any, literal: ast.Scalar) -> None:
        assert bound("DELETE FROM EDGES WHERE a = :v", v=value).where.value == literal

    def test_in_takes_a_sequence(self) -> None:
        statement = bound("DELETE FROM EDGES WHERE a IN :v", v=["x", 1, 0.5])

        assert statement == bound("DELETE FROM EDGES WHERE a IN ('x', 1, 0.5)")
        assert bound("DELETE FROM EDGES WHERE a IN :v", v=()).where.values == ast.ListLiteral(())

    def test_a_number_takes_whole_numbers_too(self) -> None:
        assert bound("REBALANCE FLOOR :x", x=1).floor == ast.Number(1.0)

    def test_parameters_are_bound_wherever_they_stand(self) -> None:
        text = """
            EXPLAIN ANALYZE SELECT COUNT(*) FROM EDGES NEAREST TO :a AT LAYER :b
            WHERE NOT (c BETWEEN :c AND :d OR e LIKE :e AND f IN (1, (:f))) HAVING COUNT(*) > :g
            LIMIT :h OFFSET :i;
            INSERT INTO EDGES (entity, relation, target) VALUES (:j, :k, :l) ALPHA :m;
            UPDATE EDGES SET a = :n WHERE b = :o; INFER :p ROUTE VERIFY TOPK :q
        """
        names = "abcdefghijklmnopq"
        script = parse(text)
        values: dict[str, ParameterValue] = dict.fromkeys(names, 1) | dict.fromkeys("aejklp", "x")

        assert [parameter.name for parameter in parameters(script)] == list(names)
        assert parameters(bind(script, values)) == ()

    def test_names_that_do_not_occur_are_ignored(self) -> None:
        assert bound("STATS", unused=1) == ast.Stats()

    def test_the_source_stays(self) -> None:
        script = parse("DESCRIBE :who", "a.lql")

        assert bind(script, {"who": "x"}).source is script.source

    def test_a_missing_value_is_named_with_its_place(self) -> None:
        with pytest.raises(LqlNameError) as raised:
            bind(parse("DESCRIBE :who AT LAYER :n", "a.lql"), {"who": "x", "nn": 3})

        assert render_text(raised.value.diagnostic) == "\n".join(
            [
                "error[LQL0201]: :n has no value",
                "  --> a.lql:1:24",
                "   |",
                " 1 | DESCRIBE :who AT LAYER :n",
                "   |                        ^^ takes a whole number",
                "  help: did you mean :nn?",
            ]
        )

    @pytest.mark.parametrize(
        ("text", "value", "code"),
        [
            ("DESCRIBE :v", 5, Code.WRONG_TYPE),
            ("DESCRIBE :v", None, Code.WRONG_TYPE),
            ("DESCRIBE :v", b"x", Code.WRONG_TYPE),
            ("INFER 'x' TOP :v", "5", Code.WRONG_TYPE),
            ("INFER 'x' TOP :v", 5.0, Code.WRONG_TYPE),
            ("INFER 'x' TOP :v", True, Code.WRONG_TYPE),
            ("INFER 'x' TOP :v", 0, Code.OUT_OF_RANGE),
            ("INFER 'x' TOP :v", 2**63, Code.OUT_OF_RANGE),
            ("DESCRIBE 'x' AT LAYER :v", -1, Code.OUT_OF_RANGE),
            ("REBALANCE FLOOR :v", "x", Code.WRONG_TYPE),
            ("REBALANCE FLOOR :v", float("nan"), Code.OUT_OF_RANGE),
            ("REBALANCE FLOOR :v", 10**400, Code.OUT_OF_RANGE),
            ("DELETE FROM EDGES WHERE a = :v", [1], Code.WRONG_TYPE),
            ("DELETE FROM EDGES WHERE a = :v", False, Code.WRONG_TYPE),
            ("DELETE FROM EDGES WHERE a = :v", float("inf"), Code.OUT_OF_RANGE),
            ("DELETE FROM EDGES WHERE a IN :v", "x", Code.WRONG_TYPE),
            ("DELETE FROM EDGES WHERE a IN :v", [None], Code.WRONG_TYPE),
            ("DELETE FROM EDGES WHERE a LIKE :v", 5, Code.WRONG_TYPE),
            ("WALK 'x' LAYERS 5-:v", 3, Code.INVERTED_RANGE),
        ],
    )
    def test_a_value_that_does_not_fit_is_refused_at_its_place(
        self, text: str, value: Any, code: Code
    ) -> None:
        with pytest.raises(LqlTypeError) as raised:
            bind(parse(text, "a.lql"), {"v": value})

        assert raised.value.code is code
        assert not isinstance(raised.value, LqlSyntaxError)
        diagnostic = raised.value.diagnostic
        assert diagnostic.source is not None
        assert diagnostic.span is not None
        assert ":v" in diagnostic.source.slice(diagnostic.span)

    @given(script=SCRIPTS)
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def test_binding_leaves_everything_else_as_it_was(self, script: ast.Script) -> None:
        names = {parameter.name: parameter.slot.type for parameter in parameters(script)}
        values: dict[SlotType, ParameterValue] = {
            SlotType.TEXT: "x",
            SlotType.INTEGER: 2**62,
            SlotType.NUMBER: 0.5,
            SlotType.VALUE: "y",
            SlotType.LIST: ["z"],
        }
        try:
            result = bind(script, {name: values[kind] for name, kind in names.items()})
        except LqlTypeError:
            return  # one name at places of different types, or a range turned round

        assert parameters(result) == ()
        assert parse(unparse(result)) == result
        if not names:
            assert result == script


class TestFromText:
    def test_text_is_read_by_what_it_stands_for(self) -> None:
        script = parse(
            "WALK :p TOP :n; REBALANCE FLOOR :x; DELETE FROM EDGES WHERE a = :v AND b IN :l"
        )
        texts = {"p": "5", "n": "5", "x": "1", "v": "26", "l": '["a", 1]', "other": "7"}

        assert from_text(script, texts) == {
            "p": "5",
            "n": 5,
            "x": 1.0,
            "v": 26,
            "l": ["a", 1],
            "other": "7",
        }

    @pytest.mark.parametrize(
        ("text", "value"),
        [("26", 26), ("-1", -1), (".5", 0.5), ("1e3", 1000.0), ("Paris", "Paris"), ("2b", "2b")],
    )
    def test_a_compared_value_is_a_number_if_it_looks_like_one(
        self, text: str, value: ParameterValue
    ) -> None:
        script = parse("DELETE FROM EDGES WHERE a = :v")

        assert from_text(script, {"v": text}) == {"v": value}

    @pytest.mark.parametrize("text", ["five", "9" * 5000, "٣", "", "5.5"])
    def test_what_cannot_be_read_is_left_for_bind_to_refuse(self, text: str) -> None:
        script = parse("WALK 'x' TOP :n")

        with pytest.raises(LqlTypeError):
            bind(script, from_text(script, {"n": text}))

    @pytest.mark.parametrize("text", ["x", "{}", "[", "[" * 100_000])
    def test_a_list_that_is_no_json_array_is_refused(self, text: str) -> None:
        script = parse("DELETE FROM EDGES WHERE a IN :v")

        with pytest.raises(LqlTypeError):
            bind(script, from_text(script, {"v": text}))
