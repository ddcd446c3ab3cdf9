"""Products with block-quantised matrices, which stay quantised in memory.

Q4_K is a scale and a minimum per 32 values, which is what torch's int4 kernel multiplies: weights
take 0.625 bytes each, and one token's product the time it takes to read them. The kernel rounds
activations, scales and results to bfloat16, an error some thirty times below that of the
quantisation. Q6_K has no such kernel: down matrices and attention's values become 8-bit codes (see
``int8.py``), or half precision where codes would move them too far.

Without the kernel (other processors), or where float32 is asked for, a matrix is decoded block by
block for every product.

Notation: N rows of W (outputs), C columns (inputs), G groups of 32 columns, T tokens.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lql.inference import fused, int8, linear
from lql.inference.int8 import Int8Linear
from lql.inference.linear import Coarse, Compiled, HalfLinear, Linear, Product
from lql.inference.pages import Pages
from lql.inference.precision import ComputeDtype
from lql.inference.rows import Part, Rows, as_tensor, torch_view
from lql.inference.shortlist import Shortlist, pays
from vindex.kinds import StorageDtype
from vindex.quant import AffineGroups, BlockFormat
from vindex.source import QuantTensor, StoredTensor

Floats = npt.NDArray[np.float32]

_GROUP = 32
_TILE = 64  # rows that the kernel lays out together
_ROW_MULTIPLE = 16  # of rows, which the kernel insists on
_PACK_ELEMENTS = 1 << 20  # codes spread out in memory at a time while packing
_F16_SAFE = 1e3  # largest activation for which logits stay far from f16's largest number
_LIST_AFTER = 16  # generated tokens before their choice gets codes of its own
_MOST_MOVED = 0.01  # by codes, of a matrix's size; half of what Q6_K has moved it by
_DECODE_ELEMENTS = 1 << 20  # decoded at a time by the fallback


def prepare(
    rows: Rows, bias: Tensor | None, dtype: ComputeDtype, pool: Executor, pages: Pages
) -> Callable[[], Linear]:
    """Start preparing matrices of which one or more are quantised; see ``linear.prepare``.

    Args:
        pages: where what they become is put.
    """
    runs = list(_runs(rows))
    if len(runs) == 1:
        return _prepare_run(rows, bias, dtype, pool, pages)
    starts = np.cumsum([0, *(run.count for run in runs)])
    finishers = [
        _prepare_run(
            run,
            None if bias is None else bias[start : start + run.count],
            dtype,
            pool,
            pages,
            joined=True,
        )
        for run, start in zip(runs, starts[:-1].tolist(), strict=True)
    ]
    return lambda: JoinedLinear([finish() for finish in finishers])


def prepare_head(
    rows: Rows, bias: Tensor | None, dtype: ComputeDtype, pool: Executor
) -> Callable[[], Linear]:
    """Start preparing the head of a quantised model, whose results must not be rounded much.

    An embedding in half precision is multiplied where it lies; a head of blocks in float32.
    """
    stored = rows.parts[0].stored
    if isinstance(stored, QuantTensor):
        if linear.half_kernel_works():
            return linear.prepare(rows, bias, ComputeDtype.F16, pool)
        return lambda: DecodingLinear(rows, bias)
    if stored.dtype is StorageDtype.F16 and rows.mapped:
        return lambda: EmbeddingLinear(stored, bias)
    return linear.prepare(rows, bias, dtype.resolve(stored.dtype), pool)


class EmbeddingLinear:
    """The embedding as the head: half precision, multiplied in its file for one token at a time.

    torch's float16 matrix-vector product sums in float32 and rounds the token's vector and the
    logits to 11 bits, a hundredth of what quantisation moves them by. It has no kernel worth the
    name for more tokens; those are rare here, and their products are float32.

    A text that is generated greedily asks for the largest number only; see ``Shortlist``.
    """

    kernel = "f16 in place"
    can_be_coarse = False

    def __init__(self, stored: StoredTensor, bias: Tensor | None) -> None:
        self._weight = as_tensor(stored)
        self._stored = stored
        self._shortlist: Shortlist | None = None
        self._asked = 0
        self._sizes = torch.zeros(())  # sum of those asked for, [C] from the first on
        self._several = DecodingLinear(Rows([Part(stored)]), bias)
        self._bias = bias
        self.elements = self._several.elements

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply; see ``Linear``."""
        if len(x) > 1 or not x.abs().max() <= _F16_SAFE:
            return self._several(x)
        y = F.linear(x.to(torch.float16), self._weight).float()
        return y if self._bias is None else y.add_(self._bias)

    def largest(self, x: Tensor) -> Tensor:
        """The product of one vector [1, C], of which the largest number counts; see ``Shortlist``.

        The codes are made when so many were asked for that more will follow.
        """
        if self._shortlist is None:
            self._asked += 1
            self._sizes = self._sizes + x[0].abs()
            if self._asked < _LIST_AFTER or self._bias is not None or not pays(self._stored):
                return self(x)
            self._shortlist = Shortlist(self._stored, self._sizes / self._asked)
        found = self._shortlist(x)
        return self(x) if found is None else found

    @property
    def resident_bytes(self) -> int:
        """Memory of the codes, once there are any; the matrix is mapped."""
        return 0 if self._shortlist is None else self._shortlist.resident_bytes

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return self._several.weight()


