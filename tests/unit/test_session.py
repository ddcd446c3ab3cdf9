"""The Python API: typed results, state across statements, errors with their place."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lql
from lql.cancel import CancelToken
from lql.codes import Code
from lql.errors import LqlError, LqlNameError, LqlRuntimeError, LqlSyntaxError, LqlVindexError
from lql.results.forward import ExplainInferResult, InferResult
from lql.results.lifecycle import UseResult
from lql.results.table import TableResult
from lql.session import Session, connect

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def vindex(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    target = tmp_path_factory.mktemp("session") / "tiny.vindex"
    with Session() as session:
        session.run(
            "EXTRACT MODEL :model INTO :target DTYPE f32;",
            parameters={"model": data_dir / "golden/checkpoints/llama_h96", "target": target},
        )
    return target


@pytest.fixture
def session(vindex: Path) -> Iterator[Session]:
    with connect(vindex) as opened:
        yield opened


def test_results_are_typed(session: Session) -> None:
    layers, infer = session.run(f'SHOW LAYERS; INFER "{PROMPT}" TOP 2;')
    assert isinstance(layers, TableResult)
    assert isinstance(infer, InferResult)
    assert infer.tokens[0].token == " of"
    assert infer.meta.elapsed_s >= infer.meta.load_s > 0


def test_weights_are_loaded_once(session: Session) -> None:
    first, second = session.run('INFER "x"; EXPLAIN INFER "x";')
    assert first.meta.load_s > 0
    assert second.meta.load_s == 0
    assert isinstance(second, ExplainInferResult)


def test_use_lets_go_of_the_weights(session: Session, vindex: Path) -> None:
    infer, use, again = session.run('INFER "x"; USE :v; INFER "x";', parameters={"v": str(vindex)})
    assert isinstance(use, UseResult)
    assert again.meta.load_s > 0
    assert again == infer


def test_an_extract_becomes_current(tmp_path: Path, data_dir: Path) -> None:
    with Session() as fresh:
        fresh.run(
            "EXTRACT MODEL :m INTO :t WITH BROWSE; SHOW LAYERS;",
            parameters={"m": data_dir / "golden/checkpoints/gemma3_h96", "t": tmp_path / "g"},
        )
        assert fresh.source is not None
        assert fresh.source.spec.family == "gemma3"


def test_a_failing_statement_leaves_the_session_as_it_was(session: Session) -> None:
    source = session.source
    for statement in ('USE "nowhere";', 'USE MODEL "nowhere";', "SHOW LAYERS 7-9;", "SELEC;"):
        with pytest.raises(LqlError):
            session.run(statement)
        assert session.source is source
    assert session.run("SHOW LAYERS;")


def test_nothing_runs_if_anything_does_not_parse(tmp_path: Path, data_dir: Path) -> None:
    model = data_dir / "golden/checkpoints/llama_h96"
    with Session() as fresh, pytest.raises(LqlSyntaxError):
        fresh.run(f'EXTRACT MODEL "{model}" INTO "{tmp_path / "x"}"; WALKK;')
    assert list(tmp_path.iterdir()) == []


def test_errors_know_their_place(session: Session) -> None:
    with pytest.raises(LqlNameError) as caught:
        session.run('STATS;\nSHOW FEATURES 1 WHERE tokn = "x";', name="here.lql")
    diagnostic = caught.value.diagnostic
    assert diagnostic.source is not None
    assert diagnostic.span is not None
    assert diagnostic.source.name == "here.lql"
    assert diagnostic.source.slice(diagnostic.span) == "tokn"
    with pytest.raises(LqlVindexError) as caught_too:
        session.run('STATS;\n  USE "nowhere";')
    span = caught_too.value.diagnostic.span
    assert span is not None
    assert (span.start, span.end) == (9, 22)


def test_errors_keep_their_cause(session: Session) -> None:
    with pytest.raises(LqlVindexError) as caught:
        session.run('USE "nowhere";')
    assert type(caught.value.__cause__).__name__ == "VindexNotFound"


def test_a_level_too_low_names_the_statement_that_mends_it(tmp_path: Path, data_dir: Path) -> None:
    model = data_dir / "golden/checkpoints/llama_h96"
    with Session() as fresh, pytest.raises(LqlError) as caught:
        fresh.run(f'EXTRACT MODEL "{model}" INTO "{tmp_path / "b"}" WITH BROWSE; INFER "x";')
    error = caught.value
    assert (error.code, error.exit_code) == (Code.LEVEL_TOO_LOW, 4)
    (help_,) = error.diagnostic.helps
    mend = help_.partition(": ")[2]
    with Session() as fresh:
        fresh.run(mend)
        assert isinstance(fresh.run('INFER "x";')[0], InferResult)


@pytest.mark.parametrize("statement", ["STATS;", "SHOW LAYERS;", 'WALK "x";', 'INFER "x";'])
def test_without_use_statements_say_what_to_do(statement: str) -> None:
    with Session() as fresh, pytest.raises(LqlRuntimeError) as caught:
        fresh.run(statement)
    assert caught.value.code is Code.NOTHING_OPEN
    assert any("USE" in text for text in caught.value.diagnostic.helps)


def test_a_cancelled_statement_is_an_error_of_its_own(session: Session) -> None:
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(LqlRuntimeError) as caught:
        session.run('INFER "x";', cancel=cancel)
    assert (caught.value.code, caught.value.exit_code) == (Code.CANCELLED, 130)
    assert isinstance(session.run('INFER "x";')[0], InferResult)


def test_a_cancelled_extract_leaves_nothing(tmp_path: Path, data_dir: Path) -> None:
    cancel = CancelToken()
    cancel.cancel()
    model = data_dir / "golden/checkpoints/llama_h96"
    with Session() as fresh, pytest.raises(LqlRuntimeError):
        fresh.run(f'EXTRACT MODEL "{model}" INTO "{tmp_path / "x"}";', cancel=cancel)
    assert list(tmp_path.iterdir()) == []


def test_limits_are_told(session: Session) -> None:
    (result,) = session.run("SHOW FEATURES 1 LIMIT 3;")
    assert isinstance(result, TableResult)
    cut = result.meta.truncated
    assert cut is not None
    assert (cut.shown, cut.total) == (3, 160)
    (result,) = session.run("SHOW FEATURES 1 LIMIT 160;")
    assert result.meta.truncated is None


def test_labels_are_shown_and_filtered(vindex: Path, tmp_path: Path) -> None:
    labelled = tmp_path / "labelled.vindex"
    shutil.copytree(vindex, labelled)
    (labelled / "feature_labels.json").write_text('{"L1_F54": "capital", "L3_F72": "language"}')
    with connect(labelled) as opened:
        (walk,) = opened.run(f'EXPLAIN WALK "{PROMPT}" RELATIONS ONLY;')
        found = [(row["layer"], row["feature"], row["relation"]) for row in walk.to_rows()]
        assert found == [(1, 54, "capital"), (3, 72, "language")]
        (features,) = opened.run('SHOW FEATURES 1 WHERE relation = "capital";')
        assert [row["feature"] for row in features.to_rows()] == [54]
        (explained,) = opened.run(f'EXPLAIN INFER "{PROMPT}" RELATIONS ONLY;')
        assert isinstance(explained, ExplainInferResult)
        assert [len(layer.features) for layer in explained.layers] == [0, 1, 0, 1]


def test_generation_through_the_api(session: Session) -> None:
    text = "".join(token.text for token in session.model().generate("The", max_tokens=4))
    assert text


def test_the_package_offers_its_names_without_loading_them() -> None:
    assert {"Session", "connect", "parse", "unparse", "LqlError"} <= set(dir(lql))
    assert lql.connect is connect
    assert all(getattr(lql, name) for name in lql.__all__)
    with pytest.raises(AttributeError):
        _ = lql.nothing  # type: ignore[attr-defined]
    code = (
        "import lql, sys; print(sorted(m for m in sys.modules if m.startswith(('lql.', 'numpy'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
