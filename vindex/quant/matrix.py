"""Matrices as rows of blocks: padding, encoding by rows, and a read-only view.

Each row is padded with zeros to whole blocks, so every row starts at a block: row r of a matrix
is bytes ``r · row_bytes`` onwards, and any run of rows decodes alone.

Notation: R rows, C columns, P columns after padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vindex.errors import VindexInvalid
from vindex.quant import q4_k
from vindex.quant.codec import Bytes, Floats
from vindex.quant.formats import BlockFormat
from vindex.quant.q4_k import AffineGroups

# Rows are handled in slabs of about this many values, which bounds the padded copies.
_SLAB_ELEMENTS = 1 << 20


def pad_columns(matrix: Floats, padded_cols: int) -> Floats:
    """Append zero columns.

    Args:
        matrix: float32 ``[R, C]``.
        padded_cols: P >= C.

    Returns:
        float32 ``[R, P]``, C-contiguous: the matrix itself where nothing has to change.
    """
    rows, cols = matrix.shape
    if padded_cols == cols:
        return np.ascontiguousarray(matrix)
    padded = np.zeros((rows, padded_cols), dtype=np.float32)
    padded[:, :cols] = matrix
    return padded


def encode_rows(matrix: Floats, block_format: BlockFormat) -> Bytes:
    """Encode a matrix row by row, padding each row to whole blocks.

    A group of 16 or 32 columns that is only partly padding is fitted with its zeros; groups of
    padding alone decode to exact zeros.

    Args:
        matrix: float32 ``[R, C]``, any strides; not copied as a whole.
        block_format: target.

    Returns:
        uint8 ``[R, block_format.row_bytes(C)]``, a new array.

    Raises:
        NotEncodable: names row and column of the first value that the format cannot hold.
    """
    rows, cols = matrix.shape
    padded_cols = block_format.padded_cols(cols)
    result = np.empty((rows, block_format.row_bytes(cols)), dtype=np.uint8)
    step = _rows_per_slab(padded_cols)
    for start in range(0, rows, step):
        slab = matrix[start : start + step]
        bad = block_format.first_unencodable(slab)
        if bad is not None:
            row, col = divmod(bad, cols)
            raise block_format.refusal(float(slab[row, col]), f"row {start + row}, column {col}")
        encoded = block_format.encode(pad_columns(slab, padded_cols))
        result[start : start + step] = encoded.reshape(len(slab), -1)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class QuantMatrix:
    """A quantised matrix over bytes that somebody else owns, usually a file map.

    Attributes:
        block_format: layout of the bytes.
        rows: R.
        cols: C, without padding. The bytes do not tell it: it comes from the model's shape.
        data: uint8, C-contiguous, exactly ``rows · row_bytes`` bytes, any shape. Kept as a
            read-only view ``[rows, row_bytes]``, never copied.

    Raises:
        VindexInvalid: the bytes do not fit the shape.
    """

    block_format: BlockFormat
    rows: int
    cols: int
    data: Bytes

    def __post_init__(self) -> None:
        row_bytes = self.block_format.row_bytes(self.cols)
        if self.data.dtype != np.uint8 or self.data.nbytes != self.rows * row_bytes:
            raise VindexInvalid(
                f"a {self.rows} x {self.cols} matrix of {self.block_format.value} takes "
                f"{self.rows * row_bytes} bytes, not {self.data.nbytes}",
                hint="rows are padded to whole blocks; check the manifest's shape and format",
            )
        if not self.data.flags.c_contiguous:
            raise ValueError("the bytes of a quantised matrix must be contiguous")
        view = self.data.view(np.ndarray).reshape(self.rows, row_bytes)
        view.flags.writeable = False
        object.__setattr__(self, "data", view)

    @property
    def padded_cols(self) -> int:
        """P, columns as stored."""
        return self.block_format.padded_cols(self.cols)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, cols)``, without padding."""
        return self.rows, self.cols

    def decode_rows(self, start: int, stop: int, out: Floats | None = None) -> Floats:
        """Decode a run of rows, without their padding.

        Args:
            start: first row, >= 0.
            stop: one past the last row, <= ``rows``.
            out: float32 ``[stop-start, cols]``, C-contiguous; a new array by default.

        Returns:
            ``out``, filled.

        Raises:
            IndexError: the run is not inside the matrix.
        """
        self._check_run(start, stop)
        if out is None:
            out = np.empty((stop - start, self.cols), dtype=np.float32)
        if self.padded_cols == self.cols:
            return self.block_format.decode(self.data[start:stop], out)
        step = _rows_per_slab(self.padded_cols)
        for low in range(start, stop, step):
            high = min(low + step, stop)
            padded = self.block_format.decode(self.data[low:high]).reshape(high - low, -1)
            out[low - start : high - start] = padded[:, : self.cols]
        return out

    def decode_columns(self, start: int, stop: int) -> Floats:
        """Decode a run of columns; only the blocks that hold them are read.

        Args:
            start: first column, >= 0.
            stop: one past the last column, <= ``cols``.

        Returns:
            float32 ``[rows, stop-start]``, a new array.

        Raises:
            IndexError: the run is not inside the matrix.
        """
        if not 0 <= start <= stop <= self.cols:
            raise IndexError(f"columns {start}:{stop} are not inside 0:{self.cols}")
        elements, size = self.block_format.block_elements, self.block_format.block_bytes
        first, last = start // elements, -(-stop // elements)
        result = np.empty((self.rows, stop - start), dtype=np.float32)
        width = (last - first) * elements
        step = _rows_per_slab(width)
        for low in range(0, self.rows, step):
            blocks = np.ascontiguousarray(self.data[low : low + step, first * size : last * size])
            values = self.block_format.decode(blocks).reshape(len(blocks), width)
            result[low : low + step] = values[:, start - first * elements :][:, : stop - start]
        return result

    def count_not_finite(self) -> int:
        """How many values decode to NaN or infinity, padding included."""
        found = 0
        step = _rows_per_slab(self.padded_cols)
        for start in range(0, self.rows, step):
            values = self.block_format.decode(self.data[start : start + step])
            found += int(values.size - np.count_nonzero(np.isfinite(values)))
        return found

    def take(self, order: npt.NDArray[np.int64]) -> QuantMatrix:
        """The rows of this order as a matrix of its own, in new memory."""
        return QuantMatrix(self.block_format, len(order), self.cols, self.data[order])

    def affine_rows(self, start: int, stop: int) -> AffineGroups:
        """Split a run of Q4_K rows into codes, scales and minimums, exactly.

        The padding is included: multiply by an input padded with zeros.

        Args:
            start: first row, >= 0.
            stop: one past the last row, <= ``rows``.

        Returns:
            New arrays: codes uint8 ``[stop-start, P]``; scale and minimum float32
            ``[stop-start, P/32]``. The value is ``scale · code - minimum``.

        Raises:
            IndexError: the run is not inside the matrix.
            ValueError: another format than Q4_K, which alone has this form.
        """
        if self.block_format is not BlockFormat.Q4_K:
            raise ValueError(f"{self.block_format.value} has no scale and minimum per 32 values")
        self._check_run(start, stop)
        with np.errstate(invalid="ignore"):  # as in decoding: what is stored, finite or not
            groups = q4_k.split(self.data[start:stop].reshape(-1, self.block_format.block_bytes))
        rows = stop - start
        return AffineGroups(
            codes=groups.codes.reshape(rows, self.padded_cols),
            scale=groups.scale.reshape(rows, -1),
            minimum=groups.minimum.reshape(rows, -1),
        )

    def _check_run(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start}:{stop} are not inside 0:{self.rows}")


def _rows_per_slab(cols: int) -> int:
    return max(1, _SLAB_ELEMENTS // max(1, cols))
