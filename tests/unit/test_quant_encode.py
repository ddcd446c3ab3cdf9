"""Encoders: closeness to the source beside larql's and llama.cpp's roundings, and the edges.

The two reference roundings are restated here in NumPy as slow, plain recipes; they exist only to
be measured against.
"""

from __future__ import annotations

import gguf.quants
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vindex.errors import NotEncodable
from vindex.quant import BlockFormat
from vindex.quant.fit import fit_affine

BLOCK_FORMATS = [
    BlockFormat.Q4_K,
    BlockFormat.Q6_K,
    BlockFormat.Q8_0,
    BlockFormat.Q4_0,
    BlockFormat.GGML_Q6_K,
    BlockFormat.GGML_Q4_0,
]
EVERY_FORMAT = pytest.mark.parametrize("block_format", BlockFormat, ids=lambda f: f.name)
EVERY_BLOCK_FORMAT = pytest.mark.parametrize("block_format", BLOCK_FORMATS, ids=lambda f: f.name)


def weights(distribution: str, blocks: int = 512) -> np.ndarray:
    """Source values, float32 ``[blocks, 256]``, of the magnitude of a model's weights."""
    rng = np.random.default_rng(7)
    match distribution:
        case "normal":
            values = rng.standard_normal((blocks, 256))
        case "student t, 4 degrees":
            values = rng.standard_t(4, (blocks, 256))
        case "student t, 2 degrees":
            values = rng.standard_t(2, (blocks, 256))
        case "uniform":
            values = rng.uniform(-1, 1, (blocks, 256))
        case "positive":
            values = rng.uniform(0.5, 1.5, (blocks, 256))
        case "negative":
            values = -rng.uniform(0.5, 1.5, (blocks, 256))
        case "rows of differing size":
            values = rng.standard_normal((blocks, 256)) * np.exp(rng.standard_normal((blocks, 1)))
        case "groups of differing size":
            sizes = np.exp(rng.standard_normal((blocks, 16)) * 0.5).repeat(16, axis=1)
            values = rng.standard_normal((blocks, 256)) * sizes
        case _:
            raise AssertionError(distribution)
    return (values * 0.02).astype(np.float32)


DISTRIBUTIONS = pytest.mark.parametrize(
    "distribution",
    [
        "normal",
        "student t, 4 degrees",
        "student t, 2 degrees",
        "uniform",
        "positive",
        "negative",
        "rows of differing size",
        "groups of differing size",
    ],
)


def relative_rms(source: np.ndarray, decoded: np.ndarray) -> float:
    """Root mean square of the error over that of the source."""
    difference = source.astype(np.float64).reshape(-1) - decoded.reshape(-1)
    return float(np.sqrt(np.square(difference).sum() / np.square(source.astype(np.float64)).sum()))


def round_trip(values: np.ndarray, block_format: BlockFormat) -> np.ndarray:
    """Decoded encoding, in the shape of ``values``."""
    return block_format.decode(block_format.encode(values)).reshape(values.shape)


# -- the references ------------------------------------------------------------------------------


def half(values: np.ndarray) -> np.ndarray:
    """A stored scale: rounded to float16."""
    return values.astype(np.float16).astype(np.float32)


def larql_q4_k(values: np.ndarray) -> np.ndarray:
    """larql's Q4_K: the range of a group over 15, nothing searched; decoded values."""
    x = values.reshape(-1, 8, 32)
    low, high = np.minimum(x.min(axis=2), 0), np.maximum(x.max(axis=2), 0)
    return _q4_k_from(x, (high - low) / 15, -low)


def llama_q4_k(values: np.ndarray) -> np.ndarray:
    """llama.cpp's reference Q4_K (no importance matrix); decoded values.

    Per group of 32 and with weights |x| + root mean square: codes for 21 shrunk or stretched
    ranges, weighted regression of scale and minimum on each, the best kept. Later ranges start
    from the best minimum so far.
    """
    x = values.reshape(-1, 32)
    weight = np.sqrt(np.square(x).mean(axis=1, keepdims=True)) + np.abs(x)
    weight_sum, value_sum = weight.sum(axis=1), (weight * x).sum(axis=1)
    high = x.max(axis=1)
    minimum = np.minimum(x.min(axis=1), 0)
    scale = (high - minimum) / 15
    codes = np.clip(np.rint((x - minimum[:, None]) / scale[:, None]), 0, 15)
    best = (weight * np.square(scale[:, None] * codes + minimum[:, None] - x)).sum(axis=1)
    for step in range(21):
        inverse = (14 + np.float32(0.1) * step) / (high - minimum)
        codes = np.clip(np.rint(inverse[:, None] * (x - minimum[:, None])), 0, 15)
        code_sum = (weight * codes).sum(axis=1)
        square_sum = (weight * codes * codes).sum(axis=1)
        product_sum = (weight * codes * x).sum(axis=1)
        spread = weight_sum * square_sum - code_sum * code_sum
        slope = (weight_sum * product_sum - value_sum * code_sum) / spread
        intercept = (square_sum * value_sum - code_sum * product_sum) / spread
        positive = intercept > 0
        slope = np.where(positive, product_sum / square_sum, slope)
        intercept = np.where(positive, 0, intercept)
        error = weight * np.square(slope[:, None] * codes + intercept[:, None] - x)
        better = error.sum(axis=1) < best
        best = np.where(better, error.sum(axis=1), best)
        scale = np.where(better, slope, scale)
        minimum = np.where(better, intercept, minimum)
    return _q4_k_from(x.reshape(-1, 8, 32), scale.reshape(-1, 8), -minimum.reshape(-1, 8))


