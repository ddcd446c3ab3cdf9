"""What statements say about mixtures of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lql.context import Context
from vindex.routes import expert_routes, routers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from vindex.store import Vindex

ROUTED, ROUTED_VERBOSE = 6, 15
"""Experts that are named."""


def note_experts(
    vindex: Vindex,
    context: Context,
    query: npt.NDArray[np.float32] | None = None,
    layers: Sequence[int] = (),
    *,
    verbose: bool = False,
) -> None:
    """Say, where there are experts, what ranking their features without a router leaves out.

    Args:
        query: what the features were asked with, ``[D]``; the routers are asked with it too.
        layers: whose routers are asked.
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
