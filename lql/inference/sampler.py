"""Choosing a token from logits; see ``Sampling`` for what each step does and their order.

Everything here runs on the CPU whatever computed the logits, so a seed gives the same text on
every device that computes the same logits.

Notation: V vocabulary. A token that is left out has the score -inf.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lql.inference.sampling import Sampling

_NONE = float("-inf")


class Sampler:
    """Chooses the tokens of one text.

    Args:
        sampling: how.
        prompt: ids that count as having occurred.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int]) -> None:
        self._sampling = sampling
        self._occurred = set(prompt)
        self._random = torch.Generator()  # of its own: global state neither matters nor changes
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def choose(self, logits: Tensor) -> int:
        """The next token, which counts as having occurred from now on.

        Args:
            logits: float32 [V], finite, on the CPU.
        """
        scores = filtered(logits, self._sampling, self._occurred)
        token = int(scores.argmax()) if self._sampling.is_greedy else self._draw(scores)
        self._occurred.add(token)
        return token

    def occurred(self, token: int) -> None:
        """Count a token that something else chose as having occurred."""
        self._occurred.add(token)

    def _draw(self, scores: Tensor) -> int:
        """One of the tokens that are left, by a single random number against their running sum."""
        left = (scores > _NONE).nonzero()[:, 0]  # ids ascending
        reached = scores[left].double().softmax(0).cumsum(0)
        point = torch.rand((), dtype=torch.float64, generator=self._random) * reached[-1]
        place = int(torch.searchsorted(reached, point, right=True))
        return int(left[min(place, len(left) - 1)])  # rounding may end the sum at the point


def filtered(logits: Tensor, sampling: Sampling, occurred: Iterable[int]) -> Tensor:
    """Scores [V] whose softmax is the distribution that a token is drawn from.

    Args:
        logits: float32 [V]; not changed.
        occurred: ids in the text so far.
    """
    scores = logits
    if sampling.repetition_penalty != 1.0:
        scores = _penalised(scores, sampling.repetition_penalty, occurred)
    if sampling.is_greedy:
        return scores
    scores = scores / sampling.temperature
    if sampling.top_k is not None:
        scores = _top_k(scores, sampling.top_k)
    if sampling.top_p is not None:
        scores = _top_p(scores, sampling.top_p)
    if sampling.min_p is not None:
        scores = _min_p(scores, sampling.min_p)
    return scores


def _penalised(scores: Tensor, penalty: float, occurred: Iterable[int]) -> Tensor:
    ids = torch.tensor(list(occurred), dtype=torch.int64)
    theirs = scores[ids]
    return scores.index_put((ids,), torch.where(theirs < 0, theirs * penalty, theirs / penalty))


def _top_k(scores: Tensor, count: int) -> Tensor:
    lowest = scores.topk(min(count, len(scores))).values[-1]
    return scores.masked_fill(scores < lowest, _NONE)


def _top_p(scores: Tensor, mass: float) -> Tensor:
    ascending = scores[scores > _NONE].sort().values  # what top-k left is quicker to sort
    below = ascending.softmax(0).cumsum(0) <= 1 - mass
    lowest = ascending[min(int(below.sum()), len(ascending) - 1)]
    return scores.masked_fill(scores < lowest, _NONE)


def _min_p(scores: Tensor, share: float) -> Tensor:
    probabilities = scores.softmax(0)
    return scores.masked_fill(probabilities < share * probabilities.max(), _NONE)
