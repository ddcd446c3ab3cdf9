"""Matrices on an accelerator: multiplied in the dtype they are stored in.

float32 is multiplied as float32. With 16-bit weights x is rounded to their dtype, products are
summed in float32, and where torch can say so the sums are not rounded either.

Notation: N rows of W (outputs), C columns (inputs), T tokens.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lql.inference.linear import Coarse
from lql.inference.precision import ComputeDtype
from lql.inference.rows import Rows, torch_view
from vindex.kinds import StorageDtype
from vindex.source import StoredTensor

_BLOCK_ELEMENTS = 16 << 20  # converted on the host at a time
_TINY = 1e-30  # a row of zeros is divided by it


class DeviceLinear:
    """A matrix in memory of a device."""

    can_be_coarse = False

    def __init__(
        self, rows: Rows, bias: Tensor | None, dtype: ComputeDtype, device: torch.device
    ) -> None:
        self._bias = None if bias is None else bias.to(device)
        self._weight = _uploaded(rows, _element(rows, dtype), device)  # [N, C]
        if self._weight.dtype is torch.float16 and bool(self._weight.isinf().any()):
            self._weight = _uploaded(rows, torch.bfloat16, device)  # f16 cannot hold its values
        self.elements = self._weight.numel()
        self.resident_bytes = self.elements * self._weight.element_size()
        self.kernel = f"{str(self._weight.dtype).removeprefix('torch.')} on {device.type}"

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply; see ``Linear``."""
        dtype = self._weight.dtype
        if dtype is torch.float32:
            return F.linear(x, self._weight, self._bias)
        if dtype is torch.float16:
            # Activations of some models exceed what f16 holds: bring every row to 1 and back.
            scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(_TINY)  # [T, 1]
            y = _product(x / scale, self._weight).mul_(scale)
        else:
            y = _product(x, self._weight)
        return y if self._bias is None else y.add_(self._bias)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return self._weight.float()


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """``x Wᵀ``, x rounded to W's dtype, float32 [T, N]."""
    x = x.to(weight.dtype)
    if _keeps_sums(weight.device, weight.dtype):
        return torch.mm(x, weight.T, out_dtype=torch.float32)
    return F.linear(x, weight).float()


@cache
def _keeps_sums(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch gives 16-bit products as float32 there, and rightly."""
    x = torch.arange(16 * 16, dtype=torch.float32, device=device).view(16, 16) % 7 - 3
    rounded = x.to(dtype)
    try:
        found = torch.mm(rounded, rounded.T, out_dtype=torch.float32)
    except (RuntimeError, TypeError):  # an older torch, or not on this device
        return False
    return device.type == "meta" or torch.equal(found, x @ x.T)


def _element(rows: Rows, dtype: ComputeDtype) -> torch.dtype:
    """What the matrix is held as: one dtype for all parts."""
    if dtype is ComputeDtype.F32:
        return torch.float32
    parts = [part.stored for part in rows.parts]
    stored = {part.dtype if isinstance(part, StoredTensor) else None for part in parts}
    return torch.bfloat16 if stored == {StorageDtype.BF16} else torch.float16


def _uploaded(rows: Rows, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The rows on a device; converted in blocks, so that no second copy is in memory."""
    weight = torch.empty(rows.count, rows.columns, dtype=dtype, device=device)
    step = max(1, _BLOCK_ELEMENTS // rows.columns)
    for start in range(0, rows.count, step):
        stop = min(start + step, rows.count)
        weight[start:stop] = torch_view(rows.float32(start, stop)).to(dtype)
    return weight
