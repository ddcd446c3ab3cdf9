"""Which arithmetic a forward pass uses. Importing this module does not import torch."""

from __future__ import annotations

from enum import Enum

from vindex.kinds import StorageDtype


class ComputeDtype(Enum):
    """What the weight matrices are multiplied as. Activations, sums and norms are float32 in all.

    AUTO: each matrix as it is stored: ``F32`` for float32, ``F16`` for both 16-bit dtypes.
    F32: float32, whatever is stored.
    F16: half-precision weights. Exact for stored f16; bf16 keeps every bit down to magnitudes of
        2^-14 (absolute error below 3e-8 under that); float32 is rounded.
    """

    AUTO = "auto"
    F32 = "f32"
    F16 = "f16"

    def resolve(self, stored: StorageDtype) -> ComputeDtype:
        """``F32`` or ``F16``, for a matrix stored like this."""
        if self is not ComputeDtype.AUTO:
            return self
        return ComputeDtype.F32 if stored is StorageDtype.F32 else ComputeDtype.F16
