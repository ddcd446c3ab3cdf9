"""``y = x Wᵀ + b``: float32 in, float32 out, by the fastest kernel that keeps the weights exact.

Three kernels (times: all 30 layers of SmolLM2-135M for 1 / 5 / 512 tokens, 2 cores, torch 2.13):

* ``HalfLinear``    FBGEMM, half-precision weights, float32 activations and sums. 6 / 6.5 / 253 ms:
                    up to some eight tokens, the time it takes to read the weights. torch's own
                    float16 product rounds activations and results, its bfloat16 one (10 / 10 / 129)
                    the weights as well.
* ``SingleLinear``  oneDNN, float32 weights reordered once. 8.5 / 9.2 / 255 ms; ``F.linear`` on the
                    weights as they lie in memory takes 26 / 31 / 560.
* ``PlainLinear``   ``F.linear``, where a processor has neither of those.

The first two keep one resident copy of their matrix, the third none where float32 is mapped.
Their operators are not part of torch's documented surface: each must pass a small product before
it is used.

Notation: N rows of W (outputs), C columns (inputs), T tokens.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lql.inference.precision import ComputeDtype
from lql.inference.rows import Rows, torch_view

# Rows are packed in blocks of this many elements, so that packing a vocabulary-sized head neither
# doubles it in memory nor runs on one thread only. As float32 a block is just under 32 MiB: having
# freed one, glibc keeps memory of that size for the next request instead of handing it back to
# the system. The system's fresh pages cost 100 of 600 ms of a 512-token prefill otherwise.
_BLOCK_ELEMENTS = (31 << 20) // 4

# oneDNN chooses its layout by the number of tokens it is told to expect. The one for many is also
# the fastest for one (8.5 ms; with a hint of 1: 12 ms).
_TOKENS_HINT = 512

_F16_MAX = 65504.0
_F16_FLOOR = 2.0**-8  # a matrix whose largest value is smaller loses bits to f16's subnormals


Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A product in TorchScript, for others to be compiled with it (see ``fused.py``).

    Attributes:
        module: holds the packed matrix.
        template: the module that it is a copy of, which shares its code.
    """

    module: Any
    template: Any


class Coarse:
    """bfloat16 products for tokens of which only keys and values are wanted.

    Holds the scratch that one layer's matrix is converted into at a time, so no second copy of
    the weights stays in memory. For 512 tokens of SmolLM2 conversion and products take some 150 ms
    where ``HalfLinear`` takes 253.

    Args:
        largest: elements of the largest matrix that will be multiplied.
    """

    def __init__(self, largest: int) -> None:
        self._single = torch.empty(largest)
        self._rounded = torch.empty(largest, dtype=torch.bfloat16)

    def product(self, x: Tensor, rows: Rows, bias: Tensor | None) -> Tensor:
        """``x Wᵀ + b``, operands and product rounded to bfloat16, the bias added in float32."""
        weight = self._rounded[: rows.count * rows.columns].view(rows.count, rows.columns)
        start = 0
        for part in rows.parts:
            part.round_into(weight[start : start + part.count], self._single)
            start += part.count
        y = F.linear(x.to(torch.bfloat16), weight).float()  # [T, N]
        return y if bias is None else y.add_(bias)


class Linear(Protocol):
    """A matrix, and a bias where the model has one, ready to multiply."""

    @property
    def resident_bytes(self) -> int:
        """Memory held beyond the maps of the source."""

    @property
    def elements(self) -> int:
        """N * C."""

    @property
    def kernel(self) -> str:
        """How the product is computed, for people."""

    @property
    def can_be_coarse(self) -> bool:
        """Whether ``coarse`` makes a difference."""

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply.

        Args:
            x: float32 [T, C].
            coarse: use rounded arithmetic, where that is implemented.

        Returns:
            float32 [T, N], new memory.
        """

    def weight(self) -> Tensor:
        """The matrix, float32 [N, C], for gradients. Must not be written to."""


class HalfLinear:
    """Half-precision weights, float32 arithmetic (FBGEMM)."""

    kernel = "f16 weights, f32 sums (FBGEMM)"

    def __init__(self, rows: Rows, bias: Tensor | None, blocks: Sequence[Any]) -> None:
        self._rows = rows
        self._bias = bias
        self._packed = blocks
        self._blocks = [_half_product(block) for block in blocks]
        self._only = self._blocks[0] if len(blocks) == 1 else None
        #: All that it does, where that is one compiled product.
        self.compiled = _half_compiled(blocks[0]) if len(blocks) == 1 else None
        self.elements = rows.count * rows.columns
        self.resident_bytes = 2 * self.elements
        # Rows that lie in memory of their own would be a second resident copy: let go of them.
        self.can_be_coarse = rows.mapped
        if not rows.mapped:
            del self._rows

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply; see ``Linear``."""
        if coarse is not None and self.can_be_coarse:
            return coarse.product(x, self._rows, self._bias)
        if self._only is not None:
            return self._only(x)
        return torch.cat([block(x) for block in self._blocks], dim=-1)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        unpack = torch.ops.quantized.linear_unpack_fp16
        return torch.cat([unpack(block)[0].float() for block in self._packed])


