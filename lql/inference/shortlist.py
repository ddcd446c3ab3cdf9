"""The most probable token without the whole product: int8 codes choose, exact products decide.

A head is read whole for every token. Its rows as int8 codes are half of what half precision takes,
and torch multiplies them in half the time, but rounds the token's vector and the products to
bfloat16. So only the tokens whose rounded products are largest are multiplied exactly, and the
rounding is bounded: when a token that is not on the list could still be the largest, there is no
answer, and the caller multiplies them all.

Notation: V rows (tokens), C columns, n on the list.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from lql.inference.rows import as_tensor
from vindex.source import StoredTensor

LISTED = 64  # tokens multiplied exactly
_PAYS_FROM = 1 << 22  # elements of a matrix; a smaller one is in the processor's cache anyway
_CODE_MAX = 127
_BLOCK_ELEMENTS = 1 << 18  # converted at a time
_HALF_STEP = 2.0**-8  # of bfloat16: relative distance of a number to its neighbour, at most
_SINGLE = 2.0**-23  # the same of float32


class Shortlist:
    """A head's rows as codes.

    Args:
        stored: the head [V, C], of at least ``LISTED`` rows.
    """

    def __init__(self, stored: StoredTensor) -> None:
        self._weight = as_tensor(stored)
        rows, columns = self._weight.shape
        self._codes = torch.empty(rows, columns, dtype=torch.int8)
        self._scales = torch.empty(rows, dtype=torch.bfloat16)
        #: float32 [V]: how far a product can be off, before it is rounded, for x of length 1.
        self._off = torch.empty(rows)
        step = max(1, _BLOCK_ELEMENTS // columns)
        for start in range(0, rows, step):
            self._encode(start, min(start + step, rows))
        self._furthest = float(self._off.max())

    def _encode(self, start: int, stop: int) -> None:
        """Codes for the scale as rounded, so that its rounding costs nothing."""
        exact = self._weight[start:stop].float()
        largest = torch.linalg.vector_norm(exact, ord=float("inf"), dim=1)
        scales = self._scales[start:stop].copy_(largest.div_(_CODE_MAX))
        scale = scales.float().clamp_min_(torch.finfo(torch.float32).tiny).unsqueeze(1)
        codes = (exact / scale).round_().clamp_(-_CODE_MAX, _CODE_MAX)
        self._codes[start:stop] = codes
        held = codes.mul_(scales.float().unsqueeze(1))
        lengths = torch.linalg.vector_norm(held, dim=1)
        # x is rounded too, and C products are summed in any order, with as much again for the
        # rounding of the bounds.
        moved = _HALF_STEP / 2 + 2 * exact.shape[1] * _SINGLE
        apart = torch.linalg.vector_norm(held.sub_(exact), dim=1)
        self._off[start:stop] = apart.add_(lengths, alpha=moved)

    @property
    def resident_bytes(self) -> int:
        """Memory of codes, scales and bounds."""
        return self._codes.nbytes + self._scales.nbytes + self._off.nbytes

    def __call__(self, x: Tensor) -> Tensor | None:
        """The product of one vector, float32 [1, C], of which the largest numbers are exact.

        Returns:
            float32 [1, V]: its largest is the largest of the exact product, and exact up to
            float32 rounding, as are all on the list; the others are off by at most some 1 %.
            ``None`` if the largest could be one that is not on the list, or x is not finite.
        """
        rounded = x.to(torch.bfloat16)
        product = torch._weight_int8pack_mm(rounded, self._codes, self._scales).float()  # [1, V]
        size = float(torch.linalg.vector_norm(x))
        reach = torch.add(product[0], self._off, alpha=size)  # the products are at most that
        reached, listed = reach.topk(LISTED)
        exact = torch.mv(self._weight.index_select(0, listed).float(), x[0])  # [n]
        beyond = float(reached[-1])
        # A product is at most its rounded value and half a step of that.
        rounding = _HALF_STEP * (abs(beyond) + self._furthest * size)
        if not beyond + rounding < float(exact.max()):
            return None
        product[0, listed] = exact
        return product


def pays(stored: StoredTensor) -> bool:
    """Whether a head is large enough for one, on the machine's own processor."""
    rows, columns = stored.shape
    return rows > LISTED and rows * columns >= _PAYS_FROM and int8_kernel_works()


@cache
def int8_kernel_works() -> bool:
    """Whether this machine's torch has the int8 product, and it is right.

    The operator is no part of torch's documented surface. Small integers are exact in bfloat16.
    """
    codes = (torch.arange(24 * 40).view(24, 40) % 11 - 5).to(torch.int8)
    x = torch.arange(40, dtype=torch.float32).view(1, 40) % 3 - 1
    scales = torch.tensor([0.5, 1.0, 2.0]).repeat(8).to(torch.bfloat16)
    expected = (x @ codes.float().T * scales.float()).to(torch.bfloat16)
    try:
        found = torch._weight_int8pack_mm(x.to(torch.bfloat16), codes, scales)
    except (RuntimeError, AttributeError):  # no such operator, or not on this processor
        return False
    return torch.equal(found, expected)
