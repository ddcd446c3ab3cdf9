"""Products with blocks: every kernel against the decoded values, in sizes that fit no kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from lql.inference import int8, linear, quantised
from lql.inference.linear import Coarse
from lql.inference.pages import Pages
from lql.inference.precision import ComputeDtype
from lql.inference.quantised import EmbeddingLinear, prepare
from lql.inference.rows import Part, Rows
from vindex.kinds import StorageDtype
from vindex.quant import BlockFormat, QuantMatrix, encode_rows
from vindex.source import QuantTensor, StoredTensor

# Relative to the largest result. bfloat16 rounds to 2^-9: twice the inputs, once the result.
BF16_WITHIN = 1.5e-2
F16_WITHIN = 2e-3
SIZES = [(16, 256), (64, 576), (130, 96), (7, 32), (200, 300), (1, 1)]

Q4_K, Q6_K = BlockFormat.Q4_K, BlockFormat.Q6_K


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def part(rows: int, cols: int, block_format: BlockFormat, order: bool = False) -> Part:
    rng = np.random.default_rng(rows * cols)
    values = (rng.standard_normal((rows, cols)) * 0.1 + 0.03).astype(np.float32)
    matrix = QuantMatrix(block_format, rows, cols, encode_rows(values, block_format))
    return Part(QuantTensor("w", matrix), rng.permutation(rows) if order else None)


def inputs(tokens: int, cols: int) -> Tensor:
    return torch.randn(tokens, cols, generator=torch.Generator().manual_seed(1))


def expected(rows: Rows, x: Tensor, bias: Tensor | None) -> Tensor:
    weights = []
    for each in rows.parts:
        values = each.stored.rows(0, each.count)
        weights.append(values if each.order is None else values[each.order])
    y = x @ torch.from_numpy(np.concatenate(weights)).T
    return y if bias is None else y + bias


def error(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    assert found.dtype is torch.float32
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_the_kernels_are_here() -> None:
    """Else the tests of this file would compare the fallback with itself."""
    assert quantised.int4_kernel_works()
    assert linear.half_kernel_works()


@pytest.mark.parametrize(("rows", "cols"), SIZES)
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize(
    ("block_format", "kernel", "within"),
    [(Q4_K, "int4", BF16_WITHIN), (Q6_K, "int8", BF16_WITHIN), (Q6_K, "f16", F16_WITHIN)],
    ids=["Q4_K", "Q6_K", "Q6_K in half precision"],
)
def test_every_size(
    rows: int,
    cols: int,
    tokens: int,
    block_format: BlockFormat,
    kernel: str,
    within: float,
    pool: Executor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kernel == "f16":
        monkeypatch.setattr(int8, "kernel_works", lambda: False)
    elif kernel == "int8" and cols % 32:
        kernel = "f16"  # whose kernel takes every number of columns
    weight = Rows([part(rows, cols, block_format, order=True)])
    bias = torch.arange(rows, dtype=torch.float32)
    x = inputs(tokens, cols)
    made = prepare(weight, bias, ComputeDtype.AUTO, pool, Pages())()
    assert kernel in made.kernel
    assert made.elements == rows * cols
    assert error(made(x), expected(weight, x, bias)) <= within


def test_what_codes_would_move_too_far_is_half_precision(pool: Executor) -> None:
    """One large weight in a row leaves the codes of the others few values."""
    values = np.random.default_rng(0).standard_normal((32, 256)).astype(np.float32)
    x = inputs(1, 256)
    for largest, kernel, within in ((4.0, "int8", BF16_WITHIN), (60.0, "f16", F16_WITHIN)):
        values[:16, 7] = largest
        matrix = QuantMatrix(Q6_K, 32, 256, encode_rows(values, Q6_K))
        weight = Rows([Part(QuantTensor("w", matrix))])
        made = prepare(weight, None, ComputeDtype.AUTO, pool, Pages())()
        assert kernel in made.kernel
        assert error(made(x), expected(weight, x, None)) <= within


def test_parts_of_several_formats_keep_their_order(pool: Executor) -> None:
    weight = Rows(
        [
            part(48, 96, Q4_K, order=True),
            part(24, 96, Q4_K, order=True),
            part(24, 96, Q6_K),
            Part(StoredTensor("f", StorageDtype.F32, np.ones((3, 96), np.float32))),
        ]
    )
    bias = torch.arange(99, dtype=torch.float32)
    x = inputs(2, 96)
    made = prepare(weight, bias, ComputeDtype.AUTO, pool, Pages())()
    assert error(made(x), expected(weight, x, bias)) <= BF16_WITHIN
    assert made.kernel.count("+") == 2


def test_a_matrix_is_packed_in_pieces(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = Rows([part(150, 96, Q4_K), part(90, 96, Q4_K, order=True)])
    x = inputs(1, 96)
    whole = prepare(weight, None, ComputeDtype.AUTO, pool, Pages())()
    monkeypatch.setattr(quantised, "_PACK_ELEMENTS", 64 * 96)
    pieces = prepare(weight, None, ComputeDtype.AUTO, pool, Pages())()
    assert torch.equal(whole(x), pieces(x))


def test_float32_is_exact(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "_DECODE_ELEMENTS", 1000)
    weight = Rows([part(130, 96, Q4_K, order=True), part(30, 96, Q6_K)])
    x = inputs(3, 96)
    made = prepare(weight, None, ComputeDtype.F32, pool, Pages())()
    assert made.resident_bytes == 0
    assert error(made(x), expected(weight, x, None)) <= 1e-6


def test_without_the_kernels_blocks_are_decoded(
    pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "int4_kernel_works", lambda: False)
    monkeypatch.setattr(linear, "half_kernel_works", lambda: False)
    monkeypatch.setattr(int8, "kernel_works", lambda: False)
    weight = Rows([part(130, 96, Q4_K, order=True), part(30, 96, Q6_K)])
    x = inputs(3, 96)
    made = prepare(weight, None, ComputeDtype.AUTO, pool, Pages())()
    assert made.kernel == "blocks decoded to f32"
    assert error(made(x), expected(weight, x, None)) <= 1e-6


@pytest.mark.parametrize(
    "wrong",
    [
        lambda codes: codes.flip(0),
        lambda codes: codes.flip(1),
        lambda codes: 15 - codes,
        lambda codes: torch.roll(codes, 1, 1),
    ],
)
def test_a_kernel_that_is_wrong_is_not_used(
    wrong: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = quantised._int4_pack
    monkeypatch.setattr(quantised, "_int4_pack", lambda codes: pack(wrong(codes)))
    assert not quantised.int4_kernel_works.__wrapped__()


def test_a_kernel_that_is_missing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(codes: Tensor) -> Tensor:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(quantised, "_int4_pack", missing)
    assert not quantised.int4_kernel_works.__wrapped__()


@pytest.mark.parametrize("block_format", [Q4_K, Q6_K], ids=lambda each: each.value)
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_rounded_products_of_long_prompts(
    rows: int, cols: int, block_format: BlockFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lql.inference.rows._ROUNDED_AT_ONCE", 1000)
    weight = Rows([part(rows, cols, block_format, order=True), part(2, cols, Q6_K)])
    x = inputs(9, cols)
    found = Coarse((rows + 2) * cols).product(x, weight, None)
    assert error(found, expected(weight, x, None)) <= BF16_WITHIN


def test_the_embedding_as_head() -> None:
    values = (np.random.default_rng(0).standard_normal((500, 96)) * 0.1).astype(np.float16)
    stored = StoredTensor("e", StorageDtype.F16, values)
    head = EmbeddingLinear(stored, torch.ones(500))
    for tokens, within in ((1, F16_WITHIN), (3, 1e-6)):
        x = inputs(tokens, 96)
        wanted = x @ torch.from_numpy(values.astype(np.float32)).T + 1
        assert error(head(x), wanted) <= within
    huge = inputs(1, 96) * 1e6  # beyond f16: in float32
    assert error(head(huge), huge @ torch.from_numpy(values.astype(np.float32)).T + 1) <= 1e-6