class SingleLinear:
    """float32 weights in oneDNN's own layout."""

    kernel = "f32 (oneDNN)"
    can_be_coarse = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = _single_pack(weight)
        self._bias = bias
        self.elements = weight.numel()
        self.resident_bytes = 4 * self.elements

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply; see ``Linear``."""
        return _single_product(x, self._packed, self._bias)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return self._packed.to_dense()


class PlainLinear:
    """float32 weights as they lie in memory."""

    kernel = "f32"
    can_be_coarse = False

    def __init__(self, weight: Tensor, bias: Tensor | None, mapped: bool = False) -> None:
        self._weight = weight
        self._bias = bias
        self.elements = weight.numel()
        self.resident_bytes = 0 if mapped else 4 * self.elements

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply; see ``Linear``."""
        return F.linear(x, self._weight, self._bias)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return self._weight


def prepare(
    rows: Rows, bias: Tensor | None, dtype: ComputeDtype, pool: Executor
) -> Callable[[], Linear]:
    """Start preparing a matrix for multiplication.

    Args:
        rows: the matrix as stored.
        bias: float32 [N], or ``None``.
        dtype: ``F32`` or ``F16`` (a resolved choice).
        pool: runs the conversions, which spend their time outside Python.

    Returns:
        A function that waits for the result.
    """
    if dtype is ComputeDtype.F16 and half_kernel_works():
        step = max(1, _BLOCK_ELEMENTS // rows.columns)
        starts = range(0, rows.count, step)
        packing = [pool.submit(_pack_block, rows, bias, start, start + step) for start in starts]

        def finish() -> Linear:
            blocks = [block.result() for block in packing]
            if any(block is None for block in blocks):
                return _single(rows, bias)
            return HalfLinear(rows, bias, blocks)

        return finish
    return pool.submit(_single, rows, bias).result


def _single(rows: Rows, bias: Tensor | None) -> Linear:
    weight = rows.single()
    if single_kernel_works():
        return SingleLinear(weight, bias)
    return PlainLinear(weight, bias, rows.mapped_single)


def _pack_block(rows: Rows, bias: Tensor | None, start: int, stop: int) -> Any:
    """Rows packed for FBGEMM, or ``None`` when half precision cannot hold their values."""
    block = rows.float32(start, min(stop, rows.count))
    largest = max(float(block.max()), -float(block.min()))
    if not largest <= _F16_MAX:  # or not a number; the packing would saturate it silently
        return None
    if not rows.all_half and 0.0 < largest < _F16_FLOOR:
        return None
    return _half_pack(torch_view(block), None if bias is None else bias[start:stop])


def _half_pack(weight: Tensor, bias: Tensor | None) -> Any:
    return torch.ops.quantized.linear_prepack_fp16(weight, bias)


def _half_product(packed: Any) -> Product:
    """The product of [T, C] with a packed matrix.

    A packed matrix is a C++ object, which torch takes 8 µs to accept from Python, for each of a
    hundred products per token. As an attribute of a scripted module it never leaves C++: 2.5 µs.
    """
    compiled = _half_compiled(packed)
    if compiled is None:
        return lambda x: torch.ops.quantized.linear_dynamic_fp16(x, packed)
    product: Product = compiled.module.forward
    return product


def _half_compiled(packed: Any) -> Compiled | None:
    script = _half_script()
    if script is None:
        return None
    module = copy.copy(script)  # compiled once; copies share the code
    module.packed = packed
    return Compiled(module, script)


class _HalfProduct(torch.nn.Module):
    def __init__(self, packed: Any) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return y


@cache
def _half_script() -> Any:
    """A compiled ``_HalfProduct`` to copy, or ``None`` where torch no longer compiles it."""
    module = _HalfProduct(_half_pack(torch.zeros(1, 1), None))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.script(module)
    except (RuntimeError, OSError, AttributeError):  # OSError: the source is not to be had
        return None


def _single_pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS_HINT)
    return packed


def _single_product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
    return y


@cache
def half_kernel_works() -> bool:
    """Whether this machine's torch has FBGEMM's half-precision product and it is right."""
    return _is_right(lambda x, w, b: _half_product(_half_pack(w, b))(x))


@cache
def single_kernel_works() -> bool:
    """Whether this machine's torch has oneDNN's reordered float32 product and it is right."""
    return _is_right(lambda x, w, b: _single_product(x, _single_pack(w), b))


def _is_right(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
    # Small integers: exact in every dtype and in any order of summation.
    x = torch.arange(3 * 40, dtype=torch.float32).view(3, 40) % 7 - 3
    weight = torch.arange(24 * 40, dtype=torch.float32).view(24, 40) % 11 - 5
    bias = torch.arange(24, dtype=torch.float32)
    try:
        found = product(x, weight, bias)
    except (RuntimeError, AttributeError):  # no such operator, or not on this processor
        return False
    return torch.equal(found, F.linear(x, weight, bias))
