"""Where a model looks a fact up: causal tracing at the last token of the subject.

A prompt is read with noise on the embeddings of its subject, so that the model no longer knows
what it is about. Then what the FFNs of some consecutive layers said at the subject's last token
without the noise is put back: the share of the answer's probability that comes back is the
indirect effect of those layers (Meng et al., arXiv 2202.05262, 2210.07229). All windows of layers
are copies of the prompt in one tree, read in one pass.

Shape legend: D hidden, L layers, T tokens, W windows of layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lql.cancel import CancelToken
from lql.inference.cache import KvCache
from lql.inference.decoder import Decoder
from lql.inference.taps import Tap
from lql.inference.tree import TokenTree

NOISE = 3.0
"""Of the embeddings' standard deviation; that of the papers."""

SEED = 20_240_301
ROUNDS = 2
LEAST = 0.01


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt about a subject.

    Attributes:
        ids: its tokens.
        first, last: the places of the subject's first and last token.
    """

    ids: tuple[int, ...]
    first: int
    last: int


@torch.inference_mode()
def indirect_effects(
    decoder: Decoder,
    prompts: Sequence[Asked],
    width: int,
    *,
    rounds: int = ROUNDS,
    least: float = LEAST,
    seed: int = SEED,
    cancel: CancelToken | None = None,
) -> npt.NDArray[np.float32]:
    """How much of the answer each window of layers brings back, on average.

    Args:
        prompts: at least one; what is answered is the model's own likeliest next token.
        width: layers of a window, 1..L.
        rounds: noises that each prompt is read with.
        least: probability that noise must take, on average; else there is nothing to bring back.

    Returns:
        float32 [W], W = L - width + 1: of the probability that noise took from all prompts, the
        share that the window from that layer on brings back; zeros where noise takes too little.

    Raises:
        Cancelled: between layers of a pass.
    """
    random = torch.Generator().manual_seed(seed)
    windows = decoder.spec.num_layers - width + 1
    gained, taken = torch.zeros(windows), 0.0
    for number, prompt in enumerate(prompts):
        if cancel is not None:
            cancel.check(f"tracing, prompt {number}/{len(prompts)}")
        clean = _Clean(decoder, prompt, cancel)
        for _ in range(rounds):
            chances = _Corrupted(decoder, prompt, clean, width, random).chances(cancel)  # [1 + W]
            taken += clean.chance - float(chances[0])
            gained += chances[1:] - chances[0]
    if taken <= least * len(prompts) * rounds:
        return np.zeros(windows, np.float32)
    return (gained / taken).numpy()


def recipe() -> str:
    """What effects are made by: those of another recipe are not these."""
    return hashlib.sha256(f"1 {SEED} {ROUNDS} {NOISE} {LEAST}".encode()).hexdigest()


class _Clean:
    """A prompt as the model reads it.

    Attributes:
        answer: the likeliest next token, and its probability ``chance``.
        said: what each layer's FFN adds at the subject's last token, L of float32 [D].
        spread: the standard deviation of the embeddings.
    """

    def __init__(self, decoder: Decoder, prompt: Asked, cancel: CancelToken | None) -> None:
        self.said: list[Tensor] = []
        self.spread = 0.0
        self._last = prompt.last
        h = decoder.forward(
            prompt.ids,
            KvCache(decoder.spec, len(prompt.ids), decoder.device, keep_all=True),
            observe=self._see,
            cancel=cancel,
        )
        best = decoder.logits(h[-1:]).softmax(-1)[0].max(-1)
        self.answer, self.chance = int(best.indices), float(best.values)

    def _see(self, tap: Tap, layer: int, values: Tensor) -> None:
        if tap is Tap.INPUT and layer == 0:
            self.spread = float(values.std())
        elif tap is Tap.FFN:
            self.said.append(values[self._last].clone())


class _Corrupted:
    """The prompt with one noise, 1 + W times: as it is, and with each window put back."""

    def __init__(
        self, decoder: Decoder, prompt: Asked, clean: _Clean, width: int, random: torch.Generator
    ) -> None:
        self._decoder = decoder
        self._clean = clean
        copies = decoder.spec.num_layers - width + 2
        self._tree = TokenTree()
        head = self._tree.add(prompt.ids[: prompt.first])
        rows = []
        for _ in range(copies):
            node, path = head, []
            for token in prompt.ids[prompt.first :]:
                node = self._tree.join(token, node)
                path.append(node)
            rows.append(path)
        self._rows = torch.tensor(rows)  # [1 + W, T - first]
        self._subject = prompt.last - prompt.first
        shape = (self._subject + 1, decoder.spec.hidden_size)
        self._noise = torch.randn(shape, generator=random) * NOISE * clean.spread
        self._width = width

    def chances(self, cancel: CancelToken | None) -> Tensor:
        """The answer's probability in each copy, float32 [1 + W]."""
        decoder, size = self._decoder, len(self._tree)
        h = decoder.forward(
            self._tree.ids,
            KvCache(decoder.spec, size, decoder.device, keep_all=True),
            branches=self._tree.branches(0, size),
            intervene=self._intervene,
            cancel=cancel,
        )
        logits = decoder.logits(h[self._rows[:, -1].to(h.device)])
        return logits.softmax(-1)[:, self._clean.answer].cpu()

    def _intervene(self, tap: Tap, layer: int, values: Tensor) -> Tensor:
        if tap is Tap.INPUT and layer == 0:
            changed = values.clone()
            changed[self._rows[:, : self._subject + 1]] += self._noise.to(values.device)
            return changed
        if tap is Tap.FFN:
            # Copy 1 + w puts back the layers w..w + width - 1.
            first, last = max(0, layer - self._width + 1), min(layer, len(self._rows) - 2)
            changed = values.clone()
            changed[self._rows[1 + first : 2 + last, self._subject]] = self._clean.said[layer]
            return changed
        return values
