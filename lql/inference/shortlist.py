"""The most probable token without the whole product: int8 codes choose, exact products decide.

A head is read whole for every token. As int8 codes its rows are half of what half precision takes,
and integers are multiplied exactly. What the codes leave out, of the rows and of the token's
vector, is bounded: only tokens that can still be the most probable are multiplied exactly. Where
those are many there is no answer, and the caller multiplies them all.

Notation: V rows (tokens), C columns, n on the list.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from lql.inference.pages import Pages
from lql.inference.rows import as_tensor
from vindex.source import StoredTensor

_SHARE = 8  # a list of more than an eighth of all rows saves nothing
_PAYS_FROM = 1 << 22  # elements of a matrix; a smaller one is in the processor's cache anyway
_CODE_MAX = 127
_LEAST = 1e-3  # usual size of a number, of their mean
_BLOCK_ELEMENTS = 1 << 18  # converted at a time
_SINGLE = 2.0**-23  # of float32: relative distance of a number to its neighbour, at most
_TINY = torch.finfo(torch.float32).tiny


class Shortlist:
    """A head's rows as codes.

    Attributes:
        given, refused: how many products it gave, and how many it did not.

    Args:
        stored: the head [V, C], such that ``pays``.
        usual: float32 [C], the usual size of each of x's numbers. A few are far larger than the
            others, whose codes would say little: x is divided by a root of this before it is
            rounded, and columns are multiplied with it. The root that leaves the shortest lists,
            a third, makes them 20 times shorter on SmolLM2.
    """

    def __init__(self, stored: StoredTensor, usual: Tensor) -> None:
        self._weight = as_tensor(stored)
        self._evening = usual.clamp_min(float(usual.mean()) * _LEAST).pow(1 / 3)
        self.given = self.refused = 0
        rows, columns = self._weight.shape
        self._codes = Pages().empty((rows, columns), torch.int8)
        #: float32 [V]: of a row's codes.
        self._scales, self._lengths = torch.empty(rows), torch.empty(rows)
        #: float32 [V]: from a row to its codes.
        self._distances = torch.empty(rows)
        step = max(1, _BLOCK_ELEMENTS // columns)
        for start in range(0, rows, step):
            self._encode(slice(start, start + step))
        # The exact products are sums of C numbers in any order; as much again for all bounds.
        self._distances.add_(self._lengths, alpha=4 * columns * _SINGLE)

    def _encode(self, rows: slice) -> None:
        exact = self._weight[rows].float().mul_(self._evening)
        codes, scales = _coded(exact)
        self._codes[rows], self._scales[rows] = codes, scales[:, 0]
        held = codes.mul_(scales)
        self._lengths[rows] = torch.linalg.vector_norm(held, dim=1)
        self._distances[rows] = torch.linalg.vector_norm(held.sub_(exact), dim=1)

    @property
    def resident_bytes(self) -> int:
        """Memory held."""
        own = (self._codes, self._scales, self._lengths, self._distances)
        return sum(each.nbytes for each in own)

    def __call__(self, x: Tensor) -> Tensor | None:
        """The product of one vector, float32 [1, C], of which the largest numbers are exact.

        Returns:
            float32 [1, V]: its largest is the exact product's, up to float32 rounding, and so are
            all that are as large as the codes cannot exclude; the others are as the codes have
            them. ``None`` if those are too many, or x is not finite.
        """
        even = x / self._evening
        codes, scale = _coded(even)
        product = torch.mul(torch._int_mm(codes.to(torch.int8), self._codes.T), self._scales)
        product.mul_(scale)  # [1, V]
        held = codes.mul_(scale)
        size = float(torch.linalg.vector_norm(even))
        moved = float(torch.linalg.vector_norm(held.sub_(even)))
        reach = torch.add(product[0], self._distances, alpha=size)  # no exact product is above
        reach.add_(self._lengths, alpha=moved)
        best = int(product.numpy().argmax())
        least = float(torch.mv(self._weight[best : best + 1].float(), x[0]))
        listed = np.flatnonzero(reach.numpy() >= least)
        if not 0 < len(listed) <= len(self._codes) // _SHARE:
            self.refused += 1
            return None
        self.given += 1
        rows = torch.from_numpy(listed)
        product[0, rows] = torch.mv(self._weight.index_select(0, rows).float(), x[0])
        return product


def _coded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n, C] as whole numbers in float32 and their scales [n, 1]."""
    largest = torch.linalg.vector_norm(x, ord=float("inf"), dim=1, keepdim=True)
    scales = largest.div_(_CODE_MAX).clamp_min_(_TINY)
    return (x / scales).round_(), scales


def pays(stored: StoredTensor) -> bool:
    """Whether a head is large enough for one, and this machine fit."""
    rows, columns = stored.shape
    return rows * columns >= _PAYS_FROM and integer_kernel_works()


@cache
def integer_kernel_works() -> bool:
    """Whether this machine's torch multiplies int8 matrices, and exactly.

    The operator is no part of torch's documented surface. Instructions that add pairs of products
    in 16 bits would show with the largest codes.
    """
    codes = (torch.arange(24 * 96).view(24, 96) % 11 - 5) * 25
    x = torch.full((1, 96), _CODE_MAX)
    x[0, ::3] = -_CODE_MAX
    codes[0] = _CODE_MAX
    try:
        found = torch._int_mm(x.to(torch.int8), codes.to(torch.int8).T)
    except (RuntimeError, AttributeError):  # no such operator, or not on this processor
        return False
    return torch.equal(found.long(), x @ codes.T)
