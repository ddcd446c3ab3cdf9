"""Products: every kernel gives the float64 product of the stored values, as closely as it says."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lql.inference import linear
from lql.inference.linear import (
    Coarse,
    HalfLinear,
    Linear,
    PlainLinear,
    SingleLinear,
    half_kernel_works,
    prepare,
    single_kernel_works,
)
from lql.inference.precision import ComputeDtype
from lql.inference.rows import Part, Rows, as_tensor, is_mapped
from vindex.dtypes import from_float32
from vindex.kinds import StorageDtype
from vindex.source import StoredTensor

F16, F32, BF16 = StorageDtype.F16, StorageDtype.F32, StorageDtype.BF16
Store = Callable[[npt.NDArray[np.float32], StorageDtype], StoredTensor]


@pytest.fixture
def mapped(tmp_path: Path) -> Store:
    """Stores a matrix in a file and maps it read-only, as a vindex does."""

    def store(values: npt.NDArray[np.float32], dtype: StorageDtype) -> StoredTensor:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.bin"
        carrier = from_float32(values, dtype)
        carrier.tofile(path)
        return StoredTensor("m", dtype, np.memmap(path, carrier.dtype, "r", shape=carrier.shape))

    return store


def random(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def ready(rows: Rows, dtype: ComputeDtype, bias: torch.Tensor | None = None) -> Linear:
    with ThreadPoolExecutor(2) as pool:
        return prepare(rows, bias, dtype, pool)()


def error(product: Linear, rows: Rows, tokens: int, bias: Any = 0.0, **options: Any) -> float:
    """Largest difference from the exact product, relative to the largest exact value."""
    x = random(tokens, rows.columns, seed=9)
    found = product(torch.from_numpy(x), **options)
    assert found.dtype is torch.float32
    exact = x.astype(np.float64) @ rows.float32(0, rows.count).astype(np.float64).T + bias
    assert found.shape == exact.shape
    return float(np.abs(found.numpy() - exact).max() / np.abs(exact).max())


def test_this_machine_has_both_fast_kernels_or_says_so() -> None:
    # On x86 both must be there: without this test a broken probe would only cost speed.
    if torch.backends.quantized.engine == "x86":
        assert half_kernel_works()
    assert single_kernel_works() == torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
@pytest.mark.parametrize("shape", [(1, 3), (5, 16), (33, 65), (200, 576)])
@pytest.mark.parametrize("tokens", [1, 2, 9, 70])
def test_products_keep_the_stored_weights_exact(
    dtype: StorageDtype, shape: tuple[int, int], tokens: int, mapped: Store
) -> None:
    rows = Rows([Part(mapped(random(*shape), dtype))])
    product = ready(rows, ComputeDtype.AUTO.resolve(dtype))
    assert error(product, rows, tokens) < 2e-6
    assert isinstance(product, SingleLinear if dtype is F32 else HalfLinear)


@pytest.mark.parametrize("dtype", [F16, F32])
def test_parts_stand_below_each_other_in_their_own_order(
    dtype: StorageDtype, mapped: Store
) -> None:
    first, second = random(6, 16), random(4, 16, seed=1)
    order = np.array([5, 0, 4, 1, 3, 2])
    rows = Rows([Part(mapped(first, dtype), order), Part(mapped(second, dtype))])
    bias = random(10, seed=2)
    product = ready(rows, ComputeDtype.AUTO.resolve(dtype), torch.from_numpy(bias))
    expected = np.concatenate([first[order], second])
    np.testing.assert_allclose(rows.float32(0, 10), expected, atol=2e-3)
    np.testing.assert_array_equal(rows.float32(4, 8), rows.float32(0, 10)[4:8])
    assert error(product, rows, 3, bias) < 2e-6


def test_rows_are_packed_in_blocks(mapped: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_BLOCK_ELEMENTS", 16 * 7)
    rows = Rows([Part(mapped(random(10, 16), F16)), Part(mapped(random(15, 16, seed=1), F16))])
    bias = random(25, seed=2)
    product = ready(rows, ComputeDtype.F16, torch.from_numpy(bias))
    assert error(product, rows, 1, bias) < 2e-6
    assert error(product, rows, 5, bias) < 2e-6


@pytest.mark.parametrize("scale", [1e5, 1e-6, 1e30])
def test_values_beyond_half_precision_are_multiplied_in_float32(
    scale: float, mapped: Store
) -> None:
    rows = Rows([Part(mapped(random(8, 16) * np.float32(scale), BF16))])
    product = ready(rows, ComputeDtype.F16)
    assert isinstance(product, SingleLinear)
    assert error(product, rows, 2) < 2e-6


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_stored_infinities_are_not_made_finite(value: float, mapped: Store) -> None:
    values = random(8, 16)
    values[3, 5] = value
    product = ready(Rows([Part(mapped(values, F16))]), ComputeDtype.F16)
    finite = torch.isfinite(product(torch.ones(1, 16)))[0]
    assert finite.tolist() == [row != 3 for row in range(8)]


def test_float32_can_be_asked_for_half_precision_and_the_other_way_round(mapped: Store) -> None:
    single = Rows([Part(mapped(random(64, 64), F32))])
    half = Rows([Part(mapped(random(64, 64), F16))])
    assert 1e-5 < error(ready(single, ComputeDtype.F16), single, 4) < 1e-3
    widened = ready(half, ComputeDtype.F32)
    assert isinstance(widened, SingleLinear)
    assert error(widened, half, 4) < 2e-6


@pytest.mark.parametrize("dtype", [F16, F32])
def test_without_fast_kernels_the_answer_is_the_same(
    dtype: StorageDtype, mapped: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "half_kernel_works", lambda: False)
    monkeypatch.setattr(linear, "single_kernel_works", lambda: False)
    rows = Rows([Part(mapped(random(33, 65), dtype))])
    bias = random(33, seed=3)
    product = ready(rows, ComputeDtype.AUTO.resolve(dtype), torch.from_numpy(bias))
    assert isinstance(product, PlainLinear)
    assert error(product, rows, 4, bias) < 2e-6
    # Mapped float32 is used where it lies; anything else is converted once.
    assert product.resident_bytes == (0 if dtype is F32 else 4 * 33 * 65)


def test_products_do_not_depend_on_the_script_compiler(
    mapped: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Rows([Part(mapped(random(33, 65, seed=seed), F16))]) for seed in (1, 2)]
    compiled = [ready(each, ComputeDtype.F16) for each in rows]
    monkeypatch.setattr(linear, "_half_script", lambda: None)
    plain = [ready(each, ComputeDtype.F16) for each in rows]
    x = torch.from_numpy(random(4, 65))
    # Two matrices: a compiled product must not answer for another one's weights.
    for with_compiler, without in zip(compiled, plain, strict=True):
        assert torch.equal(with_compiler(x), without(x))
    assert not torch.equal(compiled[0](x), compiled[1](x))


def test_a_kernel_that_is_wrong_or_missing_is_not_used() -> None:
    assert not linear._is_right(lambda x, w, b: x @ w.T)  # forgets the bias

    def missing(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such operator")

    assert not linear._is_right(missing)
    assert linear._is_right(lambda x, w, b: x @ w.T + b)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_coarse_products_round_to_bfloat16_and_no_further(
    dtype: StorageDtype, mapped: Store
) -> None:
    order = np.arange(48)[::-1].copy()
    parts = [Part(mapped(random(48, 64), dtype), order), Part(mapped(random(16, 64), dtype))]
    rows, bias = Rows(parts), random(64, seed=4)
    product = ready(rows, ComputeDtype.F16, torch.from_numpy(bias))
    assert product.can_be_coarse
    # Scratch memory is larger than the matrix and holds something else's values.
    coarse = Coarse(2 * product.elements)
    coarse.product(torch.ones(1, 64), Rows([parts[0]]), None)
    assert 1e-4 < error(product, rows, 40, bias, coarse=coarse) < 2e-2
    assert error(product, rows, 40, bias) < 2e-6


def test_rows_in_memory_of_their_own_are_let_go_of() -> None:
    rows = Rows([Part(StoredTensor("m", F16, random(8, 16).astype(np.float16)))])
    product = ready(rows, ComputeDtype.F16)
    assert not product.can_be_coarse
    assert not hasattr(product, "_rows")
    assert error(product, rows, 3, coarse=Coarse(8 * 16)) < 2e-6


def test_resident_bytes_are_one_copy(mapped: Store) -> None:
    half = ready(Rows([Part(mapped(random(32, 64), F16))]), ComputeDtype.F16)
    single = ready(Rows([Part(mapped(random(32, 64), F32))]), ComputeDtype.F32)
    assert (half.resident_bytes, single.resident_bytes) == (2 * 32 * 64, 4 * 32 * 64)


@pytest.mark.parametrize("dtype", [F16, BF16, F32])
def test_tensors_share_the_mapped_memory(dtype: StorageDtype, mapped: Store) -> None:
    stored = mapped(random(4, 6), dtype)
    tensor = as_tensor(stored)
    assert tensor.data_ptr() == stored.array.__array_interface__["data"][0]
    np.testing.assert_array_equal(tensor.float().numpy(), stored.float32())
    assert not stored.array.flags.writeable


def test_mapped_memory_is_told_from_other_memory(mapped: Store) -> None:
    array = mapped(random(4, 6), F16).array
    assert is_mapped(array)
    assert is_mapped(array[1:3, 2:])
    assert not is_mapped(np.array(array))
