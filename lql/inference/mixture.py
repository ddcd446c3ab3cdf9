"""A mixture of experts: tokens sorted by expert, each expert run once on all tokens that visit it.

One path for a whole prompt, a chunk and a single token; experts that nobody visits cost nothing.
How a single FFN is evaluated is the caller's rule, so that dense products and the walk over
features differ in nothing else.

Notation: T tokens, D hidden, E experts, k experts that a token visits, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lql.inference.feedforward import FeedForward, FeedForwardRule, gates_and_activations
from lql.inference.linear import Coarse, Linear
from lql.inference.norms import HiddenNorm
from lql.inference.routing import Router


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """A dense FFN beside the experts, and the norms of both branches."""

    dense: FeedForward
    dense_post_norm: HiddenNorm
    experts_norm: HiddenNorm
    experts_post_norm: HiddenNorm


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Weights of one layer's experts.

    Attributes:
        switch: matrix [1, D] whose product decides how much of the shared expert is added.
    """

    router: Router
    experts: Sequence[FeedForward]
    shared: FeedForward | None
    switch: Linear | None
    beside: Beside | None

    def __call__(
        self, x: Tensor, residual: Tensor, rule: FeedForwardRule, coarse: Coarse | None
    ) -> Tensor:
        """The output of the layer's FFN.

        Args:
            x: float32 [T, D], the FFN's normed input.
            residual: float32 [T, D], what it was made of; branches with norms of their own read it.
            rule: evaluates one FFN.
            coarse: see ``Linear``.

        Returns:
            float32 [T, D], new memory.
        """
        if self.beside is None:
            return self._experts(x, residual, rule, coarse)
        beside = self.beside
        y = self._experts(beside.experts_norm(residual), residual, rule, coarse)
        return beside.dense_post_norm(rule(x, beside.dense, coarse)) + beside.experts_post_norm(y)

    def experts_output(self, x: Tensor, residual: Tensor, rule: FeedForwardRule) -> Tensor:
        """What the experts add together, without a norm of their branch, [T, D]."""
        return self._experts(x, residual, rule, None)

    def _experts(
        self, x: Tensor, residual: Tensor, rule: FeedForwardRule, coarse: Coarse | None
    ) -> Tensor:
        y = torch.zeros_like(x)
        for expert, tokens, weights in visits(*self.router(x, residual)):
            part = rule(x[tokens], self.experts[expert], coarse)  # [t, D]
            y.index_add_(0, tokens, part.mul_(weights))
        if self.shared is not None:
            shared = rule(x, self.shared, coarse)
            y += shared if self.switch is None else shared.mul_(self.switch(x).sigmoid_())
        return y

    def responses(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What features respond with to one token; those of experts it does not visit do not.

        Args:
            x, residual: float32 [1, D], see ``__call__``.

        Returns:
            Features of the layer, int64 [F]; their products with the gate rows, and the factors
            of their down vectors in the sum of all experts, float32 [F].
        """
        features, gates, activations = [], [], []
        for part, gate, activation in self.responding(x, residual):
            first = part.part.first
            features.append(torch.arange(first, first + part.spec.width, device=x.device))
            gates.append(gate)
            activations.append(activation)
        return torch.cat(features), torch.cat(gates), torch.cat(activations)

    def responding(
        self, x: Tensor, residual: Tensor
    ) -> Iterator[tuple[FeedForward, Tensor, Tensor]]:
        """``responses`` of one FFN after the other: the FFN, its gates and its factors."""
        found: list[tuple[FeedForward, Tensor, Tensor]] = []
        read = x
        if self.beside is not None:
            found.append((self.beside.dense, x, torch.ones(1, 1, device=x.device)))
            read = self.beside.experts_norm(residual)
        for expert, _, weights in visits(*self.router(read, residual)):
            found.append((self.experts[expert], read, weights))
        if self.shared is not None:
            weight = (
                torch.ones(1, 1, device=x.device)
                if self.switch is None
                else self.switch(read).sigmoid_()
            )
            found.append((self.shared, read, weight))
        for part, part_x, weight in found:
            gate, activation = gates_and_activations(part_x, part)
            yield part, gate[0], (activation * weight)[0]

    def parts(self) -> Iterator[FeedForward]:
        """Every FFN of the layer."""
        if self.beside is not None:
            yield self.beside.dense
        yield from self.experts
        if self.shared is not None:
            yield self.shared

    def matrices(self) -> Iterator[Linear]:
        """Matrices that belong to no FFN."""
        yield self.router.products
        if self.switch is not None:
            yield self.switch


def visits(experts: Tensor, weights: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Experts that are visited, ascending.

    Args:
        experts: int64 [T, k], all different within a row.
        weights: float32 [T, k].

    Yields:
        An expert, the tokens that visit it, int64 [t] ascending, and its weights, [t, 1].
    """
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    tokens, each_weights = order // experts.shape[1], weights.flatten()[order].unsqueeze(-1)
    start = 0
    for expert, count in enumerate(flat.bincount().tolist()):
        if count:
            yield expert, tokens[start : start + count], each_weights[start : start + count]
        start += count
