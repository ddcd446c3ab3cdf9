"""The most probable token from int8 codes: exactly the exact product's, or no answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lql.inference import quantised, shortlist
from lql.inference.quantised import EmbeddingLinear
from lql.inference.shortlist import Shortlist, integer_kernel_works, pays
from vindex.kinds import StorageDtype
from vindex.source import StoredTensor

ROWS, COLUMNS = 4000, 96
RANDOM = np.random.default_rng(0)
USUAL = torch.linspace(0.1, 2.0, COLUMNS)


def head(rows: int = ROWS, columns: int = COLUMNS, spread: float = 1.0) -> StoredTensor:
    """Rows of very different lengths."""
    lengths = np.exp(spread * RANDOM.standard_normal((rows, 1)))
    values = (RANDOM.standard_normal((rows, columns)) * lengths).astype(np.float16)
    return StoredTensor("head", StorageDtype.F16, values)


def exactly(stored: StoredTensor, x: torch.Tensor) -> np.ndarray:
    return stored.float32().astype(np.float64) @ x[0].double().numpy()


@pytest.mark.parametrize("outlier", [1.0, 30.0])
def test_the_largest_is_the_exact_products(outlier: float) -> None:
    if not integer_kernel_works():
        return  # another processor
    stored = head()
    usual = USUAL.clone()
    usual[5] *= outlier
    own = Shortlist(stored, usual)
    for _ in range(200):
        x = torch.from_numpy(RANDOM.standard_normal((1, COLUMNS), dtype=np.float32))
        x[0, 5] *= outlier
        found, expected = own(x), exactly(stored, x)
        if found is not None:
            assert int(found.argmax()) == expected.argmax()
            assert float(found.max()) == pytest.approx(expected.max(), rel=1e-5)
            assert np.abs(found[0].numpy() - expected).max() < 0.05 * np.abs(expected).max()
    assert own.given >= 100


def test_near_ties_are_decided_exactly() -> None:
    """Rows that differ by less than a code."""
    if not integer_kernel_works():
        return  # another processor
    stored = head(spread=0.1)
    values = stored.array.copy()
    direction = RANDOM.standard_normal(COLUMNS)
    best = (direction * 3).astype(np.float16)
    values[:50] = best
    for row in range(50):
        values[row, 3] = np.nextafter(best[3], np.float16(np.inf)) if row == 31 else best[3]
    stored = StoredTensor("head", StorageDtype.F16, values)
    x = torch.from_numpy(direction.astype(np.float32))[None]
    x[0, 3] = abs(x[0, 3]) + 1
    found = Shortlist(stored, USUAL)(x)
    assert found is not None
    assert int(found.argmax()) == exactly(stored, x).argmax()
    assert int(found.argmax()) == 31


def test_too_many_candidates_are_no_answer() -> None:
    if not integer_kernel_works():
        return  # another processor
    same = np.repeat(RANDOM.standard_normal((1, COLUMNS)), ROWS, axis=0).astype(np.float16)
    own = Shortlist(StoredTensor("head", StorageDtype.F16, same), USUAL)
    assert own(torch.from_numpy(same[:1].astype(np.float32))) is None
    assert own.refused == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_answer(value: float) -> None:
    if not integer_kernel_works():
        return  # another processor
    x = torch.ones(1, COLUMNS)
    x[0, 7] = value
    assert Shortlist(head(), USUAL)(x) is None


def test_rows_and_vectors_of_zeros() -> None:
    if not integer_kernel_works():
        return  # another processor
    stored = head()
    stored.array[17] = 0.0
    found = Shortlist(stored, USUAL)(torch.ones(1, COLUMNS))
    assert found is not None
    assert int(found.argmax()) == exactly(stored, torch.ones(1, COLUMNS)).argmax()
    assert Shortlist(stored, USUAL)(torch.zeros(1, COLUMNS)) is None  # all are the largest


def test_a_head_makes_codes_once_many_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    if not integer_kernel_works():
        return  # another processor
    monkeypatch.setattr(shortlist, "_PAYS_FROM", 1)
    stored = head()
    whole = EmbeddingLinear(stored, None)
    x = torch.from_numpy(RANDOM.standard_normal((1, COLUMNS), dtype=np.float32))
    for _ in range(quantised._LIST_AFTER - 1):
        assert torch.equal(whole.largest(x), whole(x))
        assert whole.resident_bytes == 0
    assert not torch.equal(whole.largest(x), whole(x))
    assert whole.resident_bytes > ROWS * COLUMNS
    assert int(whole.largest(x).argmax()) == exactly(stored, x).argmax()


def test_small_heads_are_multiplied_whole() -> None:
    assert not pays(head())
