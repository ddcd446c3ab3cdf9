"""Tensors of a torch model in memory as plain arrays, and back.

Models of other libraries are only looked at through what they can do: ``state_dict()`` and
``config.to_dict()``. No such library is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor as Tensor

from vindex.checkpoint.memory import MemoryTensor
from vindex.errors import CheckpointError
from vindex.kinds import StorageDtype

_DTYPES = {
    torch.float32: StorageDtype.F32,
    torch.float16: StorageDtype.F16,
    torch.bfloat16: StorageDtype.BF16,
}


def arrays_of(state: Mapping[str, Tensor]) -> dict[str, MemoryTensor]:
    """The tensors of a state dictionary; those on the processor share their memory.

    Raises:
        CheckpointError: a tensor that holds no 16- or 32-bit floats, or holds no values.
    """
    return {name: _array(name, tensor) for name, tensor in state.items()}


def _array(name: str, tensor: Tensor) -> MemoryTensor:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None or tensor.is_meta or tensor.layout is not torch.strided:
        what = "no values" if tensor.is_meta else str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{name} holds {what}",
            hint="load the model in float32, bfloat16 or float16, unquantised",
        )
    values = tensor.detach().cpu()
    if dtype is StorageDtype.BF16:
        return MemoryTensor(dtype, values.view(torch.int16).numpy().view(np.uint16))
    return MemoryTensor(dtype, values.numpy())


def tensors_of(arrays: Iterable[tuple[str, MemoryTensor]]) -> dict[str, Tensor]:
    """Tensors of their own, independent of where the arrays come from."""
    return {name: _tensor(each) for name, each in arrays}


def _tensor(stored: MemoryTensor) -> Tensor:
    values = torch.from_numpy(np.array(stored.array, order="C"))
    return values.view(torch.bfloat16) if stored.dtype is StorageDtype.BF16 else values
