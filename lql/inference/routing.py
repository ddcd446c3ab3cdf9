"""Which experts tokens visit, and with what weights: every rule of ``RoutingSpec``, in float32.

Notation: T tokens, D hidden, E experts, k experts that a token visits, G groups of experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from lql.inference.linear import Linear
from lql.inference.norms import HiddenNorm
from vindex.spec import GroupLimit, GroupScore, RoutingSpec, Scoring


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """The weights of a router.

    Attributes:
        products: float32 matrix [E, D].
        norm: of the residual stream, where the router reads that.
        correction: [E], added to scores for the choice only.
        scale: [E], factor on the weight of each expert.
    """

    spec: RoutingSpec
    products: Linear
    norm: HiddenNorm | None
    correction: Tensor | None
    scale: Tensor | None

    def __call__(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Choose experts.

        Args:
            x: float32 [T, D], what the experts read.
            residual: float32 [T, D], the residual stream that ``x`` was made of.

        Returns:
            Experts, int64 [T, k], and their weights, float32 [T, k].
        """
        products = self.products(x if self.norm is None else self.norm(residual))  # [T, E]
        experts, weights = choose(products, self.spec, self.correction)
        return experts, weights if self.scale is None else weights * self.scale[experts]


def choose(products: Tensor, spec: RoutingSpec, correction: Tensor | None) -> tuple[Tensor, Tensor]:
    """From the router's products [T, E], its bias included, to experts and weights [T, k]."""
    match spec.scoring:
        case Scoring.SOFTMAX:
            scores = products.softmax(-1)
        case Scoring.SIGMOID:
            scores = products.sigmoid()
        case Scoring.SOFTMAX_OF_CHOSEN:
            scores = products
        case _:
            assert_never(spec.scoring)
    ranked = scores if correction is None else scores + correction
    if spec.groups is not None:
        ranked = _best_groups_only(ranked, spec.groups)
    experts = ranked.topk(spec.chosen, dim=-1).indices
    weights = scores.gather(-1, experts)
    if spec.scoring is Scoring.SOFTMAX_OF_CHOSEN:
        weights = weights.softmax(-1)
    if spec.normalised:
        weights = weights / (weights.sum(-1, keepdim=True) + spec.sum_eps)
    return experts, weights if spec.factor == 1.0 else weights * spec.factor


def _best_groups_only(ranked: Tensor, limit: GroupLimit) -> Tensor:
    """Scores [T, E] with those of all but the best groups at minus infinity."""
    grouped = ranked.view(len(ranked), limit.groups, -1)  # [T, G, E / G]
    match limit.score:
        case GroupScore.BEST:
            worth = grouped.amax(-1)
        case GroupScore.BEST_TWO:
            worth = grouped.topk(2, dim=-1).values.sum(-1)
        case _:
            assert_never(limit.score)
    kept = torch.zeros_like(worth, dtype=torch.bool)
    kept.scatter_(-1, worth.topk(limit.kept, dim=-1).indices, True)
    return grouped.masked_fill(~kept.unsqueeze(-1), -torch.inf).view(ranked.shape)
