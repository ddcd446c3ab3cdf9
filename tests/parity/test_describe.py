"""What the two real models say about entities that everybody knows, and about names of nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lql.results.browse import DescribeResult
from lql.session import Session

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Iterator[Session]:
    with Session() as session:
        session.run("USE MODEL :m;", parameters={"m": str(smollm2_gguf)})
        yield session


def describe(session: Session, text: str) -> DescribeResult:
    (result,) = session.run(text)
    assert isinstance(result, DescribeResult)
    return result


@pytest.mark.parametrize(
    ("entity", "target"), [("France", "Paris"), ("Japan", "Tokyo"), ("Kenya", "Nairobi")]
)
def test_the_capital_comes_first_and_is_clear(smollm2: Session, entity: str, target: str) -> None:
    found = describe(smollm2, f'DESCRIBE "{entity}";')
    first = found.edges[0]
    assert found.kinds[0] == "country"
    assert (first.relation, first.target, first.signal) == ("capital", target, "clear")
    assert first.probability is not None
    assert first.probability > 0.5


def test_rows_are_whole_words_once_and_ranked(smollm2: Session) -> None:
    edges = describe(smollm2, 'DESCRIBE "France" RAW;').edges
    targets = [edge.target for edge in edges]
    assert {"French", "euro", "Europe"} <= set(targets)
    assert len({target.casefold() for target in targets}) == len(targets)
    assert [e.score for e in edges] == sorted((e.score for e in edges), reverse=True)


def test_a_made_up_name_has_no_clear_row(smollm2: Session) -> None:
    found = describe(smollm2, 'DESCRIBE "Korvathia";')
    assert "clear" not in {edge.signal for edge in found.edges}
    assert any("no clear signal" in note or "no signal" in note for note in found.meta.notes)


def test_silencing_the_first_carrier_of_paris_costs_it_probability(smollm2: Session) -> None:
    first = describe(smollm2, 'DESCRIBE "France" VERBOSE CAUSAL TOP 1;').edges[0]
    assert first.target == "Paris"
    assert len(first.via) == 3
    assert first.causal is not None
    assert first.probability is not None
    assert first.causal < first.probability
