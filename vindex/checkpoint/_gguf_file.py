"""One GGUF file: metadata, tensor table, and tensors dequantised by the ``gguf`` package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from vindex.checkpoint._base import TensorInfo
from vindex.checkpoint._gguf_header import GgufTensor, read_header
from vindex.checkpoint._mapped import MappedFile
from vindex.errors import Unsupported
from vindex.families._config import show
from vindex.kinds import StorageDtype

_CHUNK_ELEMENTS = 1 << 18


class GgufFile:
    """An open GGUF file.

    Attributes:
        metadata: key to ``int``, ``float``, ``bool``, ``str``, or a list of one of them.
        tensors: by GGUF name, in file order.

    Raises:
        CheckpointError: the file is malformed or truncated.
        Unsupported: a version, byte order or value type that is not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        try:
            self.metadata, self.tensors = read_header(self._file)
        except BaseException:
            self._file.close()
            raise

    def info(self, tensor: GgufTensor) -> TensorInfo:
        """Shape and lossless dtype; ``Unsupported`` for an encoding that cannot be decoded."""
        import gguf.quants

        encoding = tensor.encoding.name
        dtype = {"F16": StorageDtype.F16, "BF16": StorageDtype.BF16}.get(encoding, StorageDtype.F32)
        if encoding not in ("F32", "F16") and not hasattr(gguf.quants, encoding):
            raise Unsupported(
                f"tensor {show(tensor.name)} is stored as {encoding}, which cannot be decoded",
                path=self.path,
            )
        return TensorInfo(tensor.shape, dtype, encoding)

    def decode(
        self, tensor: GgufTensor, rows: slice | npt.NDArray[np.intp]
    ) -> npt.NDArray[np.generic]:
        """Some rows, in the carrier of ``info(tensor).dtype``.

        Args:
            tensor: an entry of ``tensors``.
            rows: which rows of the flattened ``[rows, last axis]`` matrix, and in what order.

        Returns:
            ``[len(rows), last axis]``; a read-only view where the file holds the values as such
            and ``rows`` is a slice.
        """
        chosen = self.raw_rows(tensor, rows)
        info = self.info(tensor)
        if info.stored in ("F32", "F16", "BF16"):
            return np.require(chosen, requirements="C").view(info.dtype.carrier)
        return _dequantise(chosen, info.stored, tensor.shape[-1])

    def raw_rows(
        self, tensor: GgufTensor, rows: slice | npt.NDArray[np.intp]
    ) -> npt.NDArray[np.uint8]:
        """The bytes of some rows, ``[len(rows), row bytes]``; a read-only view for a slice."""
        raw = self._file.array(tensor.offset, tensor.rows * tensor.row_bytes, np.uint8)
        return raw.view(np.uint8).reshape(tensor.rows, tensor.row_bytes)[rows]

    def release(self) -> None:
        """Give back memory of pages already read."""
        self._file.release()

    def close(self) -> None:
        """Let go of the map."""
        self._file.close()


def _dequantise(
    blocks: npt.NDArray[np.generic], encoding: str, width: int
) -> npt.NDArray[np.float32]:
    """Decode rows of blocks ``[rows, row bytes]`` to float32 ``[rows, width]``.

    ``gguf.quants.dequantize`` works on 16 rows at a time; larger groups are up to ten times as
    fast on narrow rows.
    """
    import gguf.quants

    codec = getattr(gguf.quants, encoding)
    codec.init_grid()
    result = np.empty((blocks.shape[0], width), dtype=np.float32)
    step = max(1, _CHUNK_ELEMENTS // width)
    # Blocks of damaged files may hold NaN scales; the caller sees the values, not a warning.
    with np.errstate(all="ignore"):
        for start in range(0, blocks.shape[0], step):
            part = slice(start, start + step)
            result[part] = codec.dequantize_rows(np.ascontiguousarray(blocks[part]))
    return result
