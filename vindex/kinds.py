"""The small closed vocabularies of the format: extract level, storage dtype, block quantisation."""

from __future__ import annotations

from enum import Enum
from functools import total_ordering
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy.typing as npt


@total_ordering
class ExtractLevel(Enum):
    """How much of a model a vindex holds; each level contains the ones before it."""

    BROWSE = "browse"
    ATTENTION = "attention"
    INFERENCE = "inference"
    ALL = "all"

    @property
    def rank(self) -> int:
        """Position in the order ``browse < attention < inference < all``."""
        return _LEVEL_ORDER.index(self)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, ExtractLevel):
            return NotImplemented
        return self.rank < other.rank


_LEVEL_ORDER = tuple(ExtractLevel)


class StorageDtype(Enum):
    """Element type of a stored float tensor.

    NumPy has no bfloat16, so a bf16 array travels as its bit pattern in ``uint16``
    (the *carrier*). ``vindex.dtypes`` converts between them.
    """

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return 4 if self is StorageDtype.F32 else 2

    @property
    def carrier(self) -> npt.DTypeLike:
        """The little-endian NumPy dtype that holds this element type's bytes."""
        import numpy as np  # here, so that the language can name a dtype without loading NumPy

        return np.dtype(_CARRIERS[self])


_CARRIERS = {StorageDtype.F32: "<f4", StorageDtype.F16: "<f2", StorageDtype.BF16: "<u2"}


class Quant(Enum):
    """Block quantisation of the weight matrices."""

    NONE = "none"
    Q4K = "q4k"
