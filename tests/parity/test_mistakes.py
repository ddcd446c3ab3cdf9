"""The comparison with transformers bites: every mistake that a row can show, it shows."""

from __future__ import annotations

import math

import pytest

from tests.parity.bites import CLEARLY, DISTINCT, FORM, difference
from tests.parity.breaking import MISTAKES, BrokenSource, Mistake
from tests.parity.breaking_attention import ATTENTION_MISTAKES
from tests.parity.breaking_experts import EXPERT_MISTAKES
from tests.parity.laboratory import LOGITS_WITHIN, Laboratory, largest, loaded, prompt_ids
from tests.parity.rows import ROWS
from vindex.spec import Role

pytestmark = pytest.mark.usefixtures("one_thread")


ALL_MISTAKES = (*MISTAKES, *ATTENTION_MISTAKES, *EXPERT_MISTAKES)


@pytest.mark.parametrize("mistake", ALL_MISTAKES, ids=str)
def test_mistake_shows(mistake: Mistake, laboratory: Laboratory) -> None:
    measured = {row.name: difference(laboratory, row, mistake) for row in DISTINCT}
    differences = {name: value for name, value in measured.items() if value is not None}
    table = ", ".join(f"{name} {value:.2g}" for name, value in differences.items())
    print(f"{mistake}: {table}")
    assert differences, "no row has this term: add one that does"
    assert min(differences.values()) > CLEARLY * LOGITS_WITHIN, table


def test_no_mistake_shows_nothing(laboratory: Laboratory) -> None:
    """The wrapper alone breaks nothing."""
    for row in DISTINCT:
        with laboratory.source(row, FORM) as source:
            found = loaded(BrokenSource(source, Mistake("none"))).logits(prompt_ids())
        assert largest(found, laboratory.expected(row).logits) <= LOGITS_WITHIN


def test_every_role_of_the_rows_is_broken(laboratory: Laboratory) -> None:
    broken = {role for mistake in ALL_MISTAKES for role in mistake.tensors}
    assert set(Role) <= broken


def test_a_value_that_is_not_finite_is_a_difference(laboratory: Laboratory) -> None:
    logits = laboratory.expected(ROWS[0]).logits
    damaged = logits.copy()
    damaged[0, 0] = math.nan
    assert largest(damaged, logits) == math.inf
