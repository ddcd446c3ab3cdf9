"""Every part of every family: neutralised, it fails a row, or there is a reason why it cannot."""

from __future__ import annotations

import pytest

from tests.parity.bites import (
    DISTINCT,
    EXCUSES,
    Bite,
    bites,
    difference,
    required,
    spec,
    zeroed,
)
from tests.parity.laboratory import LOGITS_WITHIN, Laboratory, threads
from vindex.spec import Role

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def found(laboratory: Laboratory) -> tuple[Bite, ...]:
    with threads(1):
        return tuple(bites(laboratory))


def test_every_part_is_caught(found: tuple[Bite, ...]) -> None:
    assert [bite for bite in found if not bite.caught] == []


def test_every_tensor_of_every_row_belongs_to_a_part(
    found: tuple[Bite, ...], laboratory: Laboratory
) -> None:
    shown = {(bite.family, bite.group) for bite in found}
    assert required(laboratory) == {
        pair for pair in shown if pair[1] in {role.value for role in Role}
    } | set(EXCUSES)


@pytest.mark.parametrize("pair", EXCUSES, ids="-".join)
def test_what_is_excused_cannot_show(pair: tuple[str, str], laboratory: Laboratory) -> None:
    family, group = pair
    rows = [row for row in DISTINCT if spec(laboratory, row).family == family]
    errors = [difference(laboratory, row, zeroed(Role(group))) for row in rows]
    assert errors
    assert all(error is not None and error <= LOGITS_WITHIN for error in errors)
