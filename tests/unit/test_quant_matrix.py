"""Rows of blocks: padding, the read-only view, runs of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vindex.errors import NotEncodable, VindexInvalid
from vindex.quant import BlockFormat, QuantMatrix, encode_rows, pad_columns

WIDTHS = [1, 31, 32, 33, 96, 255, 256, 257, 576, 640]
EVERY_FORMAT = pytest.mark.parametrize("block_format", BlockFormat, ids=lambda f: f.name)


def normal(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def view(matrix: np.ndarray, block_format: BlockFormat) -> QuantMatrix:
    return QuantMatrix(block_format, *matrix.shape, encode_rows(matrix, block_format))


@EVERY_FORMAT
@pytest.mark.parametrize("cols", WIDTHS)
def test_any_width_comes_back_at_its_width(block_format: BlockFormat, cols: int) -> None:
    matrix = normal(5, cols)

    decoded = view(matrix, block_format).decode_rows(0, 5)

    assert decoded.shape == matrix.shape
    assert decoded.dtype == np.float32
    assert np.square(decoded - matrix).mean() < 0.15**2 * np.square(matrix).mean()


@EVERY_FORMAT
@pytest.mark.parametrize("cols", WIDTHS)
def test_a_row_is_padded_with_zeros_to_whole_blocks(block_format: BlockFormat, cols: int) -> None:
    matrix = normal(3, cols)
    quantised = view(matrix, block_format)

    padded = np.zeros((3, -(-cols // block_format.block_elements) * block_format.block_elements))
    padded[:, :cols] = matrix
    expected = block_format.encode(padded.astype(np.float32))

    assert quantised.padded_cols == padded.shape[1]
    assert quantised.data.shape == (3, block_format.row_bytes(cols))
    np.testing.assert_array_equal(quantised.data.reshape(-1), expected)


@pytest.mark.parametrize("block_format", [BlockFormat.Q4_K, BlockFormat.Q6_K, BlockFormat.Q8_0])
@pytest.mark.parametrize("cols", [32, 96, 224, 576])
def test_padding_beyond_the_last_group_decodes_to_exact_zeros(
    block_format: BlockFormat, cols: int
) -> None:
    quantised = view(normal(4, cols), block_format)
    stored = block_format.decode(quantised.data).reshape(4, quantised.padded_cols)
    assert not stored[:, cols:].any()


def test_sizes_are_those_of_the_format() -> None:
    # SmolLM2's hidden size: 576 columns take three blocks a row.
    assert BlockFormat.Q4_K.padded_cols(576) == 768
    assert BlockFormat.Q4_K.row_bytes(576) == 3 * 144
    assert BlockFormat.Q6_K.row_bytes(1536) == 6 * 210
    assert BlockFormat.F16.row_bytes(576) == 1152


@EVERY_FORMAT
@given(data=st.data(), cols=st.sampled_from(WIDTHS))
@settings(max_examples=20, deadline=None)
def test_a_run_of_rows_equals_the_same_rows_of_the_whole(
    block_format: BlockFormat, data: st.DataObject, cols: int
) -> None:
    quantised = view(normal(9, cols), block_format)
    start = data.draw(st.integers(0, 9))
    stop = data.draw(st.integers(start, 9))

    run = quantised.decode_rows(start, stop)

    assert run.shape == (stop - start, cols)
    np.testing.assert_array_equal(run, quantised.decode_rows(0, 9)[start:stop])


def test_slabs_and_chunks_have_no_seams() -> None:
    matrix = normal(3000, 384)  # more than one slab of rows and more than one chunk of blocks
    quantised = view(matrix, BlockFormat.Q4_K)

    whole = quantised.decode_rows(0, 3000)

    for row in (0, 1023, 1024, 2047, 2048, 2730, 2731, 2999):
        alone = view(matrix[row : row + 1], BlockFormat.Q4_K)
        np.testing.assert_array_equal(alone.data[0], quantised.data[row])
        np.testing.assert_array_equal(alone.decode_rows(0, 1)[0], whole[row])


def test_rows_decode_into_the_given_array() -> None:
    quantised = view(normal(6, 96), BlockFormat.Q6_K)
    out = np.empty((4, 96), dtype=np.float32)

    assert quantised.decode_rows(1, 5, out) is out
    np.testing.assert_array_equal(out, quantised.decode_rows(1, 5))


@pytest.mark.parametrize("cols", [96, 256, 257])
def test_affine_rows_are_the_decoded_values_apart(cols: int) -> None:
    quantised = view(normal(7, cols), BlockFormat.Q4_K)

    groups = quantised.affine_rows(2, 6)

    assert groups.codes.shape == (4, quantised.padded_cols)
    assert groups.scale.shape == groups.minimum.shape == (4, quantised.padded_cols // 32)
    values = groups.scale.repeat(32, axis=1) * groups.codes - groups.minimum.repeat(32, axis=1)
    np.testing.assert_array_equal(values[:, :cols], quantised.decode_rows(2, 6))


def test_only_q4_k_has_affine_rows() -> None:
    with pytest.raises(ValueError, match="Q6_K has no scale and minimum per 32 values"):
        view(normal(2, 256), BlockFormat.Q6_K).affine_rows(0, 1)


def test_the_view_copies_nothing_and_cannot_be_written(tmp_path: Path) -> None:
    matrix = normal(4, 300)
    path = tmp_path / "weights.bin"
    path.write_bytes(encode_rows(matrix, BlockFormat.Q4_K).tobytes())
    mapped = np.memmap(path, dtype=np.uint8, mode="r")

    quantised = QuantMatrix(BlockFormat.Q4_K, 4, 300, mapped)

    assert np.shares_memory(quantised.data, mapped)
    assert not quantised.data.flags.writeable
    np.testing.assert_array_equal(
        quantised.decode_rows(0, 4), view(matrix, BlockFormat.Q4_K).decode_rows(0, 4)
    )


def test_the_owner_may_still_write_what_the_view_shows_read_only() -> None:
    data = encode_rows(normal(2, 256), BlockFormat.Q8_0)
    quantised = QuantMatrix(BlockFormat.Q8_0, 2, 256, data)
    with pytest.raises(ValueError, match="read-only"):
        quantised.data[0, 0] = 1
    data[0, 0] ^= 1
    assert quantised.data[0, 0] == data[0, 0]


@pytest.mark.parametrize("size", [0, 287, 289, 576])
def test_bytes_that_do_not_fit_the_shape_are_refused(size: int) -> None:
    with pytest.raises(VindexInvalid, match=f"2 x 200 matrix of Q4_K takes 288 bytes, not {size}"):
        QuantMatrix(BlockFormat.Q4_K, 2, 200, np.zeros(size, dtype=np.uint8))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 1), (0, 5), (5, 6)])
def test_runs_outside_the_matrix_are_refused(start: int, stop: int) -> None:
    quantised = view(normal(4, 32), BlockFormat.Q8_0)
    with pytest.raises(IndexError, match=f"rows {start}:{stop} are not inside 0:4"):
        quantised.decode_rows(start, stop)


@EVERY_FORMAT
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_row_and_column(
    block_format: BlockFormat, value: float
) -> None:
    matrix = np.zeros((4000, 300), dtype=np.float32)  # more than one slab
    matrix[3777, 299] = value
    with pytest.raises(NotEncodable, match=f"value {value} at row 3777, column 299") as caught:
        encode_rows(matrix, block_format)
    assert caught.value.code == "VDX11"
    assert caught.value.hint is not None


def test_any_strides_encode_alike() -> None:
    matrix = normal(300, 40)
    np.testing.assert_array_equal(
        encode_rows(matrix.T, BlockFormat.Q4_K),
        encode_rows(np.ascontiguousarray(matrix.T), BlockFormat.Q4_K),
    )


def test_a_matrix_without_rows_is_no_bytes() -> None:
    quantised = view(np.zeros((0, 96), dtype=np.float32), BlockFormat.Q4_K)
    assert quantised.data.shape == (0, 144)
    assert quantised.decode_rows(0, 0).shape == (0, 96)


def test_padding_leaves_a_full_matrix_alone() -> None:
    matrix = normal(2, 256)
    assert pad_columns(matrix, 256) is matrix
    padded = pad_columns(matrix, 512)
    assert padded.shape == (2, 512)
    assert not padded[:, 256:].any()


@pytest.mark.parametrize("block_format", [BlockFormat.Q4_K, BlockFormat.Q6_K, BlockFormat.F16])
def test_runs_of_columns_are_those_of_the_whole(
    block_format: BlockFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(4).standard_normal((9, 700)).astype(np.float32)
    matrix = QuantMatrix(block_format, 9, 700, encode_rows(values, block_format))
    whole = matrix.decode_rows(0, 9)
    monkeypatch.setattr("vindex.quant.matrix._SLAB_ELEMENTS", 1000)
    for start, stop in ((0, 700), (0, 1), (255, 257), (256, 512), (300, 699), (699, 700), (5, 5)):
        assert np.array_equal(matrix.decode_columns(start, stop), whole[:, start:stop])
    for start, stop in ((-1, 3), (3, 2), (0, 701)):
        with pytest.raises(IndexError):
            matrix.decode_columns(start, stop)


def test_rows_in_another_order() -> None:
    values = np.random.default_rng(4).standard_normal((9, 300)).astype(np.float32)
    matrix = QuantMatrix(BlockFormat.Q4_K, 9, 300, encode_rows(values, BlockFormat.Q4_K))
    order = np.array([3, 8, 3, 0])
    taken = matrix.take(order)
    assert taken.shape == (4, 300)
    assert np.array_equal(taken.decode_rows(0, 4), matrix.decode_rows(0, 9)[order])


def test_values_that_are_not_finite_are_counted() -> None:
    blocks = encode_rows(np.ones((4, 300), np.float32), BlockFormat.Q4_K)
    assert QuantMatrix(BlockFormat.Q4_K, 4, 300, blocks).count_not_finite() == 0
    blocks[2, 144:146] = 0xFF  # d of the second block
    assert QuantMatrix(BlockFormat.Q4_K, 4, 300, blocks).count_not_finite() == 256