def _q4_k_from(x: np.ndarray, scale: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    """Both references' end: 6-bit scale and minimum by nearest rounding, codes reassigned."""
    largest_scale = scale.max(axis=1, keepdims=True)
    largest_minimum = minimum.max(axis=1, keepdims=True)
    sc = np.minimum(np.rint(63 / largest_scale * scale), 63)
    m = np.minimum(np.rint(63 / np.where(largest_minimum == 0, 1, largest_minimum) * minimum), 63)
    step = (half(largest_scale / 63) * sc)[:, :, None]
    offset = (half(largest_minimum / 63) * m)[:, :, None]
    codes = np.clip(np.rint((x + offset) / np.where(step == 0, 1, step)), 0, 15)
    return step * codes - offset


def larql_q6_k(values: np.ndarray) -> np.ndarray:
    """larql's Q6_K: the largest magnitude over 31, nothing searched; decoded values."""
    x = values.reshape(-1, 16, 16)
    scale = np.abs(x).max(axis=2) / 31
    d = scale.max(axis=1, keepdims=True) / 127
    steps = np.clip(np.rint(scale / d), -128, 127)
    exact, stored = (d * steps)[:, :, None], (half(d) * steps)[:, :, None]
    return stored * np.clip(np.rint(x / np.where(exact == 0, 1, exact)), -32, 31)


def llama_q6_k(values: np.ndarray) -> np.ndarray:
    """llama.cpp's reference Q6_K; decoded values.

    Per group of 16 and with weights x²: codes for 19 scales around -32 at the largest magnitude,
    weighted regression on each, the best kept; 8-bit scales by nearest rounding.
    """
    x = values.reshape(-1, 16)
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)[:, 0]
    weight = x * x
    scale = np.zeros_like(peak)
    best = np.full_like(peak, -1)
    for step in (0, *range(-9, 0), *range(1, 10)):
        codes = np.clip(np.rint(-(32 + 0.1 * step) / peak[:, None] * x), -32, 31)
        product_sum = (weight * x * codes).sum(axis=1)
        square_sum = (weight * codes * codes).sum(axis=1)
        better = product_sum * product_sum > best * square_sum
        scale = np.where(better, product_sum / square_sum, scale)
        best = np.where(better, scale * product_sum, best)
    scale = scale.reshape(-1, 16)
    largest = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)
    steps = np.minimum(np.rint(-128 / largest * scale), 127)
    step = (half(largest / -128) * steps)[:, :, None]
    x = x.reshape(-1, 16, 16)
    return step * np.clip(np.rint(x / np.where(step == 0, 1, step)), -32, 31)


def ggml_reference(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """The gguf package's own encoder; decoded values."""
    return gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)


REFERENCES = {
    BlockFormat.Q4_K: {"larql": larql_q4_k, "llama.cpp": llama_q4_k},
    BlockFormat.Q6_K: {"larql": larql_q6_k, "llama.cpp": llama_q6_k},
    BlockFormat.Q8_0: {"gguf": lambda x: ggml_reference(x, GGMLQuantizationType.Q8_0)},
    BlockFormat.GGML_Q4_0: {"gguf": lambda x: ggml_reference(x, GGMLQuantizationType.Q4_0)},
}


def test_the_references_have_the_errors_that_were_measured() -> None:
    source = weights("normal", blocks=2048)
    assert relative_rms(source, larql_q4_k(source)) == pytest.approx(0.078, abs=0.001)
    assert relative_rms(source, llama_q4_k(source)) == pytest.approx(0.071, abs=0.001)
    assert relative_rms(source, larql_q6_k(source)) == pytest.approx(0.019, abs=0.001)
    assert relative_rms(source, llama_q6_k(source)) == pytest.approx(0.018, abs=0.001)


