"""Every statement of larql's corpus, run on the demo's vindex: answered or refused, never a bug.

What is refused is refused by an ``LqlError``, which the command turns into exit codes 1, 3 and 4;
any other exception would be exit code 70.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lql import ast
from lql.codes import Code
from lql.errors import LqlError
from lql.session import Session

CORPUS = Path(__file__).parents[1] / "corpus" / "parse" / "larql.txt"
LINES = CORPUS.read_text(encoding="utf-8").splitlines()
# What larql's grammar lacks, in the same spirit.
LINES += [
    'ASSERT INFER "The capital of France is" TOP 1 = " Paris";',
    "ASSERT (SELECT COUNT(*) FROM FEATURES) >= 3 'too few';",
    'ASSERT PROBABILITY "The capital of France is" OF "Paris" > 0.5;',
    'SET word = "the"; SELECT layer FROM FEATURES WHERE token = :word LIMIT 3;',
    'INCLUDE "no such file.lql";',
    "EXPLAIN SELECT * FROM FEATURES; EXPLAIN ANALYZE STATS;",
    "SELECT f.layer, l.attention FROM FEATURES AS f JOIN LAYERS AS l USING (layer) LIMIT 2;",
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to run in; what statements write is thrown away."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


NOT_YET = {
    f"{what} is not available yet"
    for what in (
        "EXTRACT … COMPONENTS",
        "USE of a vindex on the hub",
        "AUTO_EXTRACT",
        "USE REMOTE",
        "a patch on the hub",
    )
}
"""All that parses and does not run yet. Whoever gives one takes it out."""


def outcomes(session: Session, not_yet: set[str]) -> Iterator[Code | None]:
    """Run every line; the code of the error of each statement, ``None`` for one that ran.

    Args:
        not_yet: gets the messages of what is not available yet.
    """
    source = session.source
    for line in LINES:
        try:
            script = session.prepare(line)
        except LqlError as error:
            yield error.code
            continue
        for item in script.items:
            for statement in item.statements:
                try:
                    session.execute(_cheaper(statement), script.source_of(item))
                    yield None
                except LqlError as error:
                    if error.code is Code.NOT_AVAILABLE_YET:
                        not_yet.add(error.diagnostic.message)
                    yield error.code
        assert session.source is source, f"{line} opened something else"
        while session.overlay.depth:
            session.overlay.undo(1)


def _cheaper(statement: ast.Statement) -> ast.Statement:
    """The same without what asks the model dozens of prompts and is tested elsewhere.

    That is the report of an edit, and the answers about an entity, but for France.
    """
    match statement:
        case ast.Insert() | ast.Delete() | ast.Update():
            return replace(statement, check=ast.Check.NONE, require=())
        case ast.Describe(evidence=None, entity=ast.Text(entity)) if entity != "France":
            return replace(statement, evidence=ast.Evidence.STATIC)
        case _:
            return statement


def test_nothing_is_a_bug_on_a_small_model(small: Session, place: Path) -> None:
    not_yet: set[str] = set()
    found = Counter(outcomes(small, not_yet))
    assert found[None] > 100, found
    assert Code.INTERNAL not in found
    assert not_yet == NOT_YET


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[Session]:
    path = tmp_path_factory.mktemp("corpus") / "tiny.vindex"
    with Session() as session:
        session.extract(data_dir / "golden/checkpoints/llama_h96", path, dtype="f32")
        yield session


@pytest.mark.real_model
@pytest.mark.slow
def test_the_corpus_runs_on_the_demo_vindex(smollm2_f32_vindex: Path, place: Path) -> None:
    assert len(LINES) > 390
    with Session() as session:
        session.use(smollm2_f32_vindex)
        found = Counter(outcomes(session, set()))
    assert found[None] > 150, found
    assert Code.INTERNAL not in found
