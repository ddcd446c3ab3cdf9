"""A model's place: from what the user asked for to a torch device that has room for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import assert_never

import torch

from lql.inference.errors import DeviceMemoryShort, DeviceMissing
from lql.inference.precision import ComputeDtype
from lql.syntax_words import Device
from vindex.source import ModelSource, StoredTensor
from vindex.spec import Role

CPU = torch.device("cpu")

# Looked up row by row, and the largest tensors of some models: they stay where they are.
_ON_HOST = (Role.EMBED, Role.POSITIONS, Role.PLE_TABLE)


def place(device: Device, needed: int) -> torch.device:
    """The torch device that a model of ``needed`` bytes runs on.

    Raises:
        DeviceMissing: CUDA was asked for, and there is none.
        DeviceMemoryShort: CUDA was asked for, and has too little free memory.
    """
    match device:
        case Device.CPU:
            return CPU
        case Device.CUDA:
            require_cuda()
            free = _free()
            if needed > free:
                raise DeviceMemoryShort("CUDA", needed, free)
            return torch.device("cuda")
        case Device.AUTO:
            fits = torch.cuda.is_available() and needed <= _free()
            return torch.device("cuda") if fits else CPU
        case _:
            assert_never(device)


def available() -> tuple[str, ...]:
    """The devices that are here, as the user names them."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def require_cuda() -> None:
    """Check that there is a GPU that torch can use.

    Raises:
        DeviceMissing: there is not, for the reason it gives.
    """
    if torch.version.cuda is None and torch.version.hip is None:
        raise DeviceMissing(
            f"torch {torch.__version__} was built without CUDA",
            hint="install a CUDA build of torch, or use --device cpu",
        )
    if not torch.cuda.is_available():
        raise DeviceMissing(
            "torch finds no CUDA device",
            hint="look at what nvidia-smi says, or use --device cpu",
        )


def bytes_needed(source: ModelSource, dtype: ComputeDtype) -> int:
    """Bytes of the matrices and vectors that a forward pass holds on its device.

    All matrices are taken to be stored as the first layer's q is.
    """
    stored = source.matrix(Role.Q, 0)
    resolved = dtype.resolve(stored.dtype) if isinstance(stored, StoredTensor) else dtype
    size = 4 if resolved is ComputeDtype.F32 else 2
    elements = sum(
        math.prod(tensor.shape)
        for tensor in source.spec.tensors
        if tensor.role not in _ON_HOST and source.has(*tensor.identity)
    )
    if not source.has(Role.HEAD):
        elements += source.spec.vocab_size * source.spec.hidden_size
    return size * elements


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Raise ``DeviceMemoryShort`` where torch runs out of the device's memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory(device) from error


def out_of_memory(device: torch.device) -> DeviceMemoryShort:
    """The error for a device whose memory ran out."""
    return DeviceMemoryShort(device.type.upper(), None, _free())


def _free() -> int:
    free, _ = torch.cuda.mem_get_info()
    return int(free)
