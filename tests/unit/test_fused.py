"""Products compiled into one call: the same operators, the same bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from lql.inference import fused, linear, quantised
from lql.inference.feedforward import FeedForward, dense
from lql.inference.linear import Linear
from lql.inference.pages import Pages
from lql.inference.precision import ComputeDtype
from lql.inference.quantised import Int4Linear, JoinedLinear, compiled, int4_kernel_works
from lql.inference.rows import Part, Rows
from vindex.kinds import StorageDtype
from vindex.quant import BlockFormat, QuantMatrix, encode_rows
from vindex.source import QuantTensor, StoredTensor
from vindex.spec import Activation, FfnPart, FfnSpec, PartKind

WIDTH, HIDDEN = 64, 96
SPEC = FfnSpec(WIDTH, Activation.SILU)
RANDOM = np.random.default_rng(0)


def values(rows: int, cols: int) -> np.ndarray:
    return RANDOM.standard_normal((rows, cols), dtype=np.float32)


def halves(rows: int, cols: int) -> Linear:
    stored = StoredTensor("w", StorageDtype.F16, values(rows, cols).astype(np.float16))
    with ThreadPoolExecutor(1) as pool:
        return linear.prepare(Rows([Part(stored)]), None, ComputeDtype.F16, pool)()


def blocks(rows: int, cols: int, bias: torch.Tensor | None = None) -> Linear:
    data = encode_rows(values(rows, cols), BlockFormat.Q4_K)
    stored = QuantTensor("w", QuantMatrix(BlockFormat.Q4_K, rows, cols, data))
    with ThreadPoolExecutor(1) as pool:
        return quantised.prepare(Rows([Part(stored)]), bias, ComputeDtype.AUTO, pool, Pages())()


def layer(inner: Linear, down: Linear, spec: FfnSpec = SPEC) -> FeedForward:
    one_call = fused.feed_forward(compiled(inner), compiled(down), spec)
    return FeedForward(0, FfnPart(PartKind.DENSE, spec, 0), inner, down, one_call)


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("kind", [Activation.SILU, Activation.GELU_TANH])
@pytest.mark.parametrize("make", [halves, blocks])
def test_an_ffn_in_one_call_is_the_same_to_the_bit(make, kind: Activation, tokens: int) -> None:
    layers = [
        layer(make(2 * WIDTH, HIDDEN), halves(HIDDEN, WIDTH), FfnSpec(WIDTH, kind))
        for _ in range(2)  # they share their code and nothing else
    ]
    x = torch.from_numpy(values(tokens, HIDDEN))
    for each in layers:
        if compiled(each.inner) is None or compiled(each.down) is None:
            continue  # a processor without these kernels
        assert each.fused is not None
        assert torch.equal(dense(x, each, None), dense(x, replace(each, fused=None), None))
    assert not torch.equal(dense(x, layers[0], None), dense(x, layers[1], None))


@pytest.mark.parametrize(
    "spec",
    [
        FfnSpec(WIDTH, Activation.SILU, gated=False),
        FfnSpec(WIDTH, Activation.GELU),
        FfnSpec(WIDTH, Activation.SILU, limit=7.0),
        FfnSpec(WIDTH, Activation.SILU, up_offset=1.0),
    ],
)
def test_what_is_more_than_products_is_left_alone(spec: FfnSpec) -> None:
    assert layer(halves(2 * WIDTH, HIDDEN), halves(HIDDEN, WIDTH), spec).fused is None


def test_joined_products_are_the_same_to_the_bit() -> None:
    parts = [blocks(32, HIDDEN), halves(16, HIDDEN)]
    x = torch.from_numpy(values(3, HIDDEN))
    expected = torch.cat([part(x) for part in parts], dim=-1)
    assert torch.equal(JoinedLinear(parts)(x), expected)
    assert torch.equal(JoinedLinear(parts[::-1])(x), expected.roll(16, dims=1))


def test_a_product_that_pads_or_adds_is_not_all_compiled() -> None:
    """Its compiled part alone would leave that out."""
    if not int4_kernel_works():
        return
    whole = blocks(32, HIDDEN)
    assert isinstance(whole, Int4Linear)
    assert whole.compiled is not None
    for other in (blocks(24, HIDDEN), blocks(32, 80), blocks(32, HIDDEN, torch.ones(32))):
        assert compiled(other) is None


def test_no_weights_are_kept() -> None:
    """What is remembered for later models are templates."""
    made = layer(halves(2 * WIDTH, HIDDEN), halves(HIDDEN, WIDTH))
    product = compiled(made.inner)
    if product is None:
        return
    assert product.template is not product.module
    rows = product.template(torch.zeros(1, 1)).shape[1]
    assert rows == 1