# -- closeness -----------------------------------------------------------------------------------


@DISTRIBUTIONS
@pytest.mark.parametrize("block_format", REFERENCES, ids=lambda f: f.name)
def test_encoding_is_at_least_as_close_as_every_reference(
    block_format: BlockFormat, distribution: str
) -> None:
    source = weights(distribution)
    ours = relative_rms(source, round_trip(source, block_format))
    theirs = {
        name: relative_rms(source, rounding(source))
        for name, rounding in REFERENCES[block_format].items()
    }
    print(f"{block_format.name} {distribution}: ours {ours:.5f}", theirs)  # shown by pytest -rP
    assert ours <= min(theirs.values())


@pytest.mark.parametrize(
    ("block_format", "distribution", "bound"),
    [
        (BlockFormat.Q4_K, "normal", 0.0699),
        (BlockFormat.Q4_K, "student t, 2 degrees", 0.0839),
        (BlockFormat.Q4_K, "negative", 0.0153),
        (BlockFormat.Q6_K, "normal", 0.0165),
        (BlockFormat.Q8_0, "normal", 0.0054),
        (BlockFormat.Q4_0, "normal", 0.0812),
    ],
)
def test_errors_once_reached_do_not_grow(
    block_format: BlockFormat, distribution: str, bound: float
) -> None:
    source = weights(distribution, blocks=2048)
    assert relative_rms(source, round_trip(source, block_format)) < bound


def test_f16_and_bf16_round_to_nearest_even() -> None:
    f16 = np.float32([1 + 2**-11, 1 + 3 * 2**-11, 65519])
    bf16 = np.float32([1 + 2**-8, 1 + 3 * 2**-8])
    np.testing.assert_array_equal(round_trip(f16, BlockFormat.F16), [1, 1 + 2**-9, 65504])
    np.testing.assert_array_equal(round_trip(bf16, BlockFormat.BF16), [1, 1 + 2**-6])


def test_llama_cpp_blocks_survive_decoding_and_encoding() -> None:
    source = weights("normal")
    q4_k, q6_k = llama_q4_k(source), llama_q6_k(source)
    assert relative_rms(q4_k, round_trip(q4_k, BlockFormat.Q4_K)) < 0.003
    assert relative_rms(q6_k, round_trip(q6_k, BlockFormat.Q6_K)) < 0.0001


@EVERY_BLOCK_FORMAT
@DISTRIBUTIONS
def test_encoding_again_adds_little(block_format: BlockFormat, distribution: str) -> None:
    source = weights(distribution, blocks=128)
    once = round_trip(source, block_format)
    twice = round_trip(once, block_format)
    assert relative_rms(once, twice) < 0.2 * relative_rms(source, once)


# -- properties over arbitrary values ------------------------------------------------------------

FLOATS = st.floats(-1e4, 1e4, width=32)
BLOCKS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.just(256)), elements=FLOATS, fill=FLOATS
)
# Share of a block's range that a value may be off by, root mean square over the block: half a
# step of the codes' nearest rounding, and what rounding scale and minimum adds at worst.
WORST_RMS = {
    BlockFormat.Q4_K: 1 / 30 + 1 / 63,
    BlockFormat.Q6_K: 1 / 62 + 1 / 127,
    BlockFormat.Q8_0: 1 / 254 + 2**-10,
    BlockFormat.Q4_0: 1 / 14 + 2**-10,
    BlockFormat.GGML_Q6_K: 1 / 62 + 1 / 127,
    BlockFormat.GGML_Q4_0: 1 / 14 + 2**-10,
}
FINEST_SCALE = 2.0**-24


@EVERY_BLOCK_FORMAT
@given(values=BLOCKS)
@settings(max_examples=60, deadline=None)
def test_error_is_bounded_by_the_range_of_the_block(
    block_format: BlockFormat, values: np.ndarray
) -> None:
    decoded = round_trip(values, block_format)

    blocks = values.astype(np.float64).reshape(-1, block_format.block_elements)
    rms = np.sqrt(np.square(blocks - decoded.reshape(blocks.shape)).mean(axis=1))
    if block_format is BlockFormat.Q4_K:
        size = np.maximum(blocks.max(axis=1), 0) - np.minimum(blocks.min(axis=1), 0)
    else:
        size = np.abs(blocks).max(axis=1)
    assert (rms <= WORST_RMS[block_format] * size + 16 * FINEST_SCALE).all()


