"""Gradients through the decoder: the same layers and kernels forward, the stored weights backward.

A traced decoder is the decoder with every matrix wrapped. Only products need that: their kernels
know no gradients, the rest of a layer is plain torch. Weights get no gradients, inputs do.

Notation: N rows of a matrix (outputs), C columns (inputs), T tokens.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lql.inference.decoder import Decoder
from lql.inference.feedforward import FeedForward
from lql.inference.linear import Coarse, Linear

_HELD_BYTES = 2 << 30
"""Matrices that are kept as float32 between backward passes; the others are converted in each."""

_Node = TypeVar("_Node")


@dataclass(slots=True)
class _Budget:
    left: int = field(default=_HELD_BYTES)


class TracedLinear:
    """A matrix whose products can be differentiated; see ``Linear``."""

    can_be_coarse = False

    def __init__(self, linear: Linear, budget: _Budget) -> None:
        self._linear = linear
        self._budget = budget
        self._held: Tensor | None = None
        self.elements = linear.elements
        self.kernel = linear.kernel

    @property
    def resident_bytes(self) -> int:
        """Memory held beyond the maps of the source."""
        own = 0 if self._held is None else self._held.nbytes
        return self._linear.resident_bytes + own

    def __call__(self, x: Tensor, coarse: Coarse | None = None) -> Tensor:
        """Multiply; see ``Linear``."""
        if not x.requires_grad:
            return self._linear(x)
        return cast(Tensor, cast(Any, _Product).apply(x, self))

    def product(self, x: Tensor) -> Tensor:
        """``x Wᵀ + b`` by the kernel."""
        return self._linear(x)

    def weight(self) -> Tensor:
        """The matrix; see ``Linear``."""
        if self._held is not None:
            return self._held
        weight = self._linear.weight()
        if weight.nbytes <= self._budget.left:
            self._budget.left -= weight.nbytes
            self._held = weight
        return weight


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: TracedLinear) -> Tensor:
        ctx.linear = linear
        return linear.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.linear.weight(), None


def traced(decoder: Decoder) -> Decoder:
    """The decoder, able to give gradients of what it computes by what goes into it."""
    return Decoder(decoder.spec, _wrapped(decoder.weights, _Budget()), decoder.device)


def _wrapped(node: _Node, budget: _Budget) -> _Node:
    """The same tree of weights with every matrix wrapped."""
    if isinstance(node, tuple | list):
        parts = (_wrapped(each, budget) for each in node)
        return cast(_Node, tuple(parts) if isinstance(node, tuple) else list(parts))
    if hasattr(node, "can_be_coarse"):  # a Linear: a protocol, so known by what it has
        return cast(_Node, TracedLinear(cast(Linear, node), budget))
    if isinstance(node, FeedForward):
        node = dataclasses.replace(node, fused=None)  # its products are wrapped one by one
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        changes = {}
        for each in dataclasses.fields(node):
            value = getattr(node, each.name)
            new = _wrapped(value, budget)
            if new is not value:
                changes[each.name] = new
        return dataclasses.replace(node, **changes) if changes else node
    return node
