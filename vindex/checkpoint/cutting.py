"""Tensors of a vindex made from tensors of a checkpoint: the only place that applies a ``Cut``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vindex.checkpoint._base import BlockReader, Checkpoint
from vindex.dtypes import convert
from vindex.kinds import StorageDtype
from vindex.spec import Cut, TensorSpec

if TYPE_CHECKING:
    from vindex.quant import BlockFormat

Array = npt.NDArray[np.generic]


def source_key(tensor: TensorSpec) -> str:
    """The key of the checkpoint tensor that a tensor is, or is cut from."""
    return tensor.key if tensor.cut is None else tensor.cut.key


def ways(tensor: TensorSpec) -> Iterator[TensorSpec]:
    """The tensor as each of the places where a checkpoint may have it gives it, best first."""
    yield replace(tensor, others=()) if tensor.others else tensor
    for cut in tensor.others:
        yield replace(tensor, cut=cut, others=())


def read_tensor(
    checkpoint: Checkpoint, tensor: TensorSpec, name: str, dtype: StorageDtype
) -> Array:
    """A whole tensor of a model, C-contiguous.

    Args:
        checkpoint: where to read.
        tensor: what to read.
        name: of the checkpoint tensor of that ``source_key``.
        dtype: what to read it as.
    """
    if tensor.cut is None:
        return checkpoint.read(name, dtype)
    return read_rows(checkpoint, tensor, name, 0, tensor.shape[0], dtype)


def read_rows(
    checkpoint: Checkpoint,
    tensor: TensorSpec,
    name: str,
    start: int,
    stop: int,
    dtype: StorageDtype,
) -> Array:
    """Rows ``start..stop`` of a tensor of a model; see ``read_tensor``."""
    cut = tensor.cut
    if cut is None:
        return checkpoint.read_rows(name, start, stop, dtype)
    if cut.slab is None and cut.blocks == 1 and not cut.transposed:
        return checkpoint.read_rows(name, cut.start + start, cut.start + stop, dtype)
    # As stored, so that an array that is mapped is not converted whole for some of its rows.
    stored = checkpoint.info(name).dtype
    if cut.slab is None:
        whole = checkpoint.read(name, stored)
    else:
        whole = checkpoint.read_rows(name, cut.slab, cut.slab + 1, stored)[0]
    if cut.transposed:
        whole = whole.T
    rows = np.ascontiguousarray(whole[cut_rows(cut, start, stop)])
    return convert(rows, stored, dtype)


def read_blocks(
    checkpoint: Checkpoint, tensor: TensorSpec, name: str, start: int, stop: int
) -> tuple[BlockFormat, npt.NDArray[np.uint8]] | None:
    """Rows ``start..stop`` of a matrix as the checkpoint has them in blocks.

    Returns:
        Their format and uint8 ``[stop - start, row bytes]``; ``None`` where the rows are no whole
        blocks of a format known here, or their values are others than the blocks say.
    """
    if not isinstance(checkpoint, BlockReader):
        return None
    cut = tensor.cut
    if cut is None:
        return checkpoint.blocks(name, start, stop)
    if cut.blocks == 1 and not cut.transposed:
        first = cut.start if cut.slab is None else cut.slab * cut.shape[1] + cut.start
        return checkpoint.blocks(name, first + start, first + stop)
    return None


def cut_rows(cut: Cut, start: int, stop: int) -> npt.NDArray[np.intp] | slice:
    """Where rows ``start..stop`` of the cut lie in the checkpoint tensor."""
    if cut.blocks == 1:
        return slice(cut.start + start, cut.start + stop)
    shape = cut.shape if cut.slab is None else cut.shape[1:]
    block_rows = shape[-1 if cut.transposed else 0] // cut.blocks
    block, row = np.divmod(np.arange(start, stop), cut.stop - cut.start)
    return np.asarray(block * block_rows + cut.start + row)
