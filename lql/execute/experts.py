"""What statements say about mixtures of experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lql.context import Context

if TYPE_CHECKING:
    from vindex.store import Vindex


def note_experts(vindex: Vindex, context: Context) -> None:
    """Say, where there are experts, what ranking their features without a router leaves out."""
    config = vindex.index.model_config
    if config is None or config.moe is None:
        return
    moe = config.moe
    context.note(
        f"this model's router sends a token to {moe.top_k} of {moe.num_experts} experts; features "
        "of all of them are ranked here, and EXPLAIN INFER shows those that a token reaches"
    )
