"""What statements say about mixtures of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lql.context import Context
from vindex.routes import ExpertRoute, expert_routes, expert_tokens, layer_route, routers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from vindex.store import Vindex

ROUTED, ROUTED_VERBOSE = 6, 15
"""Experts that are named."""
_WORDED = 3  # experts whose other words are told


def note_experts(
    vindex: Vindex,
    context: Context,
    query: npt.NDArray[np.float32] | None = None,
    layers: Sequence[int] = (),
    *,
    entity: str | None = None,
    verbose: bool = False,
) -> None:
    """Say, where there are experts, what ranking their features without a router leaves out.

    Args:
        query: what the features were asked with, ``[D]``; the routers are asked with it too.
        layers: whose routers are asked.
        entity: the query's; other words that its experts get are told.
        verbose: tell the choice of every layer.
    """
    config = vindex.index.model_config
    if config is None or config.moe is None:
        return
    moe = config.moe
    context.note(
        f"this model's router sends a token to {moe.top_k} of {moe.num_experts} experts; features "
        "of all of them are ranked here, and EXPLAIN INFER shows those that a token reaches"
    )
    asked = routers(vindex, layers)
    if query is None or not asked:
        return
    found = expert_routes(vindex, query, asked)[: ROUTED_VERBOSE if verbose else ROUTED]
    told = (
        f"{each.expert} in {len(each.layers)} of {len(asked)} layers (weight {each.weight:.2f})"
        for each in found
    )
    context.note(f"by the embedding alone the routers choose expert {', '.join(told)}")
    if verbose:
        for layer in asked:
            route = layer_route(vindex, query, layer)
            chosen = ", ".join(f"expert {expert} ({weight:.2f})" for expert, weight in route)
            context.note(f"layer {layer}: {chosen}")
    if entity is not None:
        _note_words(vindex, context, asked[len(asked) // 2], found[:_WORDED], entity)


def _note_words(
    vindex: Vindex, context: Context, layer: int, found: Sequence[ExpertRoute], entity: str
) -> None:
    """Which other words the router of a layer sends to some experts."""
    experts = [each.expert for each in found]
    words = expert_tokens(vindex, layer, experts, leave_out=entity)
    for expert, told in zip(experts, words, strict=True):
        if told:
            context.note(f"layer {layer} also sends to expert {expert}: {', '.join(told)}")
