"""Products with matrices as 8-bit codes, one scale a row: a byte a weight, half of half precision.

torch's kernel takes bfloat16 activations and sums in float32. A row's largest weight sets its
scale, so how far codes move a matrix depends on the matrix: ``moved`` says it. Q6_K itself has
moved it by 0.019 of its size, and the codes of most matrices move it by 0.009. On SmolLM2 the codes
of all down matrices would take the divergence from 0.015 to 0.018; without the three that move
most, to 0.016.
"""

from __future__ import annotations

import copy
import math
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lql.inference.linear import Coarse, Compiled
from lql.inference.pages import Pages
from lql.inference.rows import Rows, torch_view

_CODE_MAX = 127
_COLUMNS = 32  # the kernel reads so many at a time, also beyond the last one
_BLOCK_ELEMENTS = 1 << 20  # converted at a time


class Int8Linear:
    """Rows as codes and scales. See ``Linear``.

    Attributes:
        moved: how far the codes are from the matrix, of its size (Frobenius norms).

    Args:
        rows: the matrix as stored, such that ``fits``.
        bias: float32 [N], or ``None``.
        pages: where the codes are put.
    """

    kernel = "int8 weights, bf16 activations"

    def __init__(self, rows: Rows, bias: Tensor | None, pages: Pages) -> None:
        codes = pages.empty((rows.count, rows.columns), torch.int8)
        scales = pages.empty((rows.count,), torch.bfloat16)
        step = max(1, _BLOCK_ELEMENTS // rows.columns)
        size = distance = 0.0
        for start in range(0, rows.count, step):
            stop = min(start + step, rows.count)
            exact = torch_view(rows.float32(start, stop))
            codes[start:stop], scales[start:stop] = _coded(exact)
            held = codes[start:stop] * scales[start:stop, None].float()
            size = math.hypot(size, float(torch.linalg.vector_norm(exact)))
            distance = math.hypot(distance, float(torch.linalg.vector_norm(held.sub_(exact))))
        self.moved = distance / size if size else 0.0
        script = _script()
        whole = None if script is None else _compiled(script, codes, scales)
        self._product = _Product(codes, scales) if whole is None else whole.module.forward
        #: All that it does, where that is one compiled product.
        self.compiled = whole if bias is None else None
        self._rows = rows
        self._bias = bias
        self.can_be_coarse = rows.mapped
        self.elements = rows.count * rows.columns
        self.resident_bytes = codes.nbytes + scales.nbytes

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply."""
        if coarse is not None and self.can_be_coarse:
            return coarse.product(x, self._rows, self._bias)
        y: Tensor = self._product(x)
        return y if self._bias is None else y.add_(self._bias)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return self._rows.single()


def fits(rows: Rows) -> bool:
    """Whether this machine's torch has the product, for so many columns."""
    return rows.columns % _COLUMNS == 0 and kernel_works()


def _coded(exact: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [n, C] and scales [n]; codes for the scale as rounded, so that this costs nothing."""
    largest = torch.linalg.vector_norm(exact, ord=float("inf"), dim=1)
    scales = largest.div_(_CODE_MAX).to(torch.bfloat16)
    steps = scales.float().clamp_min_(torch.finfo(torch.float32).tiny).unsqueeze(1)
    codes = (exact / steps).round_().clamp_(-_CODE_MAX, _CODE_MAX)
    return codes.to(torch.int8), scales


class _Product(torch.nn.Module):
    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.codes = codes
        self.scales = scales

    def forward(self, x: Tensor) -> Tensor:
        y = torch._weight_int8pack_mm(x.to(torch.bfloat16), self.codes, self.scales)
        return y.float()


def _compiled(script: Any, codes: Tensor, scales: Tensor) -> Compiled:
    module = copy.copy(script)  # compiled once; copies share the code
    module.codes, module.scales = codes, scales
    return Compiled(module, script)


@cache
def _script() -> Any:
    """A compiled ``_Product`` to copy, or ``None`` where torch no longer compiles it."""
    codes = torch.zeros(1, _COLUMNS, dtype=torch.int8)
    module = _Product(codes, torch.zeros(1, dtype=torch.bfloat16))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.script(module)
    except (RuntimeError, OSError, AttributeError):  # OSError: the source is not to be had
        return None


@cache
def kernel_works() -> bool:
    """Whether this machine's torch has the int8 product, and it is right.

    The operator is no part of torch's documented surface. Small integers are exact in bfloat16.
    """
    codes = (torch.arange(24 * 96).view(24, 96) % 11 - 5).to(torch.int8)
    x = torch.arange(3 * 96, dtype=torch.float32).view(3, 96) % 3 - 1
    scales = torch.tensor([0.5, 1.0, 2.0]).repeat(8).to(torch.bfloat16)
    expected = (x @ codes.float().T * scales.float()).to(torch.bfloat16)
    try:
        found = torch._weight_int8pack_mm(x.to(torch.bfloat16), codes, scales)
    except (RuntimeError, AttributeError):  # no such operator, or not on this processor
        return False
    return torch.equal(found, expected)
