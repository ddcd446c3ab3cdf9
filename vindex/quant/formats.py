"""The registry of block formats: sizes, row arithmetic, decoding and encoding by name."""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from vindex.errors import NotEncodable, VindexInvalid
from vindex.quant import q4_0, q4_k, q6_k, q8_0, raw
from vindex.quant.codec import Bytes, Codec, Floats

# Blocks that share one pass of a codec are bounded so that its few float32 arrays stay in cache.
_CHUNK_ELEMENTS = 1 << 17


class BlockFormat(Enum):
    """How the bytes of a matrix are laid out.

    The values of the first six are the tags that larql's manifests use. A format whose layout
    larql and GGML define differently is two members: the plain one is larql's.
    """

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q4_K = "Q4_K"
    Q6_K = "Q6_K"
    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"
    GGML_Q6_K = "Q6_K (GGML)"
    GGML_Q4_0 = "Q4_0 (GGML)"

    @property
    def block_elements(self) -> int:
        """Values per block."""
        return _CODECS[self].block_elements

    @property
    def block_bytes(self) -> int:
        """Bytes per block."""
        return _CODECS[self].block_bytes

    def padded_cols(self, cols: int) -> int:
        """Columns of a stored row: ``cols`` rounded up to whole blocks."""
        return -(-cols // self.block_elements) * self.block_elements

    def row_bytes(self, cols: int) -> int:
        """Bytes of one stored row of ``cols`` values."""
        return self.padded_cols(cols) // self.block_elements * self.block_bytes

    def decode(self, data: npt.NDArray[np.uint8], out: Floats | None = None) -> Floats:
        """Decode whole blocks.

        Args:
            data: uint8, any shape, C-contiguous; the blocks follow each other. Not written to.
            out: where to put the values: float32, C-contiguous, as many elements as the blocks
                hold. A new flat array by default.

        Returns:
            ``out``, else float32 ``[blocks · block_elements]``. A block whose scale is not a
            finite number decodes to values that are not.

        Raises:
            VindexInvalid: the bytes are no whole number of blocks.
        """
        codec = _CODECS[self]
        if data.size % codec.block_bytes:
            raise VindexInvalid(
                f"{data.size} bytes are not a whole number of {self.value} blocks",
                hint=f"a block has {codec.block_bytes} bytes",
            )
        blocks = data.reshape(-1, codec.block_bytes)
        if out is None:
            out = np.empty(len(blocks) * codec.block_elements, dtype=np.float32)
        values = out.reshape(-1, codec.block_elements)
        step = _CHUNK_ELEMENTS // codec.block_elements
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, len(blocks), step):
                values[start : start + step] = codec.decode(blocks[start : start + step])
        return out

    def encode(self, values: Floats) -> Bytes:
        """Encode values that fill whole blocks.

        Not cancellable: hand over a large matrix in slabs of rows.

        Args:
            values: float32, any shape, C-contiguous, a multiple of ``block_elements`` in all.

        Returns:
            uint8 ``[blocks · block_bytes]``, a new array.

        Raises:
            NotEncodable: a NaN, an infinity or a magnitude that the format's scales cannot hold.
            ValueError: not float32, or no whole number of blocks (a programming error).
        """
        codec = _CODECS[self]
        if values.dtype != np.float32 or values.size % codec.block_elements:
            raise ValueError(
                f"{self.value} encodes float32 in multiples of {codec.block_elements}, "
                f"not {values.size} values of {values.dtype}"
            )
        bad = self.first_unencodable(values)
        if bad is not None:
            raise self.refusal(float(values.flat[bad]), f"element {bad}")
        blocks = values.reshape(-1, codec.block_elements)
        result = np.empty((len(blocks), codec.block_bytes), dtype=np.uint8)
        step = _CHUNK_ELEMENTS // codec.block_elements
        for start in range(0, len(blocks), step):
            result[start : start + step] = codec.encode(blocks[start : start + step])
        return result.reshape(-1)

    def first_unencodable(self, values: Floats) -> int | None:
        """Position of the first value that :meth:`encode` would refuse, or ``None``.

        Args:
            values: float32, any shape; the position counts in C order.
        """
        limit = _CODECS[self].limit
        if not values.size or (values.max() <= limit and values.min() >= -limit):
            return None
        # Negated, because a NaN fails every comparison.
        return int(np.flatnonzero(~(np.abs(values) <= limit))[0])

    def refusal(self, value: float, place: str) -> NotEncodable:
        """The error for a value that this format cannot hold.

        Args:
            value: the offending value.
            place: where it stands, for people.
        """
        limit = _CODECS[self].limit
        return NotEncodable(
            f"{self.value} cannot hold the value {value} at {place}",
            hint=f"values must be finite and at most {limit:.6g} in magnitude; "
            "the checkpoint is damaged, or this tensor needs a float dtype",
        )


_CODECS: dict[BlockFormat, Codec] = {
    BlockFormat.F32: raw.F32_CODEC,
    BlockFormat.F16: raw.F16_CODEC,
    BlockFormat.BF16: raw.BF16_CODEC,
    BlockFormat.Q4_K: q4_k.CODEC,
    BlockFormat.Q6_K: q6_k.CODEC,
    BlockFormat.Q8_0: q8_0.CODEC,
    BlockFormat.Q4_0: q4_0.CODEC,
    BlockFormat.GGML_Q6_K: q6_k.GGML_CODEC,
    BlockFormat.GGML_Q4_0: q4_0.GGML_CODEC,
}
