"""The feed-forward network, two ways: as matrix products, and feature by feature.

A feature j is a gate row, an up row and a down column; it adds ``act(gate_j·x) (up_j·x) down_j``.
Summed over all features that is the matrix form, up to rounding.

Shape legend: T tokens, D hidden, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from lql.inference.linear import Coarse, Linear, Product
from lql.inference.rows import torch_view
from vindex.source import ModelSource
from vindex.spec import Activation, FfnPart, FfnSpec, Role, part_roles

# Features whose activation is at most this in magnitude add nothing (larql's walk: the same).
_SILENT = 1e-10
# Features whose rows are held in float32 at a time by the walk.
_WALK_BLOCK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """Weights of one FFN: a layer's, or one of those in a mixture of experts.

    Attributes:
        part: what it is to its layer.
        inner: gate rows above up rows, or up rows alone where the model has no gate.
        fused: what ``dense`` computes, in one call, where there is such a thing.
    """

    layer: int
    part: FfnPart
    inner: Linear
    down: Linear
    fused: Product | None = None

    @property
    def spec(self) -> FfnSpec:
        """Its shape."""
        return self.part.ffn


class FeedForwardRule(Protocol):
    """A way to evaluate an FFN."""

    def __call__(self, x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
        """The FFN's output [T, D] for the normed input ``x`` [T, D], both float32."""


def dense(x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
    """The FFN as matrix products."""
    if layer.fused is not None and coarse is None:
        return layer.fused(x)
    inner = layer.inner(x, coarse)  # [T, 2F] or [T, F]
    return layer.down(_activations(inner, layer.spec), coarse)


def gates_and_activations(x: Tensor, layer: FeedForward) -> tuple[Tensor, Tensor]:
    """What every feature responds with.

    Args:
        x: float32 [T, D], the FFN's normed input.

    Returns:
        The product with the gate row (up row where there is no gate), bias included, and the
        factor of the down vector; both float32 [T, F].
    """
    inner = layer.inner(x)
    return inner[:, : layer.spec.width], _activations(inner, layer.spec)


def _activations(inner: Tensor, spec: FfnSpec) -> Tensor:
    if not spec.gated:
        return activation(spec.activation)(inner)
    gate, up = inner.chunk(2, dim=-1)
    return _gated(gate, up, spec)  # [T, F]


def _gated(gate: Tensor, up: Tensor, spec: FfnSpec) -> Tensor:
    """The factors of the down vectors from the products with gate and up rows; new memory."""
    if spec.limit is not None:
        gate = gate.clamp(max=spec.limit)
        up = up.clamp(-spec.limit, spec.limit)
    if spec.up_offset:
        up = up + spec.up_offset
    y = activation(spec.activation)(gate)
    return y * up if y.requires_grad else y.mul_(up)


def activation(kind: Activation) -> Callable[[Tensor], Tensor]:
    """The function of that name; it returns new memory."""
    match kind:
        case Activation.SILU:
            return F.silu
        case Activation.GELU:
            return F.gelu
        case Activation.GELU_TANH:
            return _gelu_tanh
        case Activation.GELU_SIGMOID:
            return _gelu_sigmoid
        case Activation.RELU:
            return F.relu
        case _:
            assert_never(kind)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(1.702 * x) * x


class FeatureWalk:
    """The FFN evaluated from the stored feature vectors, in float32; the oracle of ``dense``.

    Reads gate rows, up rows and down columns straight from the source, so it shares neither
    packed weights nor kernels with the dense path. Slow: it converts every matrix on every call.
    """

    def __init__(self, source: ModelSource) -> None:
        self._source = source

    def __call__(self, x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
        """See ``FeedForwardRule``; ``coarse`` is ignored."""
        spec = layer.spec
        gate_role, up_role, down_role = part_roles(layer.part.kind)
        y = torch.zeros_like(x)
        for start in range(0, spec.width, _WALK_BLOCK):
            features = slice(start, min(start + _WALK_BLOCK, spec.width))
            up = self._product(x, up_role, layer, features)  # [T, f]
            if spec.gated:
                strength = _gated(self._product(x, gate_role, layer, features), up, spec)
            else:
                strength = activation(spec.activation)(up)
            strength = torch.where(strength.abs() > _SILENT, strength, 0.0)
            y += strength @ self._down(down_role, layer, features).to(x.device)
        if spec.bias:
            y += self._bias(down_role, layer).to(x.device)
        return y

    def _product(self, x: Tensor, role: Role, layer: FeedForward, features: slice) -> Tensor:
        stored = self._source.matrix(role, layer.layer, layer.part.expert)
        rows = torch_view(stored.rows(features.start, features.stop)).to(x.device)  # [f, D]
        y = x @ rows.T
        return y + self._bias(role, layer)[features].to(x.device) if layer.spec.bias else y

    def _down(self, role: Role, layer: FeedForward, features: slice) -> Tensor:
        stored = self._source.matrix(role, layer.layer, layer.part.expert)  # [D, F]
        return torch_view(stored.columns(features.start, features.stop)).T  # [f, D]

    def _bias(self, role: Role, layer: FeedForward) -> Tensor:
        stored = self._source.tensor(role.bias, layer.layer, layer.part.expert)
        return torch_view(stored.float32())
