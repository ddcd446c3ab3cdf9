"""The comparison with transformers bites: every mistake that a row can show, it shows."""

from __future__ import annotations

import math

import pytest
import torch

from tests.parity.breaking import MISTAKES, BrokenSource, Mistake
from tests.parity.breaking_attention import ATTENTION_MISTAKES
from tests.parity.breaking_experts import EXPERT_MISTAKES
from tests.parity.checkpoints import Spelling
from tests.parity.laboratory import Form, Laboratory, largest, loaded, prompt_ids
from tests.parity.rows import ROWS
from tests.parity.test_parity import LOGITS_WITHIN
from vindex.spec import Role

pytestmark = pytest.mark.usefixtures("one_thread")

# Rows that differ in what they compute, not only in how it is stored.
DISTINCT = tuple(row for row in ROWS if row.dtype is torch.float32 and not row.multimodal)
FORM = Form(Spelling.HUB)
# The smallest difference of all, gelu by tanh instead of erf, is 2.3 times the tolerance, which is
# 30 times the rounding of a right answer.
CLEARLY = 2


ALL_MISTAKES = (*MISTAKES, *ATTENTION_MISTAKES, *EXPERT_MISTAKES)


@pytest.mark.parametrize("mistake", ALL_MISTAKES, ids=str)
def test_mistake_shows(mistake: Mistake, laboratory: Laboratory) -> None:
    differences = {}
    for row in DISTINCT:
        with laboratory.source(row, FORM) as source:
            if mistake.concerns(source):
                found = loaded(BrokenSource(source, mistake)).logits(prompt_ids())
                differences[row.name] = largest(found, laboratory.expected(row).logits)
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
