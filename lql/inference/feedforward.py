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

from lql.inference.linear import Coarse, Linear
from lql.inference.rows import torch_view
from vindex.source import ModelSource
from vindex.spec import Activation, FfnSpec, Role

# Features whose activation is at most this in magnitude add nothing (larql's walk: the same).
_SILENT = 1e-10
# Features whose rows are held in float32 at a time by the walk.
_WALK_BLOCK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """Weights of one layer's FFN.

    Attributes:
        inner: gate rows above up rows, or up rows alone where the model has no gate.
    """

    layer: int
    spec: FfnSpec
    inner: Linear
    down: Linear


class FeedForwardRule(Protocol):
    """A way to evaluate an FFN."""

    def __call__(self, x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
        """The FFN's output [T, D] for the normed input ``x`` [T, D], both float32."""


def dense(x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
    """The FFN as matrix products."""
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
    act = activation(spec.activation)
    if not spec.gated:
        return act(inner)
    gate, up = inner.chunk(2, dim=-1)
    return act(gate).mul_(up)  # [T, F]


def activation(kind: Activation) -> Callable[[Tensor], Tensor]:
    """The function of that name; it returns new memory."""
    match kind:
        case Activation.SILU:
            return F.silu
        case Activation.GELU:
            return F.gelu
        case Activation.GELU_TANH:
            return _gelu_tanh
        case Activation.RELU:
            return F.relu
        case _:
            assert_never(kind)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class FeatureWalk:
    """The FFN evaluated from the stored feature vectors, in float32; the oracle of ``dense``.

    Reads gate rows, up rows and down columns straight from the source, so it shares neither
    packed weights nor kernels with the dense path. Slow: it converts every matrix on every call.
    """

    def __init__(self, source: ModelSource) -> None:
        self._source = source

    def __call__(self, x: Tensor, layer: FeedForward, coarse: Coarse | None) -> Tensor:
        """See ``FeedForwardRule``; ``coarse`` is ignored."""
        spec, index = layer.spec, layer.layer
        act = activation(spec.activation)
        y = torch.zeros_like(x)
        for start in range(0, spec.width, _WALK_BLOCK):
            features = slice(start, min(start + _WALK_BLOCK, spec.width))
            up = x @ self._rows(Role.UP, index, features).T  # [T, f]
            if spec.bias:
                up += self._vector(Role.UP_BIAS, index)[features]
            if spec.gated:
                gate = x @ self._rows(Role.GATE, index, features).T
                if spec.bias:
                    gate += self._vector(Role.GATE_BIAS, index)[features]
                strength = act(gate) * up
            else:
                strength = act(up)
            strength = torch.where(strength.abs() > _SILENT, strength, 0.0)
            y += strength @ self._down(index, features)
        if spec.bias:
            y += self._vector(Role.DOWN_BIAS, index)
        return y

    def _rows(self, role: Role, layer: int, features: slice) -> Tensor:
        stored = self._source.matrix(role, layer)
        return torch_view(stored.rows(features.start, features.stop))  # [f, D]

    def _down(self, layer: int, features: slice) -> Tensor:
        stored = self._source.matrix(Role.DOWN, layer)  # [D, F]
        return torch_view(stored.columns(features.start, features.stop)).T  # [f, D]

    def _vector(self, role: Role, layer: int) -> Tensor:
        return torch_view(self._source.tensor(role, layer).float32())
