"""EXPLAIN: what statements would read, told without reading it, against what they do read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from lql import ast
from lql.codes import Code
from lql.errors import LqlError, LqlNotAvailableError, LqlTypeError
from lql.execute.needs import needs
from lql.execute.residency import resident_bytes
from lql.parser import parse
from lql.results.plan import PlanResult
from lql.session import Session
from lql.syntax_help import STATEMENT_HELP
from vindex.footprint import weight_files, work_of
from vindex.store import open_vindex

MODEL = "golden/checkpoints/llama_h96"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    path = tmp_path_factory.mktemp("plan") / "tiny.vindex"
    with Session() as session:
        session.run(
            "EXTRACT MODEL :m INTO :t DTYPE f32;", parameters={"m": data_dir / MODEL, "t": path}
        )
    return path


@pytest.fixture
def session(tiny: Path) -> Iterator[Session]:
    with Session() as opened:
        opened.run("USE :v", parameters={"v": tiny})
        yield opened


def plan(session: Session, statement: str) -> PlanResult:
    result = session.query(f"EXPLAIN {statement}")
    assert isinstance(result, PlanResult)
    return result


def steps(result: PlanResult) -> list[str]:
    return [step.step for step in result.steps]


def test_infer_maps_every_weight_and_counts_its_products(session: Session, tiny: Path) -> None:
    result = plan(session, 'ASSERT INFER "The capital" = " x"')

    with open_vindex(tiny) as vindex:
        tokens = len(vindex.encode("The capital", special=True))
        matrices = [t for t in vindex.spec.tensors if len(t.shape) == 2 and t.layer is not None]
        products = sum(t.shape[0] * t.shape[1] for t in matrices)
        head = vindex.spec.vocab_size * vindex.spec.hidden_size
        bytes_ = sum(
            vindex.tensor(*t.identity).array.nbytes
            for t in vindex.spec.tensors
            if vindex.has(*t.identity)
        )
    assert (result.level_needed, result.level) == ("inference", "inference")
    assert (result.device, result.dtype, result.obstacle) == ("cpu", "f32", None)
    assert steps(result) == ["load weights", "run the model"]
    assert result.steps[0].bytes == bytes_
    assert {"embeddings.bin", "gate_vectors.bin", "attn_weights.bin"} <= set(result.steps[0].files)
    assert result.steps[1].multiply_adds == tokens * products + head


def test_a_plan_touches_no_weight(session: Session, tiny: Path) -> None:
    assert session.source is not None
    session.source.release()
    before = resident_bytes(tiny)
    session.execute(ast.Explain(ast.Walk(ast.Text("x"))))
    plan(session, 'DESCRIBE "x" EVIDENCE STATIC')
    plan(session, "SELECT * FROM FEATURES")
    plan(session, 'ASSERT INFER "x" = "y"')
    plan(session, 'INSERT INTO EDGES (entity, relation, target) VALUES ("a", "b", "c")')

    assert not session.loaded
    weights = ("gate_vectors.bin", "embeddings.bin", "attn_weights.bin", "up_weights.bin")
    assert [resident_bytes(tiny / name) for name in weights] == [0] * 4
    assert before == 0


def test_layers_narrow_what_is_read(session: Session) -> None:
    whole = plan(session, 'ANALYZE WALK "x"')
    part = plan(session, 'ANALYZE WALK "x" LAYERS 0-0')

    assert (whole.layers, part.layers) == ("0-3", "0-0")
    assert part.bytes < whole.bytes <= 4 * part.bytes


def test_analyze_runs_and_measures_every_step(session: Session) -> None:
    result = plan(session, 'ANALYZE INFER "The capital of France is" TOP 3')

    assert (result.rows_given, steps(result)) == (3, ["load weights", "run the model"])
    assert session.loaded
    assert all(step.milliseconds is not None and step.milliseconds > 0 for step in result.steps)
    load = result.steps[0]
    assert load.bytes is not None
    assert load.bytes_read is not None
    assert 0.5 * load.bytes < load.bytes_read < 2 * load.bytes
    names = [column.name for column in result.columns]
    assert names[-2:] == ["milliseconds", "bytes_read"]

    again = plan(session, 'ANALYZE INFER "The capital of France is"')
    assert again.steps[0].detail == "in memory already"
    assert again.steps[0].bytes == 0


def test_analyze_counts_the_pages_that_come_in(session: Session, tiny: Path) -> None:
    result = plan(session, 'ANALYZE DESCRIBE "France" EVIDENCE STATIC')
    (step,) = result.steps
    assert step.bytes is not None
    assert step.bytes_read is not None
    assert step.bytes_read >= (tiny / "gate_vectors.bin").stat().st_size // 2


def test_what_stands_in_the_way_is_part_of_the_plan(
    tmp_path: Path, data_dir: Path, session: Session
) -> None:
    browse = tmp_path / "b.vindex"
    values = {"m": data_dir / MODEL, "b": browse}
    session.run("EXTRACT MODEL :m INTO :b WITH BROWSE;", parameters=values)

    result = plan(session, 'ASSERT INFER "x" = "y"')

    assert (result.level_needed, result.level) == ("inference", "browse")
    assert "needs a vindex of level inference" in str(result.obstacle)
    assert result.steps == ()
    assert plan(session, 'DESCRIBE "x"').device is None


def test_a_model_without_a_vindex_has_a_plan(session: Session, data_dir: Path) -> None:
    session.run("USE MODEL :m", parameters={"m": data_dir / MODEL})

    result = plan(session, 'ASSERT PROBABILITY "x" OF "abc" > 0')

    assert steps(result) == ["load weights", "run the model"]
    assert (result.steps[0].bytes or 0) > 100_000
    assert plan(session, "SHOW LAYERS").obstacle is not None


def test_a_plan_of_a_plan_is_the_plan(session: Session) -> None:
    assert plan(session, "EXPLAIN EXPLAIN STATS") == plan(session, "STATS")


@pytest.mark.parametrize("entry", STATEMENT_HELP, ids=lambda entry: entry.title)
def test_every_statement_has_a_plan_or_is_not_available(session: Session, entry: Any) -> None:
    ((statement,),) = [item.statements for item in parse(entry.example).items]
    available = _available(statement)
    if not available:
        with pytest.raises(LqlNotAvailableError):
            session.execute(ast.Explain(statement))
        return
    try:
        result = session.execute(ast.Explain(statement))
    except LqlTypeError as error:
        code: Code | None = error.code  # the examples speak of a model with more layers
    else:
        assert isinstance(result, PlanResult)
        assert result.steps or result.obstacle
        code = None
    assert code in (None, Code.OUT_OF_RANGE)


def _available(statement: ast.Statement) -> bool:
    try:
        needs(statement)
    except LqlNotAvailableError:
        return False
    return True


def test_needs_and_execute_agree_on_what_is_available(session: Session, tmp_path: Path) -> None:
    """A statement that runs has a plan: EXPLAIN must not lag behind."""
    assert len(STATEMENT_HELP) == len(get_args(ast.Statement))
    for entry in STATEMENT_HELP:
        ((statement,),) = [item.statements for item in parse(entry.example).items]
        if isinstance(statement, ast.Extract | ast.UseModel | ast.Include):
            continue  # these would fetch a model
        with Session() as empty:
            try:
                empty.execute(statement)
                runs = True
            except LqlNotAvailableError as error:
                runs = not error.diagnostic.message.startswith(f"{entry.title} is")
            except LqlError:
                runs = True
        assert runs == _available(statement), entry.title


def test_files_add_up_to_the_work(data_dir: Path, tmp_path: Path) -> None:
    with open_vindex_of(data_dir, tmp_path) as vindex:
        work = work_of(vindex)
        assert sum(use.bytes for use in weight_files(vindex)) == work.weight_bytes
        assert (
            work.multiply_adds(3) == 3 * work.multiply_adds_per_token + work.multiply_adds_of_head
        )


def open_vindex_of(data_dir: Path, tmp_path: Path) -> Any:
    path = tmp_path / "x.vindex"
    with Session() as session:
        session.run("EXTRACT MODEL :m INTO :x", parameters={"m": data_dir / MODEL, "x": path})
    return open_vindex(path)
