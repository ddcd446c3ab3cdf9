"""The methods of a session: each is the statement that a text would be, with a typed result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lql
from lql import ast, col, count
from lql.api.statements import Statements
from lql.errors import LqlNameError, LqlRuntimeError, LqlTypeError
from lql.parser import parse
from lql.results import Result
from lql.results.browse import DescribeResult, WalkResult
from lql.results.edits import EditResult
from lql.results.forward import ExplainInferResult, InferResult
from lql.results.plan import PlanResult
from lql.results.show import StatsResult
from lql.results.table import TableResult
from lql.session import Session

MODEL = "golden/checkpoints/llama_h96"


class Built(Exception):
    """Carries the statement that a method built."""

    def __init__(self, statement: ast.Statement) -> None:
        super().__init__(statement)
        self.statement = statement


class Builder(Statements):
    """Builds statements and runs none."""

    def execute(self, statement: ast.Statement) -> Result:
        raise Built(statement)


def built(call: Callable[[Builder], Any]) -> ast.Statement:
    with pytest.raises(Built) as raised:
        call(Builder())
    return raised.value.statement


def one(text: str) -> ast.Statement:
    ((statement,),) = (item.statements for item in parse(text).items)
    return statement


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s: s.infer("x"), "INFER 'x'"),
        (lambda s: s.infer("x", top=3, mode="chat"), "INFER 'x' TOP 3 CHAT"),
        (lambda s: s.infer('"; STATS; --'), r"INFER '\"; STATS; --'"),
        (lambda s: s.compare("x", top=2), "INFER 'x' TOP 2 COMPARE"),
        (
            lambda s: s.explain_infer("x", layers=(1, 2), band="knowledge", verbose=True),
            "EXPLAIN INFER 'x' LAYERS 1-2 KNOWLEDGE VERBOSE",
        ),
        (
            lambda s: s.walk("x", top=2, layers=(0, 3), mode=ast.WalkMode.DENSE, compare=True),
            "WALK 'x' TOP 2 LAYERS 0-3 MODE DENSE COMPARE",
        ),
        (lambda s: s.explain_walk("x", band="syntax"), "EXPLAIN WALK 'x' SYNTAX"),
        (
            lambda s: s.describe("x", evidence="static", layer=3, detail="raw", limit=5),
            "DESCRIBE 'x' EVIDENCE STATIC AT LAYER 3 RAW LIMIT 5",
        ),
        (
            lambda s: s.describe("x", causal=True, relations_only=True),
            "DESCRIBE 'x' CAUSAL RELATIONS ONLY",
        ),
        (lambda s: s.select(table="features"), "SELECT * FROM FEATURES"),
        (
            lambda s: s.select(
                "layer",
                count().named("n"),
                table=ast.Table.FEATURES,
                where={"token": "Paris", "layer": 3},
                group_by=["layer"],
                having=count() > 2,
                order_by=[col("n").desc(), "layer"],
                limit=10,
                offset=1,
            ),
            "SELECT layer, COUNT(*) AS n FROM FEATURES WHERE token = 'Paris' AND layer = 3 "
            "GROUP BY layer HAVING COUNT(*) > 2 ORDER BY n DESC, layer LIMIT 10 OFFSET 1",
        ),
        (
            lambda s: s.select("gate", table="features", nearest_to=("France", 20), distinct=True),
            "SELECT DISTINCT gate FROM FEATURES NEAREST TO 'France' AT LAYER 20",
        ),
        (lambda s: s.stats(), "STATS"),
        (lambda s: s.stats(Path("x.vindex")), "STATS 'x.vindex'"),
        (lambda s: s.explain("STATS", analyze=True), "EXPLAIN ANALYZE STATS"),
        (
            lambda s: s.insert(("e", "r", "t"), ("f", "r", "u"), layer=3, check="none"),
            "INSERT INTO EDGES (entity, relation, target) VALUES ('e', 'r', 't'), ('f', 'r', 'u') "
            "AT LAYER 3 CHECK NONE",
        ),
        (
            lambda s: s.insert(("e", "r", "t"), confidence=0.5, aliases=["x"]),
            "INSERT INTO EDGES (entity, relation, target) VALUES ('e', 'r', 't') "
            "CONFIDENCE 0.5 ALIAS 'x'",
        ),
        (
            lambda s: s.update({"entity": "e"}, target="t", confidence=1, check="full"),
            "UPDATE EDGES SET target = 't', confidence = 1 WHERE entity = 'e' CHECK FULL",
        ),
        (lambda s: s.delete(col("entity") == "e"), "DELETE FROM EDGES WHERE entity = 'e'"),
        (lambda s: s.undo(2), "UNDO 2"),
        (lambda s: s.edits(), "SHOW EDITS"),
        (lambda s: s.apply_patch("p.vlp", force=True), "APPLY PATCH 'p.vlp' FORCE"),
        (lambda s: s.save_patch("p.vlp", overwrite=True), "SAVE PATCH 'p.vlp' OVERWRITE"),
        (lambda s: s.use("v"), "USE 'v'"),
        (lambda s: s.use_model("m"), "USE MODEL 'm'"),
        (
            lambda s: s.extract("m", "v", level="all", dtype="bf16", quant="q4k", overwrite=True),
            "EXTRACT MODEL 'm' INTO 'v' WITH ALL DTYPE bf16 QUANT q4k OVERWRITE",
        ),
    ],
)
def test_a_method_builds_what_its_text_parses_to(call: Callable[[Builder], Any], text: str) -> None:
    assert built(call) == one(text)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (lambda: col("a") == 1, "a = 1"),
        (lambda: col("A") != "x", "a != 'x'"),
        (lambda: (col("a") < 1) & (col("b") <= 2) & (col("c") > 3), "a < 1 AND b <= 2 AND c > 3"),
        (lambda: (col("a") >= 1) | (col("b") == 2) | (col("c") == 3), "a >= 1 OR b = 2 OR c = 3"),
        (lambda: ~col("t.a").like("x%"), "NOT t.a LIKE 'x%'"),
        (
            lambda: (col("a").isin([1, "x"]) | col("b").missing()) & col("c").between(0.5, 2),
            "(a IN (1, 'x') OR b IS NULL) AND c BETWEEN 0.5 AND 2",
        ),
    ],
)
def test_conditions_are_those_of_where(where: Callable[[], Any], text: str) -> None:
    parsed: Any = one(f"DELETE FROM EDGES WHERE {text}")
    assert where().condition == parsed.where


def test_aggregates_and_orders_are_those_of_select() -> None:
    columns = [col("a").sum(), col("a").avg(), col("a").min(), col("a").max(), col("a").count()]
    text = "SELECT SUM(a), AVG(a), MIN(a), MAX(a), COUNT(a) FROM FEATURES ORDER BY a ASC, MAX(b)"
    orders = [col("a").asc(), col("b").max().asc()]
    assert built(lambda s: s.select(*columns, table="features", order_by=orders)) == one(text)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.infer(3),
        lambda s: s.infer("x", top=0),
        lambda s: s.infer("x", top="3"),
        lambda s: s.infer("x", mode="chatt"),
        lambda s: s.walk("x", layers=(0, -1)),
        lambda s: s.select(table="feature"),
        lambda s: s.select(table="features", where={"a": object()}),
        lambda s: s.insert(),
        lambda s: s.update({"entity": "e"}),
        lambda s: s.undo(0),
    ],
)
def test_wrong_arguments_are_typed_errors(call: Callable[[Builder], Any]) -> None:
    with pytest.raises(LqlTypeError):
        call(Builder())


def test_pythons_own_words_for_conditions_are_refused() -> None:
    with pytest.raises(TypeError, match="join conditions with &"):
        bool((col("a") == 1) and (col("b") == 2))
    with pytest.raises(TypeError, match="missing"):
        col("a") == None  # noqa: E711, B015


# --------------------------------------------------------------------------- on a model


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[Session]:
    path = tmp_path_factory.mktemp("api") / "tiny.vindex"
    with Session() as opened:
        opened.extract(data_dir / MODEL, path, dtype="f32")
        yield opened


def test_results_are_typed_and_those_of_the_text(session: Session) -> None:
    calls: list[tuple[Result, type[Result], str]] = [
        (session.infer("x", top=3), InferResult, "INFER 'x' TOP 3"),
        (session.explain_infer("x"), ExplainInferResult, "EXPLAIN INFER 'x'"),
        (session.walk("x", layers=(0, 1)), WalkResult, "WALK 'x' LAYERS 0-1"),
        (session.stats(), StatsResult, "STATS"),
        (session.explain("STATS"), PlanResult, "EXPLAIN STATS"),
        (
            session.describe("x", evidence="static", detail="raw"),
            DescribeResult,
            "DESCRIBE 'x' EVIDENCE STATIC RAW",
        ),
        (
            session.select("layer", table="layers", where=col("layer") > 1),
            TableResult,
            "SELECT layer FROM LAYERS WHERE layer > 1",
        ),
    ]
    for result, kind, text in calls:
        assert type(result) is kind
        assert result == session.query(text)


def test_edits_are_made_and_taken_back(session: Session) -> None:
    made = session.insert(("Atlantis", "capital", "Poseidonia"), check="none")
    assert isinstance(made, EditResult)
    assert len(session.edits().rows) == 1
    with pytest.raises(LqlRuntimeError, match="another model"):
        session.use_source(session.source)  # type: ignore[arg-type]
    changed = session.update({"entity": "Atlantis"}, target="Oslo", check="none")
    assert changed.facts[0].target == "Oslo"
    with pytest.raises(lql.LqlError, match="stored fact"):
        session.to_transformers()
    assert session.to_transformers(without_facts=True).config["model_type"] == "llama"
    session.undo(2)
    assert not session.edits().rows


def test_an_unknown_column_is_the_languages_own_error(session: Session) -> None:
    with pytest.raises(LqlNameError, match="layr"):
        session.select("layr", table="features")
