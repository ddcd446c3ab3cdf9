"""The most probable tokens of a vector of logits.

Notation: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lql.inference.answers import TokenScore
from lql.inference.errors import WeightsInvalid


def best_tokens(logits: Tensor, count: int, text: Callable[[int], str]) -> tuple[TokenScore, ...]:
    """The ``count`` best tokens of logits [V]; equal ones by rising id.

    Args:
        text: the exact text of a token.

    Raises:
        WeightsInvalid: some logits are not finite.
    """
    count = min(count, logits.shape[0])
    lowest = logits.topk(count).values[-1]
    found = (logits >= lowest).nonzero()[:, 0]  # ids ascending, more than count if some tie
    order = logits[found].sort(descending=True, stable=True).indices[:count]
    best = found[order]
    scores, total = logits[best], logits.logsumexp(0)
    if not torch.isfinite(total):
        raise WeightsInvalid(
            "the forward pass gives numbers that are not finite",
            hint="verify the vindex: its weights may be damaged",
        )
    return tuple(
        TokenScore(rank, text(token), token, probability, logit)
        for rank, (token, probability, logit) in enumerate(
            zip(best.tolist(), (scores - total).exp().tolist(), scores.tolist(), strict=True), 1
        )
    )
