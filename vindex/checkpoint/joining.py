"""The way back: a model's tensors as its checkpoint has them, by the checkpoint's names.

``cutting`` makes a vindex's tensors from a checkpoint's; here they are put together again, so a
fused query, key and value matrix is one tensor, and experts are stacked, as the family saves them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vindex.checkpoint.cutting import cut_rows, source_key, ways
from vindex.checkpoint.memory import MemoryTensor
from vindex.dtypes import convert
from vindex.errors import VindexIncomplete
from vindex.families import family_of
from vindex.kinds import StorageDtype
from vindex.source import ModelSource, QuantTensor, StoredTensor
from vindex.spec import TensorSpec

Array = npt.NDArray[np.generic]

_CODED = ("_blocks", "_scales")
"""What MXFP4 checkpoints call codes; the values themselves have a name among the other ways."""


def checkpoint_tensors(source: ModelSource) -> Iterator[tuple[str, MemoryTensor]]:
    """Every tensor of a model under its checkpoint's name.

    Tensors have the dtype they are stored in; of a quantised or edited matrix, and of a fused
    tensor whose parts differ, it is float32. A head that is tied to the embedding is left out where
    the source has none of its own.

    Raises:
        VindexIncomplete: a tensor, or a part of one, is not there.
    """
    family = family_of(source.spec)
    groups: dict[str, list[TensorSpec]] = defaultdict(list)
    for tensor in source.spec.tensors:
        way = next(way for way in ways(tensor) if not source_key(way).endswith(_CODED))
        groups[source_key(way)].append(way)
    for key, parts in groups.items():
        there = [tensor for tensor in parts if source.has(*tensor.identity)]
        if not there and all(tensor.optional for tensor in parts):
            continue
        if len(there) < len(parts):
            missing = next(tensor.key for tensor in parts if tensor not in there)
            raise VindexIncomplete(f"{source.name} has no {missing}")
        yield family.checkpoint_name(key), _joined([(t, _read(source, t)) for t in parts])


def _read(source: ModelSource, tensor: TensorSpec) -> StoredTensor:
    stored = source.matrix(*tensor.identity)
    if isinstance(stored, QuantTensor):
        return StoredTensor(stored.key, StorageDtype.F32, stored.rows(0, stored.shape[0]))
    return stored


def _joined(parts: Sequence[tuple[TensorSpec, StoredTensor]]) -> MemoryTensor:
    """One checkpoint tensor from all that are cut from it.

    An FFN without a gate stores its input matrix twice, for browsing and for running: the last of
    the same parts counts, which is the one that is multiplied with.
    """
    for tensor, stored in reversed(parts):
        if tensor.cut is None:
            return MemoryTensor(stored.dtype, stored.array.reshape(tensor.shape))
    parts = list({tensor.cut: (tensor, stored) for tensor, stored in parts}.values())
    first, _ = parts[0]
    assert first.cut is not None, "else it was given back"
    dtypes = {each.dtype for _, each in parts}
    dtype = dtypes.pop() if len(dtypes) == 1 else StorageDtype.F32
    whole = np.empty(first.cut.shape, dtype.carrier)
    filled = 0
    for tensor, part in parts:
        assert tensor.cut is not None, "all parts of a tensor are cut from it"
        place = whole if tensor.cut.slab is None else whole[tensor.cut.slab]
        rows = place.T if tensor.cut.transposed else place
        values = convert(np.ascontiguousarray(part.array), part.dtype, dtype)
        rows[cut_rows(tensor.cut, 0, tensor.shape[0])] = values.reshape(tensor.shape)
        filled += values.size
    if filled != whole.size:
        raise VindexIncomplete(f"parts of {first.cut.key} are no longer there")
    return MemoryTensor(dtype, whole)