@EVERY_FORMAT
def test_zeros_stay_zeros(block_format: BlockFormat) -> None:
    assert not round_trip(np.zeros(512, dtype=np.float32), block_format).any()


def test_fitted_minimums_are_never_negative() -> None:
    rng = np.random.default_rng(0)
    groups = rng.uniform(0, 1, (32, 5000)).astype(np.float32)
    groups[0] = -rng.uniform(0, 0.02, 5000)  # regression would like to subtract less than nothing
    fit = fit_affine(groups, 15, (-0.05, 0.0, 0.05), np.empty_like(groups))
    assert not np.signbit(fit.minimum).any()
    assert (fit.minimum == 0).any()


def test_zeros_are_zero_bytes_in_q4_k() -> None:
    assert not BlockFormat.Q4_K.encode(np.zeros(512, dtype=np.float32)).any()


@EVERY_BLOCK_FORMAT
@pytest.mark.parametrize("value", [1.0, -1.0, 123.456, -0.02, 0.02, 1e4, -1e4])
def test_constants_keep_their_value(block_format: BlockFormat, value: float) -> None:
    decoded = round_trip(np.full(256, value, dtype=np.float32), block_format)
    np.testing.assert_allclose(decoded, np.float32(value), rtol=2**-10)


@EVERY_BLOCK_FORMAT
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-30, 1e-9])
def test_values_below_every_scale_become_zero(block_format: BlockFormat, size: float) -> None:
    source = (np.random.default_rng(0).standard_normal(512) * size).astype(np.float32)
    assert not round_trip(source, block_format).any()


@EVERY_BLOCK_FORMAT
@pytest.mark.parametrize("size", [1e-7, 3e-7, 1e-6, 3e-6])
def test_subnormal_scales_lose_steps_but_no_range(block_format: BlockFormat, size: float) -> None:
    source = (np.random.default_rng(0).standard_normal(4096) * size).astype(np.float32)
    error = np.abs(source - round_trip(source, block_format))
    assert relative_rms(source, source - error) < 0.2
    assert error.max() < 1.2 * size


def test_a_group_beside_a_huge_one_uses_the_finest_steps() -> None:
    source = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    source[0] = 2000  # d becomes 2000 / (32 · 127): half the size of the other values
    decoded = round_trip(source, BlockFormat.Q6_K)
    assert relative_rms(source[16:], decoded[16:]) < 0.2


# -- refusals ------------------------------------------------------------------------------------


@EVERY_FORMAT
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(block_format: BlockFormat, value: float) -> None:
    source = np.zeros(512, dtype=np.float32)
    source[300] = value
    with pytest.raises(NotEncodable, match=rf"cannot hold the value {value} at element 300"):
        block_format.encode(source)


@EVERY_FORMAT
@pytest.mark.parametrize("sign", [1, -1])
def test_the_range_of_the_scales_is_refused_beyond_and_held_within(
    block_format: BlockFormat, sign: int
) -> None:
    limit = {
        BlockFormat.F32: np.finfo(np.float32).max,
        BlockFormat.F16: np.nextafter(np.float32(65520), np.float32(0)),
        BlockFormat.BF16: np.array([0x7F7F7FFF], dtype=np.uint32).view(np.float32)[0],
        BlockFormat.Q4_K: 65504 * 63,
        BlockFormat.Q6_K: 65504 * 127 * 26,
        BlockFormat.GGML_Q6_K: 65504 * 127 * 26,
        BlockFormat.Q8_0: 65504 * 127,
        BlockFormat.Q4_0: 65504 * 7,
        BlockFormat.GGML_Q4_0: 65504 * 7,
    }[block_format]
    source = np.zeros(256, dtype=np.float32)
    source[::3] = sign * np.float32(limit)
    np.testing.assert_allclose(
        round_trip(source, block_format), source, rtol=0.004, atol=0.001 * float(limit)
    )

    with np.errstate(over="ignore"):
        source[17] = sign * np.nextafter(np.float32(limit), np.float32(np.inf))
    with pytest.raises(NotEncodable, match="at element 17"):
        block_format.encode(source)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(256, dtype=np.float64),
        np.zeros(256, dtype=np.uint16),
        np.zeros(255, dtype=np.float32),
    ],
)
def test_only_whole_blocks_of_float32_are_taken(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="Q4_K encodes float32 in multiples of 256"):
        BlockFormat.Q4_K.encode(values)


def test_the_source_is_not_written_to() -> None:
    source = weights("normal", blocks=2)
    copy = source.copy()
    source.flags.writeable = False
    for block_format in BlockFormat:
        block_format.encode(source)
    np.testing.assert_array_equal(source, copy)
