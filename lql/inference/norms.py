"""Normalisation, in float32: RMS norms and LayerNorm.

RMS norm is written with the Euclidean norm of the vector, since
``sqrt(mean(x²) + eps) = hypot(‖x‖, sqrt(D eps)) / sqrt(D)``: four operations, half the time of
``F.rms_norm`` on a CPU for one token (4 µs; a model has two to four of them per layer).

Notation: D the size of the last axis, which is normalised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vindex.spec import NormKind, NormSpec


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """RMS norm over the last axis.

    Attributes:
        factor: float32, broadcast to what is normalised: the weight (1 + w for that kind) times
            sqrt(D).
        floor: float32 scalar, sqrt(D eps).
    """

    factor: Tensor
    floor: Tensor

    @staticmethod
    def of(spec: NormSpec, weight: Tensor) -> Norm:
        """A norm from its weight as stored, float32 [..., D].

        Args:
            spec: of a kind that is not ``LAYER``.
        """
        size = weight.shape[-1]
        match spec.kind:
            case NormKind.RMS:
                factor = weight
            case NormKind.RMS_OFFSET:
                factor = 1.0 + weight
            case NormKind.LAYER:
                raise ValueError("a LayerNorm is made with its bias")
        floor = torch.tensor(math.sqrt(size * spec.eps), device=weight.device)
        return Norm(factor * math.sqrt(size), floor)

    def __call__(self, x: Tensor) -> Tensor:
        """The normalised ``x`` [..., D], in new memory."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.div(x, length.hypot(self.floor)).mul_(self.factor)

    def read_through(self, x: Tensor, direction: Tensor) -> Tensor:
        """What of ``x`` [..., D] a direction of the normalised ``x`` reads, the scale held."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.div(direction * self.factor, length.hypot_(self.floor))

    def apply_(self, x: Tensor) -> None:
        """Normalise ``x`` [..., D] in place."""
        before = x.clone() if x.requires_grad else x  # a gradient reads what was normalised
        length = torch.linalg.vector_norm(before, dim=-1, keepdim=True)
        x.div_(length.hypot(self.floor)).mul_(self.factor)


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm:
    """Mean and variance removed over the last axis.

    Attributes:
        weight, bias: float32 [D]; for heads on their own [N, D].
    """

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """The normalised ``x`` [..., D], in new memory."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def read_through(self, x: Tensor, direction: Tensor) -> Tensor:
        """What of ``x`` [..., D] a direction of the normalised ``x`` reads, the scale held."""
        scale = x.var(dim=-1, correction=0, keepdim=True).add(self.eps).rsqrt()
        read = direction * self.weight * scale
        return read - read.mean(dim=-1, keepdim=True)

    def apply_(self, x: Tensor) -> None:
        """Normalise heads ``x`` [T, N, S] in place; weight and bias are [N, S]."""
        before = x.clone() if x.requires_grad else x
        x.copy_(F.layer_norm(before, x.shape[-1:], eps=self.eps).mul_(self.weight).add_(self.bias))


HiddenNorm = Norm | LayerNorm
HeadNorm = Norm | LayerNorm


@dataclass(frozen=True, slots=True, eq=False)
class ProjectionNorm:
    """RMS norms of q and of k, each over all of its heads together.

    Attributes:
        q, k: their factors are [H * S] and [K * S], in the order of the rows of q and k.
        heads: H.
    """

    q: Norm
    k: Norm
    heads: int

    def apply_(self, qk: Tensor) -> None:
        """Normalise the heads of q, then k, [T, H + K, S], in place."""
        for norm, heads in ((self.q, qk[:, : self.heads]), (self.k, qk[:, self.heads :])):
            norm.apply_(heads.view(len(heads), -1))