class Int4Linear:
    """Q4_K weights as the codes they are, bfloat16 activations, float32 sums."""

    kernel = "int4 weights, bf16 activations"

    def __init__(self, packed: Tensor, scales: Tensor, rows: Rows, bias: Tensor | None) -> None:
        self._product = _int4_product(packed, scales)
        whole = bias is None and not rows.count % _ROW_MULTIPLE and not rows.columns % _GROUP
        #: All that it does, where that is one compiled product.
        self.compiled = _int4_compiled(packed, scales) if whole else None
        self._weight = rows
        self._rows = rows.count if rows.count % _ROW_MULTIPLE else None
        self._padding = -rows.columns % _GROUP
        self._bias = bias
        self.can_be_coarse = rows.mapped
        self.elements = rows.count * rows.columns
        self.resident_bytes = packed.nbytes + scales.nbytes

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply; see ``Linear``."""
        if coarse is not None and self.can_be_coarse:
            return coarse.product(x, self._weight, self._bias)
        y = self._product(F.pad(x, (0, self._padding)) if self._padding else x)
        if self._rows is not None:
            y = y[:, : self._rows]
        return y if self._bias is None else y.add_(self._bias)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return self._weight.single()


class DecodingLinear:
    """Blocks decoded to float32, some rows at a time, for every product."""

    kernel = "blocks decoded to f32"
    can_be_coarse = False
    resident_bytes = 0

    def __init__(self, rows: Rows, bias: Tensor | None) -> None:
        self._weight = rows
        self._bias = bias
        self.elements = rows.count * rows.columns

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply; see ``Linear``."""
        weight = self._weight
        y = x.new_empty(len(x), weight.count)
        step = max(1, _DECODE_ELEMENTS // weight.columns)
        for start in range(0, weight.count, step):
            stop = min(start + step, weight.count)
            y[:, start:stop] = F.linear(x, torch_view(weight.float32(start, stop)))
        return y if self._bias is None else y.add_(self._bias)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return self._weight.single()


class JoinedLinear:
    """Matrices of different formats that read the same input."""

    def __init__(self, parts: Sequence[Linear]) -> None:
        self._parts = parts
        self.can_be_coarse = any(part.can_be_coarse for part in parts)
        self.kernel = " + ".join(dict.fromkeys(part.kernel for part in parts))
        self.elements = sum(part.elements for part in parts)
        self.resident_bytes = sum(part.resident_bytes for part in parts)
        both = [compiled(part) for part in parts]
        #: All that it does, where that is one compiled product.
        self.compiled = fused.joined(*both) if len(both) == 2 else None
        self._product: Product | None = (
            None if self.compiled is None else self.compiled.module.forward
        )

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply; see ``Linear``."""
        if self._product is not None and coarse is None:
            return self._product(x)
        return torch.cat([part(x, coarse) for part in self._parts], dim=-1)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        return torch.cat([part.weight() for part in self._parts])


def compiled(product: Linear) -> Compiled | None:
    """All that a product does as TorchScript, where it is that."""
    several = HalfLinear | Int4Linear | Int8Linear | JoinedLinear
    return product.compiled if isinstance(product, several) else None


def _runs(rows: Rows) -> list[Rows]:
    """The matrix cut where the format of its parts changes."""
    runs: list[list[Part]] = []
    for part in rows.parts:
        if runs and _format(runs[-1][0]) is _format(part):
            runs[-1].append(part)
        else:
            runs.append([part])
    return [Rows(run) for run in runs]


def _format(part: Part) -> object:
    stored = part.stored
    return stored.matrix.block_format if isinstance(stored, QuantTensor) else stored.dtype


def _prepare_run(
    rows: Rows,
    bias: Tensor | None,
    dtype: ComputeDtype,
    pool: Executor,
    pages: Pages,
    *,
    joined: bool = False,
) -> Callable[[], Linear]:
    """Start preparing parts of one format.

    Args:
        joined: with others, that is, of attention's values.
    """
    first = rows.parts[0].stored
    if not isinstance(first, QuantTensor):
        return linear.prepare(rows, bias, dtype.resolve(first.dtype), pool)
    if dtype is ComputeDtype.F32:
        return lambda: DecodingLinear(rows, bias)
    if first.matrix.block_format is BlockFormat.Q4_K and int4_kernel_works():
        return _prepare_int4(rows, bias, pool, pages)
    if first.matrix.block_format is not BlockFormat.Q4_K:
        return _prepare_finer(rows, bias, pool, pages, joined=joined)
    return lambda: DecodingLinear(rows, bias)


def _prepare_finer(
    rows: Rows, bias: Tensor | None, pool: Executor, pages: Pages, *, joined: bool
) -> Callable[[], Linear]:
    """Start preparing a matrix of more than four bits."""
    half = linear.half_kernel_works()
    if not int8.fits(rows):
        if half:
            return linear.prepare(rows, bias, ComputeDtype.F16, pool)
        return lambda: DecodingLinear(rows, bias)
    coding = pool.submit(Int8Linear, rows, bias, pages)

    def finish() -> Linear:
        coded = coding.result()
        if joined or coded.moved <= _MOST_MOVED or not half:
            return coded
        return linear.prepare(rows, bias, ComputeDtype.F16, pool)()

    return finish


def _prepare_int4(
    rows: Rows, bias: Tensor | None, pool: Executor, pages: Pages
) -> Callable[[], Linear]:
    step = max(1, _PACK_ELEMENTS // rows.columns // _TILE) * _TILE
    packing = [pool.submit(_pack, rows, start, step) for start in range(0, rows.count, step)]

    def finish() -> Linear:
        packed, scales = zip(*(block.result() for block in packing), strict=True)
        codes, pairs = pages.copied(torch.cat(packed)), pages.copied(torch.cat(scales, dim=1))
        return Int4Linear(codes, pairs, rows, bias)

    return finish


def _pack(rows: Rows, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Rows as the kernel takes them: codes, and scales and zeros [G, n, 2]."""
    groups = _affine(rows, start, min(start + count, rows.count))
    columns = -(-rows.columns // _GROUP) * _GROUP  # blocks are padded further
    padding = -len(groups.codes) % _ROW_MULTIPLE
    codes = np.pad(groups.codes[:, :columns], ((0, padding), (0, 0)))
    packed = _int4_pack(torch.from_numpy(codes.astype(np.int32)))
    scale = groups.scale[:, : columns // _GROUP]
    zero = 8 * scale - groups.minimum[:, : columns // _GROUP]  # the kernel's codes are centred
    fill = ((0, padding), (0, 0))
    return packed, _pairs(np.pad(scale, fill), np.pad(zero, fill))


def _pairs(scale: Floats, zero: Floats) -> Tensor:
    """Scales and zeros [n, G] as the kernel takes them: [G, n, 2], contiguous."""
    pairs = torch.from_numpy(np.stack([scale.T, zero.T], axis=2))
    return pairs.to(torch.bfloat16, memory_format=torch.contiguous_format)


def _affine(rows: Rows, start: int, stop: int) -> AffineGroups:
    """Rows ``start..stop`` of parts in Q4_K as codes, scales and minimums."""
    found: list[AffineGroups] = []
    for part in rows.parts:
        low, high = max(start, 0), min(stop, part.count)
        if low < high:
            found.append(part.affine(low, high))
        start, stop = start - part.count, stop - part.count
    if len(found) == 1:
        return found[0]
    return AffineGroups(
        codes=np.concatenate([each.codes for each in found]),
        scale=np.concatenate([each.scale for each in found]),
        minimum=np.concatenate([each.minimum for each in found]),
    )


def _int4_pack(codes: Tensor) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return packed


class _Int4Product(torch.nn.Module):
    def __init__(self, packed: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.packed = packed
        self.scales = scales

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.to(torch.bfloat16), self.packed, 32, self.scales
        )
        return y.float()


def _int4_product(packed: Tensor, scales: Tensor) -> Product:
    """The product of float32 [T, C] with a packed matrix, three operators in one call of Python."""
    scripted = _int4_compiled(packed, scales)
    product: Product = (
        _Int4Product(packed, scales).forward if scripted is None else scripted.module.forward
    )
    return product


def _int4_compiled(packed: Tensor, scales: Tensor) -> Compiled | None:
    script = _int4_script()
    if script is None:
        return None
    module = copy.copy(script)  # compiled once; copies share the code
    module.packed, module.scales = packed, scales
    return Compiled(module, script)


@cache
def _int4_script() -> Any:
    """A compiled ``_Int4Product`` to copy, or ``None`` where torch no longer compiles it."""
    module = _Int4Product(torch.zeros(16, 16, dtype=torch.uint8), torch.zeros(1, 16, 2))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.script(module)
    except (RuntimeError, OSError, AttributeError):  # OSError: the source is not to be had
        return None


@cache
def int4_kernel_works() -> bool:
    """Whether this machine's torch has the int4 product, and it is right and fast.

    The operator is no part of torch's documented surface. Small integers are exact in bfloat16; the
    matrix is packed in two pieces, as large ones are.
    """
    rows, columns = 2 * _TILE + _ROW_MULTIPLE, 3 * _GROUP
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (rows, columns), dtype=np.int32)
    scale = random.integers(1, 4, (rows, columns // _GROUP)).astype(np.float32)
    zero = random.integers(-2, 3, (rows, columns // _GROUP)).astype(np.float32)
    weight = (codes - 8).reshape(rows, -1, _GROUP) * scale[:, :, None] + zero[:, :, None]
    x = random.integers(-1, 2, (3, columns)).astype(np.float32)
    expected = torch.from_numpy(x @ weight.reshape(rows, columns).T)
    try:
        packed = torch.cat(
            [_int4_pack(torch.from_numpy(part)) for part in (codes[:_TILE], codes[_TILE:])]
        )
        pairs = _pairs(scale, zero)
        found = _int4_product(packed, pairs)(torch.from_numpy(x))
    except (RuntimeError, AttributeError):  # no such operator, or not on this processor
        return False
    return torch.equal(found, expected.to(torch.bfloat16).float())
