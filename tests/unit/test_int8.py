"""Matrices as 8-bit codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lql.inference import int8
from lql.inference.int8 import Int8Linear, fits
from lql.inference.linear import Coarse
from lql.inference.pages import Pages
from lql.inference.rows import Part, Rows
from vindex.kinds import StorageDtype
from vindex.source import StoredTensor

ROWS, COLUMNS = 48, 96
RANDOM = np.random.default_rng(0)


def rows(count: int = ROWS, columns: int = COLUMNS) -> Rows:
    values = RANDOM.standard_normal((count, columns), dtype=np.float32)
    values[3] *= 1000
    values[5] = 0
    return Rows([Part(StoredTensor("w", StorageDtype.F32, values))])


@pytest.mark.parametrize("tokens", [1, 5, 33])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_those_of_the_weights_nearly(tokens: int, biased: bool) -> None:
    if not int8.kernel_works():
        return  # another processor
    own = rows()
    bias = torch.arange(ROWS, dtype=torch.float32) if biased else None
    x = torch.from_numpy(RANDOM.standard_normal((tokens, COLUMNS), dtype=np.float32))
    found = Int8Linear(own, bias, Pages())(x)
    expected = torch.nn.functional.linear(x, own.single(), bias)
    scale = own.single().norm(dim=1) * x.norm(dim=1, keepdim=True) / COLUMNS**0.5
    error = (found - expected).abs() / (scale + (0 if bias is None else bias * 0.01) + 1e-6)
    assert float(error.max()) < 0.06
    assert float(error[:, 5].max()) < 0.01  # zeros stay zeros


def test_how_far_codes_are_is_told() -> None:
    if not int8.kernel_works():
        return  # another processor
    values = RANDOM.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    told = []
    for largest in (3, 300):
        values[:, 0] = largest
        own = Rows([Part(StoredTensor("w", StorageDtype.F32, values))])
        made = Int8Linear(own, None, Pages())
        held = made(torch.eye(COLUMNS)).T  # of one number each: no sum is rounded
        assert made.moved == pytest.approx(
            float((held - own.single()).norm() / own.single().norm()), rel=0.2
        )
        told.append(made.moved)
    assert told[0] < 0.01
    nothing = Rows([Part(StoredTensor("w", StorageDtype.F32, values * 0))])
    assert Int8Linear(nothing, None, Pages()).moved == 0


def test_only_the_whole_of_it_is_compiled() -> None:
    if not int8.kernel_works():
        return  # another processor
    whole = Int8Linear(rows(), None, Pages())
    x = torch.ones(2, COLUMNS)
    if whole.compiled is not None:
        assert torch.equal(whole.compiled.module(x), whole(x))
        assert not torch.equal(Int8Linear(rows(), None, Pages())(x), whole(x))
    assert Int8Linear(rows(), torch.ones(ROWS), Pages()).compiled is None


def test_the_kernel_reads_whole_groups_of_columns() -> None:
    """With others it reads memory that is not the matrix's, and ends the process."""
    if not int8.kernel_works():
        return  # another processor
    assert fits(rows(columns=64))
    assert not fits(rows(columns=40))


def test_rounded_arithmetic_reads_the_stored_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    if not int8.kernel_works():
        return  # another processor
    own = rows()
    linear = Int8Linear(own, None, Pages())
    x = torch.ones(2, COLUMNS)
    coarse = Coarse(linear.elements)
    linear.can_be_coarse = True
    expected = coarse.product(x, own, None).clone()
    assert torch.equal(linear(x, coarse), expected)
    assert not torch.equal(linear(x), expected)
