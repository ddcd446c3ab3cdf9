"""Decoders against the gguf package, which defines the blocks, and against our own arithmetic."""

from __future__ import annotations

import gguf.quants
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from vindex.errors import VindexInvalid
from vindex.quant import BlockFormat, q4_0, q4_k, q6_k

GGML_TYPES = {
    BlockFormat.F16: GGMLQuantizationType.F16,
    BlockFormat.BF16: GGMLQuantizationType.BF16,
    BlockFormat.Q4_K: GGMLQuantizationType.Q4_K,
    BlockFormat.GGML_Q6_K: GGMLQuantizationType.Q6_K,
    BlockFormat.Q8_0: GGMLQuantizationType.Q8_0,
    BlockFormat.GGML_Q4_0: GGMLQuantizationType.Q4_0,
}
SCALE_BYTES = {
    BlockFormat.F16: (0,),
    BlockFormat.BF16: (),
    BlockFormat.Q4_K: (0, 2),
    BlockFormat.Q6_K: (208,),
    BlockFormat.GGML_Q6_K: (208,),
    BlockFormat.Q8_0: (0,),
    BlockFormat.Q4_0: (0,),
    BlockFormat.GGML_Q4_0: (0,),
}


def random_blocks(block_format: BlockFormat, scales: np.ndarray, seed: int = 0) -> np.ndarray:
    """Random bytes, the float16 scales of each block taken from ``scales`` in turn."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (len(scales), block_format.block_bytes), dtype=np.uint8)
    for offset in SCALE_BYTES[block_format]:
        blocks[:, offset : offset + 2] = rng.permutation(scales).view(np.uint8).reshape(-1, 2)
    return blocks


def every_half() -> np.ndarray:
    """All 65536 float16 bit patterns: zeros, subnormals, infinities and NaN among them."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("block_format", GGML_TYPES, ids=lambda block_format: block_format.name)
def test_decoding_equals_gguf_bit_for_bit_for_every_scale(block_format: BlockFormat) -> None:
    blocks = random_blocks(block_format, every_half())

    ours = block_format.decode(blocks)

    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(blocks, GGML_TYPES[block_format]).reshape(-1)
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(ours[finite].view(np.uint32), theirs[finite].view(np.uint32))
    np.testing.assert_array_equal(ours, theirs)  # NaN where they have NaN, the same infinities


def test_f32_decodes_to_its_own_bits() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1000, dtype=np.uint32)
    np.testing.assert_array_equal(BlockFormat.F32.decode(bits.view(np.uint8)).view(np.uint32), bits)


def test_larql_q6_k_bits_lie_in_the_order_of_the_values() -> None:
    codes = np.random.default_rng(1).integers(0, 64, 256)
    steps = np.arange(-8, 8) * 15
    block = np.zeros(210, dtype=np.uint8)
    for index, code in enumerate(codes):
        block[index // 2] |= (code & 15) << 4 * (index % 2)
        block[128 + index // 4] |= (code >> 4) << 2 * (index % 4)
    block[192:208] = steps.astype(np.int8).view(np.uint8)
    block[208:] = np.array([0.5], dtype=np.float16).view(np.uint8)

    expected = 0.5 * steps.repeat(16) * (codes - 32)
    np.testing.assert_array_equal(BlockFormat.Q6_K.decode(block), expected)


def test_larql_q4_0_puts_neighbours_in_one_byte() -> None:
    codes = np.random.default_rng(2).integers(0, 16, 32)
    block = np.zeros(18, dtype=np.uint8)
    block[:2] = np.array([0.25], dtype=np.float16).view(np.uint8)
    block[2:] = codes[0::2] | codes[1::2] << 4

    np.testing.assert_array_equal(BlockFormat.Q4_0.decode(block), 0.25 * (codes - 8))


@pytest.mark.parametrize(
    ("module", "larql", "ggml"),
    [
        (q6_k, BlockFormat.Q6_K, BlockFormat.GGML_Q6_K),
        (q4_0, BlockFormat.Q4_0, BlockFormat.GGML_Q4_0),
    ],
)
def test_layouts_convert_both_ways_and_are_not_interchangeable(module, larql, ggml) -> None:
    scales = np.random.default_rng(3).uniform(0.01, 1, 500).astype(np.float16)
    blocks = random_blocks(larql, scales, seed=4)

    converted = module.to_ggml(blocks)

    np.testing.assert_array_equal(ggml.decode(converted), larql.decode(blocks))
    np.testing.assert_array_equal(module.from_ggml(converted), blocks)
    cosine = np.corrcoef(ggml.decode(blocks), larql.decode(blocks))[0, 1]
    assert abs(cosine) < 0.1


def test_q4_k_splits_into_codes_scales_and_minimums_without_rounding() -> None:
    scales = every_half()
    blocks = random_blocks(BlockFormat.Q4_K, scales[np.isfinite(scales)])

    groups = q4_k.split(blocks)

    assert groups.codes.dtype == np.uint8
    assert groups.codes.max() == 15
    exact = (
        groups.scale.astype(np.float64).repeat(32, axis=1) * groups.codes
        - groups.minimum.astype(np.float64).repeat(32, axis=1)
    )  # fmt: skip
    decoded = BlockFormat.Q4_K.decode(blocks).reshape(exact.shape)
    np.testing.assert_array_equal(decoded, exact.astype(np.float32))
    d = blocks[:, :2].copy().view(np.float16).astype(np.float64)
    steps = groups.scale / np.where(d == 0, 1, d)
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert steps.max() == 63


def test_decoding_writes_into_the_given_array() -> None:
    blocks = random_blocks(BlockFormat.Q8_0, np.ones(3, dtype=np.float16))
    out = np.empty((3, 32), dtype=np.float32)

    assert BlockFormat.Q8_0.decode(blocks, out) is out
    np.testing.assert_array_equal(out.reshape(-1), BlockFormat.Q8_0.decode(blocks))


def test_decoding_refuses_a_torn_block() -> None:
    with pytest.raises(VindexInvalid, match="143 bytes are not a whole number of Q4_K blocks"):
        BlockFormat.Q4_K.decode(np.zeros(143, dtype=np.uint8))


@pytest.mark.parametrize(
    ("tag", "elements", "size"),
    [("Q4_K", 256, 144), ("Q6_K", 256, 210), ("Q8_0", 32, 34), ("Q4_0", 32, 18), ("f16", 1, 2)],
)
def test_formats_are_found_by_their_manifest_tag(tag: str, elements: int, size: int) -> None:
    block_format = BlockFormat(tag)
    assert (block_format.block_elements, block_format.block_bytes) == (elements, size)
